"""What a campaign asks of an engine, and how force constants become a ``PhononDoc``. Knows no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.phonons import (
    PhononMesh,
    density_of_states,
    flexural_exponent,
    phonon_bands,
    phonon_mesh,
    thermal_quantities,
)
from scdm_flows.analysis.soft_mode import soft_mode
from scdm_flows.analysis.stability import SupercellStability, judge, softness, thresholds
from scdm_flows.analysis.sum_rules import enforce, pairs_of
from scdm_flows.documents.phonon import PhononDoc, PhononDos, ThermalQuantities
from scdm_flows.documents.provenance import made_here
from scdm_flows.errors import EngineError

if TYPE_CHECKING:
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure

    from scdm_flows.documents.static import StaticSummary
    from scdm_flows.thermo.energy_model import PredictedEnergy
    from scdm_flows.thermo.table import ReferenceTable

# of displacements and force constants alike, else almost equal images would not share theirs; relaxed layers are
# symmetric to about that
PHONON_SYMPREC_ANGSTROM = 1e-3
SUM_RULES = ["translation", "exchange", "Born-Huang", "Huang"]


@dataclass(frozen=True)
class StageCost:
    """What a stage of one candidate takes, estimated: runs of so many atoms, k-points and bands; core hours of all."""

    stage: str
    runs: int
    atoms: int
    k_points: int
    bands: int
    core_hours: float


@dataclass(frozen=True)
class Ahead:
    """A layer that was relaxed before its job runs, in this process.

    index: of the layer; maker: whose job takes the result instead of computing it; seconds: its share of the wall time
    that was spent, which the job's time does not hold.
    """

    index: int
    maker: Maker
    seconds: float = 0.0


class Engine(Protocol):
    """What computes energies, forces, phonons and bands.

    scheme: name of the energies that candidates are judged by, which must be the reference table's; static_scheme:
    what ``static_maker``'s energies are, the same where no energy model stands between; surrogate: whether a force
    field makes them; category: of FireWorks workers that have what it needs; keeps_runs: whether the folders of its
    runs are kept; cannot: stage -> why the engine has no such stage, in which case its jobs are never asked for.
    """

    scheme: str
    static_scheme: str
    surrogate: bool
    category: str
    keeps_runs: bool
    cannot: Mapping[str, str]

    def check(self) -> list[str]:
        """What is missing to run, each in words with the remedy; empty when ready."""

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Why some elements cannot be computed, with the remedy."""

    def check_settings(self, elements: Sequence[str]) -> list[str]:
        """Which settings do not fit a campaign whose layers have these elements, with the remedy."""

    def layer_problems(self, structure: Structure) -> list[str]:
        """Why a layer, as the screen hands it on, cannot be computed."""

    def time_problems(self, structure: Structure) -> list[str]:
        """Why a layer that is known beforehand cannot be computed within the engine's wall time."""

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """Each stage's estimated cost for a layer, or for a typical one of ``n_atoms``; empty for next to nothing."""

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """Run -> file name -> text of what the engine's program reads for a layer; empty where it reads no files."""

    def relax_maker(self) -> Maker:
        """A maker of a job or flow that relaxes atoms and the in-plane cell and keeps c."""

    def relax_ahead(self, structures: Sequence[Structure]) -> Iterator[Ahead]:
        """Relax layers together where that is faster; each is yielded as it ends, with the maker that has its result.

        Where it is not, every layer is yielded at once with ``relax_maker``.
        """

    def static_maker(self) -> Maker:
        """An atomate2 maker of a single-point energy."""

    def static_summary(self, task: Any) -> StaticSummary:
        """What the document of ``static_maker``'s job says."""

    def no_bands_to_come(self, static: StaticSummary) -> None:
        """Let go of what only the bands would have read of the static run's files: they are done, or left out."""

    def references(self) -> ReferenceTable:
        """The reference phases of ``scheme``; ``EngineError`` where there are none."""

    def bulk_makers(self) -> tuple[Maker, Maker]:
        """Of a bulk crystal: a relaxation of atoms and cell, and a single point, whose energies are of ``scheme``.

        ``EngineError`` where the references' energies are not the engine's own to compute.
        """

    def bulk_problems(self, elements: Sequence[str]) -> list[str]:
        """What is missing to compute bulk crystals of these elements, each in words with the remedy."""

    def bulk_cost(self, structure: Structure) -> list[StageCost]:
        """Each stage's estimated cost for a bulk crystal."""

    def bulk_entry(self, task: Any, name: str) -> dict[str, Any]:
        """The document of the single point as an entry of a reference file. name: its ``entry_id``."""

    def predicted(self, structure: Structure) -> PredictedEnergy | None:
        """A relaxed layer's energy on the references' scale by an energy model.

        None where the static energy is on that scale itself; ``ReferenceDataError`` for an element the model lacks.
        """

    def phonon_maker(self) -> Maker:
        """``make(structure, config, candidate_id)`` of a relaxed layer: a job or flow that ends in a ``PhononDoc``."""

    def bands_maker(self) -> Maker:
        """``make(structure, config, candidate_id, static)`` of a relaxed layer: it ends in a ``BandsDoc``.

        static: the ``StaticSummary``. ``EngineError`` where the engine has no bands.
        """


