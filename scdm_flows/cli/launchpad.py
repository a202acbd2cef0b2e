"""The FireWorks configuration: where its templates are, in a checkout or an installed package, and how they are filled
for ``scdm doctor --init DIR``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import scdm_flows
from scdm_flows.cli.files import check_output, make_folder, output_file
from scdm_flows.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scdm_flows.config.settings import ScdmSettings

# made from the settings alone. They may hold a password: for their owner alone
PRIVATE = ("my_launchpad.yaml", "jobflow.yaml", "env.sh")
ATOMATE2 = "atomate2.yaml"
NEW = ".new"  # after the name of a file that was edited: what would be there instead
FOLDER_VARIABLE = "${SCDM_LAUNCHPAD_DIR}"


def launchpad_dir() -> Path:
    """The ``launchpad`` folder of the checkout, or its copy in a wheel installation.

    Raises
    ------
    ConfigError
        If there is neither, which is a broken installation.
    """
    package = Path(scdm_flows.__file__).resolve().parent
    for folder in (package / "_launchpad", package.parent / "launchpad"):
        if (folder / "my_launchpad.yaml").is_file():
            return folder
    raise ConfigError(f"the launchpad folder is missing beside {package}; install scdm-flows again")


def initialise(folder: Path, uri: str, settings: ScdmSettings, *, force: bool) -> list[Path]:
    """Write a FireWorks configuration folder for a database; returns the files that were written.

    The templates with what is known filled in: the database, this folder's and the programs' paths, VASP's command;
    and ``env.sh`` with the variables that workers need, which the queue adapters source.

    With ``force`` a folder is written anew, but what was edited in it stays: only ``PRIVATE`` and VASP's command follow
    the settings. Beside every other file that differs lies what is new, under its name with ``NEW``.

    Raises
    ------
    OutputError
        If a file exists and ``force`` is not set, or the folder cannot be written; then nothing is written.
    """
    from scdm_flows.stores.uri import database_name

    folder = folder.absolute()
    texts = {path.name: path.read_text() for path in sorted(launchpad_dir().glob("*.yaml"))}
    name = database_name(uri)
    texts["my_launchpad.yaml"] = _set(texts["my_launchpad.yaml"], host=uri, name=name)
    texts["jobflow.yaml"] = _set(texts["jobflow.yaml"], uri=uri, database=name)
    for file in texts:
        if file.startswith("my_qadapter"):
            texts[file] = _set(texts[file], pre_rocket=f"source {shlex.quote(str(folder / 'env.sh'))}")
            texts[file] = texts[file].replace("rocket_launch: exec scdm ", f"rocket_launch: exec {_scdm()} ")
        texts[file] = texts[file].replace(FOLDER_VARIABLE, shlex.quote(str(folder)))
    commands = {}
    if settings.vasp_cmd:
        commands = {"VASP_CMD": settings.vasp_cmd, "VASP_GAMMA_CMD": settings.vasp_gamma_cmd or settings.vasp_cmd}
    texts[ATOMATE2] = _set(texts[ATOMATE2], **commands)
    texts["env.sh"] = _environment(folder, settings)
    make_folder(folder)
    for file in texts:
        check_output(folder / file, force=force)
    written: dict[Path, str] = {}
    for file, text in texts.items():
        path = folder / file
        there = text
        if file not in PRIVATE and path.is_file():
            there = path.read_text(encoding="utf-8", errors="replace")
        mended = _replaced(there, commands)[0] if file == ATOMATE2 else there
        if mended == text or mended != there:
            written[path] = mended
        if mended != text:
            written[new_of(path)] = text
    for path in written:
        check_output(path, force=force)
    for path, text in written.items():
        with output_file(path, force=force, private=path.name in PRIVATE) as handle:
            handle.write(text)
    for file in texts:
        if (new := new_of(folder / file)) not in written:
            new.unlink(missing_ok=True)  # of an earlier time: it has been taken over
    return list(written)


def new_of(path: Path) -> Path:
    """Where the text is put that would replace an edited file."""
    return path.with_name(f"{path.name}{NEW}")


def _set(text: str, **values: str) -> str:
    """A YAML text with other values for keys that it has, and all its comments."""
    text, lacking = _replaced(text, values)
    if lacking:
        raise ConfigError(f"a template has no key {lacking[0]!r}; install scdm-flows again")
    return text


def _replaced(text: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """The same, and the keys that it has not."""
    lacking = []
    for key, value in values.items():
        text, count = re.subn(rf"^(\s*{key}: ).*$", lambda m, v=value: m[1] + json.dumps(v), text, flags=re.MULTILINE)  # type: ignore[misc]
        if not count:
            lacking.append(key)
    return text, lacking


def _scdm() -> str:
    """The command beside this Python, as queues start without its environment; else what the PATH has."""
    beside = Path(sys.executable).with_name("scdm")
    return shlex.quote(str(beside if beside.is_file() else shutil.which("scdm") or "scdm"))


def _environment(folder: Path, settings: ScdmSettings) -> str:
    """``env.sh``: FireWorks', jobflow's and atomate2's files, and the settings that are set here."""
    values = {
        "SCDM_LAUNCHPAD_DIR": str(folder),
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml"),
        "ATOMATE2_CONFIG_FILE": str(folder / "atomate2.yaml"),
        "SCDM_DATA_DIR": str(settings.data_dir.absolute()),
    }
    for field in sorted(settings.model_fields_set - {"data_dir", "port"}):
        value = getattr(settings, field)
        if value is not None:
            values[f"SCDM_{field.upper()}"] = json.dumps(value) if isinstance(value, dict) else str(value)
    if "PMG_VASP_PSP_DIR" in os.environ:
        values["PMG_VASP_PSP_DIR"] = os.environ["PMG_VASP_PSP_DIR"]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(["# what workers need to know; for shells and queue scripts: source it", *lines, ""])
