"""What GPAW is asked for each stage of a layer: the inputs of ``runner.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.analysis.magnetism import orders_of
from scdm_flows.analysis.phonons import in_plane_path
from scdm_flows.analysis.stiffness import strains
from scdm_flows.analysis.symmetrise import symmetrised
from scdm_flows.config import GpawEngineConfig
from scdm_flows.engines.gpaw.layers import geometry, moments_of
from scdm_flows.engines.gpaw.presets import PRESETS, extra_energies
from scdm_flows.engines.spin import F_METALS, OFTEN_MAGNETIC, OTHER_D_METALS, with_spin
from scdm_flows.engines.vasp.inputs import corrects_dipole

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

# Bohr magnetons to begin with: elements that often carry a moment, other d metals, the rest
METAL_MOMENT, D_MOMENT, OTHER_MOMENT = 3.0, 1.0, 0.3
DENSITY = "density.gpw"
ORDER_STEPS = 60  # of an order's electrons, which take 20 to 40: one that oscillates between orders never ends
# what C2DB's smaller energies are converged to costs 40 % more time and changes 0.01 meV/atom
CONVERGENCE = {"energy": 1e-4, "density": 1e-3, "eigenstates": 1e-5}
STATIC_FORCES, RELAX_FORCES, PHONON_FORCES = 0.02, 0.01, 1e-3  # eV/angstrom, of the self-consistent cycles


def task(config: GpawEngineConfig, name: str, structure: Structure, **more: Any) -> dict[str, Any]:
    """The part of every input that is the same. structure: taken as it is; more: what the task has besides."""
    preset = PRESETS[config.preset]
    return {
        "task": name,
        **geometry(structure),
        "moments": initial_moments(config, structure),
        "cutoff": preset.cutoff_ev,
        "kpoint_density": preset.kpoint_density,
        "smearing": config.smearing_ev,
        "convergence": CONVERGENCE,
        "max_scf_steps": config.max_scf_steps,
        "dipole": corrects_dipole(config.dipole_correction, structure),
        **more,
    }


def initial_moments(config: GpawEngineConfig, structure: Structure) -> list[float] | None:
    """(n,) Bohr magnetons that a run begins with; None for one without spin."""
    wanted = {
        **dict.fromkeys(OTHER_D_METALS, D_MOMENT),
        **dict.fromkeys((*OFTEN_MAGNETIC, *F_METALS), METAL_MOMENT),
        **config.initial_moments,
    }
    return moments_of(structure, wanted, OTHER_MOMENT) if with_spin(config.spin, structure) else None


def orders_ahead(config: GpawEngineConfig, structure: Structure) -> list[Structure]:
    """The orders that the static run compares beside its own, if atoms keep the moments that they begin with."""
    moments = initial_moments(config, structure)
    if moments is None or "afm" not in config.magnetism.orderings:
        return []
    begun = structure.copy()
    begun.add_site_property("magmom", moments)
    return orders_of(begun, config.magnetism.max_orderings)


def fmax_of(config: GpawEngineConfig) -> float:
    """Largest force at the end of a relaxation, eV/angstrom."""
    return config.fmax_ev_per_angstrom or PRESETS[config.preset].fmax


def relax_task(config: GpawEngineConfig, structure: Structure) -> dict[str, Any]:
    """Atoms and the in-plane cell; ``history`` is named by whoever runs it."""
    return task(
        config,
        "relax",
        symmetrised(structure),
        convergence={**CONVERGENCE, "forces": RELAX_FORCES},
        fmax=fmax_of(config),
        steps=config.max_relax_steps,
    )


def static_task(config: GpawEngineConfig, structure: Structure) -> dict[str, Any]:
    """A single point that keeps its density for the bands."""
    extra = extra_energies(config.preset, [str(e) for e in structure.composition])
    close = {**CONVERGENCE, "forces": STATIC_FORCES}
    return task(
        config,
        "static",
        symmetrised(structure),
        convergence=close,
        extra=extra,
        density_file=DENSITY,
        potential=True,
    )


def order_task(config: GpawEngineConfig, ordered: Structure, layer: Structure) -> dict[str, Any]:
    """A single point of a layer in another magnetic order. ordered: in the order's cell, with its moments.

    An order in the layer's own cell may be what the bands begin with, so it keeps what the layer's own run keeps.
    """
    own: dict[str, Any] = {"extra": [], "max_scf_steps": min(ORDER_STEPS, config.max_scf_steps), "once": True}
    larger = {"density_file": None, "potential": False} if len(ordered) != len(layer) else {}
    return static_task(config, ordered) | own | larger


def forces_task(config: GpawEngineConfig, supercell: Structure, *, dipole: bool) -> dict[str, Any]:
    """Forces of a displaced supercell, converged further. dipole: decided for the layer itself."""
    close = {"energy": 1e-5, "density": 1e-4, "eigenstates": 1e-6, "forces": PHONON_FORCES}
    return task(config, "static", supercell, convergence=close, dipole=dipole)


def stiffness_task(config: GpawEngineConfig, structure: Structure) -> dict[str, Any]:
    """Stresses of the strained cells that the tensor needs; ``history`` is named by whoever runs it."""
    layer = symmetrised(structure)
    return task(
        config,
        "stiffness",
        layer,
        convergence={**CONVERGENCE, "forces": RELAX_FORCES},
        strains=[strain.tensor.tolist() for strain in strains(layer, config.strain)],
        fmax=fmax_of(config),
        steps=config.max_relax_steps,
    )


def bands_task(config: GpawEngineConfig, structure: Structure, density_file: str | None = None) -> dict[str, Any]:
    """Bands on the path and on a mesh, with spin-orbit coupling. density_file: of the static run, where it is."""
    layer = symmetrised(structure)
    k_points = in_plane_path(layer, config.band_points)[0]
    return task(
        config,
        "bands",
        layer,
        density_file=density_file,
        k_points=np.round(k_points, 8).tolist(),
        mesh_density=PRESETS[config.preset].mesh_density,
    )
