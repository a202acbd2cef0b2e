"""A surrogate campaign and its promotion to DFT as documents, and a crate as who knows nothing of it would read it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymatgen.core import Structure
from support.documents import candidate, energies, six_candidates
from support.layers import mx2

from scdm_flows.builders.optimade import optimade_of
from scdm_flows.documents import (
    CampaignDoc,
    CampaignState,
    CandidateDoc,
    CandidateState,
    Funnel,
    ParentRecord,
    Provenance,
    StageFailure,
)
from scdm_flows.documents.candidate import StageRecord
from scdm_flows.stores.database import Database

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAID = ("relax", "static", "gate")


def stages(number: int) -> dict[str, StageRecord]:
    """Screened at noon, then a stage every ten minutes."""
    return {
        name: StageRecord(
            status="passed",
            completed_at=NOON + timedelta(minutes=10 * k),
            job_uuid=f"{number:08d}-0000-4000-8000-{k:012d}",
            seconds=60.0,
        )
        for k, name in enumerate(("screen", *SAID))
    }


def with_structures(document: CandidateDoc) -> CandidateDoc:
    """As the candidate builder leaves it: relaxed to a cell 1 % larger, and with its OPTIMADE entry."""
    layer = Structure.from_dict(document.structure)
    layer.scale_lattice(1.01 * layer.volume)
    document.relaxed_structure = layer.as_dict()
    document.stages = stages(document.index)
    document.passed = "screen relax static gate"
    document.provenance = Provenance(versions={"scdm-flows": "0.1.0", "chgnet": "0.4.2", "torch": "2.13.0+cpu"})
    document.optimade = optimade_of(document)
    document.last_updated = NOON + timedelta(hours=1)
    return document


def promoted(number: int, parent: CandidateDoc, **fields: Any) -> CandidateDoc:
    """A candidate of the campaign ``demo-gpaw`` from another's relaxed structure."""
    assert parent.relaxed_structure is not None
    kept = {name: getattr(parent, name) for name in ParentRecord.model_fields}
    known = energies(0.02 * number, energy_scheme="gpaw-pbe-c2db", surrogate=False, energy_model=None, rank=number + 1)
    document = candidate(number, Structure.from_dict(parent.relaxed_structure), **{**known, **fields})
    document.candidate_id, document.campaign = f"demo-gpaw-{number:012x}", "demo-gpaw"
    document.promoted_from, document.parent = parent.candidate_id, ParentRecord(**kept)
    document.engine_version = "25.7.0 (a stand-in)"
    return with_structures(document)


def store_campaigns(database: Database, folder: str = "/home/ada/layers") -> None:
    """``demo``, of structures from files in ``folder``, and ``demo-gpaw``; one of the parents is no longer stored."""
    documents = six_candidates()
    for document in documents.candidates:
        document.generator, document.model_id, document.seed = "files", None, None
        document.source_id = f"layer-{document.index}.cif"
    for document in documents.candidates[:3]:
        with_structures(document)
    documents.candidates[5].optimade = optimade_of(documents.candidates[5])
    documents.campaign.config = {
        "name": "demo",
        "description": f"six layers of {folder}/in",
        "generator": {"kind": "files", "paths": [f"{folder}/in"]},
        "screen": {"require_novel": False},
    }
    documents.failures[
        0
    ].message = f"cannot read {folder}/in/layer 5.cif; mongodb://ada:se/cr@et@db.example.org:27017/scdm did not answer"
    documents.campaign.last_updated = NOON
    documents.store(database)
    gone = with_structures(candidate(9, mx2("1T", a=3.2), **energies(0.05, rank=4)))
    children = [
        promoted(0, documents.candidates[0]),
        promoted(1, documents.candidates[2]),
        promoted(2, gone, state=CandidateState.FAILED, reason=f"phonon: {folder}/run/gpaw.txt is not converged"),
    ]
    generator = {"kind": "promoted", "parent": "demo", "top": 3, "n": 3, "sha256": "0" * 64}
    campaign = CampaignDoc(
        name="demo-gpaw",
        description="the best 3 of campaign demo by gpaw",
        state=CampaignState.COMPLETED,
        config={"name": "demo-gpaw", "generator": generator, "engine": {"kind": "gpaw", "offsets": f"{folder}/o.json"}},
        config_hash="cd" * 32,
        n_requested=3,
        funnel=Funnel(generated=3, valid=3, unique=3, relaxed=3, distinct=3, in_window=3, failed=1),
        last_updated=NOON,
        provenance=Provenance(versions={"scdm-flows": "0.1.0"}, git_commit="0123456789abcdef"),
    )
    database.upsert(database.campaigns, [campaign.model_dump()])
    database.upsert(database.candidates, [child.model_dump() for child in children])
    failure = StageFailure(
        failure_id=f"{children[2].candidate_id}:phonon",
        candidate_id=children[2].candidate_id,
        campaign="demo-gpaw",
        stage="phonon",
        error_type="EngineError",
        message=f"{folder}/run/gpaw.txt is not converged",
        failed_at=NOON,
    )
    database.upsert(database.failures, [failure.model_dump()])


class Crate:
    """The entities of ``ro-crate-metadata.json`` by id."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata = json.loads((root / "ro-crate-metadata.json").read_text())
        self.entities: dict[str, dict[str, Any]] = {entity["@id"]: entity for entity in self.metadata["@graph"]}

    def refs(self, entity: str, name: str) -> list[str]:
        """Ids that a property of an entity refers to."""
        value = self.entities[entity].get(name, [])
        return [one["@id"] for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]

    def types(self, entity: str) -> set[str]:
        """The entity's types."""
        kinds = self.entities[entity]["@type"]
        return set(kinds if isinstance(kinds, list) else [kinds])

    def made(self, entity: str) -> list[str]:
        """Actions that an entity is a result of."""
        return [key for key in self.entities if entity in self.refs(key, "result")]

    def digest(self, name: str) -> tuple[str, str]:
        """Size and sha256 of a file."""
        data = (self.root / name).read_bytes()
        return str(len(data)), hashlib.sha256(data).hexdigest()
