"""``scdm screen`` and ``scdm evaluate`` read what other commands write, and ``scdm help`` says what each takes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.documents import candidate
from support.layers import mx2

from scdm_flows.cli import cli
from scdm_flows.generators.sample_files import sample_writer
from scdm_flows.query.candidate_files import write_collection
from scdm_models.datasets.known import KnownLayers
from scdm_models.sampling.sampler import GeneratedRecord
from scdm_models.symmetry.encoding import symmetrize


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))


def scdm(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def screened(*arguments: object) -> list[dict[str, Any]]:
    done = scdm("screen", *arguments, "--json")
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A zip as `scdm generate` writes it, of 1H- and 1T-MoS2."""
    path = tmp_path / "generated.zip"
    with sample_writer(path) as append:
        for index, (polytype, group) in enumerate((("1H", 78), ("1T", 72))):
            structure = mx2(polytype)
            crystal = symmetrize(structure, 1e-3).crystal
            append(GeneratedRecord(structure, group, group, None, 0, index, "scdm-0123abcd", crystal, draw=index))
    return path


def test_screen_reads_the_zips_of_generate_and_of_export(generated: Path, tmp_path: Path) -> None:
    rows = screened(generated)
    assert [row["source_id"] for row in rows] == ["0000000-MoS2.cif", "0000001-MoS2.cif"]
    # groups 78 (p-6m2) and 72 (p-3m1) of 1H and 1T: International Tables E (2010)
    assert [(row["layer_group_requested"], row["layer_group"]) for row in rows] == [(78, 78), (72, 72)]
    assert all(row["accepted"] for row in rows)
    exported = tmp_path / "exported.zip"
    write_collection(exported, [candidate(0, mx2("1H")), candidate(1, mx2("1T"))], "poscar")
    assert [row["layer_group"] for row in screened(exported)] == [78, 72]


def test_a_zip_that_cannot_be_used_is_said(generated: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(generated.read_bytes()[:100])
    assert "no readable zip archive" in str(scdm("screen", damaged).exception)
    rows = screened(damaged, generated)  # among several it is one unreadable entry
    assert [row["accepted"] for row in rows] == [False, True, True]
    with zipfile.ZipFile(generated, "a") as archive:
        archive.writestr("0000002-x.cif", "data_x\n")
    rows = screened(generated)
    assert [row["accepted"] for row in rows] == [True, True, False]
    assert rows[2]["reason"].startswith("unreadable: it has 0 atoms")


def test_screen_says_the_group_of_a_relaxed_layer_within_the_tolerance_of_candidates(tmp_path: Path) -> None:
    relaxed = mx2("1H")
    relaxed.translate_sites([0], [0.01, 0.0, 0.0], frac_coords=False)  # angstrom: more than 0.001, less than 0.05
    relaxed.to(str(tmp_path / "relaxed.cif"))
    (row,) = screened(tmp_path / "relaxed.cif")
    assert (row["layer_group"], row["layer_group_tolerance_angstrom"]) == (78, 0.05)
    assert row["layer_group_generated"] != 78
    assert "layer group (0.05 Å)" in scdm("screen", tmp_path / "relaxed.cif").output


def test_evaluate_takes_a_folder_and_the_zip(generated: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(generated) as archive:
        archive.extractall(tmp_path / "folder")
    for path in (tmp_path / "folder", generated):
        done = scdm("evaluate", path, "--json", "--processes", 1)
        assert done.exit_code == 0, done.output
        assert [model["n"] for model in json.loads(done.stdout)["models"]] == [2]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "Discover two-dimensional materials"),
        (["screen"], "Usage: scdm screen [OPTIONS] FILES..."),
        (["candidates", "show"], "Usage: scdm candidates show [OPTIONS] [NAMES]..."),
        (["campain"], "did you mean 'campaign'?"),
        (["candidates", "shw"], "No such command 'shw'"),
        (["screen", "x"], "scdm screen has no commands, so no 'x'"),
    ],
)
def test_help_tells_of_a_command(words: list[str], found: str) -> None:
    done = CliRunner().invoke(cli, ["help", *words], prog_name="scdm")
    assert found in done.output
    assert (done.exit_code == 0) == (found.startswith(("Usage", "Discover")))
