"""What the layer force field learns from, and that its training goes on where it was killed."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from scdm_models.errors import DatasetError
from scdm_models.training.forcefield.finetune import (
    FineTune,
    composition_terms,
    export,
    load_fine_tune,
    read_labels,
    train,
)
from scdm_models.training.forcefield.labels import Task, held_out, label, make, plan, system_of

EMT = "ase.calculators.emt:EMT"  # stands in for a teacher: it knows Cu, Au, Pd, Ni and the like


def layer(metal: str, other: str, a: float = 2.9) -> dict[str, Any]:
    """A made-up hexagonal bilayer of two metals as the data files write one."""
    return {
        "id": f"{metal}{other}",
        "species": [metal, other],
        "lattice": Lattice.hexagonal(a, 15).matrix.tolist(),
        "frac_coords": [[0, 0, 0.45], [1 / 3, 2 / 3, 0.55]],
        "e_hull": 0.1,
        "formation_energy_per_atom": -0.2,
    }


PAIRS = [(a, b) for a in ("Cu", "Au", "Pd", "Pt") for b in ("Ni", "Ag", "Al")]
TAUGHT = [p for p in PAIRS if not held_out(system_of(p))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of the files that are read."""
    files: dict[str, list[dict[str, Any]]] = {
        "c2db": [layer(*p) for p in PAIRS],
        "2dmatpedia": [layer(*p, a=3.1) | {"id": f"2dm-{p[0]}{p[1]}"} for p in PAIRS],
        "mp_bulk_subset": [
            {
                "id": f"mp-{a}{b}",
                "species": [a, b],
                "lattice": Lattice.cubic(3.0).matrix.tolist(),
                "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
                "e_above_hull": 0.0,
                "formation_energy_per_atom": -0.1,
            }
            for a, b in PAIRS
        ],
    }
    for name, rows in files.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as handle:
            handle.writelines(json.dumps(r) + "\n" for r in rows)
    elements = {e: {"energy_per_atom": -3.0} for pair in PAIRS for e in pair}
    with gzip.open(tmp_path / "mp_elemental_refs.json.gz", "wt") as handle:
        json.dump(elements, handle)
    return tmp_path


def test_held_out_systems_are_some_fifteen_percent_and_always_the_same() -> None:
    # a binomial share of 0.15 out of 2000 has a standard deviation of 0.008
    names = [f"A{i}-B{i}" for i in range(2000)]
    assert np.mean([held_out(n) for n in names]) == pytest.approx(0.15, abs=0.03)
    assert system_of(["S", "Mo", "S"]) == "Mo-S"
    # frozen: another split would make every held-out number of the packaged weights untrue
    assert {s for s in ("Mo-S", "C", "B-N", "Mo-Te", "Cl-Cr", "I-Sc", "O-Ti") if held_out(s)} == {
        "B-N", "Mo-Te", "I-Sc", "O-Ti",
    }  # fmt: skip


def test_nothing_is_learned_of_held_out_systems(data: Path) -> None:
    tasks = plan(data, [])
    assert {system_of(t.structure["species"]) for t in tasks} == {system_of(p) for p in TAUGHT}
    assert len({t.name for t in tasks}) == len(tasks) == 4 * len(TAUGHT)  # one at rest, two moved, one free
    assert plan(data, []) == tasks  # the same order at every call, so that a killed run goes on
    with pytest.raises(DatasetError, match="does not exist"):
        plan(data / "elsewhere", [])


def test_moved_structures_keep_the_order_that_forces_are_repeated_in(data: Path) -> None:
    task = next(t for t in plan(data, []) if t.kind == "displaced")
    given = task.structure
    for seed in range(8):  # several supercells
        made = make(replace(task, seed=seed, kind="free"))  # moved at random: no network needed
        copies = len(made) // 2
        assert [s.specie.symbol for s in made] == list(np.repeat(given["species"], copies))
        base = Structure(Lattice(given["lattice"]), given["species"], given["frac_coords"])
        assert made.volume / copies == pytest.approx(base.volume, rel=0.2)  # strained by some percent
        assert made.lattice.c == pytest.approx(base.lattice.c)
        assert make(replace(task, seed=seed, kind="free")) == made


