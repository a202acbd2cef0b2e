"""Crystals as padded tensors, and the Wyckoff tables as tensors. Defines the shape of every tensor of the model.

Names used everywhere: B crystals in a batch, K sites, M points of an orbit, W positions of all 80 groups.
Parameters ``p`` of a site are (x, y, z): in-plane fractions of the conventional cell on the torus and a height in
angstrom; those that the site's position does not have are 0. A lattice is ``exp(s0)`` times a unit shape,
``s = (log sqrt(area), shear, skew)``: the matrix is ``exp(s0) * expm([[s1, s2], [s2, -s1]])`` (rows a, b) for the
rectangular and oblique families and ``exp(s0)`` times the unit square or unit hexagonal cell for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from scdm_models.symmetry.encoding import LayerCrystal, Site, in_plane_matrix
from scdm_models.symmetry.tables import N_GROUPS, first_points, layer_group

MAX_POINTS = 24  # largest multiplicity (general position of p6/mmm)
HEX = in_plane_matrix(1.0, 1.0, 120.0) / np.sqrt(np.sqrt(3) / 2)  # unit area


@dataclass(frozen=True)
class WyckoffTensors:
    """All Wyckoff positions of all groups, stacked; index w counts them group by group from 'a'.

    rotations: (W, M, 3, 3); translations: (W, M, 3); points: (W, M) bool, which of the M exist;
    multiplicity, group: (W,) int; free: (W, 3) bool free variables;
    tangent: (W, 2, 2) rows d(reference position)/d(x), d/d(y); cotangent: (W, 2, 2) its pseudo-inverse, so that
    ``dp = dy @ cotangent`` for a displacement ``dy`` in the unit-area reference cell.
    first: (81,) index of each group's 'a' (first[g - 1] .. first[g]).
    """

    rotations: Tensor
    translations: Tensor
    points: Tensor
    multiplicity: Tensor
    group: Tensor
    free: Tensor
    tangent: Tensor
    cotangent: Tensor
    first: Tensor

    @property
    def n_positions(self) -> int:
        """W."""
        return len(self.multiplicity)


@cache
def wyckoff_tensors() -> WyckoffTensors:
    """The stacked tables (float32, CPU)."""
    rotations, translations, points, multiplicity, group, free, tangent, first = (
        [],
        [],
        [],
        [],
        [],
        [],
        [],
        [0],
    )
    for number in range(1, N_GROUPS + 1):
        tables = layer_group(number)
        reference = HEX if tables.family == "hexagonal" else np.eye(2)
        for position in tables.positions:
            m = position.multiplicity
            rotation, translation = np.zeros((MAX_POINTS, 3, 3)), np.zeros((MAX_POINTS, 3))
            rotation[:m], translation[:m] = position.rotations, position.translations
            flags = np.array([k in position.free for k in range(3)])
            rows = position.rotations[0][:2, :2].T @ reference
            rotations.append(rotation)
            translations.append(translation)
            points.append(np.arange(MAX_POINTS) < m)
            multiplicity.append(m)
            group.append(number)
            free.append(flags)
            tangent.append(np.where(flags[:2, None], rows, 0.0))
        first.append(len(multiplicity))
    tangents = np.array(tangent)

    def real(array: object) -> Tensor:
        return torch.tensor(np.array(array), dtype=torch.float32)

    return WyckoffTensors(
        real(rotations),
        real(translations),
        torch.tensor(np.array(points)),
        torch.tensor(multiplicity),
        torch.tensor(group),
        torch.tensor(np.array(free)),
        real(tangents),
        real(np.linalg.pinv(tangents)),
        torch.tensor(first),
    )


@dataclass
class CrystalBatch:
    """A batch of crystals.

    group: (B,) layer group 1..80; wyckoff: (B, K) position index w (0 where padded); element: (B, K) Z - 1;
    mask: (B, K) bool, real sites; params: (B, K, 3); lattice: (B, 3) s-parameters as in the module docstring,
    with s0 relative to sqrt(area per atom): s0 = log(area / atoms of the conventional cell) / 2.
    """

    group: Tensor
    wyckoff: Tensor
    element: Tensor
    mask: Tensor
    params: Tensor
    lattice: Tensor

    def __len__(self) -> int:
        return len(self.group)

    def to(self, device: torch.device | str) -> CrystalBatch:
        """The batch on another device."""
        return CrystalBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def beside(self, other: CrystalBatch) -> CrystalBatch:
        """The crystals of both, these first."""
        k = max(self.mask.shape[1], other.mask.shape[1])
        parts = []
        for name in self.__dataclass_fields__:
            of_sites = name in ("wyckoff", "element", "mask", "params")
            pair = [getattr(b, name) for b in (self, other)]
            parts.append(torch.cat([_widened(x, k) if of_sites else x for x in pair]))
        return CrystalBatch(*parts)

    def take(self, index: Tensor) -> CrystalBatch:
        """The crystals at ``index`` with padding trimmed to the longest of them."""
        mask = self.mask[index]
        k = int(mask.sum(1).max())
        return CrystalBatch(
            self.group[index],
            self.wyckoff[index, :k],
            self.element[index, :k],
            mask[:, :k],
            self.params[index, :k],
            self.lattice[index],
        )


def _widened(values: Tensor, sites: int) -> Tensor:
    """(B, K, ...) values with zeros for further sites."""
    more = torch.zeros(len(values), sites - values.shape[1], *values.shape[2:], dtype=values.dtype)
    return torch.cat([values, more.to(values.device)], 1)


def n_atoms(wyckoff: Tensor, mask: Tensor) -> Tensor:
    """(B,) atoms of the conventional cell."""
    multiplicity = wyckoff_tensors().multiplicity.to(wyckoff.device)
    return (multiplicity[wyckoff] * mask).sum(1)


def reference_cell(group: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 2, 2) rows of the unit-area reference cell: hexagonal for groups 65-80, square for all others."""
    hexagonal = torch.tensor(HEX, dtype=dtype, device=group.device)
    return torch.where((group >= 65)[:, None, None], hexagonal, torch.eye(2, dtype=dtype, device=group.device))


