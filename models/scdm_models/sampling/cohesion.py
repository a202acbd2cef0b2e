"""Cohesion guidance: closes the gaps of a crystal that is not one connected layer, along its free directions.

A spanning net over the atoms and their images (Kruskal's algorithm, shortest relative distance first, until one
component extends in two dimensions) gives the gaps: its edges that are too long for a bond. One Gauss-Newton step then
shortens these, and all that the group maps them to, while it keeps the lengths of the bonds that exist. It moves only
free coordinates and free lattice parameters, as the reverse diffusion does, so the group stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Element

from scdm_models.model.batch import CrystalBatch, lattice_free, lattice_matrix, n_atoms, wyckoff_tensors
from scdm_models.model.corruption import centre_heights
from scdm_models.model.elements import MAX_Z
from scdm_models.symmetry.lattice import covalent_radii

Array = NDArray[np.float64]
REACH = 4.0  # pairs farther apart than this times the sum of their covalent radii are never a gap to close
BOND_LENGTH = 1.05  # a closed gap's length over the sum of covalent radii
STIFFNESS = 0.5  # weight of a bond that should keep its length, against 1 of a gap that should close
CONTACT = 0.78  # as in ``guidance``: pairs closer than this times the radii are pushed apart in the same step
RIDGE = 0.02
LARGEST_MOVE = 0.5  # angstrom in one step
# Over the sum of covalent radii: a layer's shortest distance, and the longest bond that it needs to hold together. With
# the exceptions below, 97.4 % of the 9,366 one-layer entries of C2DB and 2DMatPedia are within both (95.5 % at 15 atoms
# or more). Relaxed by CHGNet, 94 % of the draws within both stayed one layer, and 28 of 49 that need bonds of 1.25 to
# 1.3. Most of the other short bonds are those of poor draws: with a shortest of 0.7 to 0.8, 5 % of the draws relaxed to
# one layer within 0.1 eV/atom of the hull, and 21 % of the draws with 0.8 or more.
SHORTEST, LONGEST = 0.8, 1.25
SHORTEST_OXO = 0.7  # oxygen's multiple bonds to the d metals of groups 4 to 8: V=O is 1.6 of 2.19 angstrom
SHORTEST_METALS = 0.75  # s, d and f metals with each other
SHORTEST_CYANIDE = 0.78  # carbon with nitrogen: 1.16 of 1.47 angstrom
SAME = 0.02  # pairs of the same two sites whose lengths differ by less (angstrom) are equivalent
_IMAGES = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)], dtype=float)


@cache
def shortest_ratios() -> Array:
    """(MAX_Z, MAX_Z) shortest distance of each pair of element classes, over the sum of their covalent radii."""
    elements = [Element.from_Z(z) for z in range(1, MAX_Z + 1)]
    metal = np.array([e.block in "sdf" and e.symbol not in ("H", "He") for e in elements])
    oxo = np.array([e.block == "d" and 4 <= e.group <= 8 for e in elements])
    carbon, nitrogen, oxygen = (np.array([e.symbol == symbol for e in elements]) for symbol in ("C", "N", "O"))
    ratios = np.full((MAX_Z, MAX_Z), SHORTEST)
    for first, second, ratio in (
        (metal, metal, SHORTEST_METALS),
        (oxo, oxygen, SHORTEST_OXO),
        (carbon, nitrogen, SHORTEST_CYANIDE),
    ):
        pairs = np.outer(first, second)
        ratios[pairs | pairs.T] = ratio
    return ratios


@dataclass
class _Atoms:
    """The atoms of one conventional cell: (N,) site, (N,) element class, (N, 3, 3) rotation, (N, 3) position (fractions
    and angstrom), (N,) covalent radius; (K,) index of each site's first atom; (2, 2) rows a, b."""

    site: NDArray[np.int64]
    element: NDArray[np.int64]
    rotation: Array
    position: Array
    radius: Array
    first: NDArray[np.int64]
    matrix: Array


class _Net:
    """Components of a periodic graph, and how far each extends."""

    def __init__(self, n: int) -> None:
        self.label = np.arange(n)
        self.offset = np.zeros((n, 2), dtype=np.int64)  # cell in which the component's copy of an atom lies
        self.cycles: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        self.n_components = n

    def add(self, i: int, j: int, shift: tuple[int, int]) -> bool:
        """Adds the bond from atom i to the image of j in the cell ``shift``; whether it connected anything."""
        a, b = self.label[i], self.label[j]
        u = int(self.offset[i, 0] + shift[0] - self.offset[j, 0])
        v = int(self.offset[i, 1] + shift[1] - self.offset[j, 1])
        if a == b:
            return self._cycle(a, (u, v))
        moved = self.label == b
        self.offset[moved] += (u, v)
        self.label[moved] = a
        for cycle in self.cycles[b]:
            self._cycle(a, cycle)
        self.n_components -= 1
        return True

    def _cycle(self, label: int, cycle: tuple[int, int]) -> bool:
        known = self.cycles[label]
        new = cycle != (0, 0) and (
            not known or (len(known) == 1 and known[0][0] * cycle[1] - known[0][1] * cycle[0] != 0)
        )
        if new:
            known.append(cycle)
        return new

    @property
    def one_layer(self) -> bool:
        """Whether it is one component that extends in two dimensions."""
        return self.n_components == 1 and len(self.cycles[self.label[0]]) == 2