def test_labels_are_kept_and_a_bad_layer_stops_none(data: Path) -> None:
    tasks = [t for t in plan(data, []) if t.kind == "minimum"][:3]
    odd = Task("odd", "minimum", layer("Xe", "Kr"), None, 0)  # EMT has no parameters of noble gases
    out = data / "labels.jsonl"
    assert label([*tasks, odd], EMT, {}, out, 1) == 4
    rows = {r["name"]: r for r in map(json.loads, filter(None, out.read_text().splitlines()))}
    assert "error" in rows["odd"]
    assert np.array(rows[tasks[0].name]["forces"]).shape == (2, 3)
    half = out.read_text().splitlines()
    out.write_text("\n".join([*half[:-1], half[-1][:30]]))
    assert label([*tasks, odd], EMT, {}, out, 1) == 4
    assert {r["name"] for r in read_labels([out])} == {t.name for t in tasks}


def test_composition_terms() -> None:
    terms, names = composition_terms([["Fe", "O", "O"], ["Fe", "S"], ["Ni", "F", "F"]])
    assert names == ["F", "Fe", "Ni", "O", "S"]
    assert terms[:, :5].sum(1) == pytest.approx(1.0)
    # V, Cr, Mn, Fe, Co, Ni, Mo, W with O, then with F
    assert terms[:, 5:].tolist() == [
        [0, 0, 0, 1 / 3, 0, 0, 0, 0] + [0] * 8,
        [0] * 16,
        [0] * 8 + [0, 0, 0, 0, 0, 1 / 3, 0, 0],
    ]


def test_training_goes_on_where_it_was_killed(data: Path) -> None:
    out = data / "labels.jsonl"
    label([t for t in plan(data, []) if t.kind != "displaced"], EMT, {}, out, 1)
    how = FineTune(steps=4, batch=4, bulk=4, warmup=1, largest_force=5)
    whole, parts = data / "whole.state", data / "parts.state"
    train(data, [out], whole, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scdm_models.training.forcefield.finetune.STATE_EVERY", 2)
        steps = 0

        def kill(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > 3:
                raise KeyboardInterrupt
            return real(*arguments)

        from scdm_models.training.forcefield import finetune

        real = finetune.loss_of
        patch.setattr(finetune, "loss_of", kill)
        with pytest.raises(KeyboardInterrupt):  # in the fourth step; the state is that of the second
            train(data, [out], parts, how)
        assert torch.load(parts, weights_only=False)["step"] == 2
        patch.setattr(finetune, "loss_of", real)
        train(data, [out], parts, how)
    one, two = (torch.load(p, weights_only=False) for p in (whole, parts))
    assert one["step"] == two["step"] == 4
    for a, b in zip(one["averaged"], two["averaged"], strict=True):
        assert torch.equal(a, b)
    weights = data / "weights.safetensors"
    export(whole, weights, {"name": "made-up"})
    from safetensors.torch import load_file

    from scdm_models.training.forcefield.network import load

    assert load_file(weights).keys() == load().state_dict().keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: many", r"steps='many' must be a whole number >= 1"),
        ("steps: 10\nlerning_rate: 1e-3", r"unknown key 'lerning_rate' \(known are batch"),
        ("minima: 0.8\nreplay: 0.3", "their sum must be below 1"),
        ("- steps", "must hold a mapping"),
        ("steps: [", "cannot be read"),
    ],
)
def test_wrong_settings_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "how.yaml").write_text(text)
    with pytest.raises(DatasetError, match=words):
        load_fine_tune(tmp_path / "how.yaml")


def test_the_packaged_settings_are_the_defaults() -> None:
    packaged = Path(__file__).parents[2] / "models" / "configs" / "layer-force-field.yaml"
    assert load_fine_tune(packaged) == FineTune()
