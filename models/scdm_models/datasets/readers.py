"""Readers of 2D data sets: 2dMatPedia, C2DB, JARVIS, Alexandria, compact JSON lines, files and folders of structures,
and databases that answer as OPTIMADE asks.

Each yields ``LayerRecord`` for what it can read and ``Dropped`` for what it cannot: one bad entry is never
fatal. A file that is missing, empty or damaged as a whole raises one ``DatasetError``. ``read_any`` finds the
kind by itself.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from scdm_models.datasets.entries import read_entry
from scdm_models.datasets.optimade import WEB, read_optimade
from scdm_models.datasets.records import Dropped
from scdm_models.datasets.structure_files import (
    UNREADABLE,
    Item,
    checked,
    is_structure_file,
    open_error,
    parse_json,
    read_structure_file,
    structure_kind,
    structure_of_atoms,
)
from scdm_models.errors import DatasetError

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".json.bz2", ".json.zip")
LONGEST_TEXT = 4 << 30  # characters of a JSON document or line, unpacked
_SQLITE = b"SQLite format 3\x00"
_READ_ERRORS = (OSError, EOFError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile)


def _open(path: Path) -> TextIO:
    """The text of a plain, gzip'ed, bzip2'ed or zip'ed file (the first member)."""
    try:
        with path.open("rb") as handle:
            magic = handle.read(4)
        if magic[:2] == b"\x1f\x8b":
            return gzip.open(path, "rt", encoding="utf-8")
        if magic[:3] == b"BZh":
            return bz2.open(path, "rt", encoding="utf-8")
        if magic == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                first = archive.infolist()[:1]
                if first and first[0].file_size > LONGEST_TEXT:
                    raise _too_long(path)
                return io.StringIO("".join(archive.read(member).decode("utf-8") for member in first))
        return path.open(encoding="utf-8")
    except _READ_ERRORS as error:
        raise open_error(path, error) from None


def read_json(path: str | Path) -> Iterator[Item]:
    """Entries of a JSON or JSON-lines file, each in one of the forms of ``entries.read_entry``.

    A file of several lines is read line by line. One JSON object with ``ids`` is an ASE database, one with a list of
    ``entries`` (Alexandria) or ``data`` (OPTIMADE) is the entries in it.

    Raises
    ------
    DatasetError
        If the file is missing, empty, damaged or holds no JSON.
    """
    path = Path(path)
    try:
        with _open(path) as handle:
            lines = _lines(path, handle)
            first = next((line for line in lines if line.strip()), "")
            if not first:
                raise DatasetError(f"{path} is empty; fetch it again")
            try:
                entry = parse_json(first)
            except ValueError:
                yield from _whole(path, first + _rest(path, handle))
                return
            second = next((line for line in lines if line.strip()), "")
            if not second:
                yield from _entries(path, entry)
                return
            yield read_entry(entry, f"{path.name}:1", path.name)
            yield _line(path, second, 2)
            for number, line in enumerate((line for line in lines if line.strip()), 3):
                yield _line(path, line, number)
    except _READ_ERRORS as error:
        raise open_error(path, error) from None


def _lines(path: Path, handle: TextIO) -> Iterator[str]:
    """The lines of a text; ``DatasetError`` at one that is longer than ``LONGEST_TEXT``."""
    while line := handle.readline(LONGEST_TEXT + 1):
        yield _limited(path, line)


def _rest(path: Path, handle: TextIO) -> str:
    return _limited(path, handle.read(LONGEST_TEXT + 1))


def _limited(path: Path, text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise _too_long(path)
    return text


def _too_long(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} has a document of more than {LONGEST_TEXT >> 30} GiB, unpacked; give JSON lines, one entry each"
    )


def _whole(path: Path, text: str) -> Iterator[Item]:
    """Entries of a text whose first line is no JSON: one document, or lines of which some are damaged."""
    try:
        document = parse_json(text)
    except ValueError as error:
        items = [_line(path, line, n) for n, line in enumerate((x for x in text.splitlines() if x.strip()), 1)]
        if all(isinstance(item, Dropped) for item in items):
            why = "" if isinstance(error, json.JSONDecodeError) else f" ({error})"
            raise DatasetError(
                f"{path} is neither JSON nor JSON lines, or damaged{why}; give a file of structures"
            ) from None
        yield from items
    else:
        yield from _entries(path, document)


def _entries(path: Path, document: Any) -> Iterator[Item]:
    if isinstance(document, dict) and "ids" in document and "nextid" in document:
        yield from read_ase_db(path)
        return
    if isinstance(document, dict):
        document = next((document[k] for k in ("entries", "data") if isinstance(document.get(k), list)), [document])
    for number, entry in enumerate(document if isinstance(document, list) else [document], 1):
        yield read_entry(entry, f"{path.name}:{number}", path.name)