def _atoms(batch: CrystalBatch, row: int, matrix: Array) -> _Atoms:
    tables = wyckoff_tensors()
    sites = int(batch.mask[row].sum())
    w = batch.wyckoff[row, :sites]
    counts = tables.multiplicity[w].numpy()
    site = np.repeat(np.arange(sites), counts)
    exists = tables.points[w].numpy()
    rotation = tables.rotations[w].numpy()[exists].astype(float)
    translation = tables.translations[w].numpy()[exists].astype(float)
    parameters = (batch.params[row, :sites] * tables.free[w]).double().numpy()
    position = np.einsum("nij,nj->ni", rotation, parameters[site]) + translation
    element = batch.element[row, :sites].numpy()[site]
    first = np.cumsum(counts) - counts
    return _Atoms(site, element, rotation, position, covalent_radii(element + 1), first, matrix)


def _pairs(atoms: _Atoms) -> tuple[Array, Array, NDArray[np.int64]]:
    """(N, N, 25, 3) vectors i -> image of j in angstrom, their (N, N, 25) lengths over the sum of the radii (infinite
    for an atom and itself) and the (N, N, 25, 2) cells of the images."""
    delta = atoms.position[None] - atoms.position[:, None]
    home = -np.round(delta[..., :2])
    cells = home[:, :, None] + _IMAGES
    flat = (delta[..., None, :2] + cells) @ atoms.matrix
    vector = np.concatenate([flat, np.broadcast_to(delta[..., None, 2:], (*flat.shape[:-1], 1))], -1)
    length = np.sqrt((vector**2).sum(-1))
    ratio = length / (atoms.radius[:, None] + atoms.radius)[..., None]
    ratio[length < 1e-3] = np.inf
    return vector, ratio, cells.astype(np.int64)


def _gaps(atoms: _Atoms, ratio: Array, cells: NDArray[np.int64]) -> list[tuple[int, int, float]] | None:
    """(site, site, length) of the bonds a spanning net needs beyond those up to ``LONGEST``; empty for one layer.

    None where those up to ``REACH`` make none.
    """
    n = len(atoms.site)
    upper = np.triu(np.ones((n, n), dtype=bool))[..., None] & (ratio < REACH)
    i, j, image = np.nonzero(upper)
    order = np.argsort(ratio[i, j, image], kind="stable")
    i, j, image = i[order], j[order], image[order]
    value = ratio[i, j, image]
    net = _Net(n)
    shifts = cells[i, j, image]
    bonded = int(np.searchsorted(value, LONGEST))
    gaps = []
    for k, (a, b, shift) in enumerate(zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True)):
        if net.one_layer:
            break
        if net.add(a, b, tuple(shift)) and k >= bonded:
            length = float(value[k] * (atoms.radius[a] + atoms.radius[b]))
            gaps.append((int(atoms.site[a]), int(atoms.site[b]), length))
    return gaps if net.one_layer else None


