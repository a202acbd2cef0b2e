"""Output files: never overwritten without ``--force``, and under their name only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scdm_flows.cli.common import USAGE, disk_full
from scdm_flows.errors import OutputError


def _usage_error(message: str) -> OutputError:
    """An error that the user mends before running again: exit code 2."""
    error = OutputError(message)
    error.exit_code = USAGE
    return error


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a file that exists or a folder that cannot be written.

    Raises
    ------
    OutputError
        With exit code 2.
    """
    if path.is_dir():
        raise _usage_error(f"{path} is a folder; give the name of a file")
    if path.exists() and not force:
        raise _usage_error(f"{path} exists; give another name, or --force to replace it")
    _writable_parent(path)


def _writable_parent(path: Path) -> Path:
    """The folder that a path lies in; ``OutputError`` with exit code 2 where it is not there or cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise _usage_error(f"folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise _usage_error(f"folder {folder} cannot be written; choose another")
    return folder


@contextmanager
def output_file(path: Path, *, force: bool, private: bool = False) -> Iterator[Any]:
    """A text file that appears under its name only when it is complete; private: for its owner alone.

    Raises
    ------
    OutputError
        If it exists without ``force``, its folder cannot be written (exit code 2), or the disk is full (1).
    """
    check_output(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            if private:
                os.fchmod(handle.fileno(), 0o600)
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"{path} was not written: {disk_full(error) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_path(path: Path, *, force: bool) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside, for library functions that write files
    themselves.

    When all went well the file is renamed to ``path``; whatever happens, the temporary folder goes.
    """
    check_output(path, force=force)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
            yield Path(folder) / path.name
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise OutputError(f"{path} was not written: {disk_full(error) or error}") from error


@contextmanager
def output_folder(path: Path, mark: str, *, force: bool) -> Iterator[Path]:
    """An empty folder beside, which gets the name ``path`` when all went well; whatever happens, it goes otherwise.

    mark: the file that makes it what it is. With ``force`` a folder that has it is replaced, and no other but an empty
    one: what lies there may be anything.

    Raises
    ------
    OutputError
        If it exists without ``force`` or is something else, its parent cannot be written (exit code 2), or the disk is
        full (1).
    """
    full = path.is_dir() and any(path.iterdir())
    if path.exists() and not path.is_dir():
        raise _usage_error(f"{path} is a file; give the name of a folder")
    if full and not force:
        raise _usage_error(f"{path} exists; give another name, or --force to replace it")
    if full and not (path / mark).is_file():
        raise _usage_error(f"{path} holds no {mark}, so it is not replaced; give another name")
    parent = _writable_parent(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=parent) as temporary:
            made, old = Path(temporary) / "new", Path(temporary) / "old"
            made.mkdir()
            yield made
            if path.exists():
                path.rename(old)
            try:
                made.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
    except OSError as error:
        raise OutputError(f"{path} was not written: {disk_full(error) or error}") from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; ``OutputError`` (exit code 2) where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _usage_error(f"folder {folder} cannot be made ({error.strerror}); choose another") from None