def lattice_matrix(group: Tensor, lattice: Tensor, atoms: Tensor) -> Tensor:
    """(B, 2, 2) rows a, b in angstrom of the s-parameters ``lattice`` (B, 3), for ``atoms`` (B,) in the cell."""
    s1, s2 = lattice[:, 1], lattice[:, 2]
    radius = torch.sqrt(s1**2 + s2**2 + 1e-12)
    cosh, sinhc = torch.cosh(radius), torch.sinh(radius) / radius
    shape = torch.stack(
        [torch.stack([cosh + sinhc * s1, sinhc * s2], -1), torch.stack([sinhc * s2, cosh - sinhc * s1], -1)],
        -2,
    )
    shape = torch.where((group >= 49)[:, None, None], reference_cell(group, lattice.dtype), shape)
    side = torch.exp(lattice[:, 0]) * torch.sqrt(atoms.to(lattice.dtype))
    return side[:, None, None] * shape


def lattice_free(group: Tensor) -> Tensor:
    """(B, 3) bool: which s-parameters the family leaves free (3, 2 or 1 of them)."""
    one = torch.ones_like(group, dtype=torch.bool)
    return torch.stack([one, group < 49, group < 8], -1)


def _lattice_parameters(crystal: LayerCrystal, atoms: int) -> list[float]:
    a, b, gamma = crystal.lattice
    matrix = in_plane_matrix(a, b, gamma)
    area = abs(float(np.linalg.det(matrix)))
    s0 = 0.5 * float(np.log(area / atoms))
    if crystal.group.family in ("hexagonal", "square"):
        return [s0, 0.0, 0.0]
    values, vectors = np.linalg.eigh(matrix @ matrix.T / area)
    log = vectors @ np.diag(0.5 * np.log(values)) @ vectors.T  # log of the symmetric polar factor
    return [s0, float(log[0, 0]), float(log[0, 1])]


def to_batch(crystals: list[LayerCrystal]) -> CrystalBatch:
    """The padded tensors of the crystals."""
    tables = wyckoff_tensors()
    k_max = max((len(c.sites) for c in crystals), default=0)
    shape = (len(crystals), k_max)
    wyckoff, element = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask, params = torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, 3)
    lattice = torch.zeros(len(crystals), 3)
    for row, crystal in enumerate(crystals):
        group, atoms = crystal.group, 0
        for k, site in enumerate(crystal.sites):
            index = group.index(site.letter)
            position = group.positions[index]
            wyckoff[row, k] = int(tables.first[crystal.layer_group - 1]) + index
            element[row, k] = site.element - 1
            mask[row, k] = True
            params[row, k] = torch.tensor(position_parameters(crystal.layer_group, index, np.array(site.xyz)))
            atoms += position.multiplicity
        lattice[row] = torch.tensor(_lattice_parameters(crystal, atoms))
    groups = torch.tensor([c.layer_group for c in crystals], dtype=torch.long)
    return CrystalBatch(groups, wyckoff, element, mask, params, lattice)


def position_parameters(number: int, index: int, xyz: np.ndarray) -> np.ndarray:
    """(3,) parameters p of a representative ``xyz`` on position ``index`` of a group; the inverse of point 0."""
    parameters = first_points(number).parameters(index, xyz)
    parameters[:2] %= 1.0
    return parameters


def from_batch(batch: CrystalBatch) -> list[LayerCrystal]:
    """The crystals of the tensors."""
    tables = wyckoff_tensors()
    matrices = lattice_matrix(batch.group, batch.lattice.double(), n_atoms(batch.wyckoff, batch.mask)).numpy()
    crystals = []
    for row in range(len(batch)):
        number = int(batch.group[row])
        group, sites = layer_group(number), []
        for k in range(int(batch.mask[row].sum())):
            position = group.positions[int(batch.wyckoff[row, k] - tables.first[number - 1])]
            p = batch.params[row, k].double().numpy()
            x, y, z = position.rotations[0] @ np.where([i in position.free for i in range(3)], p, 0.0)
            x, y = (np.array([x, y]) + position.translations[0][:2]) % 1.0
            sites.append(Site(int(batch.element[row, k]) + 1, position.letter, (float(x), float(y), float(z))))
        rows = matrices[row]
        a, b = (float(np.linalg.norm(r)) for r in rows)
        gamma = {
            "oblique": float(np.rad2deg(np.arccos(rows[0] @ rows[1] / (a * b)))),
            "hexagonal": 120.0,
        }.get(group.family, 90.0)
        if group.family == "rectangular":
            a, b = float(rows[0, 0]), float(rows[1, 1])
        crystals.append(LayerCrystal(number, (a, b, gamma), tuple(sites)))
    return crystals
