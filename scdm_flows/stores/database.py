"""Collections, keys, indexes and the connection. One database holds everything a campaign knows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from scdm_flows.config.settings import ScdmSettings, get_settings, masked
from scdm_flows.documents import CampaignDoc, LoopDoc
from scdm_flows.documents.migrations import migrate
from scdm_flows.errors import StoreError
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.indexes import ensure_or_warn
from scdm_flows.stores.library_faults import look_for_file_indexes_once
from scdm_flows.stores.names import BLOBS, KEYS, OUTPUTS, TIMEOUT_MS
from scdm_flows.stores.uri import database_name, with_database

if TYPE_CHECKING:
    from jobflow import JobStore
    from maggma.stores import Store


@dataclass(repr=False)
class Database:
    """The stores of one database.

    job_store: jobflow's store (documents in ``outputs``, large objects in ``outputs_blobs``); the others are
    the collections of ``scdm_flows.documents``. uri: what to connect with, None in memory.
    """

    job_store: JobStore
    candidates: Store
    campaigns: Store
    phonons: Store
    bands: Store
    hulls: Store
    failures: Store
    rankings: Store
    loops: Store
    uri: str | None = None

    def __repr__(self) -> str:
        return f"Database({masked(self.uri) if self.uri else 'in memory'})"

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mongo(self) -> Any:
        """pymongo's database, of the connected stores."""
        return self.candidates._collection.database

    def stores(self) -> list[Store]:
        """The plain collections."""
        return [getattr(self, name) for name in KEYS]

    def connect(self, *, indexes: bool = True) -> Database:
        """Open every store and create missing indexes.

        Parameters
        ----------
        indexes
            Whether to create what is missing; duplicates that prevent it are a warning, and a user who may
            only read goes without.

        Raises
        ------
        StoreError
            If the server cannot be reached within 5 s, or refuses the login.
        """
        with store_errors(self.uri):
            self._share_client()
            self.job_store.connect()
            for store in self.stores():
                store.connect()
            if self.uri is not None:
                self.mongo.client.admin.command("ping")
            if indexes:
                self.ensure_indexes()
        return self

    def ensure_indexes(self) -> None:
        """Create missing indexes; duplicates that prevent one are a warning, who may only read goes without."""
        ensure_or_warn(self)

    def now(self) -> datetime:
        """The time of the server's clock, UTC: that of ``$currentDate``."""
        with store_errors(self.uri):
            time: datetime = self.mongo.client.admin.command("hello")["localTime"]
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time

    def stamped(self, change: dict[str, Any]) -> dict[str, Any]:
        """An update (with ``$set``) that also sets ``last_updated``, by the server's clock."""
        return {**change, "$currentDate": {"last_updated": True}}

    def _share_client(self) -> None:
        """Give all collections one client: maggma makes one each, and each waits for its own timeout."""
        stores: list[Any] = [self.job_store.docs_store, *self.stores()]
        if self.uri is None or stores[0]._coll is not None:
            return
        from pymongo import MongoClient

        client: MongoClient[dict[str, Any]] = MongoClient(self.uri, **_client_options())
        for store in stores:
            store._coll = client[database_name(self.uri)][store.collection_name]

    def campaign(self, name: str) -> CampaignDoc | None:
        """The campaign's document, None where there is none; ``StoreError`` if a later scdm-flows wrote it."""
        with store_errors(self.uri):
            found = self.campaigns.query_one({"name": name})
        if found is None:
            return None
        current = migrate(CampaignDoc, found, f"campaign {name!r}")
        return CampaignDoc.model_validate({k: v for k, v in current.items() if k in CampaignDoc.model_fields})

    def loop(self, name: str) -> LoopDoc | None:
        """The loop's document, None where there is none; ``StoreError`` if a later scdm-flows wrote it."""
        with store_errors(self.uri):
            found = self.loops.query_one({"name": name})
        return None if found is None else LoopDoc.model_validate(migrate(LoopDoc, strip(found), f"loop {name!r}"))

    def upsert(self, store: Store, documents: list[dict[str, Any]]) -> None:
        """Insert or replace documents by the store's key.

        Raises
        ------
        StoreError
            If the database refuses, or one of them would replace a document of a later version.
        """
        if documents:
            with store_errors(self.uri):
                self.refuse_to_replace_newer(store, documents)
                store.update([plain_values(d) for d in documents], key=store.key)

    def refuse_to_replace_newer(self, store: Store, documents: list[dict[str, Any]]) -> None:
        """An older program must not undo what a later one wrote."""
        key = str(store.key)
        version = max((int(d.get("schema_version", 1)) for d in documents), default=1)
        newer = store.query_one(
            {key: {"$in": [d[key] for d in documents]}, "schema_version": {"$gt": version}},
            [key, "schema_version"],
        )
        if newer is not None:
            raise StoreError(
                f"{store.name} {newer[key]!r} has schema version {newer['schema_version']}, this scdm-flows "
                f"writes {version}; upgrade scdm-flows, or use another database (SCDM_DATABASE)"
            )

    def close(self) -> None:
        """Close every store."""
        self.job_store.close()
        for store in self.stores():
            store.close()


