"""The files of a crate: written into a folder, each with its size and sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Written:
    """A file: its name in the crate, bytes, and sha256, 64 hex digits."""

    name: str
    size: int
    sha256: str


class Folder:
    """Writes files below ``root``; ``files`` has all that are complete, by name, in the order they were."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, Written] = {}

    def write(self, name: str, content: str | bytes) -> Written:
        """A file with this content."""
        data = content.encode() if isinstance(content, str) else content
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.add(name, len(data), hashlib.sha256(data).hexdigest())

    def add(self, name: str, size: int, sha256: str) -> Written:
        """Note a file that is complete."""
        self.files[name] = Written(name, size, sha256)
        return self.files[name]


class Lines:
    """A file of JSON lines; there is none where nothing is written. ``count``: its lines."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._handle: IO[bytes] | None = None
        self._digest, self._size, self.count = hashlib.sha256(), 0, 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._handle is None:
            return
        self._handle.close()
        if kind is None:
            self._folder.add(self._name, self._size, self._digest.hexdigest())

    def write(self, *records: Mapping[str, Any]) -> None:
        """Write records, a line each."""
        self.extend(records)

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records, a line each."""
        for record in records:
            if self._handle is None:
                self._handle = (self._folder.root / self._name).open("wb")
            data = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
            self._handle.write(data)
            self._digest.update(data)
            self._size += len(data)
            self.count += 1
