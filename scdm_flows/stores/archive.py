"""The file format of a backup: what ``mongodump --gzip`` writes, and a manifest beside it.

A folder, or a .tar file of that folder::

    manifest.json                          format, versions; of each file: documents, bytes, sha256
    <database>/<collection>.bson.gz        the documents, as BSON one after the other
    <database>/<collection>.metadata.json.gz   options and indexes, as extended JSON

``mongorestore --gzip --dir FOLDER`` reads the folder (it passes over the manifest).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from scdm_flows.errors import OutputError, StoreError

MANIFEST, FORMAT = "manifest.json", "scdm-flows backup"
VERSION = 1
_BLOCK = 1 << 20
_LEVEL = 6


@dataclass(frozen=True)
class Member:
    """A file of a backup: documents in it (None for metadata), its size in bytes, its sha256."""

    name: str
    documents: int | None
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. versions: package -> version, of the program that wrote it."""

    database: str
    created_at: str
    versions: dict[str, str]
    members: list[Member]

    @property
    def collections(self) -> dict[str, int]:
        """Collection -> its documents."""
        return {
            m.name.split("/", 1)[1].removesuffix(".bson.gz"): m.documents
            for m in self.members
            if m.documents is not None
        }

    @property
    def id(self) -> str:
        """The same for the same content."""
        return hashlib.sha256("".join(m.sha256 for m in self.members).encode()).hexdigest()[:16]


class Writer:
    """Writes the files of a backup into a folder, and its manifest at the end."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.database, self.members = folder, database, list[Member]()
        (folder / database).mkdir(parents=True)

    def collection(self, name: str, documents: Iterable[bytes], metadata: str) -> int:
        """Write a collection; documents: BSON; returns how many there were."""
        count = 0
        with self._file(f"{name}.bson.gz") as handle:
            for document in documents:
                handle.write(document)
                count += 1
        self._done(f"{name}.bson.gz", count)
        with self._file(f"{name}.metadata.json.gz") as handle:
            handle.write(metadata.encode())
        self._done(f"{name}.metadata.json.gz", None)
        return count

    def finish(self, created_at: str, versions: dict[str, str]) -> Manifest:
        """Write the manifest."""
        manifest = Manifest(self.database, created_at, versions, self.members)
        text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(manifest)}, indent=1)
        (self.folder / MANIFEST).write_text(text + "\n")
        return manifest

    @contextmanager
    def _file(self, name: str) -> Iterator[IO[bytes]]:
        # without name and time, so that the same documents give the same file
        with (self.folder / self.database / name).open("wb") as plain:
            with gzip.GzipFile("", "wb", _LEVEL, plain, mtime=0) as handle:
                yield cast(IO[bytes], handle)
            plain.flush()
            os.fsync(plain.fileno())

    def _done(self, name: str, documents: int | None) -> None:
        path = self.folder / self.database / name
        with path.open("rb") as handle:
            digest, size = _digest(handle)
        self.members.append(Member(f"{self.database}/{name}", documents, size, digest))


class Archive:
    """Reads a backup, a folder or a .tar file; only files that its manifest names, and nothing is unpacked.

    Raises
    ------
    StoreError
        If it is no backup, or of a later format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise StoreError(f"{path} does not exist; give the folder or .tar file that `scdm db backup` wrote")
        try:
            self._tar = None if path.is_dir() else tarfile.open(path, "r:")  # noqa: SIM115
            with self._open(MANIFEST) as handle:
                data = json.loads(handle.read())
            if data.pop("format") != FORMAT:
                raise ValueError("format")
            version = data.pop("version")
            members = [Member(**m) for m in data.pop("members")]
            self.manifest = Manifest(members=members, **data)
        except (tarfile.TarError, OSError, ValueError, KeyError, TypeError, AttributeError):
            raise StoreError(
                f"{path} is no backup of scdm-flows, or its beginning is damaged; take another one"
            ) from None
        if version != VERSION:
            raise StoreError(f"{path} is a backup of format {version}, this scdm-flows knows {VERSION}; upgrade it")

    def verify(self) -> None:
        """Compare every file with the manifest; ``StoreError`` names the first that is missing or damaged."""
        for member in self.manifest.members:
            try:
                with self._open(member.name) as handle:
                    digest, size = _digest(handle)
            except (KeyError, OSError, tarfile.TarError):
                raise self._damaged(member, "is missing") from None
            if (size, digest) != (member.bytes, member.sha256):
                raise self._damaged(member, f"has {size} bytes and another sha256 than when it was written")

    def _damaged(self, member: Member, why: str) -> StoreError:
        return StoreError(f"backup {self.path} is damaged: {member.name} {why}; nothing was restored, take another one")

    def documents(self, collection: str) -> Iterator[Any]:
        """The documents of a collection, as ``RawBSONDocument``."""
        import bson
        from bson.codec_options import CodecOptions
        from bson.raw_bson import RawBSONDocument

        options = CodecOptions(document_class=RawBSONDocument)
        with self._open(f"{self.manifest.database}/{collection}.bson.gz") as plain, gzip.open(plain) as handle:
            yield from bson.decode_file_iter(cast(IO[bytes], handle), options)

    def metadata(self, collection: str) -> dict[str, Any]:
        """Options and indexes of a collection."""
        from bson import json_util

        name = f"{self.manifest.database}/{collection}.metadata.json.gz"
        with self._open(name) as plain, gzip.open(plain) as handle:
            return dict(json_util.loads(handle.read().decode()))

    def close(self) -> None:
        """Close the file."""
        if self._tar is not None:
            self._tar.close()

    def _open(self, name: str) -> IO[bytes]:
        if self._tar is None:
            path = self.path / name
            if self.path.resolve() not in path.resolve().parents:
                raise KeyError(name)
            return path.open("rb")
        found = self._tar.extractfile(name)
        if found is None:
            raise KeyError(name)
        return found


def _digest(handle: IO[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := handle.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


@contextmanager
def new_archive(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which appears under that name (as a .tar file where it ends so) when all
    went well. An empty folder of that name is replaced.

    Raises
    ------
    OutputError
        If there is something of that name (exit code 2), or it cannot be written.
    """
    empty_folder = path.is_dir() and not path.suffix and not any(path.iterdir())
    if path.exists() and not empty_folder:
        error = OutputError(f"{path} exists; give another name, a backup never replaces anything")
        error.exit_code = 2
        raise error
    temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.suffix == ".tar":
            _pack(temporary, path)
        else:
            if empty_folder:
                path.rmdir()
            temporary.rename(path)
    except OSError as error:
        raise OutputError(
            f"{path} was not written ({error.strerror or error}); free some space or choose another folder, "
            "the database is as it was"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pack(folder: Path, path: Path) -> None:
    """The folder as a .tar file, the manifest first."""
    packed = folder.with_suffix(".tar.tmp")
    try:
        with tarfile.open(packed, "w") as tar:
            tar.add(folder / MANIFEST, MANIFEST)
            for file in sorted(folder.rglob("*.gz")):
                tar.add(file, file.relative_to(folder).as_posix())
                file.unlink()  # so that the space of two is not needed
        packed.replace(path)
    finally:
        packed.unlink(missing_ok=True)
