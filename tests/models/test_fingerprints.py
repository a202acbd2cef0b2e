"""Fingerprints: what must not change them, what must, the index on disk, and agreement with the matcher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from scdm_models.datasets import fingerprints
from scdm_models.datasets.curation import curate, curate_one
from scdm_models.datasets.fingerprints import (
    FingerprintIndex,
    agreement,
    build_fingerprint_index,
    distance,
    fingerprint,
)
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import CuratedLayer, LayerRecord, write_curated
from scdm_models.errors import DatasetError, NotALayerError, ScdmError

THIRDS = [(1 / 3, 2 / 3), (2 / 3, 1 / 3), (0.0, 0.0)]


def stack(a: float, sheets: list[tuple[str, int, float]], c: float = 20.0) -> Structure:
    """A hexagonal layer of (element, lateral position 0-2, height in angstrom above the middle)."""
    frac = [[*THIRDS[k], 0.5 + z / c] for _, k, z in sheets]
    return Structure(Lattice.hexagonal(a, c), [element for element, _, _ in sheets], frac)


H = stack(3.18, [("Mo", 0, 0), ("S", 1, 1.565), ("S", 1, -1.565)])
T = stack(3.18, [("Mo", 0, 0), ("S", 1, 1.565), ("S", 2, -1.565)])
GRAPHENE = stack(2.46, [("C", 0, 0), ("C", 1, 0)])


def test_the_numbers_of_graphene() -> None:
    values = fingerprint(GRAPHENE)
    assert values.shape == (12 + 3,)
    # shells of the honeycomb: 3 at a/sqrt(3), 6 at a, 3 at 2a/sqrt(3)
    expected = [2.46 / np.sqrt(3)] * 3 + [2.46] * 6 + [2 * 2.46 / np.sqrt(3)] * 3
    np.testing.assert_allclose(values[:12], expected, atol=1e-6)
    np.testing.assert_allclose(values[12:], 0, atol=1e-9)  # flat


def test_the_numbers_of_mos2() -> None:
    values = fingerprint(H)
    assert values.shape == (12 * 4 + 3 * 2,)
    # elements by atomic number: S (16) before Mo (42); rows run over the neighbour first: S-S, Mo-S, S-Mo, Mo-Mo
    ss, mo_s, s_mo, mo_mo = values[:48].reshape(4, 12)
    bond = np.hypot(3.18 / np.sqrt(3), 1.565)
    assert ss[0] == pytest.approx(3.13)  # across the layer, shorter than the six at a = 3.18
    assert ss[1:7] == pytest.approx([3.18] * 6)
    assert mo_s[:6] == pytest.approx([bond] * 6)  # trigonal prism
    assert s_mo[:3] == pytest.approx([bond] * 3)
    assert mo_mo[:6] == pytest.approx([3.18] * 6)
    assert values[48:] == pytest.approx([1.565] * 3 + [0] * 3, abs=1e-9)


@pytest.mark.parametrize("base", [H, T, GRAPHENE])
def test_what_does_not_change_a_layer(base: Structure) -> None:
    values = fingerprint(base)
    moved = base.copy()
    moved.translate_sites(range(len(base)), [0.3, 0.8, 0.49])
    large = base.copy()
    large.make_supercell([[2, 1, 0], [-1, 3, 0], [0, 0, 1]])
    mirrored = Structure(base.lattice, base.species, base.frac_coords * [1, 1, -1])
    thick = Structure(Lattice.hexagonal(base.lattice.a, 31), base.species, base.cart_coords, coords_are_cartesian=True)
    skew = Structure(base.lattice.matrix + [[0] * 3, 3 * base.lattice.matrix[0], [0] * 3], base.species, base.cart_coords, coords_are_cartesian=True)  # fmt: skip
    for same in (moved, large, mirrored, thick, skew):
        assert distance(values, fingerprint(same)) < 1e-9


def test_what_changes_it() -> None:
    assert distance(fingerprint(H), fingerprint(T)) > fingerprints.THRESHOLD
    wide = Structure(Lattice.hexagonal(3.18 * 1.02, 20), H.species, H.frac_coords)
    # every in-plane distance grows by 2 %; |d - d'| / mean = 0.0198
    assert distance(fingerprint(H), fingerprint(wide)) == pytest.approx(0.0198, abs=1e-3)
    # buckling moves each atom by 0.22 angstrom, which counts 0.3 per angstrom
    buckled = stack(2.46, [("C", 0, 0.22), ("C", 1, -0.22)])
    assert distance(fingerprint(GRAPHENE), fingerprint(buckled)) >= 0.3 * 0.22 - 1e-9


def test_long_cells_and_many_atoms_are_exact() -> None:
    # the search must reach 12 neighbours of the rare element however long the cell: compare with a supercell
    rng = np.random.default_rng(3)
    frac = np.column_stack([rng.random((9, 2)), 0.5 + rng.random(9) * 0.1])
    long = Structure([[3.1, 0, 0], [11.3, 29.0, 0], [0, 0, 25]], ["O"] * 8 + ["W"], frac)
    assert distance(fingerprint(long), fingerprint(long * (5, 1, 1))) < 1e-9


def test_lookup() -> None:
    index = FingerprintIndex.build([H, GRAPHENE], ["h", "g"])
    assert index.layer_groups == [78, 80]  # p-6m2 and p6/mmm
    assert len(index) == 2
    (match,) = index.lookup(H * (2, 2, 1))
    assert (match.id, match.layer_group) == ("h", 78)
    assert match.distance < 1e-3  # half precision on disk is not used here
    assert index.is_novel(T)
    other = H.copy()
    other.replace_species({"S": "Se"})
    assert index.is_novel(other)
    # a known layer slightly distorted is still known, though its group is lower
    distorted = H * (2, 1, 1)
    distorted.perturb(0.03, seed=5)
    assert [m.id for m in index.lookup(distorted)] == ["h"]
    # flat and buckled differ in layer group and by more than the tolerance of other groups
    assert index.is_novel(stack(2.46, [("C", 0, 0.2), ("C", 1, -0.2)]))
    with pytest.raises(NotALayerError):
        index.lookup(Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]]))


def test_templates() -> None:
    layer = curate_one(LayerRecord("h", "A", H))
    other = curate_one(LayerRecord("t", "A", T))
    assert isinstance(layer, CuratedLayer)
    assert isinstance(other, CuratedLayer)
    index = FingerprintIndex.of_crystals([layer.crystal], ["h"])
    selenide = H.copy()
    selenide.replace_species({"S": "Se"})
    same_sites = curate_one(LayerRecord("s", "A", selenide))
    assert isinstance(same_sites, CuratedLayer)
    assert index.knows_template(layer.crystal)
    assert index.knows_template(same_sites.crystal)
    assert not index.knows_template(other.crystal)
    assert (layer.crystal.template, index.prototype_distance(same_sites.crystal)) == ("78:a-e", 0.0)
    # of three orbits two are in common; of three one; another group has none in common
    for template, expected in {"78:a-e-e": 1 / 3, "78:a-a-b": 3 / 4, "78:c": 1.0, "72:a-e": 1.0}.items():
        crystal: Any = SimpleNamespace(template=template)
        assert index.prototype_distance(crystal) == pytest.approx(expected)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "curated.jsonl.gz"
    result = curate([LayerRecord(str(k), "A", s) for k, s in enumerate((H, T, GRAPHENE))], processes=1)
    write_curated(path, result.kept)
    built = build_fingerprint_index(path, tmp_path / "deep" / "index.npz")
    loaded = FingerprintIndex.load(tmp_path / "deep" / "index.npz")
    for name in ("ids", "formulas", "layer_groups", "templates"):
        assert getattr(loaded, name) == getattr(built, name)
    for before, after in zip(built.values, loaded.values, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-3)  # half precision has 11 bits
    assert [m.id for m in loaded.lookup(T)] == ["1"]
    first = (tmp_path / "deep" / "index.npz").read_bytes()
    build_fingerprint_index(path, tmp_path / "deep" / "index.npz")
    assert (tmp_path / "deep" / "index.npz").read_bytes() == first


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    with pytest.raises(DatasetError, match="does not exist; make one with"):
        FingerprintIndex.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="is not a fingerprint index of this version"):
        FingerprintIndex.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DatasetError, match="is not a fingerprint index of this version"):
        FingerprintIndex.load(path)
    np.savez(path, header=np.array([{"pickled": True}], dtype=object))  # a pickle must not be opened
    with pytest.raises(DatasetError, match="is not a fingerprint index of this version"):
        FingerprintIndex.load(path)
    with pytest.raises(DatasetError, match="cannot be written"):
        FingerprintIndex.build([H], ["h"]).save(path / "below-a-file.npz")


def test_the_packaged_index() -> None:
    index = FingerprintIndex.load()
    assert len(index) > 8000
    assert not index.is_novel(H)  # MoS2 and graphene are in every 2D data set
    assert not index.is_novel(GRAPHENE)
    impossible = stack(3.3, [("Ar", 0, 0), ("F", 1, 1.6), ("Cs", 1, -1.6)])
    assert index.is_novel(impossible)
    packaged = Path(fingerprints.__file__).parents[1] / "data" / fingerprints.PACKAGED
    assert packaged.stat().st_size <= 3 * 2**20


def test_agreement_with_the_matcher(shared_data: Path) -> None:
    items = [i for name in ("2dmatpedia", "c2db") for i in read_any(shared_data / f"{name}.jsonl.gz")]
    several: dict[str, list[LayerRecord]] = {}
    for item in items:
        assert isinstance(item, LayerRecord)
        several.setdefault(item.structure.composition.reduced_formula, []).append(item)
    chosen = [r for formula in sorted(several)[::25] if len(several[formula]) > 1 for r in several[formula]]
    layers = [layer for r in chosen if isinstance(layer := curate_one(r), CuratedLayer)]
    structures, groups = [layer.structure for layer in layers], [layer.layer_group for layer in layers]
    found = agreement(structures, groups, same_group=True)
    assert found.equal > 20
    # over the whole sets: 968 of 1,608 pairs equal, precision 0.950, recall 0.994
    assert found.precision > 0.88
    assert found.recall > 0.96
    with pytest.raises(ScdmError, match="agreement needs at least one"):
        agreement([H, T], [78, 72], same_group=True)