def _step(
    atoms: _Atoms, vector: Array, ratio: Array, gaps: list[tuple[int, int, float]], strain: Array, free: Array
) -> tuple[Array, Array]:
    """Changes of the (K, 3) parameters and of the (3,) lattice parameters.

    strain: (3, 2, 2) derivatives of the matrix; free: (K + 1, 3) flags, the lattice's in the last row.
    """
    sites = len(atoms.first)
    rows = atoms.first  # by symmetry the first atom of each site sees all there is to see
    vector, ratio = vector[rows], ratio[rows]
    radii = (atoms.radius[rows, None] + atoms.radius)[..., None]
    length = ratio * radii
    wanted = np.zeros_like(ratio)
    weight = np.where(ratio < LONGEST, STIFFNESS, 0.0)
    tight = ratio < CONTACT
    weight[tight], wanted[tight] = 1.0, (CONTACT * radii - length)[tight]
    for a, b, gap in gaps:
        for one, other in {(a, b), (b, a)}:
            same = (atoms.site == other)[:, None] & (np.abs(length[one] - gap) < SAME)
            weight[one][same] = 1.0
            wanted[one][same] = (BOND_LENGTH * radii[one] - length[one])[same]
    s, j, image = np.nonzero(weight)
    unit = vector[s, j, image] / length[s, j, image][:, None]
    e = np.arange(len(s))

    def columns(atom: NDArray[np.int64]) -> Array:
        """(E, 3) change of the length with the parameters of an atom's site."""
        moved = np.einsum("eic,ik,ek->ec", atoms.rotation[atom][:, :2, :2], atoms.matrix, unit[:, :2])
        return np.column_stack([moved, atoms.rotation[atom][:, 2, 2] * unit[:, 2]])

    jacobian = np.zeros((len(s), sites + 1, 3))
    jacobian[e, atoms.site[j]] += columns(j)
    jacobian[e, s] -= columns(rows[s])
    fractions = vector[s, j, image][:, :2] @ np.linalg.inv(atoms.matrix)
    jacobian[:, sites] = np.einsum("ei,kij,ej->ek", fractions, strain, unit[:, :2])
    # in angstrom: what a unit of each parameter moves
    plane_scale = np.linalg.norm(np.einsum("kic,ij->kcj", atoms.rotation[rows][:, :2, :2], atoms.matrix), axis=-1)
    scale = np.ones((sites + 1, 3))
    scale[:sites, :2] = np.maximum(plane_scale, 1e-3)
    scale[sites] = np.sqrt(abs(np.linalg.det(atoms.matrix)))
    rows_of = (jacobian / scale * free).reshape(len(s), -1)
    w = weight[s, j, image]
    normal = (rows_of * w[:, None]).T @ rows_of + RIDGE * np.eye(rows_of.shape[1])
    target = np.clip(wanted[s, j, image], -1.0, 1.0)
    move = np.linalg.solve(normal, rows_of.T @ (w * target)).reshape(sites + 1, 3)
    move *= LARGEST_MOVE / max(LARGEST_MOVE, float(np.abs(move).max()))
    move = move / scale * free
    return move[:sites], move[sites]


@torch.no_grad()
def bonded_layers(batch: CrystalBatch) -> torch.Tensor:
    """(B,) whether bonds of at most ``LONGEST`` make each crystal one layer and no atoms are closer than
    ``shortest_ratios``.

    Batches on the CPU only.
    """
    matrices = lattice_matrix(batch.group, batch.lattice.double(), n_atoms(batch.wyckoff, batch.mask)).numpy()
    good = []
    for row in range(len(batch)):
        atoms = _atoms(batch, row, matrices[row])
        _, ratio, cells = _pairs(atoms)
        shortest = shortest_ratios()[atoms.element[:, None], atoms.element]
        good.append(bool((ratio >= shortest[..., None]).all()) and _gaps(atoms, ratio, cells) == [])
    return torch.tensor(good)


@torch.no_grad()
def pull_together(batch: CrystalBatch) -> tuple[CrystalBatch, torch.Tensor]:
    """One step for each crystal that is not one connected layer, and (B,) which ones these were.

    The others come back unchanged. Batches on the CPU only.
    """
    atoms_of = n_atoms(batch.wyckoff, batch.mask)
    lattice = batch.lattice.double()
    matrices = lattice_matrix(batch.group, lattice, atoms_of)
    allowed = lattice_free(batch.group)
    epsilon = 1e-4
    strains = torch.stack(
        [
            (lattice_matrix(batch.group, lattice + epsilon * row, atoms_of) - matrices) / epsilon
            for row in torch.eye(3, dtype=lattice.dtype)
        ],
        1,
    )
    params, lattice = batch.params.clone(), batch.lattice.clone()
    open_ = torch.zeros(len(batch), dtype=torch.bool)
    free = wyckoff_tensors().free[batch.wyckoff]
    for row in range(len(batch)):
        atoms = _atoms(batch, row, matrices[row].numpy())
        vector, ratio, cells = _pairs(atoms)
        gaps = _gaps(atoms, ratio, cells)
        if not gaps:
            continue
        open_[row] = True
        sites = len(atoms.first)
        flags = torch.cat([free[row, :sites], allowed[row][None]]).double().numpy()
        move, strain = _step(atoms, vector, ratio, gaps, strains[row].numpy(), flags)
        params[row, :sites] += torch.from_numpy(move).to(params.dtype)
        lattice[row] += torch.from_numpy(strain).to(lattice.dtype)
    plane = torch.where(free[..., :2] & batch.mask.unsqueeze(-1), params[..., :2] % 1.0, batch.params[..., :2])
    moved = CrystalBatch(batch.group, batch.wyckoff, batch.element, batch.mask, params, lattice)
    height = torch.where(open_[:, None], centre_heights(params[..., 2], moved), batch.params[..., 2])
    moved.params = torch.cat([torch.where(open_[:, None, None], plane, batch.params[..., :2]), height[..., None]], -1)
    return moved, open_
