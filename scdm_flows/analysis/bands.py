"""Electronic bands of a layer: gap, edges, effective masses, moments. Pure: arrays and pymatgen objects in.

The gap is taken over the in-plane path and the uniform mesh together, as an edge may lie off the path. Which bands
are occupied follows from the Fermi level of the uniform run: that of a run on lines is not converged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.documents.bands import BandEdge, BandMass, BandsDoc, DosData, GapKind
from scdm_flows.documents.provenance import made_here
from scdm_flows.documents.static import StaticSummary

Array = NDArray[np.float64]
HBAR2_OVER_ME = 7.61996423  # hbar^2 / m_e in eV angstrom^2 (CODATA 2018)
MAGNETIC_MOMENT = 0.1  # Bohr magnetons on an atom
CROSSING_EV = 1e-3  # a band within this of the Fermi level does not cross it
SAME_K = 1e-4  # fractional
HEAVY_PERIOD = 5
FIT_RANGE_EV = 0.1  # of the effective masses, from the edge ...
FIT_POINTS, WIDEST_FIT_EV = 4, 0.3  # ... or as far as the edge and three more points reach, but no farther than this
PARABOLIC_R2 = 0.99
FLAT_EV = 1e-3  # a branch that rises less over the fitted points has no mass to speak of


@dataclass(frozen=True)
class Bands:
    """k_points: (n_k, 3) fractional; energies: spin (up, down) -> (n_k, n_bands) eV; both in the program's own zero.

    cart_distances: (n_k,) distance along the path, 1/angstrom with 2 pi, and branch: (n_k,) number of the straight
    piece a point belongs to; both None for a mesh. names: (n_k,) labels, "" where there is none.
    """

    k_points: Array
    energies: Mapping[str, Array]
    cart_distances: Array | None = None
    branch: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gap:
    """kind; gap and direct gap in eV (0 for a metal); the edges as (spin, k index, band index, on the path, energy)."""

    kind: GapKind
    gap: float
    direct_gap: float
    vbm: tuple[str, int, int, bool, float] | None = None
    cbm: tuple[str, int, int, bool, float] | None = None


def is_magnetic(moments: Sequence[float | None] | None) -> bool:
    """Whether some atom's moment is above 0.1 Bohr magnetons."""
    return any(abs(m) > MAGNETIC_MOMENT for m in moments or [] if m is not None)


def spin_orbit_matters(elements: Iterable[str]) -> bool:
    """Whether bands without spin-orbit coupling are wrong by more than 0.1 eV: with elements of period 5 or below.

    It splits the valence bands of MoS2 by 0.15 eV and those of WS2 by 0.43 (doi:10.1103/PhysRevB.84.153402).
    """
    from pymatgen.core import Element

    return any(Element(element).row >= HEAVY_PERIOD for element in elements)


def find_gap(path: Bands, mesh: Bands | None, efermi: float) -> Gap:
    """The gap over path and mesh.

    efermi: eV, of the mesh, or of the path where there is none; in or at the edge of the gap of an insulator, in the
    bands of a metal. It may lie anywhere in the gap of the mesh, so it says which bands are occupied there; the path,
    on which an edge may lie beyond it, has the same.
    """
    sets = [(path, True), *([(mesh, False)] if mesh is not None else [])]
    occupied: dict[str, int] = {}
    for spin in path.energies:
        own = (path if mesh is None else mesh).energies[spin]
        low, high = own.min(axis=0), own.max(axis=0)
        if np.any((low < efermi - CROSSING_EV) & (high > efermi + CROSSING_EV)):
            return Gap(GapKind.METAL, 0.0, 0.0)
        occupied[spin] = int((high <= efermi + CROSSING_EV).sum())
    edges = []
    for valence in (True, False):
        found = []
        for bands, on_path in sets:
            for spin, energies in bands.energies.items():
                band = occupied[spin] - 1 if valence else occupied[spin]
                if not 0 <= band < energies.shape[1]:
                    continue
                k = int(np.argmax(energies[:, band]) if valence else np.argmin(energies[:, band]))
                found.append((spin, k, band, on_path, float(energies[k, band])))
        if not found:
            return Gap(GapKind.METAL, 0.0, 0.0)  # no band above (or below) the Fermi level was computed
        best = max(e[4] for e in found) if valence else min(e[4] for e in found)
        # of equal ones the one on the path, which has a name and a mass
        edges.append(next(e for e in found if abs(e[4] - best) < CROSSING_EV / 10))
    vbm, cbm = edges
    gap = cbm[4] - vbm[4]
    if gap <= CROSSING_EV:
        return Gap(GapKind.METAL, 0.0, 0.0)
    direct = min(_direct(bands, occupied) for bands, _ in sets)
    return Gap(GapKind.DIRECT if direct - gap < CROSSING_EV else GapKind.INDIRECT, gap, direct, vbm, cbm)