def plain_values(value: Any) -> Any:
    """Enumerations as their values, which is how they are read back (maggma would store the class)."""
    if isinstance(value, dict):
        return {k: plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(v) for v in value]
    return value.value if isinstance(value, Enum) else value


def strip(document: dict[str, Any]) -> dict[str, Any]:
    """The document without MongoDB's own key."""
    return {k: v for k, v in document.items() if k != "_id"}


def database_uri(settings: ScdmSettings) -> str:
    """The URI of the settings' database, with its name in the path; starts the embedded server if need be.

    A database name in ``mongo_uri`` counts unless ``database`` is set too. Writes wait until they are on
    disk.
    """
    if settings.mongo_uri is None:
        from scdm_flows.stores.embedded import EmbeddedServer

        return EmbeddedServer(settings.data_dir, settings.explicit_port).uri(settings.database)
    named = database_name(settings.mongo_uri)
    chosen = settings.database if "database" in settings.model_fields_set or not named else named
    return with_database(settings.mongo_uri, chosen)


def _client_options() -> dict[str, Any]:
    # not connectTimeoutMS too: who does not answer a heartbeat that soon, being busy, would lose its connections
    return {"serverSelectionTimeoutMS": TIMEOUT_MS, "tz_aware": True}


def job_store_of(uri: str) -> JobStore:
    """jobflow's store in the database of a URI (the database's name is the path of the URI)."""
    from jobflow import JobStore
    from maggma.stores import GridFSStore, MongoStore

    look_for_file_indexes_once()
    where: dict[str, Any] = {"database": database_name(uri), "mongoclient_kwargs": _client_options()}
    with store_errors(uri):
        return JobStore(
            MongoStore.from_uri(uri, OUTPUTS, **where),
            additional_stores={"data": GridFSStore.from_uri(uri, BLOBS, **where)},
        )


def database_of(uri: str) -> Database:
    """The stores of a URI, not connected yet."""
    from maggma.stores import MongoStore

    make = partial(MongoStore.from_uri, uri, database=database_name(uri), mongoclient_kwargs=_client_options())
    return Database(job_store=job_store_of(uri), uri=uri, **{name: make(name, key=key) for name, key in KEYS.items()})


def connect(settings: ScdmSettings | None = None, *, create: bool = True, indexes: bool = True) -> Database:
    """The connected database of the settings.

    Parameters
    ----------
    settings
        ``get_settings()`` when absent.
    create
        Whether an embedded database that does not exist yet may be made; commands that only read say no.
    indexes
        Whether to create missing indexes.

    Raises
    ------
    StoreError
        If it cannot be reached, or does not exist and may not be made.
    """
    settings = settings or get_settings()
    if settings.mongo_uri is None and not create and not (settings.data_dir / "db").is_dir():
        raise StoreError(
            f"there is no database in {settings.data_dir.absolute()}; run a campaign here first, "
            "or set SCDM_DATA_DIR (or SCDM_MONGO_URI) to where one is"
        )
    return database_of(database_uri(settings)).connect(indexes=indexes)
