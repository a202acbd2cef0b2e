"""Candidates in the formats of other programs, read back by those; and the search for a structure."""

from __future__ import annotations

import csv
import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar
from support.documents import CampaignDocuments
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.analysis.gate import RELAXED_SYMPREC
from scdm_flows.builders import build_all
from scdm_flows.cli import candidates as commands
from scdm_flows.config import parse_config
from scdm_flows.documents import CandidateDoc, KnownAs, utc_now
from scdm_flows.errors import OutputError
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_db import FLAT
from scdm_flows.query.candidate_files import (
    VALUES,
    as_atoms,
    as_frame,
    as_text,
    structure_of,
    write_collection,
    write_csv,
)
from scdm_flows.query.search import known_as, nearest
from scdm_flows.stores import Database
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord
from scdm_models.symmetry.detect import detect_layer_group


@pytest.fixture
def database(campaign_documents: CampaignDocuments) -> Database:
    connected = memory_database()
    campaign_documents.store(connected)
    return connected


@pytest.fixture
def db(database: Database) -> CandidateDB:
    return CandidateDB(database)


def test_ase_reads_what_is_written(db: CandidateDB, tmp_path: Path) -> None:
    documents = db.find(limit=3)
    write_collection(tmp_path / "all.extxyz", documents)
    write_collection(tmp_path / "all.db", documents)
    frames = ase.io.read(tmp_path / "all.extxyz", index=":")
    rows = list(ase.db.connect(tmp_path / "all.db").select())
    assert len(frames) == len(rows) == 3
    for document, frame, row in zip(documents, frames, rows, strict=True):
        structure = structure_of(document)
        for atoms in (frame, row.toatoms()):
            assert atoms.pbc.tolist() == [True, True, False]  # a layer
            assert np.allclose(atoms.cell.array, structure.lattice.matrix, atol=1e-7)
            assert atoms.get_chemical_symbols() == [site.specie.symbol for site in structure]
            assert np.allclose(atoms.positions, structure.cart_coords, atol=1e-7)
        assert frame.info["candidate_id"] == row.candidate_id == document.candidate_id
        assert frame.info["e_above_hull"] == row.e_above_hull == document.e_above_hull
    assert set(as_atoms(documents[0]).info) <= set(VALUES)


def read_back(document: CandidateDoc, folder: Path) -> dict[str, Structure]:
    """The candidate's structure from a file of each format, by the readers that other commands use."""
    for name, fmt in (("x.cif", "cif"), ("x.vasp", "poscar")):
        (folder / name).write_text(as_text(document, fmt))
    (folder / "x.extxyz").unlink(missing_ok=True)
    write_collection(folder / "x.extxyz", [document])
    found = {}
    for name in ("x.cif", "x.vasp", "x.extxyz"):
        (item,) = read_any(folder / name)
        assert isinstance(item, LayerRecord)
        found[name] = item.structure
    return found


def test_every_format_has_each_element_once_and_all_digits(db: CandidateDB, tmp_path: Path) -> None:
    # sites in the order of orbits, as samples come, on coordinates that no rounding of a reader touches
    places = [[0.1234567890123, 0.21, 0.42], [0.61, 0.71, 0.5], [0.31, 0.9876543210987, 0.58], [0.83, 0.17, 0.55]]
    layer = Structure(Lattice.from_parameters(4.1234567890123, 5.2, 20, 90, 90, 97), ["Se", "Au", "Se", "Au"], places)
    document = db.find(limit=1)[0].model_copy(update={"relaxed_structure": layer.as_dict()})
    for name, found in read_back(document, tmp_path).items():
        assert np.allclose(found.lattice.parameters, layer.lattice.parameters, rtol=0, atol=1e-9), name
        by_element = sorted(found, key=lambda site: site.specie.symbol, reverse=True)  # pymatgen sorts what is in a CIF
        for site, was in zip(by_element, [layer[k] for k in (0, 2, 1, 3)], strict=True):
            assert site.specie == was.specie, name
            assert np.allclose(site.frac_coords, was.frac_coords, rtol=0, atol=1e-10), name
        lines = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        # a site's line begins with its element, in a POSCAR it ends with it
        written = [
            w[0] if w[0] in ("Se", "Au") else w[-1] for w in lines if len(w) > 3 and {w[0], w[-1]} & {"Se", "Au"}
        ]
        assert [e for e, _ in itertools.groupby(written)] == ["Se", "Au"], name


