"""A small finished campaign as documents, and references made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.core import Structure
from support.layers import mx2

from scdm_flows.documents import (
    CampaignDoc,
    CampaignState,
    CandidateDoc,
    CandidateState,
    Funnel,
    PhononDoc,
    Provenance,
    StageFailure,
)
from scdm_flows.stores import Database
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import ReferenceTable


@dataclass(frozen=True)
class CampaignDocuments:
    """A small finished campaign as the builders leave it; values are made up, structures are real layers."""

    campaign: CampaignDoc
    candidates: list[CandidateDoc]
    phonons: dict[str, PhononDoc]
    failures: list[StageFailure]

    def store(self, database: Database) -> None:
        """Write everything to a connected database."""
        database.upsert(database.campaigns, [self.campaign.model_dump()])
        database.upsert(database.candidates, [c.model_dump() for c in self.candidates])
        database.upsert(database.phonons, [p.model_dump() for p in self.phonons.values()])
        database.upsert(database.failures, [f.model_dump() for f in self.failures])


# what is told of an energy model (``load_energy_model_card``); values are made up
ENERGY_MODEL: dict[str, Any] = {
    "id": "sevennet-l3i5+chgnet-1a2b3c4d",
    "force_field": "CHGNet",
    "features": ["SevenNet-l3i5", "CHGNet"],
    "target": "PBE formation energy on C2DB's scale",
    "n": 4000,
    "not_measured": 24,
    "folds_by_chemical_system": 10,
    "reference_sha256": "cd" * 32,
    "hull_energy": {"mae": 0.018, "mae_95": [0.016, 0.019], "median": 0.008, "bias": -0.002},
    "formation_energy": {"mae": 0.031, "mae_95": [0.029, 0.033], "median": 0.019, "bias": 0.001, "spearman": 0.997},
    "e_above_hull": {
        "mae": 0.037,
        "mae_95": [0.035, 0.039],
        "median": 0.022,
        "bias": 0.003,
        "spearman": 0.951,
        "spearman_95": [0.944, 0.957],
        "within_0.05": 0.783,
        "share_below_0.6": 0.905,
        "share_below_0.2": 0.504,
    },
    "true_share_below_0.6": 0.897,
    "true_share_below_0.2": 0.511,
    "stable_kept_in_window": 0.998,
    "error_coverage_claimed": 0.9,
    "error_coverage": 0.902,
    "error_coverage_by_distance": [0.91, 0.9, 0.89],
    "errors_by_distance": [0.05, 0.07, 0.12],
    "external": {
        "source": "2DMatPedia, chemical systems that C2DB has not",
        "n": 1500,
        "mae": 0.062,
        "mae_95": [0.057, 0.068],
        "spearman": 0.88,
        "coverage": 0.86,
    },
}


def candidate(index: int, structure: Structure, **fields: Any) -> CandidateDoc:
    elements = sorted(str(e) for e in structure.composition)
    return CandidateDoc(
        candidate_id=f"demo-{index:012x}",
        campaign="demo",
        generator="scdm",
        model_id="scdm-0123abcd",
        seed=0,
        index=index,
        formula=structure.composition.reduced_formula,
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        nsites=len(structure),
        layer_group_generated=78,
        structure=structure.as_dict(),
        **fields,
    )


def energies(e_above_hull: float, **fields: Any) -> dict[str, Any]:
    """What a relaxed candidate knows."""
    return {
        "state": CandidateState.COMPLETED,
        "energy_per_atom": -7.0,
        "energy_scheme": "c2db-pbe",
        "surrogate": True,
        "energy_model": ENERGY_MODEL["id"],
        "extrapolated": False,
        "e_above_hull": e_above_hull,
        "e_above_hull_error": 0.1,
        "layer_group": 78,
        "space_group": 187,
        "sample_novel": True,
        "novel": True,
        "rmsd_to_relaxed_angstrom": 0.02,
        **fields,
    }


def phonon_bands(candidate_id: str, lowest: float) -> PhononDoc:
    """Three branches on Γ-M-K-Γ, zero at Γ, the first one reaching down to ``lowest`` THz at M."""
    distances = np.linspace(0, 1.2, 61)
    wave = np.sin(np.pi * distances / 1.2)
    frequencies = np.column_stack([lowest * wave, 4 * wave, 9 * wave])
    return PhononDoc(
        candidate_id=candidate_id,
        campaign="demo",
        energy_scheme="chgnet-0.3.0",
        surrogate=True,
        supercell=[[4, 0, 0], [0, 4, 0], [0, 0, 1]],
        displacement_angstrom=0.01,
        n_displacements=6,
        q_points=[[float(x) / 1.2, 0.0, 0.0] for x in distances],
        distances=distances.tolist(),
        labels=[(0.0, "Γ"), (0.5, "M"), (0.5, "X"), (0.8, "K"), (1.2, "Γ")],
        frequencies_thz=frequencies.tolist(),
        min_frequency_thz=min(0.0, lowest),
        threshold_thz=0.2,
        dynamically_stable=lowest > -0.2,
        reason=None if lowest > -0.2 else f"imaginary mode of {-lowest:.2f} THz at q = (0.500, 0.000, 0.000)",
    )


def six_candidates() -> CampaignDocuments:
    """Six candidates: stable, unstable, extrapolated and without phonons, rejected twice, failed."""
    candidates = [
        candidate(0, mx2("1H"), **energies(0.01, dynamically_stable=True, min_frequency_thz=0.0, rank=1, score=0.9)),
        candidate(
            1,
            mx2("1T"),
            **energies(0.08, dynamically_stable=False, min_frequency_thz=-1.5, rank=3, score=0.4),
        ),
        candidate(2, mx2("1H", a=3.3), **energies(0.15, extrapolated=True, rank=2, score=0.6)),
        candidate(
            3,
            mx2("1T", a=3.4),
            **energies(0.75, state=CandidateState.REJECTED, reason="E_hull 0.750 eV/atom is above the window of 0.6"),
        ),
        candidate(
            4,
            mx2("1H", a=1.2),
            state=CandidateState.REJECTED,
            reason="atoms too close: 0.312 angstrom, at least 0.5 is required",
        ),
        candidate(5, mx2("1T", a=3.0), state=CandidateState.FAILED, reason="relax: no neighbours"),
    ]
    ids = [c.candidate_id for c in candidates]
    return CampaignDocuments(
        CampaignDoc(
            name="demo",
            description="six layers",
            state=CampaignState.COMPLETED,
            config={"name": "demo", "generator": {"kind": "scdm", "n": 6}, "gate": {"max_e_above_hull": 0.6}},
            config_hash="ab" * 32,
            n_requested=6,
            funnel=Funnel(
                generated=6,
                valid=5,
                unique=5,
                sample_novel=5,
                relaxed=4,
                distinct=4,
                novel=4,
                in_window=3,
                phonon_done=2,
                dynamically_stable=1,
                failed=1,
            ),
            provenance=Provenance(versions={"torch": "2.13.0"}, git_commit="0123456789abcdef"),
        ),
        candidates,
        {ids[0]: phonon_bands(ids[0], 2.0), ids[1]: phonon_bands(ids[1], -1.5)},
        [
            StageFailure(
                failure_id=f"{ids[5]}:relax",
                candidate_id=ids[5],
                campaign="demo",
                stage="relax",
                error_type="RuntimeError",
                message="no neighbours <within> 6 angstrom",
            )
        ],
    )


# Elements at -10 and -4 eV/atom: MoS2 of the elements lies at (-10 - 2 * 4) / 3 = -6 eV/atom. The bulk phase is
# 1 eV/atom below that, so it is the hull at its own composition.
REFERENCES = ReferenceTable(
    scheme="by-hand",
    surrogate=False,
    sha256="0" * 64,
    header={},
    phases={
        "Mo": (Phase.from_formula("mo", "Mo1", -10.0),),
        "S": (Phase.from_formula("s", "S1", -4.0),),
        "Mo-S": (Phase.from_formula("bulk", "Mo1S2", -7.0),),
    },
)