def _direct(bands: Bands, occupied: Mapping[str, int]) -> float:
    """Smallest difference of empty and occupied states at one k-point, of any spins, eV."""
    top = np.max([e[:, occupied[s] - 1] for s, e in bands.energies.items() if occupied[s] > 0], axis=0)
    bottom = np.min([e[:, occupied[s]] for s, e in bands.energies.items() if occupied[s] < e.shape[1]], axis=0)
    return float((bottom - top).min())


def masses(path: Bands, edge: tuple[str, int, int, bool, float], *, hole: bool) -> list[BandMass]:
    """Effective masses at an edge on the path, one for each straight piece that begins or ends there or goes through.

    The fit is E - E_edge = hbar^2 k^2 / 2 m + c k^4 over the points up to 0.1 eV from the edge, at least four with it
    if those lie within 0.3 eV (light masses). Where a parabola alone has R^2 below 0.99, or there are too few points,
    the band counts as not parabolic there and has no mass.
    """
    if path.cart_distances is None or path.branch is None or not edge[3]:
        return []
    spin, k, band, _, energy = edge
    curve = path.energies[spin][:, band]
    # the path may pass the edge's k-point more than once (K-Γ-M ends where it begins)
    delta = path.k_points - path.k_points[k]
    here = np.flatnonzero(np.abs(delta).max(axis=1) < SAME_K)
    found: list[BandMass] = []
    for start in here:
        for step in (-1, 1):
            points = [int(start)]
            while 0 <= points[-1] + step < len(curve) and path.branch[points[-1] + step] == path.branch[start]:
                points.append(points[-1] + step)
            if len(points) == 1:
                continue
            towards = path.names[points[-1]] or "path"
            direction = f"{path.names[start] or 'edge'}→{towards}"
            if direction in {m.direction for m in found}:
                continue
            x = np.abs(path.cart_distances[points] - path.cart_distances[start])
            y = (energy - curve[points]) if hole else (curve[points] - energy)
            found.append(_fit(x, y, "hole" if hole else "electron", spin, direction))
    return found