def test_the_layer_group_of_a_relaxed_candidate_survives_every_format(quiet_place: None, tmp_path: Path) -> None:
    """A small campaign of samples that are symmetric only roughly, as a relaxation leaves layers."""
    rng = np.random.default_rng(0)
    for polytype, metal in itertools.product(("1H", "1T"), ("Mo", "W")):
        layer = mx2(polytype, a=3.2).replace_species({"Mo": metal})
        for k in range(len(layer)):
            layer.translate_sites([k], rng.normal(scale=0.03, size=3), frac_coords=False)  # angstrom
        layer.to(str(tmp_path / f"{polytype}-{metal}.cif"))
    config = parse_config(
        {
            "name": "rough",
            "generator": {"kind": "files", "paths": [str(tmp_path)]},
            "screen": {"require_novel": False},
            "gate": {"phonon_max_e_above_hull": 0},
            "engine": {"kind": "forcefield", "fmax_ev_per_angstrom": 0.3},
        }
    )
    database = memory_database()
    run_campaign(config, database, processes=1)
    build_all(database)
    relaxed = [d for d in CandidateDB(database).find() if d.relaxed_structure]
    assert len(relaxed) == 4
    # they are rough indeed: a smaller tolerance finds other groups
    assert any(detect_layer_group(structure_of(d), 1e-3) != d.layer_group for d in relaxed)
    folder = tmp_path / "files"
    folder.mkdir()
    for document in relaxed:
        for name, found in read_back(document, folder).items():
            assert detect_layer_group(found, RELAXED_SYMPREC) == document.layer_group, (document.candidate_id, name)


def test_what_a_layer_is_known_as_is_exported_in_words(db: CandidateDB, tmp_path: Path) -> None:
    entries = [KnownAs(id=name, source="C2DB", formula="MoS2", displacement_angstrom=0.1) for name in ("a", "b")]
    document = db.find(limit=1)[0].model_copy(update={"novel": False, "known_as": entries, "bulk_compound": True})
    write_collection(tmp_path / "one.extxyz", [document])
    write_collection(tmp_path / "one.db", [document])
    (row,) = ase.db.connect(tmp_path / "one.db").select()
    expected = "MoS2 (C2DB a, 0.10 Å); MoS2 (C2DB b, 0.10 Å)"
    assert ase.io.read(tmp_path / "one.extxyz").info["known_as"] == row.known_as == expected
    assert (bool(row.novel), bool(row.bulk_compound)) == (False, True)


def test_a_zip_of_files_and_their_table(db: CandidateDB, tmp_path: Path) -> None:
    documents = db.find(limit=2)
    write_collection(tmp_path / "best.zip", documents, "poscar")
    with zipfile.ZipFile(tmp_path / "best.zip") as archive:
        names = [f"{d.candidate_id}.vasp" for d in documents]
        assert archive.namelist() == [*names, "candidates.csv"]
        first = Poscar.from_str(archive.read(names[0]).decode()).structure
        table = list(csv.DictReader(io.StringIO(archive.read("candidates.csv").decode())))
    assert first.composition.reduced_formula == documents[0].formula == table[0]["formula"]
    assert [row["candidate_id"] for row in table] == [d.candidate_id for d in documents]
    with pytest.raises(OutputError, match=r"no known format; its name must end in \.zip, \.extxyz, \.db"):
        write_collection(tmp_path / "best.rar", documents)


def test_tables(db: CandidateDB) -> None:
    records = db.flat_records()
    frame = as_frame(records)
    assert list(frame.index) == [r["candidate_id"] for r in records]
    assert set(frame.columns) == set(FLAT) - {"candidate_id"}
    assert as_frame([]).empty
    buffer = io.StringIO()
    write_csv(buffer, [{**records[0], "formula": "=1+1"}], FLAT)  # no spreadsheet computes it
    assert next(csv.DictReader(io.StringIO(buffer.getvalue())))["formula"] == "'=1+1"


def test_a_candidate_without_a_structure_is_refused(db: CandidateDB) -> None:
    document = db.find(limit=1)[0].model_copy(update={"structure": {}, "relaxed_structure": None, "reason": "damaged"})
    with pytest.raises(OutputError, match="has no structure: damaged"):
        as_text(document, "cif")


