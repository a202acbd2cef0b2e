"""Files of samples as other programs write them: what is theirs under a key of ours changes nothing."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.layers import mx2

from scdm_flows.config import ScdmGeneratorConfig
from scdm_flows.evaluation.asked import fulfilment
from scdm_flows.evaluation.reading import WISHES, asked_words, read_models, read_samples
from scdm_flows.generators.scdm import wishes


def write(path: Path, *requests: Any) -> Path:
    """A sample of 1H-MoS2 for each request."""
    lines = [json.dumps({"structure": mx2("1H").as_dict(), "asked": request}) for request in requests]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "x"},
        {"gap": 1.5},
        {"gap": [2.0, 1.0]},
        {"magnetic": "perhaps"},
        {"layer_group": 194},
        {"n_atoms": 400},
        {"formula": "no formula"},
        {"elements": ["Mo", "Unobtainium"]},
        {"seed": 3},  # of the configuration, and no wish
        ["a"],
        "no JSON",
        '["a"]',
        1.5,
        "[" * 100_000,
    ],
)
def test_a_request_of_another_program_is_none(tmp_path: Path, said: Any) -> None:
    (one,) = read_models([write(tmp_path / "peer.jsonl", said, said)])
    assert len(one.samples) == 2
    assert one.asked == {}
    assert fulfilment(one, [one], {one.label: []}, ()) is None


def test_what_the_generator_knows_stays_beside_what_it_does_not(tmp_path: Path) -> None:
    both = {"gap": [1.0, 2.0], "prompt": "x", "layer_group": 194}
    assert read_samples(write(tmp_path / "peer.jsonl", both, both)).asked == {"gap": [1.0, 2.0]}
    # one sample whose request says nothing: what all were asked for is not known
    assert read_samples(write(tmp_path / "some.jsonl", both, {"prompt": "x"})).asked == {}


def test_wishes_are_read_as_the_generator_writes_them(tmp_path: Path) -> None:
    said = {"elements": "S, Mo", "formula": "S2Mo", "gap": [1, 2], "n_atoms": "3", "stability": None}
    asked = {"elements": ["Mo", "S"], "formula": "MoS2", "gap": [1.0, 2.0], "n_atoms": 3, "stability": None}
    one = read_samples(write(tmp_path / "peer.jsonl", said))
    assert one.asked == asked
    assert asked_words(one.asked) == "asked for Mo, S, MoS2, 3 atoms, gap 1 to 2 eV, any E_hull"
    everything = ScdmGeneratorConfig(
        layer_group=78,
        elements="Mo,S",
        formula="MoS2",
        n_atoms=3,
        stability=0.1,
        max_predicted_e_hull=0.1,
        gap=(1.0, 2.0),
        magnetic=True,
        unknown_formulas=True,
    )
    written = wishes(everything)
    assert tuple(written) == WISHES  # in this order, which labels keep
    assert read_samples(write(tmp_path / "ours.jsonl", written)).asked == written


@pytest.mark.parametrize(
    "table",
    [
        b"id,energy\n0,-1.5\n",
        b"",
        b"file;seed\na.cif;3\n",
        b"\xff\xfe no text",
        b"file\na.cif,3,4\n",  # a row longer than the head
        b"file,energy,n\na.cif,--5,\xc2\xb2\n",  # what looks like a whole number
        b"file,n\n" + b"x" * 200_000 + b",3\n",
    ],
)
def test_a_table_of_another_program_in_a_zip_says_nothing(tmp_path: Path, table: bytes) -> None:
    path = tmp_path / "peer.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.cif", mx2("1H").to(fmt="cif"))
        archive.writestr("samples.csv", table)
    one = read_samples(path)
    assert [sample.structure.composition.reduced_formula for sample in one.samples if sample.structure] == ["MoS2"]
    assert (one.label, one.draws_said, one.steps, one.seeds) == ("peer", False, None, ())
    assert one.asked == {}
