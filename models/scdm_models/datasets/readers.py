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
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urljoin, urlsplit

from pymatgen.core import Structure

from scdm_models.datasets.records import Dropped
from scdm_models.datasets.structure_files import (
    UNREADABLE,
    Item,
    checked,
    is_structure_file,
    open_error,
    read_structure_file,
    structure_kind,
    structure_of_atoms,
)
from scdm_models.errors import DatasetError

if TYPE_CHECKING:
    import requests

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".json.bz2", ".json.zip")
INCOMPLETE = "incomplete"  # rule of the ``Dropped`` that stands for what a provider did not give
WEB = ("http://", "https://")
PAGE_ENTRIES = 100  # what every provider grants that says so; it may give fewer
MAX_PAGES = 5000
TRIES_AGAIN = 3  # of one request, with a wait of 0, 1 and 2 s before
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; until the next bytes come
_VERSION = re.compile(r"(/v\d+(\.\d+)*)?(/structures)?/*$")  # what may follow the base URL
_LOGIN = re.compile(r"(?<=://)[^/@]*@")
_SQLITE = b"SQLite format 3\x00"
_NOT_PROPERTIES = frozenset(
    (
        "id",
        "source",
        "structure",
        "lattice",
        "species",
        "frac_coords",
        "atoms",
        "formula",
        "cell_formula",
        "natoms",
        "lattice_vectors",
        "cartesian_site_positions",
        "species_at_sites",
    )
)
_PREFIX = re.compile(r"^_[a-z0-9]+_")  # of a provider's own columns in OPTIMADE, such as _alexandria_band_gap
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
                return io.StringIO("".join(archive.read(name).decode("utf-8") for name in archive.namelist()[:1]))
        return path.open(encoding="utf-8")
    except _READ_ERRORS as error:
        raise open_error(path, error) from None


def read_json(path: str | Path) -> Iterator[Item]:
    """Entries of a JSON or JSON-lines file, each in one of the known forms.

    Known forms of an entry: ``structure`` as pymatgen's dict (2dMatPedia's db.json, generated records);
    ``lattice``, ``species``, ``frac_coords`` (compact JSON lines, curated sets); ``atoms`` as jarvis-tools'
    dict; a bare pymatgen structure; pymatgen's computed structure entry; a structure of OPTIMADE. A file of several
    lines is read line by line. One JSON object with ``ids`` is an ASE database, one with a list of ``entries``
    (Alexandria) or ``data`` (OPTIMADE) is the entries in it.

    Raises
    ------
    DatasetError
        If the file is missing, empty, damaged or holds no JSON.
    """
    path = Path(path)
    try:
        with _open(path) as handle:
            first = ""
            for first in handle:
                if first.strip():
                    break
            if not first.strip():
                raise DatasetError(f"{path} is empty; fetch it again")
            try:
                entry = json.loads(first)
            except json.JSONDecodeError:
                yield from _whole(path, first + handle.read())
                return
            second = handle.readline()
            while second and not second.strip():
                second = handle.readline()
            if not second:
                yield from _entries(path, entry)
                return
            yield _entry(entry, f"{path.name}:1", path.name)
            yield _line(path, second, 2)
            for number, line in enumerate((line for line in handle if line.strip()), 3):
                yield _line(path, line, number)
    except _READ_ERRORS as error:
        raise open_error(path, error) from None


