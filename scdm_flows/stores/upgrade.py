"""All documents of a database to the versions of their schemas that this program knows, in bulk.

Reading does the same to each document as it is read; this makes it lasting. It can be interrupted and called again:
what is done is not touched twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from scdm_flows.documents import BandsDoc, CampaignDoc, CandidateDoc, LoopDoc, PhononDoc, RankingDoc, StageFailure
from scdm_flows.documents.hull import HullDoc
from scdm_flows.documents.migrations import MIGRATIONS, NewerDocumentError, Step, migrate, stored_version, version_of
from scdm_flows.errors import StoreError
from scdm_flows.stores.database import strip
from scdm_flows.stores.driver_errors import store_errors
from scdm_flows.stores.names import BATCH, GONE

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database

# collection -> the class of its documents
MODELS: dict[str, type[BaseModel]] = {
    "candidates": CandidateDoc,
    "campaigns": CampaignDoc,
    "phonons": PhononDoc,
    "bands": BandsDoc,
    "hulls": HullDoc,
    "failures": StageFailure,
    "rankings": RankingDoc,
    "loops": LoopDoc,
}


@dataclass
class Upgrade:
    """What was done in a collection.

    changed: documents brought to the current version (or that would be); newer: of a later version, left alone;
    problems: ``_id`` in words -> why it could not be.
    """

    changed: int = 0
    newer: int = 0
    problems: dict[str, str] = field(default_factory=dict)


def upgrade(
    database: Database,
    *,
    dry_run: bool = False,
    models: Mapping[str, type[BaseModel]] = MODELS,
    migrations: Mapping[tuple[str, int], Step] = MIGRATIONS,
) -> dict[str, Upgrade]:
    """Collection -> what was done. A document that does not fit its schema afterwards is left as it is; collections
    that this version has no use for (``GONE``) are dropped.

    dry_run: change nothing, and say what would be.
    """
    from pymongo import ReplaceOne

    done = {}
    for name, model in models.items():
        done[name] = result = Upgrade()
        with store_errors(database.uri):
            collection = database.mongo[name]
            batch: list[ReplaceOne[dict[str, Any]]] = []
            for document in _not_current(collection, version_of(model)):
                new = _upgraded(document, model, migrations, result)
                if new is None:
                    continue
                result.changed += 1
                # only if nobody has changed it meanwhile
                before = {"_id": document["_id"], "schema_version": document.get("schema_version")}
                batch.append(ReplaceOne(before, {"_id": document["_id"], **new}))
                if len(batch) == BATCH and not dry_run:
                    collection.bulk_write(batch, ordered=False)
                    batch = []
            if batch and not dry_run:
                collection.bulk_write(batch, ordered=False)
    with store_errors(database.uri):
        for name in set(GONE) & set(database.mongo.list_collection_names()):
            done[name] = Upgrade(changed=database.mongo[name].estimated_document_count())
            if not dry_run:
                database.mongo.drop_collection(name)
    return done


def _not_current(collection: Any, current: int) -> Iterator[dict[str, Any]]:
    """Whole documents of other versions, one by one; one without a version is of the first."""
    this = [1, None] if current == 1 else [current]
    for document in collection.find({"schema_version": {"$nin": this}}, batch_size=BATCH):
        if stored_version(document) != current:
            yield document


def _upgraded(
    document: dict[str, Any],
    model: type[BaseModel],
    migrations: Mapping[tuple[str, int], Step],
    result: Upgrade,
) -> dict[str, Any] | None:
    try:
        new = migrate(model, strip(document), migrations=migrations)
        model.model_validate(new)
    except NewerDocumentError:
        result.newer += 1
        return None
    except (StoreError, ValidationError, KeyError, TypeError, ValueError) as error:
        result.problems[str(document["_id"])] = why_invalid(error)
        return None
    return new


def why_invalid(error: Exception) -> str:
    """The first thing that a document lacks, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{more}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
