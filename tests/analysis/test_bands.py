"""Bands of models whose gap, edges and masses are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from scdm_flows.analysis.bands import HBAR2_OVER_ME, Bands, bands_document, find_gap, is_magnetic, masses, of_pymatgen
from scdm_flows.documents import BandsDoc, GapKind, StaticSummary

A = 3.0  # angstrom, a square lattice
N = 41


def path() -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """X-Γ-M: (k fractional, distance with 2 pi, branch, names); Γ twice, as end and beginning."""
    first = np.linspace([0.5, 0, 0], [0, 0, 0], N)
    second = np.linspace([0, 0, 0], [0.5, 0.5, 0], N)
    k = np.vstack([first, second])
    step = np.linalg.norm(np.diff(k, axis=0), axis=1) * 2 * np.pi / A
    distance = np.concatenate([[0], np.cumsum(step)])
    names = [""] * (2 * N)
    names[0], names[N - 1], names[N], names[-1] = "X", "Γ", "Γ", "M"
    return k, distance, np.repeat([0, 1], N), tuple(names)


def made(valence: np.ndarray, conduction: np.ndarray, spin: bool = False) -> Bands:
    k, distance, branch, names = path()
    energies = {"up": np.column_stack([valence, conduction])}
    if spin:
        energies["down"] = energies["up"] + 0.3
    return Bands(k, energies, distance, branch, names)


def parabola(mass: float, centre: int) -> np.ndarray:
    """E of a free particle of this mass in electron masses around point ``centre`` of the path, eV."""
    k = path()[0]
    return HBAR2_OVER_ME / (2 * mass) * ((2 * np.pi / A * (k - k[centre])) ** 2).sum(axis=1)


def test_a_direct_gap_with_the_masses_that_were_put_in() -> None:
    bands = made(-parabola(0.8, N), 1.5 + parabola(0.3, N))
    gap = find_gap(bands, None, efermi=0.7)
    assert (gap.kind, gap.gap, gap.direct_gap) == (GapKind.DIRECT, pytest.approx(1.5), pytest.approx(1.5))
    assert gap.vbm is not None
    assert gap.cbm is not None
    holes, electrons = masses(bands, gap.vbm, hole=True), masses(bands, gap.cbm, hole=False)
    assert {m.direction for m in electrons} == {"Γ→X", "Γ→M"}
    assert [m.mass for m in electrons] == pytest.approx([0.3, 0.3], abs=1e-3)  # isotropic
    assert [m.mass for m in holes] == pytest.approx([0.8, 0.8], abs=1e-3)
    assert {m.carrier for m in holes} == {"hole"}


def test_an_anisotropic_mass_depends_on_the_direction() -> None:
    k = path()[0] * 2 * np.pi / A
    conduction = 1 + HBAR2_OVER_ME / 2 * (k[:, 0] ** 2 / 0.2 + k[:, 1] ** 2 / 1.0)
    bands = made(np.full(2 * N, -1.0), conduction)
    gap = find_gap(bands, None, efermi=0.0)
    assert gap.cbm is not None
    found = {m.direction: m.mass for m in masses(bands, gap.cbm, hole=False)}
    assert found["Γ→X"] == pytest.approx(0.2, abs=1e-3)
    # along the diagonal 1/m is the mean of 1/m_x and 1/m_y
    assert found["Γ→M"] == pytest.approx(1 / ((1 / 0.2 + 1 / 1.0) / 2), abs=1e-3)


def test_an_indirect_gap() -> None:
    bands = made(-parabola(0.5, N), 1.0 + parabola(0.5, 2 * N - 1))  # conduction edge at M
    gap = find_gap(bands, None, efermi=0.5)
    assert (gap.kind, gap.gap) == (GapKind.INDIRECT, pytest.approx(1.0))
    assert gap.direct_gap > 1.0
    assert gap.cbm is not None
    assert bands.names[gap.cbm[1]] == "M"


def test_an_edge_off_the_path_counts() -> None:
    bands = made(np.full(2 * N, -1.0), np.full(2 * N, 1.0))
    mesh = Bands(np.array([[0, 0, 0], [0.2, 0.1, 0]]), {"up": np.array([[-1.0, 1.0], [-1.0, 0.6]])})
    gap = find_gap(bands, mesh, efermi=0.0)
    assert gap.gap == pytest.approx(1.6)
    assert gap.cbm is not None
    assert not gap.cbm[3]
    assert masses(bands, gap.cbm, hole=False) == []  # no neighbours on a line


def test_a_fermi_level_anywhere_in_the_gap_of_the_mesh_is_no_crossing_of_the_path() -> None:
    bands = made(np.full(2 * N, -1.0), 0.5 + parabola(0.5, N))  # the conduction edge is at 0.5, on the path alone
    mesh = Bands(np.zeros((2, 3)), {"up": np.array([[-1.0, 0.9], [-1.0, 1.2]])})
    for efermi in (-1.0, 0.0, 0.7, 0.9 - 1e-4):  # VASP 6.2 says the last
        assert find_gap(bands, mesh, efermi).gap == pytest.approx(1.5)


def test_a_band_that_crosses_the_fermi_level_is_a_metal() -> None:
    bands = made(-parabola(0.5, N), parabola(0.5, N) - 0.2)
    assert find_gap(bands, None, efermi=-0.1).kind is GapKind.METAL
    # also where only the mesh sees it cross
    shut = made(np.full(2 * N, -1.0), np.full(2 * N, 1.0))
    mesh = Bands(np.zeros((2, 3)), {"up": np.array([[-1.0, 1.0], [-1.0, -0.4]])})
    assert find_gap(shut, mesh, efermi=0.0).kind is GapKind.METAL


def test_spins_share_one_gap() -> None:
    bands = made(np.full(2 * N, -1.0), np.full(2 * N, 1.0), spin=True)  # down lies 0.3 eV higher
    gap = find_gap(bands, None, efermi=0.0)
    assert gap.gap == pytest.approx(1.7)  # from the down valence band to the up conduction band
    assert gap.vbm is not None
    assert gap.cbm is not None
    assert (gap.vbm[0], gap.cbm[0]) == ("down", "up")


def test_a_linear_or_flat_band_has_no_mass_and_says_why() -> None:
    k = path()[0]
    cone = np.linalg.norm(k * 2 * np.pi / A, axis=1)  # Dirac: linear in k
    bands = made(-1.0 - 0.5 * cone, 1.0 + 0.5 * cone)
    gap = find_gap(bands, None, efermi=0.0)
    assert gap.cbm is not None
    linear = masses(bands, gap.cbm, hole=False)
    assert all(m.mass is None and "not parabolic" in (m.reason or "") for m in linear)
    flat = made(np.full(2 * N, -1.0), np.full(2 * N, 1.0))
    gap = find_gap(flat, None, efermi=0.0)
    assert gap.vbm is not None
    assert all(m.mass is None and m.reason == "flat" for m in masses(flat, gap.vbm, hole=True))
    steep = made(np.full(2 * N, -1.0), 1.0 + parabola(0.001, N))
    gap = find_gap(steep, None, efermi=0.0)
    assert gap.cbm is not None
    assert all("points within" in (m.reason or "") for m in masses(steep, gap.cbm, hole=False))


@pytest.mark.parametrize(
    ("moments", "magnetic"), [(None, False), ([], False), ([0.02, -0.05], False), ([3.4, -3.4], True), ([None], False)]
)
def test_a_moment_on_an_atom_makes_a_magnet(moments: list[float | None] | None, magnetic: bool) -> None:
    assert is_magnetic(moments) is magnetic  # an antiferromagnet is one, though its total is zero


def test_document_of_pymatgens_objects() -> None:
    from pymatgen.core import Lattice, Structure
    from pymatgen.electronic_structure.bandstructure import BandStructure, BandStructureSymmLine
    from pymatgen.electronic_structure.core import Spin
    from pymatgen.electronic_structure.dos import Dos

    lattice = Lattice.tetragonal(A, 20)
    k = path()[0]
    labels = {"X": [0.5, 0, 0], "\\Gamma": [0, 0, 0], "M": [0.5, 0.5, 0]}
    bands = np.array([-parabola(0.8, N) - 4.0, parabola(0.3, N) - 2.5])
    structure = Structure(lattice, ["C"], [[0, 0, 0.5]])
    line = BandStructureSymmLine(k, {Spin.up: bands}, lattice.reciprocal_lattice, -1.0, labels, structure=structure)
    mesh = BandStructure(k[::4], {Spin.up: bands[:, ::4]}, lattice.reciprocal_lattice, -3.2, structure=structure)
    dos = Dos(-3.2, np.linspace(-6, 0, 13), {Spin.up: np.ones(13)})
    assert of_pymatgen(line).names[N] == "Γ"
    document = bands_document(
        line,
        mesh,
        dos,
        candidate_id="t-1",
        campaign="t",
        scheme="vasp-pbe",
        static=StaticSummary(energy_per_atom=-1, engine_version="6.5.0.stand-in", magnetic=False),
    )
    # the line run's own Fermi level (-1 eV, above the conduction edge) is not believed
    assert (document.gap_kind, document.band_gap_ev) == (GapKind.DIRECT, pytest.approx(1.5))
    assert (document.energy_zero, document.energy_zero_ev) == ("valence band maximum", pytest.approx(-4.0))
    assert document.vbm is not None
    assert document.cbm is not None
    assert (document.vbm.energy_ev, document.vbm.label) == (0.0, "Γ")
    assert document.cbm.energy_ev == pytest.approx(1.5)
    assert [name for _, name in document.labels] == ["X", "Γ", "Γ", "M"]
    # X-Γ is half a reciprocal vector long: 0.5 / 3 1/angstrom without 2 pi
    assert document.labels[1][0] == pytest.approx(0.5 / A, abs=1e-5)
    assert [m.mass for m in document.masses if m.carrier == "electron"] == pytest.approx([0.3, 0.3], abs=2e-3)
    assert document.dos is not None
    assert document.dos.energies_ev[4] == pytest.approx(0.0)  # -4 eV is the zero
    assert document.provenance.engine == "vasp-pbe, version 6.5.0.stand-in"
    assert BandsDoc.model_validate(document.model_dump(mode="json")) == document