def _whole(path: Path, text: str) -> Iterator[Item]:
    """Entries of a text whose first line is no JSON: one document, or lines of which some are damaged."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        items = [_line(path, line, n) for n, line in enumerate((x for x in text.splitlines() if x.strip()), 1)]
        if all(isinstance(item, Dropped) for item in items):
            raise DatasetError(
                f"{path} is neither JSON nor JSON lines, or damaged; give a file of structures"
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
        yield _entry(entry, f"{path.name}:{number}", path.name)


def _line(path: Path, line: str, number: int) -> Item:
    name = f"{path.name}:{number}"
    try:
        return _entry(json.loads(line), name, path.name)
    except json.JSONDecodeError as error:
        return Dropped(name, path.name, UNREADABLE, f"line {number} is not JSON ({error.msg}); correct or remove it")


def _source(entry: dict[str, Any], fallback: str) -> str:
    if "source" in entry:
        return str(entry["source"])
    if str(entry.get("material_id", "")).startswith("2dm-"):
        return "2dMatPedia"
    if "jid" in entry:
        return "JARVIS"
    if str(entry.get("mat_id", "")).startswith("agm"):
        return "Alexandria"
    return "C2DB" if "uid" in entry else fallback


def _entry(entry: Any, fallback: str, source: str) -> Item:
    if not isinstance(entry, dict):
        reason = f"an entry must be a JSON object, found {type(entry).__name__}; correct or remove it"
        return Dropped(fallback, source, UNREADABLE, reason)
    # OPTIMADE keeps an entry's columns under attributes, pymatgen's computed entries under data
    aside = "data" if str(entry.get("@class", "")).startswith("Computed") else "attributes"
    columns = entry[aside] if isinstance(entry.get(aside), dict) else entry
    entry = {**columns, **entry}
    names = (entry.get(key) for key in ("id", "candidate_id", "material_id", "mat_id", "jid", "uid", "entry_id"))
    identifier = next((str(name) for name in names if name not in (None, "")), fallback)
    source = _source(entry, source)
    properties = {_PREFIX.sub("", key): value for key, value in columns.items() if key not in _NOT_PROPERTIES}
    if isinstance(entry.get("structure"), dict):
        return checked(identifier, source, lambda: Structure.from_dict(entry["structure"]), properties)
    if {"lattice", "species", "frac_coords"} <= entry.keys():
        return checked(
            identifier,
            source,
            lambda: Structure(entry["lattice"], entry["species"], entry["frac_coords"]),
            properties,
        )
    if isinstance(entry.get("attributes"), dict):
        return checked(identifier, source, lambda: _optimade_structure(entry), properties)
    if isinstance(entry.get("atoms"), dict):
        return checked(identifier, source, lambda: _jarvis_structure(entry["atoms"]), properties)
    if {"lattice", "sites"} <= entry.keys():
        return checked(identifier, source, lambda: Structure.from_dict(entry), {})
    keys = ", ".join(list(entry)[:6]) or "none"
    forms = "'structure', 'atoms' or 'lattice', 'species', 'frac_coords'"
    reason = f"it holds no structure (keys: {keys}); give {forms}"
    return Dropped(identifier, source, UNREADABLE, reason)


def _jarvis_structure(atoms: dict[str, Any]) -> Structure:
    return Structure(
        atoms["lattice_mat"],
        [str(symbol).strip() for symbol in atoms["elements"]],
        atoms["coords"],
        coords_are_cartesian=bool(atoms.get("cartesian", False)),
    )


def _optimade_structure(attributes: dict[str, Any]) -> Structure:
    """The structure of OPTIMADE's attributes; vectors along which it is not periodic may be null there."""
    from ase import Atoms

    missing = [key for key in ("lattice_vectors", "cartesian_site_positions", "species") if not attributes.get(key)]
    if missing:
        raise ValueError(f"it holds no structure ({', '.join(missing)} empty)")
    kinds = {kind["name"]: kind for kind in attributes["species"]}
    symbols = []
    for name in attributes["species_at_sites"]:
        found, shares = kinds[name]["chemical_symbols"], kinds[name]["concentration"]
        if len(found) != 1 or abs(shares[0] - 1) > 1e-3:
            raise ValueError(f"the site {name} is partially occupied, only full ones are allowed")
        symbols += found
    cell = [[x or 0.0 for x in vector] for vector in attributes["lattice_vectors"]]
    return structure_of_atoms(Atoms(symbols, positions=attributes["cartesian_site_positions"], cell=cell, pbc=True))


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
        yield _entry(entry, f"{name}:{number}", "JARVIS")


