"""The networks p_theta: one for the skeleton (elements and letters), one for the geometry (lattice, coordinates).

Both are transformers over the sites of the asymmetric unit with the layer group as condition. The geometry network
sees distances in angstrom from each site to all images of all orbits, and predicts sums over directions to those
images; such sums are equivariant under the group, hence tangent to each Wyckoff set by construction.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scdm_models.model.batch import CrystalBatch, lattice_matrix, n_atoms, reference_cell, wyckoff_tensors
from scdm_models.model.corruption import tangents
from scdm_models.model.elements import MAX_Z, N_FEATURES, element_features
from scdm_models.model.schedules import signal_noise

MASKED_ELEMENT = MAX_Z  # class of a masked element
STABILITY_EDGES = (0.05, 0.1, 0.2, 0.4)  # eV/atom above hull, between the classes of stability
N_STABILITY = len(STABILITY_EDGES) + 1
MOST_CELLS = 2  # beyond the nearest image of an atom, that are looked at for others within the cutoff
CONDITIONS_WIDTH = 2 * MAX_Z + 2 + N_STABILITY


def stability_class(e_above_hull: float | None) -> int:
    """Class 0 (most stable) to N_STABILITY - 1 of an energy above hull in eV/atom; -1 where it is not known."""
    return -1 if e_above_hull is None else bisect_left(STABILITY_EDGES, e_above_hull)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the two networks."""

    width: int = 128
    skeleton_layers: int = 4
    geometry_layers: int = 4
    heads: int = 4
    radial: int = 16
    cutoff_angstrom: float = 6.0
    dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint's header."""
        return asdict(self)


