"""Every format gives the samples back, in other programs' readers; nothing is left behind where writing fails."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pymatgen.core import Structure

from scdm_flows.cli.model import generate as command
from scdm_flows.errors import OutputError
from scdm_flows.evaluation.reading import read_models, read_samples
from scdm_flows.generators.sample_files import sample_writer
from scdm_models.sampling.sampler import GeneratedRecord, SamplerOptions, generate


@pytest.fixture(scope="module")
def samples() -> list[GeneratedRecord]:
    return list(generate(6, seed=2, options=SamplerOptions(steps=3)))


def write(path: Path, samples: list[GeneratedRecord]) -> None:
    with sample_writer(path) as append:
        for sample in samples:
            append(sample)


def test_json_lines_hold_everything(tmp_path: Path, samples: list[GeneratedRecord]) -> None:
    write(tmp_path / "s.jsonl", samples)
    lines = (tmp_path / "s.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(s.to_dict())) for s in samples]


def test_extended_xyz_is_what_ase_reads(tmp_path: Path, samples: list[GeneratedRecord]) -> None:
    from ase.io import read

    write(tmp_path / "s.extxyz", samples)
    frames = read(tmp_path / "s.extxyz", index=":")
    assert len(frames) == len(samples)
    for atoms, sample in zip(frames, samples, strict=True):
        assert atoms.pbc.tolist() == [True, True, False]
        assert np.allclose(atoms.cell[:], sample.structure.lattice.matrix, atol=1e-6)
        assert np.allclose(atoms.positions, sample.structure.cart_coords, atol=1e-6)
        assert atoms.get_chemical_symbols() == [site.specie.symbol for site in sample.structure]
        assert atoms.info["layer_group_requested"] == sample.layer_group_requested
        assert (atoms.info["seed"], atoms.info["index"]) == (sample.seed, sample.index)
        assert atoms.info["steps"] == sample.steps


def test_zip_of_cifs_is_what_pymatgen_reads(tmp_path: Path, samples: list[GeneratedRecord]) -> None:
    write(tmp_path / "s.zip", samples)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("samples.csv").decode())))
        assert archive.testzip() is None
        for row, sample in zip(rows, samples, strict=True):
            again = Structure.from_str(archive.read(row["file"]).decode(), fmt="cif")
            assert again.composition == sample.structure.composition
            assert np.allclose(again.lattice.abc, sample.structure.lattice.abc, atol=1e-4)
            assert int(row["layer_group_requested"]) == sample.layer_group_requested
            assert int(row["index"]) == sample.index


@pytest.mark.parametrize("suffix", [".jsonl", ".extxyz", ".zip"])
def test_what_was_asked_is_read_again_from_every_format(
    tmp_path: Path, samples: list[GeneratedRecord], suffix: str
) -> None:
    asked = {"gap": [1.0, 2.0], "magnetic": False, "elements": ["Mo", "S"], "stability": None}
    path = tmp_path / f"s{suffix}"
    write(path, [replace(sample, asked=asked) for sample in samples])
    assert read_samples(path).asked == asked
    write(path, samples)
    assert read_samples(path).asked == {}


@pytest.mark.parametrize("suffix", [".jsonl", ".extxyz", ".zip"])
def test_the_number_of_steps_is_read_again(tmp_path: Path, samples: list[GeneratedRecord], suffix: str) -> None:
    few, many = tmp_path / f"few{suffix}", tmp_path / f"many{suffix}"
    write(few, samples)
    write(many, [replace(sample, steps=50, seed=3) for sample in samples])
    assert (read_samples(few).steps, read_samples(many).steps) == (3, 50)
    # samples of one model and of different steps are different models to a judgement
    model = samples[0].model_id
    assert [one.label for one in read_models([few, many])] == [f"{model}, 3 steps", f"{model}, 50 steps"]


def test_unknown_formats_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.jsonl, \.extxyz, \.zip"), sample_writer(tmp_path / "s.cif"):
        pass
    result = CliRunner().invoke(command, ["-n", "1", "-o", str(tmp_path / "s.cif")])
    assert result.exit_code == 2
    assert ".extxyz" in result.output
    assert not list(tmp_path.iterdir())


def test_processes_draw_the_same_samples(samples: list[GeneratedRecord]) -> None:
    # batches are the same whoever draws them, so records are equal to the bit where each has one thread
    options = SamplerOptions(steps=3)
    torch.set_num_threads(1)
    one = list(generate(6, seed=2, options=options, batch_size=2))
    two = list(generate(6, seed=2, options=options, batch_size=2, processes=2))
    assert [s.to_dict() for s in one] == [s.to_dict() for s in two]
    assert [s.index for s in two] == list(range(6))