def read_optimade(base_url: str, query: str = "", limit: int | None = None) -> Iterator[Item]:
    """Structures of a database that answers as OPTIMADE asks (doi:10.1038/s41597-021-00974-z), page by page.

    A provider that fails after its first page, or whose pages have no end, ends the reading: the last item is then a
    ``Dropped`` of the rule ``INCOMPLETE`` that says why.

    Parameters
    ----------
    base_url
        Of one database, such as ``https://optimade.materialsproject.org``.
    query
        Filter in OPTIMADE's language; all structures without.
    limit
        Largest number of entries; all without.

    Raises
    ------
    DatasetError
        If the first page cannot be had.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    source, read = urlsplit(base_url).hostname or base_url, 0
    url = f"{_VERSION.sub('', base_url)}/v1/structures"
    parameters: dict[str, Any] = {"page_limit": min(limit or PAGE_ENTRIES, PAGE_ENTRIES)}
    parameters |= {"filter": query} if query else {}
    asked: set[str] = set()
    seen: set[str] = set()
    again = Retry(
        TRIES_AGAIN,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    with requests.Session() as session:
        for scheme in WEB:
            session.mount(scheme, HTTPAdapter(max_retries=again))
        for number in range(1, MAX_PAGES + 1):
            asked.add(url)
            try:
                entries, following, more = _page(session, url, parameters)
            except DatasetError as error:
                if number == 1:
                    raise
                yield _incomplete(source, number, str(error))
                return
            ids = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
            if following and seen.issuperset(ids) and len(ids) == len(entries):
                yield _incomplete(source, number, "the page holds nothing new and names one that follows all the same")
                return
            seen.update(ids)
            for entry in entries:
                if read == limit:
                    return
                read += 1
                yield _entry(entry, f"{source}:{read}", source)
            if read == limit or not (following or more):
                return
            if not following:
                yield _incomplete(source, number, "it says that there is more and names no page that follows")
                return
            if following in asked:
                yield _incomplete(source, number, "it names a page as the following one that was read already")
                return
            url, parameters = following, {}
    yield _incomplete(source, MAX_PAGES, "no more pages are read")


def _incomplete(source: str, number: int, reason: str) -> Dropped:
    advice = "what came before is kept; try again later, or ask for less with a filter"
    return Dropped(f"{source}:page {number}", source, INCOMPLETE, f"page {number}: {reason}; {advice}")


def _page(session: requests.Session, url: str, parameters: dict[str, Any]) -> tuple[list[Any], str | None, bool]:
    """Entries of a page of OPTIMADE, the address of the following one, and whether there are more entries.

    Raises
    ------
    DatasetError
        If the provider cannot be reached, answers with an error or with something else.
    """
    from requests import RequestException

    shown = _LOGIN.sub("", url)
    try:
        answer = session.get(url, params=parameters, timeout=TIMEOUT_SECONDS)
    except RequestException as error:
        raise DatasetError(f"{shown} cannot be reached ({type(error).__name__}); check address and network") from None
    try:
        document = answer.json()
    except ValueError:
        document = None
    said = ""
    if isinstance(document, dict) and isinstance(document.get("errors"), list):
        said = "; ".join(str(e.get("detail") or e.get("title")) for e in document["errors"] if isinstance(e, dict))
    if answer.status_code != 200 or said:
        text = said[:200] or answer.reason
        raise DatasetError(
            f"{shown} answers with an error (HTTP {answer.status_code}: {text}); check address and filter"
        )
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        kind = "JSON without a list 'data'" if document is not None else answer.headers.get("Content-Type", "no JSON")
        raise DatasetError(
            f"{shown} answers with {kind}, which is no page of OPTIMADE; give the base URL of a database such as "
            "https://optimade.materialsproject.org"
        )
    links = document.get("links")
    following = links.get("next") if isinstance(links, dict) else None
    if isinstance(following, dict):
        following = following.get("href")
    following = urljoin(answer.url, following) if isinstance(following, str) and following else None
    meta = document.get("meta")
    return document["data"], following, isinstance(meta, dict) and meta.get("more_data_available") is True


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
