"""Prototypes: the nearest one by elements, under any naming of the letters, scaled by sizes that can be fitted."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from scdm_models.metrics.groups import found_by_both
from scdm_models.model.checkpoint import load_checkpoint, save_checkpoint
from scdm_models.model.elements import MAX_Z
from scdm_models.model.prototypes import Prototypes, element_distances
from scdm_models.sampling.geometries import geometries
from scdm_models.sampling.sampler import DEFAULT_STEPS, generate
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode, without_symmetry

MO, W, S, SE, HF, TE = 42, 74, 16, 34, 72, 52


def trilayer(metal: int, other: int, a: float, z: float, letters: str = "ae") -> LayerCrystal:
    """1H in p-6m2, positions (0, 0, 0) and (1/3, 2/3, z)."""
    place = {"a": (0.0, 0.0), "b": (1 / 3, 2 / 3), "c": (2 / 3, 1 / 3)}
    places = {**place, "d": place["a"], "e": place["b"], "f": place["c"]}
    first, second = letters
    sites = (Site(metal, first, (*places[first], 0.0)), Site(other, second, (*places[second], z)))
    return LayerCrystal(78, (a, a, 120.0), sites)


MOS2 = trilayer(MO, S, 3.18, 1.56)


def test_distances_of_elements_are_a_metric_of_sorts() -> None:
    table = element_distances()
    assert np.allclose(table, table.T)
    assert np.allclose(np.diag(table), 0)
    assert table[S - 1, SE - 1] < table[S - 1, MO - 1]
    assert table[MO - 1, W - 1] < table[MO - 1, HF - 1]


def test_the_nearest_prototype_lends_its_geometry() -> None:
    known = Prototypes.of([MOS2, trilayer(HF, TE, 3.9, 1.8), trilayer(S, MO, 5.0, 1.0)])
    wanted = trilayer(W, SE, 1.0, 0.1)
    found = known.nearest(wanted)
    assert found is not None
    assert [(s.element, s.letter) for s in found.sites] == [(W, "a"), (SE, "e")]
    # scaled by the mean of the logs of the sizes: two thirds of the atoms go from S to Se, one from Mo to W
    plane, across = ((known.sizes[:, W - 1] - known.sizes[:, MO - 1]) / 3
                     + 2 * (known.sizes[:, SE - 1] - known.sizes[:, S - 1]) / 3).exp().tolist()  # fmt: skip
    assert found.lattice[0] == pytest.approx(3.18 * plane)
    assert found.sites[1].xyz[2] == pytest.approx(1.56 * across)
    assert plane > 1
    assert known.nearest(replace(wanted, layer_group=72)) is None
    assert Prototypes.none().nearest(wanted) is None


@pytest.mark.parametrize("letters", ["ae", "bf", "cd", "af", "bd", "ce"])
def test_another_origin_or_other_axes_make_no_difference(letters: str) -> None:
    known = Prototypes.of([MOS2])
    found = known.nearest(trilayer(MO, S, 1.0, 0.1, letters))
    assert found is not None
    assert found.template == MOS2.template
    assert [s.element for s in found.sites] == [MO, S]
    assert found.lattice[0] == pytest.approx(3.18)
    assert found_by_both(decode(found), 78)


def test_elements_on_one_letter_go_where_they_fit_best() -> None:
    # Janus: two sites on one letter, in the other order than the prototype has them
    janus = LayerCrystal(
        69,
        (3.25, 3.25, 120.0),
        (
            Site(MO, "a", (0.0, 0.0, 0.0)),
            Site(S, "b", (1 / 3, 2 / 3, 1.5)),
            Site(SE, "b", (1 / 3, 2 / 3, -1.7)),
        ),
    )
    wanted = replace(janus, sites=(janus.sites[0], replace(janus.sites[2]), replace(janus.sites[1])))
    found = Prototypes.of([janus]).nearest(wanted)
    assert found is not None
    assert [(s.element, round(s.xyz[2], 3)) for s in found.sites] == [(MO, 0.0), (SE, -1.7), (S, 1.5)]


def test_sizes_are_recovered() -> None:
    # layers whose cell is the geometric mean of sizes by atoms, whatever the radii say
    sizes = {MO: 3.0, W: 3.3, HF: 4.0, S: 2.5, SE: 3.0, TE: 3.6}

    def layer(metal: int, other: int) -> LayerCrystal:
        a = (sizes[metal] * sizes[other] ** 2) ** (1 / 3)
        return trilayer(metal, other, a, a / 2)

    crystals = [layer(m, x) for m, x in product((MO, W, HF), (S, SE, TE))]
    fitted = Prototypes.of(crystals).sizes.numpy()
    for first, second in ((MO, W), (MO, HF), (S, SE), (S, TE)):
        expected = np.log(sizes[second] / sizes[first])
        assert fitted[0, second - 1] - fitted[0, first - 1] == pytest.approx(expected, abs=0.02)
        assert fitted[1, second - 1] - fitted[1, first - 1] == pytest.approx(expected, abs=0.02)
    left_out = Prototypes.of([c for c in crystals if {s.element for s in c.sites} != {W, SE}])
    found = left_out.nearest(layer(W, SE))
    assert found is not None
    assert found.lattice[0] == pytest.approx(layer(W, SE).lattice[0], rel=0.02)


def test_a_checkpoint_keeps_them(tmp_path: Path) -> None:
    packaged = load_checkpoint()
    known = Prototypes.of([MOS2, trilayer(HF, TE, 3.9, 1.8)])
    save_checkpoint(tmp_path / "m.safetensors", packaged.model, packaged.prior, packaged.card, known)
    loaded = load_checkpoint(tmp_path / "m.safetensors").prototypes
    assert len(loaded) == 2
    assert loaded.nearest(trilayer(W, SE, 1, 1)) == known.nearest(trilayer(W, SE, 1, 1))
    assert loaded.sizes.shape == (2, MAX_Z)


def test_the_chain_begins_at_a_prototype_where_there_is_one() -> None:
    checkpoint = replace(load_checkpoint(), prototypes=Prototypes.of([MOS2]))
    skeletons = [trilayer(W, SE, 1.0, 0.1), trilayer(W, SE, 1.0, 0.1, "ad")]
    streams = [np.random.default_rng(k) for k in range(2)]
    first, second = geometries(checkpoint, skeletons, streams, DEFAULT_STEPS, 1.0)
    assert (first.from_prototype, second.from_prototype) == (True, False)
    assert first.bonded
    assert first.crystal.lattice[0] == pytest.approx(3.32, abs=0.15)  # WSe2: C2DB 3.32 angstrom
    assert found_by_both(decode(first.crystal), 78)
    cold, _ = geometries(checkpoint, skeletons, streams, DEFAULT_STEPS, 1.0, prototypes=False)
    assert not cold.from_prototype
    # no random number is used: the same skeleton has the same geometry
    again, _ = geometries(checkpoint, skeletons, streams, DEFAULT_STEPS, 1.0)
    assert torch.allclose(torch.tensor(again.crystal.lattice), torch.tensor(first.crystal.lattice))


def test_samples_say_where_they_began() -> None:
    checkpoint = replace(load_checkpoint(), prototypes=Prototypes.of([without_symmetry(MOS2), MOS2]))
    samples = list(generate(30, 1, checkpoint=checkpoint))
    for sample in samples:
        known = checkpoint.prototypes.nearest(sample.crystal) is not None
        assert sample.from_prototype is known
        assert sample.to_dict()["from_prototype"] is known
