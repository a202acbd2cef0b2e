"""A small campaign with everything that the pages show: hull, bands, stages with times, candidates of UnSCDM."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from scdm_flows.documents import BandsDoc, CandidateDoc, Provenance
from scdm_flows.documents.candidate import StageRecord
from scdm_flows.documents.hull import HullDoc, HullPoint
from scdm_flows.stores import Database

SCHEME = "c2db-pbe"


def _stages(index: int) -> dict[str, StageRecord]:
    start = datetime(2026, 3, 1, 8, tzinfo=UTC) + timedelta(minutes=25 * index)
    names = ["screen", "relax", "static", "gate", "phonon", "bands"][: 6 if index < 2 else 4]
    return {
        name: StageRecord(
            status="passed",
            completed_at=start + timedelta(minutes=10 * k),
            job_uuid=f"{index:08d}-0000-4000-8000-{k:012d}",
            seconds=12.5 * (k + 1),
        )
        for k, name in enumerate(names)
    }


def bands_document(candidate_id: str) -> BandsDoc:
    """Two bands 1.6 eV apart at K, with a density of states."""
    distances = np.linspace(0, 1.2, 41)
    wave = 0.5 * (1 - np.cos(2 * np.pi * distances / 1.2))
    energies = np.linspace(-4, 5, 181)
    return BandsDoc(
        candidate_id=candidate_id,
        campaign="demo",
        energy_scheme="vasp-pbe",
        engine_version="stand-in",
        k_points=[[float(x) / 1.2, 0.0, 0.0] for x in distances],
        distances=distances.tolist(),
        labels=[(0.0, "Γ"), (0.6, "K"), (1.2, "Γ")],
        energies_ev={"up": np.column_stack([wave - 1, 2.6 - wave]).tolist()},
        energy_zero="valence band maximum",
        energy_zero_ev=-1.0,
        efermi_ev=-0.2,
        band_gap_ev=1.6,
        direct_gap_ev=1.6,
        gap_kind="direct",
        vbm={"energy_ev": 0.0, "k_point": [0.5, 0, 0], "label": "K", "spin": "up"},
        cbm={"energy_ev": 1.6, "k_point": [0.5, 0, 0], "label": "K", "spin": "up"},
        dos={
            "energies_ev": energies.tolist(),
            "densities": {"up": (np.abs(energies - 0.8) > 0.8).astype(float).tolist()},
        },
        spin_polarised=False,
        magnetic=False,
    )


def hull_document(candidates: list[CandidateDoc]) -> HullDoc:
    """Mo-S with 2H-MoS2 as the reference phase; formation energies made up."""
    points = [
        HullPoint(
            name="mp-2815",
            formula="MoS2",
            candidate=False,
            energy_per_atom=-7.0,
            formation_energy_per_atom=-0.9,
            stable=True,
        )
    ]
    for c in candidates:
        if c.e_above_hull is not None:
            known = {"energy_per_atom": -7 + c.e_above_hull, "formation_energy_per_atom": -0.9 + c.e_above_hull}
            points.append(HullPoint(name=c.candidate_id, formula=c.formula, candidate=True, stable=False, **known))
    return HullDoc(
        hull_id="demo:Mo-S",
        references="demo",
        chemsys="Mo-S",
        elements=["Mo", "S"],
        energy_scheme=SCHEME,
        surrogate=True,
        basis_sha256="0" * 64,
        reference_sha256="0" * 64,
        n_reference_phases=3,
        n_candidates=len(points) - 1,
        candidates={c.candidate_id: c.e_above_hull for c in candidates if c.e_above_hull is not None},
        points=points,
    )


def store_demo(database: Database, documents: Any) -> list[str]:
    """Store a ``CampaignDocuments`` with more to it; the ids of its candidates, then those of UnSCDM's."""
    terms = {"stability": 0.4, "dynamics": 0.2, "novelty": 0.1}
    own = [
        c.model_copy(
            update={
                "stages": _stages(index),
                "score_terms": terms if c.rank else {},
                "decomposition": {"MoS2 (mp-2815)": 1.0} if c.e_above_hull is not None else None,
                "provenance": Provenance(
                    versions={"torch": "2.13.0"}, git_commit="0123abcd", engine=f"{SCHEME} (surrogate)"
                ),
            }
        )
        for index, c in enumerate(documents.candidates)
    ]
    others = [
        c.model_copy(
            update={
                "candidate_id": f"demo-{100 + index:012x}",
                "generator": "unscdm",
                "rank": None,
                "score": None,
                "e_above_hull": None if c.e_above_hull is None else c.e_above_hull + 0.6,
            }
        )
        for index, c in enumerate(documents.candidates)
    ]
    whole = type(documents)(documents.campaign, [*own, *others], documents.phonons, documents.failures)
    whole.store(database)
    database.upsert(database.bands, [bands_document(own[0].candidate_id).model_dump(mode="json")])
    database.upsert(database.hulls, [hull_document(own).model_dump(mode="json")])
    return [c.candidate_id for c in [*own, *others]]
