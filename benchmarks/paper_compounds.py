"""Writes ``launchpad/structures/paper-compounds.jsonl``: layers of the six compounds of Fig. 6 in plausible prototypes.

    python benchmarks/paper_compounds.py

The paper (Xu et al., doi:10.1021/acs.jpcc.4c08681) names NiS2, ZnS2, Nb2S2, V2S2, Cu2S2 and Ti2Te2 and gives no
coordinates, so each is set up in the layer prototypes that its composition is known in. A prototype is a layer group
with Wyckoff positions; its lengths follow from one bond length, as a regular octahedron, prism, tetrahedron or square
has them, and from one metal-metal distance where there is such a bond. Relaxation does the rest.

The file is packaged as data and read like any other file of structures; no command makes layers in this way, so this is
how the file was made and no part of the package. A test compares both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from scdm_models.symmetry.tables import layer_group

OUT = Path(__file__).resolve().parents[1] / "launchpad" / "structures" / "paper-compounds.jsonl"
HEIGHT = 25.0  # c, angstrom
# metal -> bond to the anion in a bulk compound (NiS2, ZnS, NbS2, VS2, CuS, TiTe2), nearest metals in the element;
# angstrom
BONDS = {
    "Ni": (2.40, 2.49),
    "Zn": (2.34, 2.66),
    "Nb": (2.47, 2.86),
    "V": (2.37, 2.62),
    "Cu": (2.30, 2.56),
    "Ti": (2.77, 2.90),
}
# a site: M or X, Wyckoff letter, x and y in fractions, z in angstrom; values of fixed coordinates do not matter
Site = tuple[str, str, tuple[float, float, float]]
Prototype = tuple[str, int, tuple[float, float], list[Site]]  # words, layer group, a and b in angstrom, sites


def octahedra(d: float, m: float) -> Prototype:
    """1T: edge-sharing octahedra."""
    a = sqrt(2) * d
    return "octahedra, CdI2", 72, (a, a), [("M", "a", (0, 0, 0)), ("X", "c", (0, 0, d / sqrt(3)))]


def prisms(d: float, m: float) -> Prototype:
    """1H: trigonal prisms, a/d as in MoS2."""
    a = 1.31 * d
    return "trigonal prisms, MoS2", 78, (a, a), [("M", "a", (0, 0, 0)), ("X", "e", (0, 0, sqrt(d * d - a * a / 3)))]


def distorted(d: float, m: float) -> Prototype:
    """1T': octahedra whose metals pair up into chains, as in WTe2."""
    a, z = sqrt(2) * d, d / sqrt(3)
    sites: list[Site] = [
        ("M", "c", (0, 0.25 - 0.04, 0.05)),
        ("X", "c", (0, 7 / 12, 1.1 * z)),
        ("X", "c", (0, -1 / 12, -0.9 * z)),
    ]
    return "octahedra in chains, WTe2", 15, (a, sqrt(3) * a), sites


def pentagons(d: float, m: float) -> Prototype:
    """Puckered pentagons: squares of anions that come in pairs; lengths as in PdSe2, where d = 2.445 angstrom."""
    scale = d / 2.445
    sites: list[Site] = [("M", "a", (0, 0, 0)), ("X", "c", (-0.389, 0.118, -0.727 * scale))]
    return "puckered pentagons, PdSe2", 17, (5.74 * scale, 5.92 * scale), sites


def flat_pentagons(d: float, m: float) -> Prototype:
    """Flat pentagons, as in NiN2: planar squares of anions in pairs of 2.1 angstrom for sulphur."""
    x = 0.13
    a = d / sqrt((0.5 - x) ** 2 + x**2)
    return "flat pentagons, NiN2", 63, (a, a), [("M", "a", (0, 0, 0)), ("X", "e", (x, x + 0.5, 0))]


def corner_tetrahedra(d: float, m: float) -> Prototype:
    """Corner-sharing regular tetrahedra."""
    a = 2 * sqrt(2 / 3) * d
    return "corner-sharing tetrahedra, HgI2", 59, (a, a), [("M", "a", (0, 0, 0)), ("X", "e", (0, 0, d / sqrt(3)))]


def edge_tetrahedra(d: float, m: float) -> Prototype:
    """Edge-sharing tetrahedra; a/d as in FeSe."""
    a = 1.58 * d
    sites: list[Site] = [("M", "a", (0, 0, 0)), ("X", "b", (0, 0, sqrt(d * d - a * a / 4)))]
    return "edge-sharing tetrahedra, FeSe", 64, (a, a), sites


def _paired(d: float, m: float) -> tuple[float, float, float]:
    """a, height of the metals and of the anions where metals pair across the middle; a/d as in GaSe."""
    a = 1.53 * d
    return a, m / 2, m / 2 + sqrt(d * d - a * a / 3)


def paired_prisms(d: float, m: float) -> Prototype:
    """X-M-M-X, anions above each other."""
    a, inner, outer = _paired(d, m)
    return "X-M-M-X, prisms, GaSe", 78, (a, a), [("M", "d", (0, 0, inner)), ("X", "e", (0, 0, outer))]


def paired_antiprisms(d: float, m: float) -> Prototype:
    """X-M-M-X, anions staggered."""
    a, inner, outer = _paired(d, m)
    return "X-M-M-X, antiprisms, GaSe", 72, (a, a), [("M", "b", (0, 0, inner)), ("X", "c", (0, 0, outer))]


