"""Readers: every supported form gives the same layer, every bad item its reason, every bad file one error."""

from __future__ import annotations

import bz2
import gzip
import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from scdm_models.datasets import readers, structure_files
from scdm_models.datasets.readers import read_any, read_jarvis
from scdm_models.datasets.records import Dropped, LayerRecord
from scdm_models.errors import DatasetError


def jarvis_entry(structure: Structure, jid: str) -> dict[str, Any]:
    """An entry as jarvis-tools' data('dft_2d') gives it."""
    lattice = structure.lattice
    return {
        "jid": jid,
        "formula": structure.composition.reduced_formula,
        "exfoliation_energy": "na",
        "atoms": {
            "lattice_mat": lattice.matrix.tolist(),
            "coords": structure.frac_coords.tolist(),
            "elements": [f"{s.specie.symbol} " for s in structure],  # some releases pad the symbols
            "abc": list(lattice.abc),
            "angles": list(lattice.angles),
            "cartesian": False,
            "props": [""] * len(structure),
        },
    }


def compact(structure: Structure, identifier: str, **more: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "source": "C2DB",
        "lattice": structure.lattice.matrix.tolist(),
        "species": [s.specie.symbol for s in structure],
        "frac_coords": structure.frac_coords.tolist(),
        **more,
    }


def optimade_entry(structure: Structure, identifier: str, **attributes: Any) -> dict[str, Any]:
    """An entry of a structure as the OPTIMADE standard, version 1.1, describes it."""
    elements = sorted({site.specie.symbol for site in structure})
    counts = [int(structure.composition[e]) for e in elements]
    formula = "".join(f"{e}{n if n > 1 else ''}" for e, n in zip(elements, counts, strict=True))
    return {
        "id": identifier,
        "type": "structures",
        "attributes": {
            "last_modified": "2026-01-01T00:00:00Z",
            "elements": elements,
            "nelements": len(elements),
            "elements_ratios": [n / len(structure) for n in counts],
            "chemical_formula_reduced": formula,
            "chemical_formula_anonymous": "A2B",
            "dimension_types": [1, 1, 0],
            "nperiodic_dimensions": 2,
            "nsites": len(structure),
            "structure_features": [],
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements],
            "species_at_sites": [site.specie.symbol for site in structure],
            **attributes,
        },
    }


def the_layer(items: list[LayerRecord | Dropped], expected: Structure) -> LayerRecord:
    assert len(items) == 1
    record = items[0]
    assert isinstance(record, LayerRecord), record
    assert record.structure.composition == expected.composition
    np.testing.assert_allclose(record.structure.lattice.parameters, expected.lattice.parameters, atol=1e-4)
    order = [sorted(range(3), key=lambda i: (s[i].specie.Z, s[i].z)) for s in (record.structure, expected)]
    delta = record.structure.frac_coords[order[0]] - expected.frac_coords[order[1]]
    np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-4)
    return record


@pytest.mark.parametrize("packing", ["plain", "gz", "zip", "indented"])
def test_json_forms(tmp_path: Path, mos2: Structure, packing: str) -> None:
    documents = {
        # as 2dMatPedia distributes db.json: one document with pymatgen's structure on each line
        "2dMatPedia": {"material_id": "2dm-2994", "structure": mos2.as_dict(), "bandgap": 1.6},
        "C2DB": compact(mos2, "MoS2-1", e_hull=0.0),
        "JARVIS": jarvis_entry(mos2, "JVASP-664"),
    }
    for source, document in documents.items():
        text = json.dumps(document, indent=1 if packing == "indented" else None)
        path = tmp_path / f"{source}.json"
        if packing == "gz":
            path = path.with_suffix(".json.gz")
            path.write_bytes(gzip.compress(text.encode()))
        elif packing == "zip":
            path = path.with_suffix(".json.zip")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("inside.json", text)
        else:
            path.write_text(text)
        record = the_layer(list(read_any(path)), mos2)
        assert record.source == source
        assert record.id in ("2dm-2994", "MoS2-1", "JVASP-664")
    assert record.properties["exfoliation_energy"] == "na"
    assert "atoms" not in record.properties


