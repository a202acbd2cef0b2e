"""Known layers: the packaged ones and the sets that users add, files in one folder.

A set is ``NAME.npz`` in the folder of the settings (``SCDM_KNOWN_DIR``), as ``scdm_models.datasets.known`` writes it,
with a note of where it came from. Beside it ``NAME.dropped.jsonl`` says what was left out of it and why. Whoever looks
up a layer asks ``known_layers``, so a set counts from the moment at which its file is there.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scdm_flows.config.settings import ScdmSettings, get_settings
from scdm_flows.errors import DatasetError, OutputError
from scdm_models.datasets.known import KnownLayers, Progress
from scdm_models.datasets.optimade import INCOMPLETE, WEB
from scdm_models.datasets.records import Dropped, LayerRecord, write_dropped

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOTE = "note.json"  # member of the archive that an npz file is
_Stamp = tuple[Path, int, int, int]  # of a file: it changes when the file does


@dataclass(frozen=True)
class KnownSet:
    """A set that a user added.

    Parameters
    ----------
    name
        Of the set; its layers carry it as their source.
    layers
        How many it holds; 0 where its file is damaged.
    version
        Twelve hex digits of its content; empty where its file is damaged.
    source, added
        What it was made of, and when (ISO, UTC); None where the file does not say.
    trouble
        Why it is not all of its source, or that its file is damaged.
    """

    name: str
    layers: int
    version: str
    source: str | None = None
    added: str | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class Addition:
    """What came of adding a set: it, the number of entries read, rule -> number left out, file of the reasons."""

    known: KnownSet
    read: int
    left_out: dict[str, int]
    reasons: Path


def known_folder(settings: ScdmSettings | None = None) -> Path:
    """The folder of the users' sets."""
    settings = settings or get_settings()
    return settings.known_dir or settings.data_dir / "known"


def known_layers(settings: ScdmSettings | None = None) -> KnownLayers:
    """The packaged known layers and those of all sets of the user.

    They are kept in memory and read again when a set came, went or changed.

    Raises
    ------
    DatasetError
        If a file is damaged. A set is never left out in silence: its layers would count as new.
    """
    folder = known_folder(settings)
    stamps = _stamps(folder)
    try:
        return _joined(KnownLayers.load, stamps)
    except DatasetError:
        if _stamps(folder) == stamps:
            raise
    return known_layers(settings)  # a set went while it was read


def known_sets(settings: ScdmSettings | None = None) -> list[KnownSet]:
    """The user's sets by name."""
    return [_described(path) for path, *_ in _stamps(known_folder(settings))]


def set_name(source: str) -> str:
    """The name that a set of this file, folder or web address has where none is given."""
    if source.startswith(WEB):
        address = urlsplit(source)
        text = f"{address.hostname}{address.path}".rstrip("/").removesuffix("/optimade")
    else:
        text = Path(source).absolute().name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:64]


