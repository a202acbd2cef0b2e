"""Reference phases that a campaign's hulls lack: which they are, and the flows that compute them by its engine.

A phase's flow is a relaxation and a single point of a bulk crystal. Its jobs have deterministic uuids, which depend on
the engine's settings and the crystal: what is stored is never computed again, whoever asks for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobflow.core.flow import Flow
from jobflow.core.store import JobStore
from monty.json import MontyDecoder
from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig, FilesGeneratorConfig
from scdm_flows.documents import StageName
from scdm_flows.engines import engine_of
from scdm_flows.errors import ReferenceDataError
from scdm_flows.flows.identity import job_uuid, stage_of_jobs
from scdm_flows.thermo.completeness import missing_phases
from scdm_flows.thermo.entries import SCHEME, load_entries, read_document
from scdm_flows.thermo.table import ReferenceTable


@dataclass(frozen=True)
class MissingPhase:
    """A composition that belongs on the hulls and that the references lack.

    formula: reduced; name, structure: of a crystal of it, None where none is known; core_hours: estimated.
    """

    formula: str
    name: str | None = None
    structure: Structure | None = None
    core_hours: float | None = None


def known_references(config: CampaignConfig, out: Path | None = None) -> tuple[ReferenceTable, dict[str, Any]]:
    """The references that are there, as a table and as a file's document: those in ``out``, else the campaign's.

    An empty table where neither file exists. ``ReferenceDataError`` where they are of another scheme, ``EngineError``
    where the engine computes no references.
    """
    engine = engine_of(config.engine)
    engine.bulk_makers()
    named = getattr(config.engine, "references", None)
    for path in (out, None if named is None else Path(named)):
        if path is not None and path.exists():
            return load_entries(path, engine.scheme), read_document(path)
    return ReferenceTable(engine.scheme, False, "", {}, {}), {}


def missing_references(
    config: CampaignConfig,
    systems: Iterable[Sequence[str]],
    structures: Mapping[str, tuple[str, Structure]],
    table: ReferenceTable,
) -> list[MissingPhase]:
    """What the hulls of chemical systems lack, by formula.

    systems: elements of each; structures: reduced formula -> name and crystal (``thermo.crystals``).
    """
    engine = engine_of(config.engine)
    formulas = sorted({formula for elements in systems for formula in missing_phases(table, elements)})
    found = []
    for formula in formulas:
        name, structure = structures.get(formula, (None, None))
        hours = None if structure is None else sum(stage.core_hours for stage in engine.bulk_cost(structure))
        found.append(MissingPhase(formula, name, structure, hours))
    return found


def identity_of(config: CampaignConfig) -> CampaignConfig:
    """What phases of an engine's settings are stored under: a campaign's place for jobs, of no campaign's name."""
    engine = config.engine.model_copy(update={"references": None})
    plain = CampaignConfig(name="references", engine=engine, generator=FilesGeneratorConfig(paths=("/",)))
    return plain.model_copy(update={"name": f"references-{plain.config_hash[:12]}"})


def phase_id(phase: MissingPhase) -> str:
    """Of a phase's crystal: its formula and a hash of cell and atoms."""
    if phase.structure is None:
        raise ReferenceDataError(f"no crystal of {phase.formula} is known; give a file or folder that has one")
    cell = [[round(float(x), 4) for x in row] for row in phase.structure.lattice.matrix]
    atoms = [[str(s.specie.symbol), *(round(float(x) % 1.0, 4) for x in s.frac_coords)] for s in phase.structure]
    return f"{phase.formula}-{hashlib.sha256(json.dumps([cell, atoms]).encode()).hexdigest()[:12]}"


def reference_flow(config: CampaignConfig, phase: MissingPhase) -> Flow:
    """relax -> static of a missing phase's crystal; ``EngineError`` where the engine computes no references."""
    name, own = phase_id(phase), identity_of(config)
    makers: tuple[Any, Any] = engine_of(config.engine).bulk_makers()
    relaxations = stage_of_jobs(makers[0].make(phase.structure), own, StageName.RELAX, name)
    statics = stage_of_jobs(makers[1].make(relaxations[-1].output.structure), own, StageName.STATIC, name)
    return Flow([*relaxations, *statics], name=f"reference {name}")


def computed_entry(config: CampaignConfig, phase: MissingPhase, store: JobStore) -> dict[str, Any] | None:
    """The entry of a phase that is computed and stored; None where it is not."""
    uuid = job_uuid(identity_of(config), phase_id(phase), StageName.STATIC.value)
    found = store.query_one({"uuid": uuid, "index": 1}, properties=["output"], load=False)
    if found is None or found.get("output") is None:
        return None
    task = MontyDecoder().process_decoded(found["output"])
    return engine_of(config.engine).bulk_entry(task, phase_id(phase)) | {"data": {"from": phase.name}}


def merged(config: CampaignConfig, before: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A file of references with more entries, each once; before: its document, empty where there was none."""
    new = {str(row["entry_id"]): dict(row) for row in entries}
    kept = [row for row in before.get("entries") or [] if str(row.get("entry_id")) not in new]
    # entries that do not say their settings have those of their file; ours say them
    scheme = before.get("scheme", SCHEME) if before else engine_of(config.engine).scheme
    return {"source": "scdm refs compute", **before, "scheme": scheme, "entries": [*kept, *new.values()]}
