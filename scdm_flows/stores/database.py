"""Collections, keys, indexes and the connection. One database holds everything a campaign knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from scdm_flows.documents import CampaignDoc, CandidateDoc
from scdm_flows.errors import StoreError
from scdm_flows.settings import ScdmSettings, get_settings, masked

if TYPE_CHECKING:
    from jobflow import JobStore
    from maggma.stores import Store

TIMEOUT_MS = 5000
KEYS = {
    "candidates": "candidate_id",
    "campaigns": "name",
    "phonons": "candidate_id",
    "hulls": "chemsys",
    "failures": "failure_id",
}


@dataclass
class Database:
    """The stores of one database.

    job_store: jobflow's store (documents in ``outputs``, large objects in ``outputs_blobs``); the others are the
    collections of ``scdm_flows.documents``. uri: what to connect with, None in memory.
    """

    job_store: JobStore
    candidates: Store
    campaigns: Store
    phonons: Store
    hulls: Store
    failures: Store
    uri: str | None = None

    def stores(self) -> list[Store]:
        """The plain collections."""
        return [self.candidates, self.campaigns, self.phonons, self.hulls, self.failures]

    def connect(self) -> Database:
        """Open every store and create missing indexes; ``StoreError`` if the server cannot be reached."""
        from pymongo.errors import PyMongoError

        try:
            self.job_store.connect()
            for store in self.stores():
                store.connect()
            self.ensure_indexes()
        except PyMongoError as error:
            reason = str(error).splitlines()[0][:200]
            raise StoreError(
                f"database {masked(self.uri or 'in memory')} cannot be used: {reason}; check that the server runs and that "
                "SCDM_MONGO_URI, user and password are right"
            ) from None
        return self

    def ensure_indexes(self) -> None:
        """Create the indexes that queries and upserts rely on (jobflow makes none but ``_id``)."""
        outputs = self.job_store.docs_store
        for key in ("uuid", "metadata.campaign", "metadata.candidate_id", "metadata.stage", "completed_at"):
            outputs.ensure_index(key)
        if hasattr(outputs, "_collection") and self.uri is not None:
            outputs._collection.create_index([("uuid", 1), ("index", 1)], unique=True)
        for store in self.stores():
            store.ensure_index(str(store.key), unique=True)
        for name, field in CandidateDoc.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("indexed"):
                self.candidates.ensure_index(name)

    def campaign(self, name: str) -> CampaignDoc | None:
        """The campaign's document, None where there is none."""
        found = self.campaigns.query_one({"name": name}, properties=list(CampaignDoc.model_fields))
        return None if found is None else CampaignDoc.model_validate(strip(found))

    def upsert(self, store: Store, documents: list[dict[str, Any]]) -> None:
        """Insert or replace documents by the store's key."""
        if documents:
            store.update([_plain_values(d) for d in documents], key=store.key)

    def close(self) -> None:
        """Close every store."""
        self.job_store.close()
        for store in self.stores():
            store.close()


def _plain_values(value: Any) -> Any:
    """Enumerations as their values, which is how they are read back (maggma would store the class)."""
    if isinstance(value, dict):
        return {k: _plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(v) for v in value]
    return value.value if isinstance(value, Enum) else value


def strip(document: dict[str, Any]) -> dict[str, Any]:
    """The document without MongoDB's own key."""
    return {k: v for k, v in document.items() if k != "_id"}


def database_uri(settings: ScdmSettings) -> str:
    """The URI of the settings' database, with its name in the path; starts the embedded server where there is none."""
    if settings.mongo_uri is None:
        from scdm_flows.stores.embedded import EmbeddedServer

        return EmbeddedServer(settings.data_dir, settings.port).uri(settings.database)
    head, _, query = settings.mongo_uri.partition("?")
    scheme, _, rest = head.partition("://")
    host, _, path = rest.partition("/")
    options = [option for option in query.split("&") if option]
    for option in ("w=majority", "journal=true"):
        if not any(o.startswith(option.split("=")[0] + "=") for o in options):
            options.append(option)
    return f"{scheme}://{host}/{path or settings.database}?{'&'.join(options)}"


def job_store_of(uri: str) -> JobStore:
    """jobflow's store in the database of a URI (the database's name is the path of the URI)."""
    from jobflow import JobStore
    from maggma.stores import GridFSStore, MongoStore

    name = uri.partition("?")[0].rsplit("/", 1)[-1]
    options = {"serverSelectionTimeoutMS": TIMEOUT_MS}
    return JobStore(
        MongoStore.from_uri(uri, "outputs", database=name, mongoclient_kwargs=options),
        additional_stores={"data": GridFSStore.from_uri(uri, "outputs_blobs", database=name, mongoclient_kwargs=options)},
    )


def database_of(uri: str) -> Database:
    """The stores of a URI, not connected yet."""
    from maggma.stores import MongoStore

    name = uri.partition("?")[0].rsplit("/", 1)[-1]
    options = {"serverSelectionTimeoutMS": TIMEOUT_MS, "tz_aware": True}
    stores = {
        collection: MongoStore.from_uri(uri, collection, database=name, key=key, mongoclient_kwargs=options)
        for collection, key in KEYS.items()
    }
    return Database(job_store=job_store_of(uri), uri=uri, **stores)


def connect(settings: ScdmSettings | None = None) -> Database:
    """The connected database of the settings; ``StoreError`` if it cannot be reached."""
    return database_of(database_uri(settings or get_settings())).connect()


def memory_database() -> Database:
    """A connected database in this process's memory, for tests."""
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    stores = {name: MemoryStore(name, key=key) for name, key in KEYS.items()}
    job_store = JobStore(MemoryStore("outputs"), additional_stores={"data": MemoryStore("outputs_blobs")})
    return Database(job_store=job_store, **stores).connect()