def test_json_lines_lists_and_bare_structures(tmp_path: Path, mos2: Structure) -> None:
    lines = tmp_path / "db.json"  # 2dMatPedia's db.json is a file of lines whatever its name says
    lines.write_text("\n".join(json.dumps({"material_id": f"2dm-{i}", "structure": mos2.as_dict()}) for i in (1, 2, 3)))
    assert [r.id for r in read_any(lines)] == ["2dm-1", "2dm-2", "2dm-3"]
    listed = tmp_path / "jdft_2d.json"
    listed.write_text(json.dumps([jarvis_entry(mos2, "JVASP-1"), jarvis_entry(mos2, "JVASP-2")]))
    assert [r.id for r in read_any(listed)] == ["JVASP-1", "JVASP-2"]
    bare = tmp_path / "structure.json"
    bare.write_text(json.dumps(mos2.as_dict()))
    assert the_layer(list(read_any(bare)), mos2).id == "structure.json:1"
    unnamed = tmp_path / "lines.txt"  # no known suffix: found by content
    unnamed.write_text(json.dumps(compact(mos2, "x")) + "\n")
    assert the_layer(list(read_any(unnamed)), mos2).id == "x"


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, bytes])
def test_computed_entries_as_alexandria_ships_them(tmp_path: Path, mos2: Structure, pack: Any) -> None:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    mos2.add_site_property("magmom", [0.0, 0.1, 0.1])
    # names of the columns: alexandria_2d_000.json.bz2
    data = {"mat_id": "agm002178523", "e_above_hull": 0.013, "band_gap_ind": 1.7, "elements": ["Mo", "S"]}
    entry = ComputedStructureEntry(mos2, -21.5, data=data, entry_id="other").as_dict()
    bare = {**entry, "data": {}, "entry_id": "own-1"}
    suffix = {bz2.compress: ".json.bz2", gzip.compress: ".json.gz", bytes: ".json"}[pack]
    path = tmp_path / f"alexandria_2d_000{suffix}"
    path.write_bytes(pack(json.dumps({"entries": [entry, bare, {"entry_id": "none", "energy": 1}]}).encode()))
    first, second, third = read_any(path)
    record = the_layer([first], mos2)
    assert (record.id, record.source) == ("agm002178523", "Alexandria")
    assert record.properties == {
        "e_above_hull": 0.013,
        "band_gap_ind": 1.7,
        "elements": ["Mo", "S"],
        "mat_id": record.id,
    }
    assert second.id == "own-1"
    assert isinstance(third, Dropped)
    assert "it holds no structure (keys: entry_id, energy)" in third.reason
    # a folder finds it as well, and a file of one entry a line
    assert [item.id for item in read_any(tmp_path)] == ["agm002178523", "own-1", "none"]
    lines = tmp_path / "entries.jsonl"
    lines.write_text("\n".join(json.dumps(entry) for _ in range(2)))
    assert [item.id for item in read_any(lines)] == ["agm002178523"] * 2


def test_a_saved_page_of_optimade(tmp_path: Path, mos2: Structure) -> None:
    whole = optimade_entry(mos2, "whole", _alexandria_hull_distance=0.02)
    flat = optimade_entry(mos2, "flat")  # the standard allows null where a structure is not periodic
    flat["attributes"]["lattice_vectors"][2] = [None, None, None]
    mixed = optimade_entry(mos2, "mixed")
    mixed["attributes"]["species"][0] |= {"chemical_symbols": ["Mo", "W"], "concentration": [0.5, 0.5]}
    vacant = optimade_entry(mos2, "vacant")
    vacant["attributes"]["species"][0]["chemical_symbols"] = ["vacancy"]
    without = optimade_entry(mos2, "without", lattice_vectors=None)
    broken = optimade_entry(mos2, "broken", species_at_sites=["Mo", "Nobody", "S"])
    path = tmp_path / "page.json"
    path.write_text(json.dumps({"data": [whole, flat, mixed, vacant, without, broken], "links": {"next": None}}))
    items = {item.id: item for item in read_any(path)}
    assert the_layer([items["whole"]], mos2).properties["hull_distance"] == 0.02
    made = items["flat"]
    assert isinstance(made, LayerRecord)
    assert made.structure.lattice.c == pytest.approx(3.13 + 20)  # thickness and vacuum
    for name, reason in {
        "mixed": "partially occupied",
        "vacant": "vacancy",
        "without": "it holds no structure (lattice_vectors empty)",
        "broken": "Nobody",
    }.items():
        assert isinstance(items[name], Dropped)
        assert reason in items[name].reason  # type: ignore[union-attr]