def add_known(
    name: str,
    items: Iterable[LayerRecord | Dropped],
    source: str,
    *,
    settings: ScdmSettings | None = None,
    force: bool = False,
    processes: int = 1,
    progress: Progress | None = None,
) -> Addition:
    """Store what the readers yield as a set; it appears under its name when it is complete.

    Parameters
    ----------
    name
        Letters, digits, ``.``, ``_`` and ``-``, at most 64; not that of a packaged source.
    items
        Entries; what is no layer, and what repeats the id of an earlier one, is left out with its reason.
    source
        What they are, to be shown to people.
    force
        Replace a set of this name.
    processes, progress
        As in ``KnownLayers.build``.

    Raises
    ------
    DatasetError
        If the name is taken or not allowed, or no entry is a layer; and what ``items`` raises.
    OutputError
        If the folder cannot be written.
    """
    folder = known_folder(settings)
    path = _path(folder, name)
    if path.exists() and not force:
        raise DatasetError(f"a set {name} exists in {folder}; give another name, or --force to replace it")
    packaged = KnownLayers.load().sources
    if name in packaged:
        raise DatasetError(f"{name} is a source of the packaged layers ({', '.join(packaged)}); give another --name")
    known, dropped = KnownLayers.build(_of_set(name, items), processes, progress)
    cut = next((item.reason for item in dropped if item.rule == INCOMPLETE), None)
    left_out = Counter(item.rule for item in dropped if item.rule != INCOMPLETE)
    if not len(known):
        counts = ", ".join(f"{n} {rule}" for rule, n in left_out.most_common())
        first = f"; the first: {dropped[0].reason}" if dropped else ""
        raise DatasetError(f"no layer is left of {left_out.total()} entries of {source} ({counts or 'none'}){first}")
    added = KnownSet(name, len(known), known.version, source, datetime.now(UTC).isoformat(timespec="seconds"), cut)
    reasons = path.with_name(f"{name}.dropped.jsonl")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary:
            made = Path(temporary) / path.name
            known.save(made)
            with zipfile.ZipFile(made, "a") as archive:
                archive.writestr(_NOTE, json.dumps(asdict(added)))
            write_dropped(made.with_name(reasons.name), dropped)
            made.with_name(reasons.name).replace(reasons)
            made.replace(path)
    except OSError as error:
        raise OutputError(f"{path} was not written ({error.strerror}); set SCDM_KNOWN_DIR to another folder") from None
    return Addition(added, len(known) + left_out.total(), dict(left_out.most_common()), reasons)


def remove_known(name: str, settings: ScdmSettings | None = None) -> None:
    """Remove a set and the file of its reasons; ``DatasetError`` if there is none of this name."""
    folder = known_folder(settings)
    path = _path(folder, name)
    try:
        path.unlink()
    except FileNotFoundError:
        there = ", ".join(path.stem for path, *_ in _stamps(folder)) or "none"
        raise DatasetError(f"there is no set {name} in {folder}; sets there: {there}") from None
    path.with_name(f"{name}.dropped.jsonl").unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} is no name for a set; give at most 64 letters, digits, . _ and -, a letter or digit first"
        )
    return folder / f"{name}.npz"


def _stamps(folder: Path) -> tuple[_Stamp, ...]:
    """The sets' files by name, each with what changes when it is replaced."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with contextlib.suppress(FileNotFoundError):  # it went just now
            if _NAME.fullmatch(path.stem):
                state = path.stat()
                found.append((path, state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=2)
def _joined(load: Callable[..., KnownLayers], stamps: tuple[_Stamp, ...]) -> KnownLayers:
    known = load()
    for path, *_ in stamps:
        try:
            known = known.joined(load(path))
        except DatasetError as error:
            raise DatasetError(f"{error}, or remove it with `scdm data known remove {path.stem}`") from None
    return known


def _described(path: Path) -> KnownSet:
    try:
        known = KnownLayers.load(path)
    except DatasetError as error:
        return KnownSet(path.stem, 0, "", trouble=str(error))
    note: dict[str, Any] = {}
    with contextlib.suppress(KeyError, ValueError), zipfile.ZipFile(path) as archive:
        note = json.loads(archive.read(_NOTE))
    kept = {key: note.get(key) for key in ("source", "added", "trouble")}
    return KnownSet(path.stem, len(known), known.version, **kept)


def _of_set(name: str, items: Iterable[LayerRecord | Dropped]) -> Iterator[LayerRecord | Dropped]:
    """The items with the set as their source; an id counts once."""
    seen: set[str] = set()
    for item in items:
        if isinstance(item, LayerRecord) and item.id in seen:
            reason = f"the id {item.id} came before in this set; give each entry an id of its own"
            yield Dropped(item.id, name, "duplicate id", reason)
            continue
        if isinstance(item, LayerRecord):
            seen.add(item.id)
        yield replace(item, source=name)