class PackagedReferences:
    """For engines whose reference phases are not theirs to compute."""

    def bulk_makers(self) -> tuple[Maker, Maker]:
        """None: ``EngineError``."""
        raise EngineError(
            "only the vasp engine computes reference phases: those of the others are packaged, or in a user's file"
        )

    def bulk_problems(self, elements: Sequence[str]) -> list[str]:
        """Nothing more than ``bulk_makers`` says."""
        return []

    def bulk_cost(self, structure: Structure) -> list[StageCost]:
        """Nothing."""
        return []

    def bulk_entry(self, task: Any, name: str) -> dict[str, Any]:
        """None: see ``bulk_makers``."""
        raise EngineError(f"{name} is no reference phase that this engine computes")


def _phonopy_cell(structure: Structure) -> Any:
    """A layer as phonopy's atoms; moments and other marks are left out."""
    from pymatgen.io.phonopy import get_phonopy_structure

    plain = structure.copy()
    for name in list(plain.site_properties):
        plain.remove_site_property(name)
    return get_phonopy_structure(plain)


def layer_phonopy(structure: Structure, matrix: Any) -> Any:
    """A ``phonopy.Phonopy`` of a layer and its supercell, rows of ``matrix``; moments and other marks are left out."""
    from phonopy import Phonopy

    cell = _phonopy_cell(structure)
    return Phonopy(cell, matrix, primitive_matrix=np.eye(3), symprec=PHONON_SYMPREC_ANGSTROM)


def supercell_of(structure: Structure, matrix: Any) -> Structure:
    """The supercell of ``layer_phonopy``, without the symmetry that this looks for."""
    from phonopy.structure.cells import get_supercell
    from pymatgen.io.phonopy import get_pmg_structure

    found: Structure = get_pmg_structure(
        get_supercell(_phonopy_cell(structure), matrix, symprec=PHONON_SYMPREC_ANGSTROM)
    )
    return found


def with_moments_of(structure: Structure, supercell: Structure) -> Structure:
    """A supercell of phonopy's, which keeps all images of an atom together, with the moments of its layer."""
    moments, copies = structure.site_properties.get("magmom"), len(supercell) // len(structure)
    if moments:
        supercell.add_site_property("magmom", [m for m in moments for _ in range(copies)])
    return supercell