def test_structures_of_optimade_are_what_its_own_tools_make_of_them(mos2: Structure, tmp_path: Path) -> None:
    adapters = pytest.importorskip("optimade.adapters", reason="optimade is an optional extra")
    entry = optimade_entry(mos2, "x")
    path = tmp_path / "page.json"
    path.write_text(json.dumps({"data": [entry]}))
    the_layer(list(read_any(path)), adapters.Structure(entry).convert("pymatgen"))


@pytest.mark.parametrize("name", ["c2db.db", "c2db.json"])
def test_ase_databases(tmp_path: Path, mos2: Structure, name: str) -> None:
    from ase import Atoms
    from ase.db import connect

    atoms = Atoms(
        [s.specie.symbol for s in mos2],
        cell=mos2.lattice.matrix,
        scaled_positions=mos2.frac_coords,
        pbc=(True, True, False),
    )
    path = tmp_path / name
    database = connect(str(path))
    database.write(atoms, uid="MoS2-b3b4685fb6e1", ehull=0.0, has_inversion_symmetry=False)
    database.write(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]), uid="molecule")
    flat = atoms.copy()
    flat.cell[2] = 0  # rows of two-dimensional codes may have no third vector
    database.write(flat, uid="no-c")
    good, bad, made = read_any(path)
    record = the_layer([good], mos2)
    assert (record.id, record.source, record.properties["ehull"]) == ("MoS2-b3b4685fb6e1", "C2DB", 0.0)
    assert isinstance(bad, Dropped)
    assert "no lattice vectors" in bad.reason
    assert isinstance(made, LayerRecord)
    assert made.structure.lattice.c == pytest.approx(3.13 + 20)


def test_ase_json_database_packed(tmp_path: Path, mos2: Structure) -> None:
    from ase import Atoms
    from ase.db import connect

    plain = tmp_path / "c2db.json"
    atoms = Atoms(
        [s.specie.symbol for s in mos2], cell=mos2.lattice.matrix, scaled_positions=mos2.frac_coords, pbc=True
    )
    connect(str(plain)).write(atoms, uid="u")
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert the_layer(list(read_any(packed)), mos2).id == "u"


def test_structure_files_and_folders(tmp_path: Path, mos2: Structure) -> None:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    mos2.to(filename=str(folder / "a.cif"))
    mos2.to(filename=str(folder / "POSCAR"), fmt="poscar")
    mos2.to(filename=str(folder / "deep" / "POSCAR"), fmt="poscar")
    cell = " ".join(str(x) for x in mos2.lattice.matrix.ravel())
    atoms = "".join(f"{s.specie.symbol} {s.x} {s.y} {s.z}\n" for s in mos2)
    frame = f'3\nLattice="{cell}" Properties=species:S:1:pos:R:3 energy=-1.5 pbc="T T F"\n{atoms}'
    (folder / "z.extxyz").write_text(frame * 2)
    (folder / "notes.md").write_text("not a structure")
    items = list(read_any(folder))
    # names within the folder are the ids, so that equal names in two folders stay apart
    assert [item.id for item in items] == ["POSCAR", "a.cif", "deep/POSCAR", "z.extxyz", "z.extxyz:2"]
    for item in items:
        the_layer([item], mos2)
    assert isinstance(items[3], LayerRecord)
    assert the_layer(list(read_any(folder / "a.cif")), mos2).id == "a.cif"


