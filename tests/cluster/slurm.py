"""A Slurm of one node on 127.0.0.1: munged, slurmctld and slurmd, all in one folder, started and ended by hand.

Debian's daemons (``slurm-wlm``, ``munge``) as they are; no systemd, no accounting, nothing outside the folder. Jobs run
as root, because slurmd does not switch users in a container without their accounts.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
SECONDS = 30.0
CONFIG = """\
ClusterName=scdm
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
DefMemPerCPU={memory_per_cpu}
KillWait=5
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurm(Exception):
    """Slurm cannot be had here, and why."""


def missing() -> str | None:
    """Why no Slurm can be started here, None where it can be tried."""
    if os.geteuid() != 0:
        return "slurmctld, slurmd and munged are started by hand, which needs root"
    found = {name: shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") for name in (*DAEMONS, "sbatch")}
    lacking = [name for name, path in found.items() if path is None]
    return f"{', '.join(lacking)} not installed; apt-get install slurm-wlm munge" if lacking else None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Slurm:
    """The daemons of one folder; ``with Slurm(folder) as slurm: slurm.run("sbatch", "job.sh")``."""

    def __init__(self, folder: Path, cpus: int = 32, memory_per_cpu: int = 1000) -> None:
        """What the node pretends to have, memory in MB; more than the machine's, so that several workers run at once."""
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=folder,
                ctld_port=_free_port(),
                slurmd_port=_free_port(),
                cpus=cpus,
                memory=cpus * memory_per_cpu,
                memory_per_cpu=memory_per_cpu,
            )
        )
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def __enter__(self) -> Slurm:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the three daemons and wait until the node takes jobs; ``NoSlurm`` with a log's end if it does not."""
        folder = self.folder
        munge = {name: f"--{name}={folder}/munge.{end}" for name, end in (("socket", "socket"), ("key-file", "key"))}
        files = [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
        self._spawn("munged", "--foreground", "--force", *munge.values(), *files)
        self._wait_until("munged", lambda: (folder / "munge.socket").exists())
        self._spawn("slurmctld", "-D", "-c")
        self._spawn("slurmd", "-D", "-N", "localhost")
        self._wait_until("slurmd", lambda: self.output("sinfo", "-h", "-o", "%t") == "idle")

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            process = subprocess.Popen(
                [name, *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append((name, process))

    def _wait_until(self, name: str, ready) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + SECONDS
        while not ready():
            ended = [n for n, p in self._daemons if p.poll() is not None]
            if ended or time.monotonic() > deadline:
                who = ended[0] if ended else name
                log = (self.folder / f"{who}.out").read_text(errors="replace").strip().splitlines()
                what = "ended" if ended else f"was not ready within {SECONDS:g} s"
                raise NoSlurm(f"{who} {what}: {'; '.join(log[-3:]) or 'no message'}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel what runs, then end the daemons, the last one started first."""
        if len(self._daemons) == len(DAEMONS):
            self.output("scancel", "-f", "-u", "root")
            deadline = time.monotonic() + 15
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.2)
        for _, process in reversed(self._daemons):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._daemons.clear()

    def output(self, *command: str) -> str:
        """What a Slurm command prints; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> dict[int, Path]:
        """Jobs that wait or run: id -> working folder."""
        rows = [line.split(maxsplit=1) for line in self.output("squeue", "-h", "-o", "%i %Z").splitlines()]
        return {int(job): Path(folder) for job, folder in rows}

    def state(self, job: int) -> str:
        """A job's state, such as RUNNING or CANCELLED."""
        words = self.output("scontrol", "show", "job", str(job)).split()
        return next((w.partition("=")[2] for w in words if w.startswith("JobState=")), "UNKNOWN")