def double_honeycomb(d: float, m: float) -> Prototype:
    """Two buckled honeycombs on each other, each atom in a regular tetrahedron."""
    a = 2 * sqrt(2 / 3) * d
    return "two buckled honeycombs, CuI", 72, (a, a), [("M", "c", (0, 0, d / 3)), ("X", "c", (0, 0, -2 * d / 3))]


def puckered(d: float, m: float) -> Prototype:
    """Puckered like black phosphorus."""
    a, b = 1.5 * d, 1.945 * d
    sites: list[Site] = [("M", "a", (0, 0.08, 0.475 * d)), ("X", "a", (0, -0.08, -0.475 * d))]
    return "puckered, GeS", 32, (a, b), sites


def rocksalt(d: float, m: float) -> Prototype:
    """Two square nets of rocksalt."""
    a = sqrt(2) * d
    return "two nets of rocksalt, PbTe", 64, (a, a), [("M", "b", (0, 0, d / 2)), ("X", "b", (0, 0, -d / 2))]


def nickel_arsenide(d: float, m: float) -> Prototype:
    """Four planes of NiAs: octahedra sharing faces."""
    a, step = sqrt(2) * d, d / sqrt(3)
    sites: list[Site] = [
        ("M", "a", (0, 0, -1.5 * step)),
        ("X", "b", (0, 0, -0.5 * step)),
        ("M", "a", (0, 0, 0.5 * step)),
        ("X", "c", (0, 0, 1.5 * step)),
    ]
    return "four planes of NiAs", 69, (a, a), sites


def honeycomb(d: float, m: float) -> Prototype:
    """Flat honeycomb."""
    a = sqrt(3) * d
    return "flat honeycomb, BN", 78, (a, a), [("M", "b", (0, 0, 0)), ("X", "c", (0, 0, 0))]


def buckled(d: float, m: float) -> Prototype:
    """One (111) double plane of zincblende."""
    a = 2 * sqrt(2 / 3) * d
    return "buckled honeycomb, zincblende", 69, (a, a), [("M", "b", (0, 0, d / 6)), ("X", "c", (0, 0, -d / 6))]


def square(d: float, m: float) -> Prototype:
    """One square net of rocksalt."""
    a = sqrt(2) * d
    return "one net of rocksalt", 61, (a, a), [("M", "a", (0, 0, 0)), ("X", "b", (0, 0, 0))]


Maker = Callable[[float, float], Prototype]
MX2: dict[str, Maker] = {
    "1T": octahedra,
    "1H": prisms,
    "1T-chains": distorted,
    "pentagons": pentagons,
    "flat-pentagons": flat_pentagons,
    "HgI2": corner_tetrahedra,
}
M2X2: dict[str, Maker] = {
    "FeSe": edge_tetrahedra,
    "GaSe": paired_prisms,
    "GaSe-staggered": paired_antiprisms,
    "CuI": double_honeycomb,
    "GeS": puckered,
    "rocksalt": rocksalt,
    "NiAs": nickel_arsenide,
    "honeycomb": honeycomb,
    "buckled": buckled,
    "square": square,
}
COMPOUNDS: dict[str, tuple[str, str, dict[str, Maker]]] = {
    "NiS2": ("Ni", "S", MX2),
    "ZnS2": ("Zn", "S", MX2),
    "Nb2S2": ("Nb", "S", M2X2),
    "V2S2": ("V", "S", M2X2),
    "Cu2S2": ("Cu", "S", M2X2),
    "Ti2Te2": ("Ti", "Te", M2X2),
}


def build(prototype: Prototype, metal: str, anion: str) -> Structure:
    """The layer, in the middle of a cell of ``HEIGHT``."""
    _, number, (a, b), sites = prototype
    group = layer_group(number)
    gamma = 120 if group.family == "hexagonal" else 90
    lattice = Lattice.from_parameters(a, b, HEIGHT, 90, 90, gamma)
    species, coords = [], []
    for kind, letter, (x, y, z) in sites:
        points = group.positions[group.index(letter)].orbit(np.array([x, y, z / HEIGHT])) + [0, 0, 0.5]
        species += [metal if kind == "M" else anion] * len(points)
        coords += points.tolist()
    return Structure(lattice, species, coords, to_unit_cell=True)


def records() -> list[dict[str, Any]]:
    """One entry for each compound and prototype; its id is ``<compound>-<prototype>``."""
    found = []
    for compound, (metal, anion, makers) in COMPOUNDS.items():
        for name, maker in makers.items():
            prototype = maker(*BONDS[metal])
            structure = build(prototype, metal, anion)
            found.append(
                {
                    "id": f"{compound}-{name}",
                    "prototype": prototype[0],
                    "layer_group": prototype[1],
                    "lattice": np.round(structure.lattice.matrix, 5).tolist(),
                    "species": [str(s) for s in structure.species],
                    "frac_coords": np.round(structure.frac_coords, 6).tolist(),
                }
            )
    return found


def main() -> None:
    """Write the file."""
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(json.dumps(record) + "\n" for record in records()))
    print(f"{len(records())} layers in {OUT}")


if __name__ == "__main__":
    main()