CIF = """data_x
_cell_length_a 3.18
_cell_length_b 3.18
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
"""
ATOMS = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
POSCAR = "x\n1.0\n3 0 0\n0 3 0\n0 0 20\n{names}\n{counts}\nDirect\n{coords}\n"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("none.cif", CIF, "0 atoms, at least 1 is needed"),
        ("unknown.cif", CIF + ATOMS + "Qq1 Qq 0 0 0.5 1\n", "'Qq' is no chemical element"),
        ("nan.cif", CIF + ATOMS + "C1 C nan 0 0.5 1\n", "no structure can be made of it"),
        ("partial.cif", CIF + ATOMS + "C1 C 0 0 0.5 0.5\n", "partially occupied"),
        ("garbage.cif", "\x00\x01 this is no crystal", "0 atoms"),
        ("unknown.vasp", POSCAR.format(names="Xx", counts=1, coords="0 0 0"), "'Xx' is no chemical element"),
        ("nan.vasp", POSCAR.format(names="C", counts=1, coords="nan 0 0"), "not a finite number"),
        ("old.vasp", POSCAR.format(names="", counts="1", coords="0 0 0").replace("\n\n", "\n"), "names no elements"),
        ("molecule.xyz", "2\ncomment\nH 0 0 0\nH 0 0 0.74\n", "no lattice vectors"),
        ("broken.extxyz", '2\nLattice="3 0 0 0 3 0 0 0 20" Properties=species:S:1:pos:R:3\nH 0 0\n', "cannot be read"),
        ("none.json", json.dumps({"id": "a", "lattice": np.eye(3).tolist(), "species": [], "frac_coords": []}), "0 atoms"),
        ("keys.json", json.dumps({"id": "a", "formula": "MoS2"}), "it holds no structure (keys: id, formula)"),
        ("flat.json", json.dumps({"id": "a", "lattice": [[1, 0, 0], [1, 0, 0], [0, 0, 1]], "species": ["C"], "frac_coords": [[0, 0, 0]]}), "volume"),
    ],
)  # fmt: skip
def test_a_bad_item_is_recorded_with_its_reason(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    (item,) = read_any(path)
    assert isinstance(item, Dropped)
    assert item.rule == "unreadable"
    assert reason in item.reason


def test_one_bad_entry_among_many(tmp_path: Path, mos2: Structure) -> None:
    good, nan = compact(mos2, "good", gap=float("nan")), compact(mos2, "nan")
    nan["frac_coords"][0][0] = float("nan")
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join([json.dumps(good), "{broken", json.dumps(nan), "[1, 2]", "", json.dumps(good)]))
    items = list(read_any(path))
    assert [type(item).__name__ for item in items] == [
        "LayerRecord",
        "Dropped",
        "Dropped",
        "Dropped",
        "LayerRecord",
    ]
    assert "line 2 is not JSON" in items[1].reason  # type: ignore[union-attr]
    assert "not a finite number" in items[2].reason  # type: ignore[union-attr]
    assert items[0].properties == {"gap": None}  # type: ignore[union-attr]  # NaN is no JSON
    # the same where the first line is the damaged one
    path.write_text("\n".join(["{broken", json.dumps(good), json.dumps(good)]))
    assert [type(item).__name__ for item in read_any(path)] == ["Dropped", "LayerRecord", "LayerRecord"]


def test_a_folder_goes_on_after_a_bad_file(tmp_path: Path, mos2: Structure) -> None:
    mos2.to(filename=str(tmp_path / "b.cif"))
    (tmp_path / "a.cif").write_text("")
    (tmp_path / "c.json.gz").write_bytes(b"\x1f\x8b broken")
    items = {item.id: item for item in read_any(tmp_path)}
    assert list(items) == ["a.cif", "b.cif", "c.json.gz"]
    assert "is empty" in items["a.cif"].reason  # type: ignore[union-attr]
    assert isinstance(items["b.cif"], LayerRecord)
    assert "fetch it again" in items["c.json.gz"].reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.cif", None, "does not exist; check the path"),
        ("gone.jsonl.gz", None, "does not exist; check the path"),
        ("empty.jsonl", b"", "is empty; fetch it again"),
        ("blank.jsonl", b"\n\n", "is empty; fetch it again"),
        ("blank.vasp", b"  \n", "is empty; give a file with at least one structure"),
        (
            "half.jsonl.gz",
            gzip.compress(b'{"id": 1}\n' * 999, mtime=0)[:60],
            "damaged or of another kind; fetch it again",
        ),
        ("text.json", b"hello\nworld\n", "neither JSON nor JSON lines"),
        ("binary.json", b"\xff\xfe\x00{", "damaged or of another kind"),
        ("fake.db", b"SQLite format 3\x00" + b"x" * 200, "no readable ASE database"),
        ("not.db", b"hello", "no readable ASE database"),
        ("table.csv", b"a,b\n1,2\n", "of unknown kind; known are CIF"),
    ],
)
def test_a_bad_file_is_one_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        list(read_any(path))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no CIF, POSCAR"):
        list(read_any(tmp_path))


