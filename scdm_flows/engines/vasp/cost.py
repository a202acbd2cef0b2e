"""What the VASP runs of a layer cost, before anything runs. Pure: a structure and the configuration in.

A rough model, good to a factor of about three: floating-point operations of the blocked Davidson steps at 2 Gflop/s
and core, which is what plane-wave codes reach in their Fourier transforms. For each k-point, spin and electronic step
it counts, for every band, eight applications of the Hamiltonian (two transforms of 5 N log2 N operations each, N the
points of the grid of PREC = Accurate), and four products of bands by bands by plane waves. Checked by hand against
1H-MoS2: 0.9 core seconds a k-point and electronic step. How many steps runs take is assumed, see the constants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scdm_flows.analysis.stiffness import strains
from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.base import StageCost
from scdm_flows.engines.spin import with_spin
from scdm_flows.engines.vasp.checks import potcar_symbols
from scdm_flows.engines.vasp.inputs import irreducible, line, with_moments

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FLOPS_PER_CORE = 2e9
HAMILTONIANS, PRODUCTS = 8, 4
FIRST_STEPS, NEXT_STEPS, TIGHT_STEPS, FIXED_STEPS = 15, 8, 20, 12  # electronic: from scratch, moved, 1e-8, fixed charge
IONIC_STEPS = {"relax_1": 15, "relax_2": 6, "strain": 4}
FACTOR = 3.0  # within which this is good
MANY_CORES = 128  # of a large node
WAVE_NUMBER = 0.5123167  # sqrt(2 m_e) / hbar in 1/(angstrom sqrt(eV))
SEMICORE = {"pv": 6, "sv": 8, "d": 10}


@dataclass(frozen=True)
class _Cell:
    """What one electronic step of one k-point and spin needs: bands, plane waves, grid points.

    exchange: k-points whose bands, half of them filled, act on each by exact exchange; 0 without.
    """

    bands: int
    waves: float
    grid: float
    exchange: int = 0

    @property
    def flops(self) -> float:
        pairs = 1 + self.exchange * self.bands / 2
        transforms = self.bands * HAMILTONIANS * pairs * 2 * 5 * self.grid * np.log2(self.grid)
        return float(transforms + PRODUCTS * 8 * self.bands**2 * self.waves)


def valence_electrons(element: str, potential: str) -> int:
    """Electrons of a potential by its name: the group's, and what a suffix adds (Mo_pv: 6 + 6); 9 for _3 f metals."""
    from pymatgen.core import Element

    group = Element(element).group
    shell = group if group <= 12 else group - 10
    if Element(element).is_lanthanoid or Element(element).is_actinoid:
        shell = 11
    return 2 if element == "He" else shell + SEMICORE.get(potential.partition("_")[2], 0)