def _line(path: Path, line: str, number: int) -> Item:
    name = f"{path.name}:{number}"
    try:
        return read_entry(parse_json(line), name, path.name)
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return Dropped(name, path.name, UNREADABLE, f"line {number} is not JSON ({reason}); correct or remove it")


def read_ase_db(path: str | Path) -> Iterator[Item]:
    """Rows of an ASE database, SQLite or JSON (C2DB's ``c2db.db``); ``uid`` is the id where there is one.

    Raises
    ------
    DatasetError
        If the file is missing or no ASE database.
    """
    from ase.db import connect

    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; check the path")
    with contextlib.ExitStack() as stack:
        kind, location = "db", str(path)
        if path.read_bytes()[: len(_SQLITE)] != _SQLITE:
            kind = "json"
            if path.suffix != ".json":  # ase wants it unpacked and so named
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                location = str(Path(folder) / "rows.json")
                with _open(path) as handle:
                    Path(location).write_text(handle.read())
        try:
            for row in connect(location, type=kind, use_lock_file=False).select():
                columns = dict(row.key_value_pairs)
                identifier = str(columns.get("uid", f"{path.name}:{row.id}"))
                source = "C2DB" if "uid" in columns else path.name
                yield checked(identifier, source, lambda row=row: structure_of_atoms(row.toatoms()), columns)  # type: ignore[misc]
        except Exception as error:
            raise DatasetError(f"{path} is no readable ASE database ({error}); fetch it again") from None


def read_jarvis(name: str = "dft_2d") -> Iterator[Item]:
    """JARVIS's 2D set through jarvis-tools' own loader (which downloads it once).

    Raises
    ------
    DatasetError
        If jarvis-tools is not installed or cannot load the set (no network).
    """
    try:
        from jarvis.db.figshare import data
    except ImportError:
        raise DatasetError(
            'reading JARVIS needs jarvis-tools, which is not installed; pip install "scdm-flows[jarvis]"'
        ) from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the loader prints
            entries = data(name)
    except Exception as error:
        raise DatasetError(
            f"jarvis-tools could not load {name!r} ({type(error).__name__}: no network?); "
            "download its JSON file elsewhere and give that file"
        ) from None
    for number, entry in enumerate(entries, 1):
        yield read_entry(entry, f"{name}:{number}", "JARVIS")


def read_any(path: str | Path) -> Iterator[Item]:
    """Entries of any file or folder that this project can read; ``jarvis`` reads JARVIS through its loader, a web
    address an OPTIMADE database.

    The kind is found by the name, and by the content where the name says nothing. In a folder (searched in
    depth, in the order of the names) a file that cannot be read as a whole is a ``Dropped``; ids are paths
    within the folder.

    Raises
    ------
    DatasetError
        If the path does not exist, is empty, damaged, or of an unknown kind.
    """
    if str(path) == "jarvis":
        yield from read_jarvis()
        return
    if str(path).startswith(WEB):
        yield from read_optimade(str(path))
        return
    path = Path(path)
    if path.is_dir():
        yield from _folder(path)
        return
    try:
        with path.open("rb") as handle:
            head = handle.read(4096)
    except OSError as error:
        raise open_error(path, error) from None
    if not head:
        raise DatasetError(f"{path} is empty; fetch it again")
    if head.startswith(_SQLITE) or path.suffix == ".db":
        yield from read_ase_db(path)
    elif is_structure_file(path):
        yield from read_structure_file(path)
    elif path.name.endswith(JSON_SUFFIXES) or head.lstrip()[:1] in (b"{", b"["):
        yield from read_json(path)
    elif structure_kind(path, head.decode("utf-8", "replace")) is not None:
        yield from read_structure_file(path)
    else:
        raise DatasetError(
            f"{path} is of unknown kind; known are CIF, POSCAR, extxyz, JSON, JSON lines and ASE databases"
        )


def _folder(folder: Path) -> Iterator[Item]:
    known = (*JSON_SUFFIXES, ".db")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and (is_structure_file(f) or f.name.endswith(known)))
    if not files:
        raise DatasetError(f"folder {folder} holds no CIF, POSCAR, extxyz, JSON or ASE database file; check the path")
    for file in files:
        name = str(file.relative_to(folder))
        try:
            yield from read_structure_file(file, name) if is_structure_file(file) else read_any(file)
        except DatasetError as error:
            yield Dropped(name, "file", UNREADABLE, str(error))