def test_jarvis_through_its_loader(
    monkeypatch: pytest.MonkeyPatch, mos2: Structure, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(name: str) -> list[dict[str, Any]]:
        print("Obtaining 2D dataset")
        return [jarvis_entry(mos2, f"JVASP-{name}")]

    module = types.ModuleType("jarvis.db.figshare")
    module.data = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jarvis.db.figshare", module)
    assert the_layer(list(read_any("jarvis")), mos2).id == "JVASP-dft_2d"
    assert capsys.readouterr().out == ""

    def offline(name: str) -> list[dict[str, Any]]:
        raise ConnectionError("no route")

    module.data = offline  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match=r"could not load 'dft_2d' \(ConnectionError: no network\?\)"):
        list(read_jarvis())
    monkeypatch.setitem(sys.modules, "jarvis.db.figshare", None)  # as if it were not installed
    with pytest.raises(DatasetError, match=r"pip install .*scdm-flows\[jarvis\]"):
        list(read_jarvis())


def test_oxidation_states_are_removed(tmp_path: Path) -> None:
    salt = Structure(Lattice.orthorhombic(4, 4, 20), ["Na+", "Cl-"], [[0, 0, 0.5], [0.5, 0.5, 0.5]])
    path = tmp_path / "salt.json"
    path.write_text(json.dumps(salt.as_dict()))
    (record,) = read_any(path)
    assert isinstance(record, LayerRecord)
    assert [str(site.specie) for site in record.structure] == ["Na", "Cl"]


def test_the_real_sets_read_completely(shared_data: Path) -> None:
    for name, source, expected in (("2dmatpedia", "2dMatPedia", 5914), ("c2db", "C2DB", 4030)):
        items = list(read_any(shared_data / f"{name}.jsonl.gz"))
        assert len(items) == expected  # the counts that the sets' own description gives
        assert all(isinstance(item, LayerRecord) for item in items)
        assert {item.source for item in items} == {source}
        assert len({item.id for item in items}) == expected


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested too deeply"),
        (DEEP + "]" * 100_000, "nested too deeply"),
        ("1" * 5000, "an integer of thousands of digits"),  # Python reads at most 4300
    ],
)
def test_a_file_that_python_cannot_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"odd\.json.*{said}"):
        list(read_any(tmp_path / "odd.json"))


def test_a_deep_line_or_property_is_one_item_among_the_others(tmp_path: Path, mos2: Structure) -> None:
    good = json.dumps({"id": "good", "structure": mos2.as_dict()})
    nested = '{"x": ' * 600 + "1" + "}" * 600  # json takes it, what walks through it may not
    lines = [good, DEEP, good[:-1] + f', "p": {nested}}}', f'{{"id": {nested}}}', "1" * 5000, good]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    found = list(read_any(tmp_path / "many.jsonl"))
    assert [isinstance(item, Dropped) for item in found] == [False, True, True, True, True, False]
    assert all(len(item.id) < 100 for item in found)


def test_files_above_the_limits_are_refused_by_name(
    tmp_path: Path, mos2: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LONGEST_TEXT", 100)
    monkeypatch.setattr(structure_files, "LARGEST_FILE", 100)
    for name in ("long.json", "long.cif"):
        (tmp_path / name).write_text("[" + " " * 200 + "]")
    with zipfile.ZipFile(tmp_path / "long.json.zip", "w") as archive:
        archive.writestr("a", " " * 200)
    for path in tmp_path.iterdir():
        with pytest.raises(DatasetError, match=path.name):
            list(read_any(path))
    assert [item.id for item in read_any(tmp_path)] == [
        "long.cif",
        "long.json",
        "long.json.zip",
    ]  # nor does a folder end