def electronic_step(structure: Structure, config: VaspEngineConfig) -> _Cell:
    """What an electronic step of one k-point and spin of a crystal needs."""
    names = potcar_symbols(config)
    electrons = sum(valence_electrons(str(site.specie), names.get(str(site.specie), "")) for site in structure)
    # VASP's default NBANDS, vasp.at/wiki/NBANDS
    bands = max((electrons + 2) // 2 + max(len(structure) // 2, 3), int(0.6 * electrons))
    radius = WAVE_NUMBER * np.sqrt(config.encut_ev)
    waves = structure.volume * radius**3 / (6 * np.pi**2)
    return _Cell(bands, waves, structure.volume * (4 * radius) ** 3 / (2 * np.pi) ** 3)


def ionic_step(structure: Structure, config: VaspEngineConfig) -> float:
    """Core seconds of the first ionic step of a relaxation, whose wave functions begin from nothing."""
    spins = 2 if with_spin(config.spin, structure) else 1
    k_points = len(irreducible(structure, config.kpoint_spacing_per_angstrom)[0])
    return electronic_step(structure, config).flops * k_points * spins * FIRST_STEPS / FLOPS_PER_CORE


def cores_of(command: str | None) -> int:
    """Cores that a command such as ``srun -n 32 vasp_std`` asks for; ``MANY_CORES`` where it does not say."""
    found = re.search(r"\s(?:-np?|--ntasks)[\s=]*(\d+)", command or "")
    return int(found[1]) if found else MANY_CORES


def walltime_problem(structure: Structure, config: VaspEngineConfig, command: str | None) -> str | None:
    """Why a run that is told to stop after ``walltime_s`` finishes no ionic step of a layer, in words.

    Only where the estimate is beyond it by more than its own error.
    """
    if config.walltime_s is None:
        return None
    cores, seconds = cores_of(command), ionic_step(structure, config)
    if seconds / cores <= FACTOR * config.walltime_s:
        return None
    return (
        f"walltime_s = {config.walltime_s} is shorter than one ionic step, about {seconds / cores:.0f} s on {cores} "
        "cores (SCDM_VASP_CMD), so no attempt would get anywhere; raise it, or leave it out"
    )


def cost(structure: Structure, config: VaspEngineConfig, displaced: list[Structure]) -> list[StageCost]:
    """Each stage's cost in order; displaced: the displaced supercells of the phonons."""
    spins = 2 if with_spin(config.spin, structure) else 1
    cell = electronic_step(structure, config)
    spacing = config.kpoint_spacing_per_angstrom
    k_points = len(irreducible(structure, spacing)[0])

    def stage(name: str, runs: int, of: _Cell, atoms: int, k: int, steps: float) -> StageCost:
        hours = runs * of.flops * k * spins * steps / FLOPS_PER_CORE / 3600
        return StageCost(name, runs, atoms, k, of.bands, float(f"{hours:.2g}"))

    found = [
        stage(name, 1, cell, len(structure), k_points, FIRST_STEPS + NEXT_STEPS * (steps - 1))
        for name, steps in IONIC_STEPS.items()
        if name.startswith("relax")
    ]
    found.append(stage("static", 1, cell, len(structure), k_points, FIRST_STEPS))
    if "afm" in config.magnetism.orderings and spins == 2:
        from scdm_flows.analysis.magnetism import orders_of

        orders = orders_of(with_moments(config, structure), config.magnetism.max_orderings)
        if orders:
            largest = max(orders, key=len)  # of which most are
            k = len(irreducible(largest, spacing)[0])
            found.append(
                stage("static_orders", len(orders), electronic_step(largest, config), len(largest), k, FIRST_STEPS)
            )
    if displaced:
        supercell = displaced[0]
        k = len(irreducible(supercell, spacing)[0])
        found.append(
            # the undisplaced one too, whose k-points are fewer
            stage("phonon", len(displaced) + 1, electronic_step(supercell, config), len(supercell), k, TIGHT_STEPS)
        )
        strained = strains(structure, config.strain)
        k = len(irreducible(strained[0].of(structure), spacing)[0])
        steps = FIRST_STEPS + NEXT_STEPS * (IONIC_STEPS["strain"] - 1)
        found.append(stage("strain", len(strained), cell, len(structure), k, steps))
    wide = _Cell(int(np.ceil(cell.bands * config.band_nbands_factor)), cell.waves, cell.grid)
    dense = len(irreducible(structure, config.dos_kpoint_spacing_per_angstrom)[0])
    found.append(stage("uniform", 1, wide, len(structure), dense, FIXED_STEPS))
    on_path = int(line(structure, config.band_points).num_kpts)
    found.append(stage("line", 1, wide, len(structure), on_path, FIXED_STEPS))
    if config.hse_gap:
        points, counts = irreducible(structure, spacing)
        screened = replace(cell, exchange=int(counts.sum()))
        found.append(stage("hse", 1, screened, len(structure), len(points) + 2, FIRST_STEPS))
    return found


def typical_layer(n_atoms: int) -> Structure:
    """A layer of ``n_atoms`` without symmetry at 5 square angstrom an atom, Mo and S as 1 to 2, 20 angstrom vacuum."""
    from pymatgen.core import Lattice, Structure

    side = float(np.sqrt(5.0 * n_atoms))
    random = np.random.default_rng(n_atoms)
    frac = np.column_stack([random.random((n_atoms, 2)), 0.5 + (random.random(n_atoms) - 0.5) * 3 / 23])
    return Structure(Lattice.tetragonal(side, 23.0), ["S" if k % 3 else "Mo" for k in range(n_atoms)], frac)