def phonon_document(
    phonon: Any,
    structure: Structure,
    *,
    candidate_id: str,
    campaign: str,
    scheme: str,
    surrogate: bool,
    displacement: float,
    n_displacements: int,
    virial: NDArray[np.float64] | None = None,
    criteria: SupercellStability | None = None,
    stiffness: NDArray[np.float64] | None = None,
    at_rest: NDArray[np.float64] | None = None,
) -> PhononDoc:
    """Sum rules, bands, density of states and the verdict of a ``phonopy.Phonopy`` whose force constants are set.

    The force constants of ``phonon`` are replaced by those that obey the sum rules. displacement: angstrom;
    n_displacements: supercells whose forces were computed; virial: (3, 3) stress times the volume of the cell, eV, of
    the layer as it is; None where it is known to be relaxed; criteria: the verdict, instead of one on path and mesh;
    stiffness: (3, 3) N/m, by which it is judged besides path and mesh; at_rest: (n_atoms, 3) eV/angstrom, the forces of
    the undisplaced supercell that were taken off.
    """
    enforced = enforce(pairs_of(phonon), virial)
    phonon.force_constants = enforced.constants
    bands, mesh = phonon_bands(phonon, structure), phonon_mesh(phonon)
    verdict = judge(bands, mesh, surrogate=surrogate)
    stable, reason, criterion = verdict.stable, verdict.reason, None
    tensor = None if stiffness is None else np.round(stiffness, 3).tolist()
    if criteria is not None:
        stable, reason, criterion, tensor = criteria.stable, criteria.reason, criteria.criterion, criteria.stiffness
    elif stiffness is not None:
        soft = softness(stiffness)
        stable, criterion = stable and soft is None, "modes on path and mesh, and stiffness tensor"
        reason = "; ".join(filter(None, (reason, soft))) or None
    mode = None
    if not (stable and verdict.stable):  # the criteria look at fewer q-points
        q_points = np.concatenate([bands.q_points, mesh.q_points])
        lowest = np.concatenate([bands.frequencies.min(axis=1), mesh.frequencies.min(axis=1)])
        mode = soft_mode(phonon, q_points, lowest, thresholds(q_points, surrogate=surrogate))
    return PhononDoc(
        candidate_id=candidate_id,
        campaign=campaign,
        energy_scheme=scheme,
        surrogate=surrogate,
        supercell=[[int(x) for x in row] for row in phonon.supercell_matrix],
        displacement_angstrom=displacement,
        n_displacements=n_displacements,
        sum_rules=SUM_RULES,
        sum_rule_change=enforced.relative_change,
        q_points=bands.q_points.round(6).tolist(),
        distances=bands.distances.round(6).tolist(),
        labels=bands.labels,
        frequencies_thz=bands.frequencies.round(5).tolist(),
        mesh=mesh.mesh,
        min_frequency_thz=verdict.min_frequency_thz,
        threshold_thz=verdict.threshold_thz,
        gamma_threshold_thz=verdict.gamma_threshold_thz,
        residual_force_ev_per_angstrom=None if at_rest is None else float(np.linalg.norm(at_rest, axis=1).max()),
        dynamically_stable=stable,
        criterion=criterion,
        min_hessian_ev_per_angstrom2=None if criteria is None else criteria.min_hessian,
        stiffness_n_per_m=tensor,
        reason=reason,
        soft_mode=mode,
        flexural_exponent=flexural_exponent(phonon),
        dos=_dos(mesh),
        thermal=_thermal(phonon) if stable else None,
        provenance=made_here(
            engine=f"{scheme} (surrogate)" if surrogate else scheme,
        ),
    )


def _dos(mesh: PhononMesh) -> PhononDos:
    dos = density_of_states(mesh)
    return PhononDos(
        frequencies_thz=dos.frequencies.round(5).tolist(),
        density_per_thz=dos.density.round(6).tolist(),
        smearing_thz=dos.smearing,
    )


def _thermal(phonon: Any) -> ThermalQuantities:
    found = thermal_quantities(phonon)
    return ThermalQuantities(
        temperatures_k=found.temperatures.tolist(),
        free_energy_ev_per_atom=found.free_energy.round(7).tolist(),
        entropy_kb_per_atom=found.entropy.round(6).tolist(),
        heat_capacity_kb_per_atom=found.heat_capacity.round(6).tolist(),
    )
