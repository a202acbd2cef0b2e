"""Phonons of layers: sum rules on a spring model that obeys them exactly, soft modes, and what is known of real layers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from phonopy import Phonopy
from pymatgen.core import Lattice, Structure
from pymatgen.io.phonopy import get_phonopy_structure
from support.layers import mx2

from scdm_flows.analysis.phonons import (
    density_of_states,
    flexural_exponent,
    modes_at,
    phonon_bands,
    phonon_mesh,
    restoring_forces,
    thermal_quantities,
)
from scdm_flows.analysis.soft_mode import commensurate_cell, follow, soft_mode
from scdm_flows.analysis.stability import SupercellStability, judge, thresholds
from scdm_flows.analysis.sum_rules import enforce, pairs_of
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.documents.phonon import PhononDoc, SoftMode
from scdm_flows.engines.base import layer_phonopy, phonon_document
from scdm_flows.engines.forcefield.phonons import phonons_together
from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together
from scdm_flows.errors import EngineError, StructureError

CHGNET = ForceFieldEngineConfig(force_field="CHGNet")
A = 3.8  # angstrom, of the model honeycomb
HEXAGONAL, SQUARE = Lattice.hexagonal(A, 20), Lattice.tetragonal(A, 20)


def honeycomb(half: float = 0.25) -> Structure:
    """A buckled honeycomb of silicon, ``half`` angstrom above and below its plane."""
    z = half / 20
    return Structure(HEXAGONAL, ["Si", "Si"], [[1 / 3, 2 / 3, 0.5 + z], [2 / 3, 1 / 3, 0.5 - z]])


def springs(
    structure: Structure, shells: list[tuple[float, float, float]], repeats: int = 5
) -> tuple[Phonopy, np.ndarray]:
    """A model of springs between pairs: exact force constants, and the virial (3, 3) in eV.

    shells: (largest length in angstrom, stiffness V'' in eV/angstrom^2, V'/r in eV/angstrom^2); a pair belongs to the
    first shell that reaches it. For a pair potential V the force constants are -(V'' n n + V'/r (1 - n n)), n the
    direction; the stress times the volume is the sum of V'/r r r over all pairs.
    """
    phonon = Phonopy(get_phonopy_structure(structure), np.diag([repeats, repeats, 1]), primitive_matrix=np.eye(3))
    supercell = phonon.supercell
    n, cell = len(supercell), np.array(supercell.cell)
    constants, virial = np.zeros((n, n, 3, 3)), np.zeros((3, 3))
    for i in range(n):
        for j in range(n):
            for image in product((-1, 0, 1), (-1, 0, 1)):
                r = supercell.positions[j] - supercell.positions[i] + np.array([*image, 0]) @ cell
                length = float(np.linalg.norm(r))
                shell = next((s for s in shells if 0.1 < length < s[0]), None)
                if shell is None:
                    continue
                along = np.outer(r, r) / length**2
                block = shell[1] * along + shell[2] * (np.eye(3) - along)
                constants[i, j] -= block
                constants[i, i] += block
                virial += 0.5 * shell[2] * np.outer(r, r) / repeats**2
    phonon.force_constants = constants
    return phonon, virial


NEIGHBOURS = [(2.6, 9.0, 0.0), (4.0, 1.5, 0.0)]


def test_the_model_obeys_the_sum_rules_and_stays_as_it_is() -> None:
    # springs at their natural length depend on distances only, so a rotation costs nothing: nothing is to be mended
    phonon, _ = springs(honeycomb(), NEIGHBOURS)
    found = enforce(pairs_of(phonon))
    assert found.violation_before < 1e-12
    assert found.relative_change < 1e-12
    assert flexural_exponent(phonon) == pytest.approx(2, abs=0.02)


def test_a_stretched_layer_obeys_the_rules_of_its_stress() -> None:
    # second neighbours under tension: the forces cancel by symmetry, the stress does not
    phonon, virial = springs(honeycomb(), [NEIGHBOURS[0], (4.0, 1.5, 0.3)])
    assert virial[0, 0] > 1
    assert virial[2, 2] == pytest.approx(0)
    assert enforce(pairs_of(phonon), virial).relative_change < 1e-12
    assert enforce(pairs_of(phonon), -virial).relative_change > 1e-3  # the sign matters
    # a membrane under tension: omega = sqrt(S / m) q (theory), m = 2 * 28.086 u in the cell
    q = 0.01
    slope = modes_at(phonon, np.array([[q, 0, 0]]))[0][0, 0] / (2 * np.pi * q * 2 / (A * np.sqrt(3)))
    # sqrt(eV / u) / angstrom is 15.6333 THz (times 2 pi: radians)
    assert slope == pytest.approx(15.6333 * np.sqrt(virial[0, 0] / (2 * 28.0855)), rel=0.01)
    assert flexural_exponent(phonon) == pytest.approx(1, abs=0.05)


def test_broken_force_constants_are_mended_where_they_break() -> None:
    phonon, _ = springs(honeycomb(), NEIGHBOURS)
    right = modes_at(phonon, np.array([[0.5, 0, 0], [1 / 3, 1 / 3, 0]]))[0]
    exact = np.array(phonon.force_constants)
    # noise that keeps the translational rule and the exchange of atoms, as a force field in single precision has it
    noise = np.random.default_rng(0).normal(0, 2e-3, exact.shape)
    broken = exact + (noise + noise.transpose(1, 0, 3, 2)) / 2
    phonon.force_constants = broken
    phonon.symmetrize_force_constants(level=2)
    assert flexural_exponent(phonon) is None or abs(flexural_exponent(phonon) - 2) > 0.2
    found = enforce(pairs_of(phonon))
    assert found.violation_after < 1e-12 < found.violation_before
    assert found.relative_change < 0.01
    phonon.force_constants = found.constants
    assert flexural_exponent(phonon) == pytest.approx(2, abs=0.05)
    # the three modes of zero frequency at Gamma, and no change to speak of at the edge of the zone
    assert np.sort(np.abs(modes_at(phonon, np.zeros((1, 3)))[0][0]))[:3] == pytest.approx(0, abs=1e-4)
    assert modes_at(phonon, np.array([[0.5, 0, 0], [1 / 3, 1 / 3, 0]]))[0] == pytest.approx(right, abs=0.05)


def test_the_symmetry_of_the_crystal_stays() -> None:
    phonon, _ = springs(honeycomb(), [(2.6, 9.0, 0.4), (4.0, 1.5, 0.0)])  # residual forces break the rules
    constants = enforce(pairs_of(phonon)).constants
    assert np.abs(constants - np.array(phonon.force_constants)[phonon.primitive.p2s_map]).max() > 1e-3
    phonon.force_constants = constants
    # the three M points, and K and K', are equal by the threefold axis and by time reversal
    frequencies, _ = modes_at(phonon, np.array([[0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0]]))
    assert frequencies[1:] == pytest.approx(np.tile(frequencies[0], (2, 1)), abs=1e-6)


def test_force_constants_that_are_no_numbers_are_refused() -> None:
    phonon, _ = springs(honeycomb(), NEIGHBOURS)
    phonon.force_constants = np.full_like(phonon.force_constants, np.nan)
    with pytest.raises(EngineError, match="must be numbers"):
        enforce(pairs_of(phonon))


def test_forces_at_rest_and_drift_are_no_restoring_forces() -> None:
    # exact force constants give forces -Phi u; on top of them what a relaxation has left and the same drift on every atom
    exact, _ = springs(honeycomb(), NEIGHBOURS)
    phonon = layer_phonopy(honeycomb(), np.diag([5, 5, 1]))
    phonon.generate_displacements(distance=0.01)
    right = np.array(exact.force_constants)
    rest = np.random.default_rng(5).normal(0, 3e-3, (len(phonon.supercell), 3))  # eV/angstrom, as relaxations end
    found = []
    for moved, drift in zip(phonon.displacements, (1e-3, -2e-3), strict=True):
        atom, *step = moved
        found.append(-np.einsum("iab,b->ia", right[:, int(atom)], np.array(step)) + rest + drift)

    def constants(forces: list[np.ndarray]) -> np.ndarray:
        phonon.forces = forces
        phonon.produce_force_constants()
        return np.array(phonon.force_constants)

    assert constants(restoring_forces(found, rest)) == pytest.approx(right, abs=1e-6)
    assert np.abs(constants(found) - right).max() > 0.1  # 3e-3 eV/angstrom over 0.01 angstrom


def test_a_layer_that_shears_by_itself_is_unstable_whatever_its_modes() -> None:
    phonon, _ = springs(honeycomb(), NEIGHBOURS)
    about: Any = {"candidate_id": "c", "campaign": "t", "scheme": "s", "surrogate": False}
    about |= {"displacement": 0.01, "n_displacements": 2}
    stable = phonon_document(phonon, honeycomb(), **about, stiffness=np.diag([30.0, 30.0, 9.0]))
    assert stable.dynamically_stable
    assert stable.stiffness_n_per_m == np.diag([30.0, 30.0, 9.0]).tolist()
    assert stable.criterion == "modes on path and mesh, and stiffness tensor"
    assert stable.gamma_threshold_thz == 0.2
    soft = phonon_document(phonon, honeycomb(), **about, stiffness=np.diag([30.0, 30.0, -2.0]))
    assert not soft.dynamically_stable
    assert soft.reason == "the stiffness tensor has an eigenvalue of -2.0 N/m, it must be positive"
    assert soft.soft_mode is None  # no mode is imaginary
    assert phonon_document(phonon, honeycomb(), **about).criterion is None


def test_a_mode_between_the_q_points_of_the_supercell_is_told_where_criteria_do_not_see_it() -> None:
    # springs that push make every mode imaginary, whatever the criteria say that look at fewer q-points
    phonon, _ = springs(honeycomb(), [(bond, -radial, -tangential) for bond, radial, tangential in NEIGHBOURS])
    about: Any = {"candidate_id": "c", "campaign": "t", "scheme": "s", "surrogate": False}
    about |= {"displacement": 0.01, "n_displacements": 2}
    blind = SupercellStability(True, "Hessian", 0.0, np.diag([30.0, 30.0, 9.0]).tolist(), None)
    document = phonon_document(phonon, honeycomb(), **about, criteria=blind)
    assert document.dynamically_stable
    assert document.criterion == "Hessian"
    assert document.min_frequency_thz < -0.2
    assert document.soft_mode is not None
    assert document.soft_mode.frequency_thz < -0.2


def test_mesh_density_of_states_and_heat() -> None:
    phonon, _ = springs(honeycomb(), NEIGHBOURS)
    mesh = phonon_mesh(phonon)
    assert mesh.mesh[2] == 1
    assert mesh.mesh[0] % 5 == 0  # holds the commensurate points of the 5 x 5 supercell
    assert mesh.weights.sum() == mesh.mesh[0] * mesh.mesh[1]
    dos = density_of_states(mesh)
    assert np.trapezoid(dos.density, dos.frequencies) == pytest.approx(6, abs=0.01)  # modes of two atoms
    heat = thermal_quantities(phonon, (0.0, 300.0, 3000.0))
    # zero-point energy: half a quantum of each mode, 4.135668 meV/THz
    zero_point = (mesh.frequencies.clip(0).sum(axis=1) * mesh.weights).sum() / mesh.weights.sum()
    assert heat.free_energy[0] == pytest.approx(0.5 * 4.135667696e-3 * zero_point / 2, rel=1e-3)
    assert heat.heat_capacity[0] == 0
    assert heat.heat_capacity[2] == pytest.approx(3, abs=0.02)  # Dulong and Petit
    # F = U - T S and S = -dF/dT
    steps = thermal_quantities(phonon, (299.0, 300.0, 301.0))
    slope = -(steps.free_energy[2] - steps.free_energy[0]) / 2 / 8.617333e-5
    assert steps.entropy[1] == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    ("q", "lattice", "size"),
    [
        ((0, 0, 0), HEXAGONAL, 1),
        ((0.5, 0, 0), HEXAGONAL, 2),
        ((1 / 3, 1 / 3, 0), HEXAGONAL, 3),  # sqrt(3) x sqrt(3), not 3 x 3
        ((0.5, 0.5, 0), SQUARE, 2),  # c(2 x 2)
        ((0.4, 0.2, 0), SQUARE, 5),  # sqrt(5) x sqrt(5)
        ((0.25, 1 / 3, 0), SQUARE, 12),
    ],
)
def test_the_smallest_cell_of_a_wave(q: tuple[float, float, float], lattice: Lattice, size: int) -> None:
    cell = commensurate_cell(np.array(q), lattice)
    assert cell is not None
    turns = np.array(cell) @ q
    assert turns == pytest.approx(np.rint(turns), abs=1e-6)  # the wave is periodic in it
    assert np.linalg.det(cell) == pytest.approx(size)  # as many cells as the order of q: no smaller one can be
    made = Lattice(np.array(cell) @ lattice.matrix)
    assert 55 < made.gamma < 125


def test_a_wave_that_fits_nowhere() -> None:
    assert commensurate_cell(np.array([0.1234, 0, 0]), SQUARE) is None


def test_a_square_lattice_of_springs_shears() -> None:
    # theory: a square lattice with springs along its sides only has no resistance to shear; with springs that push across
    # the diagonals it is unstable, and softest where neighbours move against each other
    square = Structure(SQUARE, ["Si"], [[0, 0, 0.5]])
    phonon, _ = springs(square, [(4.0, 3.0, 0.0), (5.5, -1.0, 0.0)], repeats=6)
    bands, mesh = phonon_bands(phonon, square), phonon_mesh(phonon)
    verdict = judge(bands, mesh, surrogate=True)
    assert not verdict.stable
    q_points = np.concatenate([bands.q_points, mesh.q_points])
    lowest = np.concatenate([bands.frequencies.min(axis=1), mesh.frequencies.min(axis=1)])
    mode = soft_mode(phonon, q_points, lowest, thresholds(q_points, surrogate=True))
    assert mode is not None
    assert np.sort(np.abs(mode.q)) == pytest.approx([0, 0, 0.5])
    assert mode.exact
    assert round(np.linalg.det(mode.supercell)) == 2
    # omega^2 of that mode by hand: transverse at X, two diagonal springs on each side, -1/2 of each along the motion
    assert mode.frequency_thz == pytest.approx(-15.6333 * np.sqrt(4 * 1.0 / 28.0855), rel=1e-3)


def test_the_distortion_is_phonopys_modulation() -> None:
    phonon, _ = springs(honeycomb(), [(2.6, -9.0, 0.0), (4.0, 1.5, 0.0)])
    q = np.array([1 / 3, 1 / 3, 0])
    mode = soft_mode(phonon, q[None], np.array([-1.0]), np.array([0.2]))
    assert mode is not None
    distorted = follow(honeycomb(), mode, 0.1)[0]
    phonon.run_modulations(np.diag([3, 3, 1]), [[q, 0, 1.0, 0.0]])
    theirs, cells = phonon.get_modulations_and_supercell()
    theirs = theirs[0]
    # where each atom of the small cell lies in phonopy's 3 x 3 one, and how it moves there
    undistorted = follow(honeycomb(), mode, 1e-9)[0]
    moved = distorted.cart_coords - undistorted.cart_coords
    delta = undistorted.cart_coords[:, None] - cells.positions[None]
    delta -= np.rint(delta @ np.linalg.inv(cells.cell)) @ cells.cell
    at = np.linalg.norm(delta, axis=-1).argmin(axis=1)
    # the same wave up to phase and length
    step = theirs[at]
    phase = np.linalg.lstsq(np.column_stack([step.real.ravel(), step.imag.ravel()]), moved.ravel(), rcond=None)
    assert phase[1][0] < 1e-10
    assert np.linalg.norm(moved, axis=1).max() == pytest.approx(0.1)


def test_both_signs_where_they_differ() -> None:
    layer = mx2("1H")
    breathing = SoftMode(  # sulfur moves apart or together: no symmetry turns one into the other
        q=(0, 0, 0),
        frequency_thz=-1,
        eigenvector_real=[(0, 0, 0), (0, 0, 0.7), (0, 0, -0.7)],
        eigenvector_imag=[(0, 0, 0)] * 3,
        supercell=[[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        exact=True,
    )
    apart, together = follow(layer, breathing, 0.2)
    assert apart.cart_coords[1, 2] - together.cart_coords[1, 2] == pytest.approx(0.4)
    # a mode along z that is odd in the mirror plane is its own mirror image: one structure
    odd = breathing.model_copy(update={"eigenvector_real": [(0, 0, 0.5), (0, 0, -0.6), (0, 0, -0.6)]})
    assert len(follow(layer, odd, 0.2)) == 1
    with pytest.raises(StructureError, match="must be > 0 angstrom"):
        follow(layer, odd, 0)
    with pytest.raises(StructureError, match="moves 3 atoms and the layer has 2"):
        follow(honeycomb(), odd, 0.1)


LAYERS = {
    "graphene": Structure(Lattice.hexagonal(2.46, 20), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]),
    "h-BN": Structure(Lattice.hexagonal(2.51, 20), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]),
    "1H-MoS2": mx2("1H"),
    "1T-MoS2": mx2("1T"),
}


@pytest.fixture(scope="module")
def computed() -> dict[str, tuple[Structure, PhononDoc]]:
    """Relaxed layers and their phonons with CHGNet, all in one batch with a broken one."""
    relaxed = relax_together(list(LAYERS.values()), RelaxSettings(0.01, 200, force_field="CHGNet"))
    apart = Structure(Lattice.hexagonal(12, 20), ["Ar"], [[0, 0, 0.5]])  # an atom without neighbours
    layers = [(name, r.structure) for name, r in zip(LAYERS, relaxed, strict=True)]
    *found, broken = phonons_together([*layers, ("apart", apart)], CHGNET, "t")
    assert isinstance(broken, str)  # says why, and stops none of the others
    return {name: (structure, doc) for (name, structure), doc in zip(layers, found, strict=True)}


@pytest.mark.parametrize("name", ["graphene", "h-BN", "1H-MoS2"])
def test_known_layers_are_stable_with_a_quadratic_flexural_branch(
    name: str, computed: dict[str, tuple[Structure, PhononDoc]]
) -> None:
    _, doc = computed[name]
    assert doc.dynamically_stable
    assert doc.min_frequency_thz > -0.05  # no false imaginary mode, near Gamma neither
    assert doc.flexural_exponent == pytest.approx(2, abs=0.1)
    assert doc.soft_mode is None
    assert doc.thermal is not None
    assert doc.sum_rule_change is not None
    assert doc.sum_rule_change < 0.01
    assert PhononDoc.model_validate(doc.model_dump(mode="json")) == doc


def test_following_the_mode_of_1t_mos2_lowers_its_energy(
    computed: dict[str, tuple[Structure, PhononDoc]],
) -> None:
    # 1T-MoS2 is unstable at M; its distortion in the 2 x 1 cell, 1T', is lower (X. Qian et al., Science 346, 1344
    # (2014)), and stable, which the command's own test looks at
    layer, doc = computed["1T-MoS2"]
    mode = doc.soft_mode
    assert mode is not None
    assert np.sort(np.abs(mode.q)) == pytest.approx([0, 0, 0.5])
    assert round(np.linalg.det(mode.supercell)) == 2
    distorted = follow(layer, mode, 0.3)
    before, *after = relax_together([layer, *distorted], RelaxSettings(0.01, 200, force_field="CHGNet"))
    best = min(after, key=lambda r: float(r.energy_per_atom or 0))
    assert best.structure is not None
    assert best.energy_per_atom is not None
    assert before.energy_per_atom is not None
    assert best.energy_per_atom < before.energy_per_atom - 0.02  # eV/atom, surrogate


def test_together_as_one_by_one(computed: dict[str, tuple[Structure, PhononDoc]]) -> None:
    structure, together = computed["1H-MoS2"]
    (alone,) = phonons_together([("1H-MoS2", structure)], CHGNET, "t")
    assert isinstance(alone, PhononDoc)
    assert np.array(alone.frequencies_thz) == pytest.approx(np.array(together.frequencies_thz), abs=0.01)


def test_documents_without_the_new_fields_are_valid(campaign_documents: Any) -> None:
    data = next(iter(campaign_documents.phonons.values())).model_dump()
    for name in ("soft_mode", "dos", "thermal", "mesh", "flexural_exponent", "sum_rules", "sum_rule_change"):
        del data[name]
    assert PhononDoc.model_validate(data).soft_mode is None
