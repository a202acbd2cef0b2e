"""Builds and runs images with Debian's buildah, where no Docker engine runs: as root, without a daemon.

Everything lies in one folder. The base is a Debian made with debootstrap, because there may be no registry to pull
from; pip inside the build uses what pip on this machine is configured with, mirrors and local folders included.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED_BYTES = 10 << 30
PACKAGES = "python3,python3-venv,ca-certificates"


def missing(folder: Path) -> str | None:
    """Why no image can be built in a folder, None where it can be tried."""
    if os.geteuid() != 0:
        return "buildah's chroot isolation and debootstrap need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    needed = ["buildah"] if os.environ.get("BASE") else ["buildah", "debootstrap"]
    lacking = [name for name in needed if shutil.which(name, path=path) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed; apt-get install {' '.join(lacking)}"
    free = shutil.disk_usage(folder).free
    return f"{folder} has {free >> 30} GiB free, {NEEDED_BYTES >> 30} are needed" if free < NEEDED_BYTES else None


def pip_configuration() -> tuple[str, set[Path]]:
    """This machine's pip settings as one pip.conf, and the local files and folders that it names."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    values: dict[str, str] = {}
    for line in listed.splitlines():  # install.no-binary='..' or :env:.find-links='..', the environment counts more
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if (section in ("global", "install") and name not in values) or section == ":env:":
            values[name] = ast.literal_eval(value)
    paths = set()
    for file_url, path in re.findall(r"(?:^|\s)(file://)?(/[^\s]+)", "\n".join(values.values())):
        found = Path(path).parent if file_url else Path(path)  # an index refers to files beside its folder
        if found.exists():
            paths.add(found)
    lines = [f"{name} = {' '.join(value.split())}" for name, value in sorted(values.items())]
    return "\n".join(["[global]", *lines, ""]), paths


class Buildah:
    """A storage of images in a folder; ``close`` removes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "build.log"
        self._options = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def command(self, *arguments: str) -> list[str]:
        """The command line of a buildah command."""
        return ["buildah", *self._options, *arguments]

    def call(self, *arguments: str, timeout: float = 120) -> str:
        """What a buildah command prints; it must succeed."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout.strip()

    def _logged(self, command: list[str], timeout: float) -> None:
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, stdout=log, stderr=log, timeout=timeout, check=False)
        end = self.log.read_text(errors="replace")[-3000:]
        assert done.returncode == 0, f"{command[0]} failed, {self.log} ends with\n{end}"

    def make_base(self) -> str:
        """The name of a base image: BASE where it is set, else a minimal Debian with Python 3.11."""
        if name := os.environ.get("BASE"):
            return name
        system = self.folder / "debian"
        self._logged(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(system)], 900)
        archive = self.folder / "debian.tar"
        self._logged(["tar", "-C", str(system), "-cf", str(archive), "."], 120)
        shutil.rmtree(system)
        container = self.call("from", "scratch")
        self.call("add", "--quiet", container, str(archive), "/")
        archive.unlink()
        self.call("commit", "--quiet", "--rm", container, "localhost/base")
        return "localhost/base"

    def build(self, dockerfile: Path, target: str, base: str) -> str:
        """Build a target of a Dockerfile whose context is the folder above its own; the image's name.

        Without a cache of layers: with the vfs driver each would be a whole copy.
        """
        text, paths = pip_configuration()
        configuration = self.folder / "pip.conf"
        configuration.write_text(text)
        mounts = [f"{configuration}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(paths))]
        arguments = ["--isolation", "chroot", "--target", target, "--tag", f"localhost/{target}"]
        arguments += ["--build-arg", f"BASE={base}", "--build-arg", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}"]
        for mount in mounts:
            arguments += ["--volume", mount]
        context = str(dockerfile.parents[1])
        self._logged(self.command("bud", *arguments, "--file", str(dockerfile), context), 3000)
        return f"localhost/{target}"

    def container(self, image: str) -> str:
        """A new container of an image."""
        return self.call("from", image, timeout=300)

    def run(self, container: str, *words: str, mounts: dict[Path, str] | None = None, **variables: str) -> list[str]:
        """The command line that runs words in a container, as the image's user."""
        options = [f"--volume={here}:{there}:ro" for here, there in (mounts or {}).items()]
        options += [f"--env={name}={value}" for name, value in variables.items()]
        return self.command("run", "--isolation", "chroot", *options, container, "--", *words)

    def close(self) -> None:
        """Remove containers, images and the folder's files, several GB."""
        subprocess.run(self.command("rm", "--all"), capture_output=True, timeout=300, check=False)
        shutil.rmtree(self.folder / "storage", ignore_errors=True)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        shutil.rmtree(self.folder / "debian", ignore_errors=True)