def test_a_structure_is_found_whatever_its_cell(db: CandidateDB) -> None:
    document = db.find(limit=1)[0]
    structure = structure_of(document)
    other = structure.copy()
    other.make_supercell([[2, 1, 0], [0, 1, 0], [0, 0, 1]])
    other.translate_sites(range(len(other)), [0.2, 0.3, 0.1])
    hits = nearest(other, db.find())
    assert (hits[0].document.candidate_id, hits[0].same) == (document.candidate_id, True)
    assert hits[0].distance < 1e-6
    assert all(h.document.formula == document.formula for h in hits)
    assert [h.distance for h in hits] == sorted(h.distance for h in hits)
    hafnium = mx2("1H")
    hafnium.replace_species({"Mo": "Hf"})
    assert nearest(hafnium, [document]) == []  # of another formula
    # 1H-MoS2 is in every data set of layers; the 1T polytype stretched by a fifth is not
    assert known_as(mx2("1H"))
    assert not known_as(mx2("1T", a=3.9))


def test_commands(database: Database, db: CandidateDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here(**_: Any) -> Iterator[Database]:
        yield database

    for module in ("candidates", "show"):
        monkeypatch.setattr(f"scdm_flows.cli.{module}.database", here)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands.candidates, arguments)

    done = run("list", "--csv")
    assert done.exit_code == 0, done.output
    assert [row["candidate_id"] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        r["candidate_id"] for r in db.flat_records()
    ]
    done = run("export", "--where", "max_e_above_hull=0.2", "-o", str(tmp_path / "x.zip"))
    assert done.exit_code == 0, done.output
    expected = [d.candidate_id for d in db.find(max_e_above_hull=0.2)]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.namelist()[:-1] == [f"{name}.cif" for name in expected]
    done = run("export", "--where", "max_e_above_hull=-9", "-o", str(tmp_path / "y.zip"))
    assert done.exit_code == 2
    assert "no candidate matches" in done.output
    document = db.find(limit=1)[0]
    structure_of(document).to(str(tmp_path / "mine.cif"))
    done = run("search", str(tmp_path / "mine.cif"))
    assert done.exit_code == 0, done.output
    assert document.candidate_id in done.output
    assert "surrogate" in done.output
    assert "MoS2: known as C2DB MoS2-" in done.output  # 1H-MoS2 is in every data set of layers
    found = json.loads(run("search", str(tmp_path / "mine.cif"), "--json").stdout)["known_as"]
    assert [m["displacement_angstrom"] for m in found] == sorted(m["displacement_angstrom"] for m in found)
    entry = KnownAs(id="MoS2-1", source="C2DB", formula="MoS2", displacement_angstrom=0.03, e_above_hull=0.0)
    other = KnownAs(id="MoS2-2", source="2dMatPedia", formula="MoS2", displacement_angstrom=0.05)
    changed = {"novel": False, "known_as": [entry, other], "rank": None, "last_updated": utc_now()}
    known = document.model_copy(update=changed)
    database.upsert(database.candidates, [known.model_dump()])
    shown = run("show", known.candidate_id).stdout
    assert "known as MoS2 (C2DB MoS2-1, 0.03 Å), rediscovered" in shown
    assert "C2DB MoS2-1" in next(line for line in shown.splitlines() if "here" in line)  # a table beside ours
    listed = run("list", "--where", "known_as=MoS2-1").stdout
    assert "MoS2 (C2DB MoS2-1, 0.03 Å)" in listed
    assert "2dMatPedia" not in listed  # the nearest alone


def test_extrapolated_energies_are_marked_in_tables_and_files(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def here(**_: Any) -> Iterator[Database]:
        yield database

    monkeypatch.setattr(commands, "database", here)

    def lines(*arguments: str) -> list[str]:
        done = CliRunner().invoke(commands.candidates, ["list", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    legend = "? outside what the energy model has learned from: its error may be larger than said"
    shown = lines()
    (marked,) = [line for line in shown if " ? " in line and "demo-" in line]
    assert "demo-000000000002" in marked
    assert legend in shown
    assert legend not in lines("--where", "extrapolated=false")  # nothing is marked there
    rows = {r["candidate_id"]: r for r in csv.DictReader(io.StringIO("\n".join(lines("--csv"))))}
    assert rows["demo-000000000002"]["extrapolated"] == "True"
    assert rows["demo-000000000004"]["extrapolated"] == ""  # no energy
    document = CandidateDB(database).get("demo-000000000002")
    write_collection(tmp_path / "x.extxyz", [document])
    assert ase.io.read(tmp_path / "x.extxyz").info["extrapolated"]
