"""Curation: what is kept, what is dropped and why, and the files of both."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import diamond

from scdm_models.datasets import curation
from scdm_models.datasets.curation import curate, curate_one
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import (
    CuratedLayer,
    Dropped,
    LayerRecord,
    read_curated,
    write_curated,
    write_dropped,
)
from scdm_models.errors import DatasetError
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.encoding import max_site_distance


def record(identifier: str, structure: Structure, source: str = "A") -> LayerRecord:
    return LayerRecord(identifier, source, structure, {"gap": 1.5})


def mx2(second: tuple[float, float], a: float = 3.18, c: float = 20.0, shift: float = 0.5) -> Structure:
    frac = [[1 / 3, 2 / 3, shift], [2 / 3, 1 / 3, shift + 1.565 / c], [*second, shift - 1.565 / c]]
    return Structure(Lattice.hexagonal(a, c), ["Mo", "S", "S"], frac)


H, T = mx2((2 / 3, 1 / 3)), mx2((0, 0))


def test_a_layer_with_everything_that_is_recorded() -> None:
    tilted = H.lattice.matrix.copy()
    tilted[2] += 0.6 * tilted[1]
    given = Structure(tilted, H.species, H.cart_coords + [0, 0, 9], coords_are_cartesian=True)
    layer = curate_one(record("a", given))
    assert isinstance(layer, CuratedLayer)
    # 1H-MoS2 is p-6m2, layer group 78, space group P-6m2, 187 (International Tables E and A)
    assert (layer.layer_group, layer.layer_group_spglib, layer.layer_group_fine) == (78, 78, 78)
    assert (layer.space_group, layer.space_group_spglib) == (187, 187)
    assert layer.tools_agree
    assert layer.one_layer is True
    assert layer.max_displacement < 1e-3
    assert layer.round_trip is not None
    assert layer.round_trip < 1e-6
    assert layer.properties == {"gap": 1.5}
    assert len(layer.structure) == 3


def test_symmetrisation_is_recorded() -> None:
    rattled = T.copy()
    rattled.perturb(0.03, seed=7)
    layer = curate_one(record("a", rattled), symprec=0.1)
    assert isinstance(layer, CuratedLayer)
    # 1T is p-3m1, layer group 72; displaced by 0.03 angstrom it is lower at 0.01 and 72 again at 0.1
    assert layer.layer_group == 72
    assert layer.layer_group_fine is not None
    assert layer.layer_group_fine < 72
    assert 0.005 < layer.max_displacement < 0.1
    assert detect_layer_group(layer.structure, 1e-3) == 72


def overlapping() -> Structure:
    s = H.copy()
    s.append("S", s[1].frac_coords + [0.0, 0.1, 0.0])
    return s


@pytest.mark.parametrize(
    ("structure", "rule", "reason"),
    [
        (
            H * (4, 4, 1),
            "too many atoms",
            "48 atoms in the cell, at most 40 are allowed; give a smaller cell",
        ),
        (
            diamond("Si", 5.43),
            "not a layer",
            "a layer needs at least 5",
        ),
        (
            overlapping(),
            "overlapping atoms",
            "0.318 angstrom apart, at least 0.5 is required; remove the copy",
        ),
    ],
)
def test_each_rule_names_value_and_remedy(structure: Structure, rule: str, reason: str) -> None:
    dropped = curate_one(record("a", structure, "B"))
    assert isinstance(dropped, Dropped)
    assert (dropped.id, dropped.source, dropped.rule) == ("a", "B", rule)
    assert reason in dropped.reason


def test_40_atoms_stay_and_41_go() -> None:
    cell = Lattice.orthorhombic(40 * 2.5, 4, 20)
    chain = Structure(cell, ["C"] * 40, [[i / 40, 0.5 * (i % 2), 0.5] for i in range(40)])
    assert isinstance(curate_one(record("a", chain)), CuratedLayer)
    longer = Structure(
        Lattice.orthorhombic(41 * 2.5, 4, 20), ["C"] * 41, [[i / 41, 0.5 * (i % 2), 0.5] for i in range(41)]
    )
    dropped = curate_one(record("a", longer))
    assert isinstance(dropped, Dropped)
    assert dropped.reason.startswith("41 atoms")


def test_an_unforeseen_failure_drops_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicError(BaseException):
        """What a panic in a Rust library looks like from Python."""

    def explode(*_: object) -> None:
        raise PanicError("index out of range")

    monkeypatch.setattr(curation, "symmetrize", explode)
    dropped = curate_one(record("a", H))
    assert isinstance(dropped, Dropped)
    assert dropped.rule == "failed"
    assert "index out of range" in dropped.reason

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(curation, "symmetrize", stop)
    with pytest.raises(KeyboardInterrupt):
        curate_one(record("a", H))


def test_duplicates_merge_within_a_formula() -> None:
    items = [
        record("h", H),
        Dropped("bad", "B", "unreadable", "it has 0 atoms"),
        record("t", T),
        record("h-thick", mx2((2 / 3, 1 / 3), c=30, shift=0.02), "B"),
        record("h-large", H * (2, 1, 1), "B"),
        record("h", mx2((0, 0), a=3.3), "B"),
        record("bulk", diamond("Si", 5.43), "B"),
    ]
    seen: list[tuple[str, int, int]] = []
    result = curate(items, processes=1, progress=lambda *event: seen.append(event))
    assert [(layer.id, layer.merged) for layer in result.kept] == [
        ("h", ("h-thick", "h-large")),
        ("t", ("h#2",)),
    ]
    reasons = {d.id: (d.rule, d.reason) for d in result.dropped}
    assert reasons["h-thick"] == ("duplicate", "the same layer as h (A)")
    assert reasons["h#2"] == ("duplicate", "the same layer as t (A)")  # a repeated id gets a number
    assert len(result.dropped) == 5  # 7 entries = 2 kept + 5 dropped: nothing disappears
    assert result.table() == [("A", 2, 2), ("B", 5, 0), ("total", 7, 2)]
    rows = {row.source: row.dropped for row in result.rows()}
    assert rows["A"] == {}
    assert rows["B"] == rows["total"] == {"unreadable": 1, "not a layer": 1, "duplicate": 3}
    assert result.drop_counts() == rows["total"]
    assert result.exceptions == []
    assert result.disagreements == []
    assert seen[0] == ("symmetrise", 6, 6)
    assert seen[-1][0] == "duplicates"


def test_dfts_hull_energy_of_a_copy_is_kept() -> None:
    """Whatever the order of the files: C2DB's layers have it, 2DMatPedia's have none on that scale."""
    known = replace(record("c2db", H, "C2DB"), properties={"e_hull": 0.0})
    for items in ([record("2dm", H), known], [known, record("2dm", H)]):
        (kept,) = curate(items, processes=1).kept
        assert kept.properties["e_hull"] == 0.0


def test_duplicates_of_other_layer_groups_merge_too() -> None:
    # a tetragonal cell stretched by 0.3 angstrom along one axis is outside the tolerance of the symmetry search (0.1),
    # within that of the comparison (10 %), and rectangular: another group, the same layer
    def square(a: float, b: float) -> Structure:
        return Structure(Lattice.orthorhombic(a, b, 20), ["Pb", "O"], [[0, 0, 0.5], [0.5, 0.5, 0.53]])

    for first, second in (((4.0, 4.0), (4.0, 4.3)), ((4.0, 4.3), (4.0, 4.0))):
        result = curate([record("first", square(*first)), record("second", square(*second), "B")], processes=1)
        (kept,) = result.kept
        assert (kept.id, kept.merged) == ("first", ("second",))  # in input order, whichever is more symmetric
        assert kept.layer_group == (55 if first == (4.0, 4.0) else 23)  # p4mm, pmm2


def test_exceptions_and_disagreements_are_listed() -> None:
    layer = curate_one(record("a", H))
    assert isinstance(layer, CuratedLayer)
    from dataclasses import replace

    odd = [replace(layer, id="far", round_trip=0.2), replace(layer, id="never", round_trip=None)]
    other = replace(layer, id="other", layer_group_spglib=69)
    result = curation.CurationResult([layer, *odd, other], [], {"A": 4})
    assert result.exceptions == [("far", 0.2), ("never", float("inf"))]
    assert result.disagreements == [other]


def test_wrong_numbers_and_nothing_to_do() -> None:
    with pytest.raises(DatasetError, match="0 entries to curate, at least 1 is needed"):
        curate([])
    with pytest.raises(DatasetError, match="symprec=-0.1 angstrom must be > 0"):
        curate([record("a", H)], symprec=-0.1)
    with pytest.raises(DatasetError, match="max_atoms=0 and processes=2 must be >= 1"):
        curate([record("a", H)], max_atoms=0)


def test_files_round_trip(tmp_path: Path) -> None:
    result = curate([record("h", H), record("t", T), record("again", H, "B")], processes=1)
    for name in ("set.jsonl.gz", "set.jsonl"):
        path = tmp_path / "new" / name
        write_curated(path, result.kept)
        assert read_curated(path) == result.kept
    first = (tmp_path / "new" / "set.jsonl.gz").read_bytes()
    write_curated(tmp_path / "new" / "set.jsonl.gz", result.kept)
    assert (tmp_path / "new" / "set.jsonl.gz").read_bytes() == first  # its hash names the data, so bytes must not vary
    # a curated set is itself a set of compact JSON lines
    items = list(read_any(path))
    assert [item.id for item in items] == ["h", "t"]
    assert isinstance(items[1], LayerRecord)
    assert max_site_distance(items[1].structure, result.kept[1].structure) < 1e-5
    write_dropped(tmp_path / "dropped.jsonl", result.dropped)
    (line,) = (tmp_path / "dropped.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "again",
        "source": "B",
        "rule": "duplicate",
        "reason": "the same layer as h (A)",
    }
    assert [p.name for p in tmp_path.rglob("*.tmp")] == []


def test_bad_curated_files(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl.gz"
    with pytest.raises(DatasetError, match="does not exist; make it with `scdm data curate`"):
        read_curated(path)
    for content, message in (
        (b"no gzip", "is not a curated set"),
        (gzip.compress(b'{"id": "a"}\n', mtime=0), "no key 'crystal'"),
        (gzip.compress(b'{"id": "a"}\n' * 99, mtime=0)[:30], "is not a curated set"),
        (gzip.compress(b"", mtime=0), "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_curated(path)
    with pytest.raises(DatasetError, match=r"cannot be written \(.*\); free space or choose another path"):
        write_curated(path / "below-a-file.jsonl.gz", [])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.jsonl.gz"
    kept = curate([record("h", H)], processes=1).kept
    write_curated(path, kept)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "writelines", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        write_curated(path, kept * 2)
    monkeypatch.undo()
    assert read_curated(path) == kept


def test_worker_processes_give_the_same(shared_data: Path) -> None:
    items = list(read_any(shared_data / "c2db.jsonl.gz"))[:260]  # five parts, enough for two workers
    one, two = curate(items, processes=1), curate(items, processes=2)
    assert one == two


def test_real_layers(shared_data: Path) -> None:
    items = [i for name in ("2dmatpedia", "c2db") for i in list(read_any(shared_data / f"{name}.jsonl.gz"))[::60]]
    result = curate(items, processes=1)
    assert len(result.kept) + len(result.dropped) == len(items)
    assert result.exceptions == []  # decode(encode(s)) = s within 1e-3 angstrom for every curated structure
    assert max(layer.max_displacement for layer in result.kept) < 0.1
    assert np.mean([layer.tools_agree for layer in result.kept]) > 0.97  # 98.7 % over the whole sets
    for layer in result.kept[::5]:
        assert detect_layer_group(layer.structure, 1e-3) == layer.layer_group
