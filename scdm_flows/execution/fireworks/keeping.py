"""An output that cannot be stored is kept on the worker's disk, until the database takes it.

In ``<data folder>/undelivered`` there is a file for each, ``<uuid>-<index>-<launch>.json.gz``: the job's document and
its large objects as the job store would keep them, and which launch of which process computed them. It is written
whole or not at all, and removed once everything is stored. ``scdm_flows.execution.fireworks.delivery`` stores what
workers have left there.
"""

from __future__ import annotations

import gzip
import logging
import os
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import json_util
from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, PyMongoError

from scdm_flows.config.settings import get_settings
from scdm_flows.documents import utc_now
from scdm_flows.errors import OutputError, StoreError
from scdm_flows.execution.fireworks.liveness import Process
from scdm_flows.execution.jobs import Output
from scdm_flows.stores.driver_errors import explain

logger = logging.getLogger(__name__)
FOLDER, SUFFIX = "undelivered", ".json.gz"
VERSION = 1
AHEAD_SECONDS = 5.0  # what took longer is kept before it is stored: nothing that happens meanwhile can lose it
AGAIN_SECONDS = 2.0  # between two tries to store an output


def keeps() -> Path:
    """The folder for outputs that cannot be stored, of the settings and the working folder."""
    return get_settings().data_dir.absolute() / FOLDER


@dataclass(frozen=True)
class Kept:
    """An output and where it comes from.

    database: id and name of the database that it belongs to; again: its job has to run once more after the output is
    stored, for the jobs that it adds; process: that computed it, on host; kept_at: UTC.
    """

    database: tuple[str, str]
    launch_id: int
    fw_id: int
    name: str
    again: bool
    process: Process
    host: str
    output: Output

    def write(self, folder: Path) -> Path:
        """Write it into the folder, whole or not at all.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        document = self.output.document
        path = folder / f"{document['uuid']}-{document['index']}-{self.launch_id}{SUFFIX}"
        content = {
            "version": VERSION,
            "kept_at": utc_now(),
            **{key: value for key, value in vars(self).items() if key not in ("output", "process")},
            "process": vars(self.process),
            **vars(self.output),
        }
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            with temporary.open("wb") as handle:
                handle.write(gzip.compress(json_util.dumps(content).encode(), compresslevel=1))
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def read(path: Path) -> Kept:
    """The output in a file.

    Raises
    ------
    OutputError
        If the file is damaged, or a later version wrote it.
    """
    try:
        content: dict[str, Any] = json_util.loads(gzip.decompress(path.read_bytes()).decode())
        if content["version"] > VERSION:
            raise OutputError(f"{path} has version {content['version']}, this scdm-flows knows {VERSION}; upgrade it")
        return Kept(
            (content["database"][0], content["database"][1]),
            content["launch_id"],
            content["fw_id"],
            content["name"],
            content["again"],
            Process(**content["process"]),
            content["host"],
            Output(content["document"], content["large"]),
        )
    except (OSError, EOFError, zlib.error, BSONError, ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise OutputError(f"{path} cannot be read ({reason}); its job has to run again") from error


def store_or_keep(
    kept: Kept,
    store: Any,
    folder: Path,
    taken: float,
    *,
    patience: float,
    answers: Callable[[], bool],
    undisturbed: Callable[[], AbstractContextManager[None]],
) -> None:
    """Store an output; while the database does not take it, keep it on disk and try again.

    Parameters
    ----------
    kept, store, folder
        The output, the job store for it and the folder for the file.
    taken
        Wall time of its job, s.
    patience
        How long to try, s.
    answers
        Waits until the database answers, and says whether it does.
    undisturbed
        In it nothing asks the worker to stop.

    Raises
    ------
    StoreError
        If the database does not take it in that time; the file is there.
    """
    path, end = None, time.monotonic() + patience
    while True:
        with undisturbed():
            if path is None and taken > AHEAD_SECONDS:
                path = _keep(kept, folder)
            try:
                kept.output.write(store)
            except Exception as error:
                path = path or _keep(kept, folder)
                failure = error
            else:
                if path is not None:
                    path.unlink(missing_ok=True)
                return
        if not isinstance(failure, PyMongoError):
            raise failure
        patient = isinstance(failure, ConnectionFailure) and time.monotonic() < end
        if not patient or not answers():
            where = f"it is kept in {path}" if path is not None else "nor could it be kept on this disk"
            raise StoreError(
                f"the output of {kept.name} is not stored, the database {explain(failure)}; {where}, and stored by the "
                "next worker or `scdm campaign resume` on this machine"
            ) from failure
        time.sleep(AGAIN_SECONDS)


def _keep(kept: Kept, folder: Path) -> Path | None:
    try:
        path = kept.write(folder)
    except (OSError, OverflowError, TypeError, ValueError) as error:
        logger.error("the output of %s cannot be kept in %s: %s", kept.name, folder, error)
        return None
    logger.info("the output of %s is kept in %s until it is stored", kept.name, path)
    return path