class Block(nn.Module):
    """Pre-norm transformer block; the condition (B, width) shifts, scales and gates (adaptive layer norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(3 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, condition: Tensor, bias: Tensor, messages: Tensor | None = None, site: int | None = None
    ) -> Tensor:
        """h: (B, K, width); bias: (B, heads or 1, K or 1, K), -inf at padded keys; messages: (B, K, width).

        site: the only one that is asked for; the answer is then (B, 1, width). It goes with a bias alike for all
        sites and without messages.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.condition(condition).unsqueeze(1).chunk(6, -1)
        x = self.norm1(h) * (1 + scale1) + shift1
        b, k, d = x.shape
        q, key, v = self.qkv(x).view(b, k, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if site is not None:
            h, q, k = h[:, site : site + 1], q[:, :, site : site + 1], 1
        attention = F.scaled_dot_product_attention(q, key, v, attn_mask=bias)
        x = attention.transpose(1, 2).reshape(b, k, d)
        if messages is not None:
            x = x + messages
        h = h + (1 + gate1) * self.dropout(self.out(x))
        x = self.norm2(h) * (1 + scale2) + shift2
        out: Tensor = h + (1 + gate2) * self.dropout(self.mlp(x))
        return out


def _padding_bias(mask: Tensor) -> Tensor:
    """(B, 1, 1, K): 0 at sites, a large negative number at padding."""
    return torch.where(mask, 0.0, -1e4)[:, None, None, :]


class ElementEmbedding(nn.Module):
    """(..., width) of element classes (...): an embedding of its own plus a linear map of its descriptors."""

    def __init__(self, width: int, extra: int = 0) -> None:
        super().__init__()
        self.own = nn.Embedding(MAX_Z + extra, width)
        self.shared = nn.Linear(N_FEATURES, width, bias=False)
        features = torch.cat([element_features(), torch.zeros(extra, N_FEATURES)])
        self.register_buffer("features", features)  # kept in the checkpoint: the descriptors are part of the model

    def forward(self, element: Tensor) -> Tensor:
        table: Tensor = self.own.weight + self.shared(self.features)
        return table[element]


@dataclass
class Conditions:
    """The condition on composition and stability of each crystal; rows of zeros are no condition.

    allowed: (B, MAX_Z), 1 at the elements that may occur; fractions: (B, MAX_Z) atomic fractions of a formula;
    stability: (B, N_STABILITY), 1 at the class of energy above hull (``stability_class``).
    """

    allowed: Tensor
    fractions: Tensor
    stability: Tensor

    @classmethod
    def none(cls, n: int, device: torch.device | str = "cpu") -> Conditions:
        """No condition for ``n`` crystals."""
        return cls(*(torch.zeros(n, width, device=device) for width in (MAX_Z, MAX_Z, N_STABILITY)))

    def take(self, index: Tensor) -> Conditions:
        """The rows at ``index``."""
        return Conditions(self.allowed[index], self.fractions[index], self.stability[index])

    def beside(self, other: Conditions) -> Conditions:
        """The rows of both, these first."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Conditions(*(torch.cat(pair) for pair in pairs))

    def tensor(self) -> Tensor:
        """(B, CONDITIONS_WIDTH): all three, and a flag for each composition that says whether it is asked for."""
        flags = torch.stack([self.allowed.any(1), self.fractions.any(1)], -1).to(self.allowed.dtype)
        return torch.cat([self.allowed, self.fractions, flags, self.stability], -1)


class SkeletonNetwork(nn.Module):
    """Logits of masked elements and letters, given the others, layer group, number of sites and ``Conditions``."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.width
        n_positions = wyckoff_tensors().n_positions
        self.masked_letter = n_positions
        self.element = ElementEmbedding(d, extra=1)
        self.wish = nn.Linear(CONDITIONS_WIDTH, d, bias=False)  # its name in checkpoints
        self.letter = nn.Embedding(n_positions + 1, d)
        self.letter_kind = nn.Linear(6, d)  # what letters of different groups have in common
        self.group = nn.Embedding(81, d)
        self.count = nn.Embedding(64, d)
        self.level = nn.Linear(4, d)
        self.blocks = nn.ModuleList([Block(d, config.heads, config.dropout) for _ in range(config.skeleton_layers)])
        self.norm = nn.LayerNorm(d)
        self.element_head = nn.Linear(d, MAX_Z)
        self.element_query = nn.Linear(d, N_FEATURES)  # scores the descriptors, so that alike elements share
        self.letter_head = nn.Linear(d, n_positions)
        tables = wyckoff_tensors()
        in_group = tables.multiplicity / tables.multiplicity[tables.first[tables.group] - 1]
        kind = torch.cat(
            [
                tables.free.float(),
                tables.multiplicity.float().log()[:, None],
                in_group[:, None],
                torch.zeros(n_positions, 1),
            ],
            -1,
        )
        kind = torch.cat([kind, torch.tensor([[0.0, 0, 0, 0, 0, 1.0]])])
        self.register_buffer("kind", kind, persistent=False)
        legal = tables.group[None, :] == torch.arange(81)[:, None]
        self.register_buffer("legal", legal, persistent=False)  # (81, W)

    def forward(
        self,
        group: Tensor,
        element: Tensor,
        letter: Tensor,
        mask: Tensor,
        conditions: Conditions | None = None,
        site: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, K, MAX_Z) element logits and (B, K, W) letter logits; letters illegal in the group get -inf.

        element, letter: (B, K) class indices, ``MASKED_ELEMENT`` and ``masked_letter`` where unknown. site: the only
        one that is asked for; the logits then have the shape of K = 1.
        """
        counts = mask.sum(1)
        fraction = torch.stack(
            [
                ((element == MASKED_ELEMENT) & mask).sum(1) / counts,
                ((letter == self.masked_letter) & mask).sum(1) / counts,
                counts / 10,
                1 / counts,
            ],
            -1,
        )
        kind: Tensor = self.kind  # type: ignore[assignment]
        condition = self.group(group) + self.count(counts) + self.level(fraction)
        if conditions is not None:
            condition = condition + self.wish(conditions.tensor())
        h = self.element(element) + self.letter(letter) + self.letter_kind(kind[letter]) + self.group(group)[:, None]
        bias = _padding_bias(mask)
        condition = F.silu(condition)
        for block in self.blocks[:-1]:
            h = block(h, condition, bias)
        h = self.norm(self.blocks[-1](h, condition, bias, site=site))
        legal: Tensor = self.legal  # type: ignore[assignment]
        letters = self.letter_head(h).masked_fill(~legal[group][:, None, :], -torch.inf)
        descriptors: Tensor = self.element.features[:MAX_Z]  # type: ignore[index]
        return self.element_head(h) + self.element_query(h) @ descriptors.T, letters


@dataclass
class Geometry:
    """Pooled pair geometry of a batch.

    scalar: (B, K, K, R) sum over the images of orbit j around site i of radial functions;
    vector: (B, K, K, R, 3) the same times the direction (x, y in the frame of the lattice rows, z);
    tensor: (B, K, K, R, 3) the same times (xx, yy, xy) of the direction.
    """

    scalar: Tensor
    vector: Tensor
    tensor: Tensor


@dataclass
class Neighbours:
    """All pairs (representative of site i, image of an atom) of a batch within a cutoff, E of them.

    row, site, owner: (E,) crystal, site i and the site whose orbit the atom belongs to; vector: (E, 3) from the
    representative to the image, angstrom, x and y in the frame of the lattice rows.
    """

    row: Tensor
    site: Tensor
    owner: Tensor
    vector: Tensor


@torch.no_grad()
def neighbours(batch: CrystalBatch, matrix: Tensor, cutoff: float) -> Neighbours:
    """Pairs within ``cutoff`` angstrom (in-plane images up to ``MOST_CELLS`` beyond the nearest); matrix: (B, 2, 2)."""
    tables = wyckoff_tensors()
    device = batch.params.device
    w = batch.wyckoff
    b, k = w.shape
    m = int(tables.multiplicity.to(device)[w].max())
    rotation, translation = tables.rotations.to(device)[w, :m], tables.translations.to(device)[w, :m]
    exists = tables.points.to(device)[w, :m] & batch.mask.unsqueeze(-1)  # (B, K, m)
    points = torch.einsum("bkmij,bkj->bkmi", rotation, batch.params * tables.free.to(device)[w]) + translation
    # atoms of each crystal side by side: (B, N)
    atoms = exists.flatten(1)
    n = int(atoms.sum(1).max())
    order = torch.argsort(atoms.to(torch.int8), dim=1, descending=True, stable=True)[:, :n]
    present = torch.gather(atoms, 1, order)
    position = torch.gather(points.flatten(1, 2), 1, order.unsqueeze(-1).expand(b, n, 3))
    owner = order // m  # site of each atom
    delta = position[:, None] - points[:, :, None, 0]  # (B, K, N, 3)
    delta[..., :2] -= torch.round(delta[..., :2])
    shifts = _images(matrix, cutoff) @ matrix  # (B, S, 2)
    flat = (delta[..., :2] @ matrix[:, None]).unsqueeze(-2) + shifts[:, None, None]  # (B, K, N, S, 2)
    squared = (flat**2).sum(-1) + delta[..., 2].unsqueeze(-1) ** 2
    itself = (owner[:, None, :] == torch.arange(k, device=device)[None, :, None]).unsqueeze(-1) & (squared < 1e-6)
    inside = (squared < cutoff**2) & ~itself & (present[:, None] & batch.mask[:, :, None]).unsqueeze(-1)
    row, site, atom, image = inside.nonzero(as_tuple=True)
    vector = torch.cat([flat[row, site, atom, image], delta[row, site, atom, 2].unsqueeze(-1)], -1)
    return Neighbours(row, site, owner[row, atom], vector)


def _images(matrix: Tensor, cutoff: float) -> Tensor:
    """(S, 2) cells, at most ``MOST_CELLS`` away, in which an image may be within ``cutoff`` in some crystal.

    matrix: (B, 2, 2); one that is no number asks for all of these cells.
    """
    area = torch.linalg.det(matrix).abs()
    spacings = area[:, None] / matrix.norm(dim=-1).flip(-1)  # (B, 2) of the lines that a step along a, b crosses
    most = (cutoff / spacings.amin(0) + 0.5).floor().clamp(max=MOST_CELLS).nan_to_num(MOST_CELLS).tolist()
    return torch.cartesian_prod(*(torch.arange(-reach, reach + 1.0, device=matrix.device) for reach in most))


@torch.no_grad()
def pair_geometry(batch: CrystalBatch, matrix: Tensor, radial: int, cutoff: float) -> Geometry:
    """Radial sums over all images within ``cutoff`` angstrom.

    Only pairs inside the cutoff are ever expanded in radial functions. No gradient: the geometry is an input.
    matrix: (B, 2, 2) rows a, b in angstrom.
    """
    device = batch.params.device
    b, k = batch.wyckoff.shape
    pairs = neighbours(batch, matrix, cutoff)
    squared = (pairs.vector**2).sum(-1)
    distance = torch.sqrt(squared + 1e-4)
    envelope = 0.5 * (1 + torch.cos(math.pi * (distance / cutoff).clamp(max=1)))
    centres = torch.linspace(0.3, cutoff - 0.3, radial, device=device)
    gamma = 1.0 / (centres[1] - centres[0]) ** 2
    values = torch.exp(-gamma * (distance.unsqueeze(-1) - centres) ** 2) * envelope.unsqueeze(-1)  # (E, R)
    unit = pairs.vector / torch.sqrt(squared + 0.01).unsqueeze(-1)
    x, y = unit[:, 0], unit[:, 1]
    products = torch.stack([torch.ones_like(x), x, y, unit[:, 2], x * x, y * y, x * y], -1)  # (E, 7)
    pair = (pairs.row * k + pairs.site) * k + pairs.owner
    pooled = torch.zeros(b * k * k, radial * 7, device=device)
    pooled.index_add_(0, pair, (values.unsqueeze(-1) * products.unsqueeze(-2)).flatten(1))
    pooled = pooled.view(b, k, k, radial, 7)
    return Geometry(pooled[..., 0], pooled[..., 1:4], pooled[..., 4:7])


class GeometryNetwork(nn.Module):
    """Predicts the normalised targets of ``corruption.corrupt`` from a noisy crystal of known skeleton."""

    channels = 16

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        d, r, c = config.width, config.radial, self.channels
        self.element = ElementEmbedding(d)
        self.letter = nn.Embedding(wyckoff_tensors().n_positions, d)
        self.group = nn.Embedding(81, d)
        self.time = nn.Sequential(nn.Linear(32, d), nn.SiLU(), nn.Linear(d, d))
        self.cell = nn.Linear(6, d)
        self.height = nn.Linear(4, d)
        self.blocks = nn.ModuleList()
        self.pair_bias = nn.ModuleList()
        self.filters = nn.ModuleList()
        self.neighbours = nn.ModuleList()
        self.vector_filters = nn.ModuleList()
        self.vector_out = nn.ModuleList()
        for _ in range(config.geometry_layers):
            self.blocks.append(Block(d, config.heads, 0.0))  # the noise regularises enough
            self.pair_bias.append(nn.Linear(r, config.heads))
            self.filters.append(nn.Linear(r, d, bias=False))
            self.neighbours.append(nn.Linear(d, d))
            self.vector_filters.append(nn.Linear(d, c * r))
            self.vector_out.append(nn.Linear(2 * c + r, d))
        self.norm = nn.LayerNorm(d)
        self.pair_left, self.pair_right = nn.Linear(d, d), nn.Linear(d, d)
        self.pair_head = nn.Linear(d, 4 * r)  # plane, height, trace, deviator
        self.site_gate = nn.Linear(d, 2)
        self.lattice_head = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, 1))
        self.lattice_scale = nn.Linear(d, 2)
        nn.init.zeros_(self.pair_head.bias)

    def forward(self, noisy: CrystalBatch, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, 2) in-plane, (B, K) height and (B, 3) lattice predictions; see ``corruption.corrupt``."""
        config = self.config
        tables = wyckoff_tensors()
        atoms = n_atoms(noisy.wyckoff, noisy.mask)
        matrix = lattice_matrix(noisy.group, noisy.lattice, atoms)
        geometry = pair_geometry(noisy, matrix, config.radial, config.cutoff_angstrom)
        frequencies = torch.exp(torch.linspace(0.0, 4.0, 16, device=t.device))
        phase = t[:, None] * frequencies
        cell = torch.cat([noisy.lattice, atoms.log()[:, None], torch.stack(signal_noise(t), -1)], -1)
        condition = self.time(torch.cat([phase.sin(), phase.cos()], -1)) + self.group(noisy.group) + self.cell(cell)
        z = noisy.params[..., 2:3]
        multiplicity = tables.multiplicity.to(t.device)[noisy.wyckoff].to(t.dtype).unsqueeze(-1)
        heights = torch.cat([z.abs(), z**2 / 4, torch.exp(-(z**2)), multiplicity.log()], -1)
        h = self.element(noisy.element) + self.letter(noisy.wyckoff) + self.height(heights)
        condition = F.silu(condition)
        padding = _padding_bias(noisy.mask)
        b, k = noisy.wyckoff.shape
        c, r = self.channels, config.radial
        # sums over neighbours j and radial functions r are one matrix product per crystal: (j r) is a single axis
        by_site = geometry.scalar.reshape(b, k, k * r)
        by_axis = geometry.vector.permute(0, 2, 3, 1, 4).reshape(b, k * r, k * 3)
        pair = torch.log1p(geometry.scalar)
        crowding = pair.sum(2)
        for block, bias, filters, neighbours, vector_filters, vector_out in zip(
            self.blocks,
            self.pair_bias,
            self.filters,
            self.neighbours,
            self.vector_filters,
            self.vector_out,
            strict=True,
        ):
            attention_bias = bias(pair).permute(0, 3, 1, 2) + padding
            filtered = (neighbours(h)[:, :, None] * filters.weight.T.contiguous()).reshape(b, k * r, -1)
            messages = by_site @ filtered / 4
            weights = vector_filters(F.silu(h)).view(b, k, c, r).transpose(1, 2).reshape(b, c, k * r)
            vectors = (weights @ by_axis).view(b, c, k, 3).transpose(1, 2)
            flat = vectors[..., :2].pow(2).sum(-1)
            invariants = torch.cat([(flat + 1e-6).sqrt(), vectors[..., 2].abs(), crowding], -1)
            h = block(h, condition, attention_bias, messages + vector_out(invariants))
        h = self.norm(h)
        pairs = F.silu(self.pair_left(h)[:, :, None] + self.pair_right(h)[:, None])
        plane_w, height_w, trace_w, deviator_w = self.pair_head(pairs).chunk(4, -1)
        vector_plane = torch.einsum("bijr,bijrx->bix", plane_w, geometry.vector[..., :2])
        area = torch.linalg.det(matrix).abs()
        to_reference = torch.linalg.inv(matrix) @ reference_cell(noisy.group, matrix.dtype)
        reference = (vector_plane @ to_reference) * area.sqrt()[:, None, None]
        plane = self._project(reference, noisy)
        height = torch.einsum("bijr,bijr->bi", height_w, geometry.vector[..., 2])
        height = height + self.site_gate(h)[..., 0] * z.squeeze(-1)
        weight = multiplicity * noisy.mask.unsqueeze(-1) / atoms[:, None, None]
        trace = torch.einsum("bijr,bijr->bi", trace_w, geometry.tensor[..., 0] + geometry.tensor[..., 1])
        shear = torch.einsum("bijr,bijr->bi", deviator_w, geometry.tensor[..., 0] - geometry.tensor[..., 1])
        skew = torch.einsum("bijr,bijr->bi", deviator_w, 2 * geometry.tensor[..., 2])
        pooled = (h * weight).sum(1)
        scale = self.lattice_scale(pooled)
        strain = torch.stack([trace, shear, skew], -1)
        lattice = (strain * weight).sum(1)
        lattice = lattice + torch.cat([self.lattice_head(pooled), scale[:, :1] * noisy.lattice[:, 1:]], -1)
        return plane, height, lattice

    @staticmethod
    def _project(reference: Tensor, noisy: CrystalBatch) -> Tensor:
        """Reference-cell displacements of representatives (B, K, 2) -> their part along the free directions."""
        tangent, cotangent, free = tangents(noisy)
        # the tangent's rows span the free directions, so cotangent @ tangent projects on them
        step = (reference.unsqueeze(-2) @ cotangent).squeeze(-2)
        return (torch.where(free[..., :2], step, 0.0).unsqueeze(-2) @ tangent).squeeze(-2)