def _fit(x: Array, y: Array, carrier: str, spin: str, direction: str) -> BandMass:
    """x: distance from the edge, 1/angstrom with 2 pi; y: energy from the edge, eV, positive away from it."""
    ends = [int(far[0]) if len(far := np.flatnonzero(y > limit)) else len(y) for limit in (FIT_RANGE_EV, WIDEST_FIT_EV)]
    end = max(ends[0], min(FIT_POINTS, ends[1]))
    x, y = x[:end], y[:end]
    bare = BandMass(carrier=carrier, spin=spin, direction=direction, mass=None)
    if len(x) < FIT_POINTS:
        bare.reason = f"{len(x)} points within {WIDEST_FIT_EV:g} eV of the edge, {FIT_POINTS} are needed"
        return bare
    if y.max() < FLAT_EV or y.min() < -FLAT_EV:
        bare.reason = "flat" if y.max() < FLAT_EV else "the edge is no extremum along this direction"
        return bare
    parabola = float((x**2 * y).sum() / (x**4).sum())  # least squares of y = parabola x^2
    r_squared = 1 - float(((y - parabola * x**2) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    bare.fit_range_ev, bare.r_squared = round(float(y.max()), 4), round(r_squared, 4)
    if r_squared < PARABOLIC_R2:
        bare.reason = f"not parabolic: R^2 {r_squared:.3f}, {PARABOLIC_R2} is needed"
        return bare
    # the curvature at the edge itself: the fourth order takes up what bends within the range
    curvature = float(np.linalg.lstsq(np.column_stack([x**2, x**4]), y, rcond=None)[0][0])
    bare.mass = round(HBAR2_OVER_ME / (2 * curvature), 4)
    return bare


def of_pymatgen(structure_bands: Any) -> Bands:
    """From pymatgen's ``BandStructureSymmLine`` (a path) or ``BandStructure`` (a mesh)."""
    from pymatgen.electronic_structure.core import Spin

    k_points = np.array([k.frac_coords for k in structure_bands.kpoints], dtype=float)
    names = {Spin.up: "up", Spin.down: "down"}
    energies = {names[s]: np.array(e, dtype=float).T for s, e in structure_bands.bands.items()}
    branches = getattr(structure_bands, "branches", None)
    if not branches:
        return Bands(k_points, energies)
    branch = np.zeros(len(k_points), dtype=np.int64)
    for number, piece in enumerate(branches):
        branch[piece["start_index"] : piece["end_index"] + 1] = number
    labels = tuple(_label(k.label) for k in structure_bands.kpoints)
    return Bands(k_points, energies, np.array(structure_bands.distance, dtype=float), branch, labels)


def of_path(
    k_points: Array,
    energies: Mapping[str, Array],
    distances: Array | None = None,
    labels: Sequence[tuple[float, str]] = (),
) -> Bands:
    """From plain arrays: k-points (n, 3) and energies (n, n_bands) of each spin; a mesh where no distances are given.

    distances (n,) in 1/angstrom with 2 pi and labels as ``phonons.in_plane_path`` gives them. A labelled point
    inside the path comes twice, as the end of one straight piece and the beginning of the next.
    """
    if distances is None:
        return Bands(k_points, energies)
    names: dict[int, str] = {}
    for distance, name in labels:
        index = int(np.argmin(np.abs(distances - distance)))
        while index in names and index + 1 < len(distances) and np.isclose(distances[index + 1], distance):
            index += 1  # a jump of the path: two points at one distance
        names.setdefault(index, name)
    rows, branch, number, last = [0], [0], 0, len(distances) - 1
    for index in range(1, last + 1):
        jumped = np.isclose(distances[index], distances[index - 1]) and {index, index - 1} <= names.keys()
        number += bool(jumped)
        rows.append(index)
        branch.append(number)
        jumps = index < last and np.isclose(distances[index + 1], distances[index]) and index + 1 in names
        if index in names and index < last and not jumped and not jumps:
            number += 1
            rows.append(index)
            branch.append(number)
    return Bands(
        k_points[rows],
        {spin: values[rows] for spin, values in energies.items()},
        distances[rows],
        np.array(branch, dtype=np.int64),
        tuple(names.get(index, "") for index in rows),
    )


def _label(name: str | None) -> str:
    return "Γ" if name in ("\\Gamma", "GAMMA", "Γ") else (name or "")


def _edge(edge: tuple[str, int, int, bool, float] | None, path: Bands, mesh: Bands | None, zero: float) -> Any:
    if edge is None:
        return None
    spin, k, _, on_path, energy = edge
    source = path if on_path or mesh is None else mesh
    return BandEdge(
        energy_ev=round(energy - zero, 5),
        k_point=[round(float(x), 6) for x in source.k_points[k]],
        label=(path.names[k] or None) if on_path and path.names else None,
        spin=spin,
    )


def bands_document(
    line: Any,
    uniform: Any,
    dos: Any,
    *,
    candidate_id: str,
    campaign: str,
    scheme: str,
    static: StaticSummary,
    spin_orbit: bool = False,
) -> BandsDoc:
    """The bands document of a candidate.

    Parameters
    ----------
    line
        pymatgen's ``BandStructureSymmLine`` on the in-plane path.
    uniform
        pymatgen's ``BandStructure`` on the uniform mesh, or None.
    dos
        pymatgen's ``Dos`` or ``CompleteDos`` of the uniform run, or None.
    candidate_id, campaign, scheme
        What the document is of.
    static
        The static run, for the moments.
    spin_orbit
        Whether the energies have spin-orbit coupling.
    """
    path = of_pymatgen(line)
    mesh = None if uniform is None else of_pymatgen(uniform)
    return document_of_path(
        path,
        mesh,
        float((uniform if uniform is not None else line).efermi),
        None if dos is None else _dos(dos),
        candidate_id=candidate_id,
        campaign=campaign,
        scheme=scheme,
        static=static,
        spin_orbit=spin_orbit,
    )


def document_of_path(
    path: Bands,
    mesh: Bands | None,
    efermi: float,
    dos: DosData | None,
    *,
    candidate_id: str,
    campaign: str,
    scheme: str,
    static: StaticSummary,
    spin_orbit: bool = False,
) -> BandsDoc:
    """The bands document of a candidate from the bands on its path and on a mesh.

    Parameters
    ----------
    path, mesh
        See ``Bands``.
    efermi
        Of the mesh where there is one, eV.
    dos
        Density of states with energies in the program's own zero, or None.
    candidate_id, campaign, scheme
        What the document is of.
    static
        The static run, for the moments.
    spin_orbit
        Whether the energies have spin-orbit coupling.
    """
    gap = find_gap(path, mesh, efermi)
    zero = efermi if gap.vbm is None else gap.vbm[4]
    distances = (path.cart_distances if path.cart_distances is not None else np.arange(len(path.k_points))) / (
        2 * np.pi
    )
    found_masses: list[BandMass] = []
    if gap.vbm is not None and gap.cbm is not None:
        found_masses = [*masses(path, gap.vbm, hole=True), *masses(path, gap.cbm, hole=False)]
    version = static.engine_version
    return BandsDoc(
        candidate_id=candidate_id,
        campaign=campaign,
        energy_scheme=scheme,
        engine_version=version,
        k_points=path.k_points.round(6).tolist(),
        distances=distances.round(6).tolist(),
        labels=[(round(float(d), 6), name) for d, name in zip(distances, path.names, strict=True) if name],
        energies_ev={spin: (e - zero).round(4).tolist() for spin, e in path.energies.items()},
        energy_zero="Fermi level" if gap.vbm is None else "valence band maximum",
        energy_zero_ev=zero,
        efermi_ev=efermi,
        band_gap_ev=round(gap.gap, 5),
        direct_gap_ev=round(gap.direct_gap, 5),
        gap_kind=gap.kind,
        vbm=_edge(gap.vbm, path, mesh, zero),
        cbm=_edge(gap.cbm, path, mesh, zero),
        masses=found_masses,
        dos=None if dos is None else _shifted(dos, zero),
        spin_polarised=len(path.energies) == 2,
        spin_orbit=spin_orbit,
        magnetic=bool(static.magnetic),
        total_magnetization=static.total_magnetization,
        atom_magnetizations=static.atom_magnetizations,
        provenance=made_here(
            engine=scheme if version is None else f"{scheme}, version {version}",
        ),
    )


def _dos(dos: Any) -> DosData:
    from pymatgen.electronic_structure.core import Spin

    names = {Spin.up: "up", Spin.down: "down"}
    return DosData(
        energies_ev=np.array(dos.energies, dtype=float).tolist(),
        densities={names[s]: np.array(d, dtype=float).tolist() for s, d in dos.densities.items()},
    )


def _shifted(dos: DosData, zero: float) -> DosData:
    """The density of states with its energies relative to ``zero`` (eV), rounded."""
    return DosData(
        energies_ev=(np.array(dos.energies_ev) - zero).round(4).tolist(),
        densities={spin: np.array(d).round(5).tolist() for spin, d in dos.densities.items()},
    )
