"""What GPAW's runs of a layer cost, before anything runs: a rough model, good to a factor of about three. Pure.

Time goes with k-points, spins, electronic steps, bands and plane waves; the rate is measured for 1H-MoS2 with both
presets on one core of a machine of 2024. How many steps runs take is assumed, see the constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import spglib

from scdm_flows.analysis.stiffness import strains
from scdm_flows.config import GpawEngineConfig
from scdm_flows.engines.base import StageCost
from scdm_flows.engines.gpaw.inputs import orders_ahead
from scdm_flows.engines.gpaw.layers import geometry
from scdm_flows.engines.gpaw.presets import PRESETS
from scdm_flows.engines.spin import with_spin
from scdm_flows.engines.vasp.cost import WAVE_NUMBER, valence_electrons

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SECONDS = 1.6e-6  # of one band, plane wave, k-point, spin and electronic step
SCF_STEPS, ORDER_SCF_STEPS, FIXED_STEPS, GEOMETRIES = 18, 30, 15, 6
# whose setups have s and p below the d shell
SEMICORE = frozenset(("Sc", "Ti", "V", "Cr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Hf", "Ta", "W", "Re", "Os"))
GEOMETRIES_OF_A_STRAIN = 3


def _run(structure: Structure, config: GpawEngineConfig, density: float) -> tuple[int, int, float]:
    """Irreducible k-points, bands, and seconds of an electronic step at one k-point."""
    given, preset = geometry(structure), PRESETS[config.preset]
    cell = np.array(given["cell"])
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)[:2]
    mesh = [max(1, int(np.ceil(length * density))) for length in reciprocal] + [1]
    frac = np.array(given["positions"]) @ np.linalg.inv(cell)
    crystal: Any = (cell, frac, given["numbers"])
    found, _ = spglib.get_ir_reciprocal_mesh(mesh, crystal, symprec=1e-3)
    k_points = len(set(found.tolist()))
    symbols = [str(site.specie) for site in structure]
    electrons = sum(valence_electrons(s, f"{s}_sv" if s in SEMICORE else "") for s in symbols)
    bands = int(0.6 * electrons) + 4
    waves = abs(np.linalg.det(cell)) * (WAVE_NUMBER * np.sqrt(preset.cutoff_ev)) ** 3 / (6 * np.pi**2)
    spins = 2 if with_spin(config.spin, structure) else 1
    return k_points, bands, SECONDS * bands * waves * spins


def cost(structure: Structure, config: GpawEngineConfig, displaced: list[Structure]) -> list[StageCost]:
    """Each stage's cost in order; displaced: the displaced supercells of the phonons."""
    density = PRESETS[config.preset].kpoint_density

    def stage(name: str, runs: int, of: Structure, steps: float, dense: float = density, on_path: int = 0) -> StageCost:
        k_points, bands, seconds = _run(of, config, dense)
        k_points += on_path
        hours = float(f"{runs * steps * seconds * k_points / 3600:.2g}")
        return StageCost(name, runs, len(of), k_points, bands, hours)

    found = [
        stage("relax", 1, structure, SCF_STEPS * GEOMETRIES),
        stage("static", 1, structure, SCF_STEPS),
        stage("bands", 1, structure, FIXED_STEPS, PRESETS[config.preset].mesh_density, config.band_points),
        stage("stiffness", len(strains(structure, config.strain)), structure, SCF_STEPS * GEOMETRIES_OF_A_STRAIN),
    ]
    orders = orders_ahead(config, structure)
    if orders:
        found.insert(2, stage("static_orders", len(orders), max(orders, key=len), ORDER_SCF_STEPS))
    if displaced:
        found.append(stage("phonon", len(displaced) + 1, displaced[0], SCF_STEPS))  # and the undisplaced one
    return found
