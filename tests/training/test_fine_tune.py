"""A model that learns from finds: more of what was rewarded, held by its own samples, the same file for the same call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scdm_models.errors import DatasetError
from scdm_models.model.batch import to_batch
from scdm_models.model.checkpoint import Checkpoint, load_checkpoint
from scdm_models.model.denoiser import stability_class
from scdm_models.sampling.sampler import generate
from scdm_models.symmetry.encoding import LayerCrystal
from scdm_models.training.fine_tune import _told, fine_tune, shared


@pytest.fixture(scope="module")
def start() -> Checkpoint:
    return load_checkpoint()


@pytest.fixture(scope="module")
def own(start: Checkpoint) -> list[LayerCrystal]:
    return [sample.crystal for sample in generate(16, seed=4, checkpoint=start)]


def of(crystal: LayerCrystal, elements: tuple[int, ...]) -> LayerCrystal:
    """The crystal of other elements: its sites get them in turn."""
    sites = tuple(replace(site, element=elements[k % len(elements)]) for k, site in enumerate(crystal.sites))
    return replace(crystal, sites=sites)


def nats(checkpoint: Checkpoint, crystals: list[LayerCrystal]) -> float:
    """Mean loss of a token, with the same masks for every model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        batch = to_batch(crystals)
        return float(torch.stack([checkpoint.model.skeleton_loss(batch, generator) for _ in range(8)]).mean())


def test_rewarded_crystals_become_likelier_and_the_others_stay(
    start: Checkpoint, own: list[LayerCrystal], tmp_path: Path
) -> None:
    # nitrides of scandium, which the start seldom makes
    found = [of(crystal, (21, 7)) for crystal in own]
    once = fine_tune(start, found, [1.0] * len(found), own, tmp_path / "a.safetensors", steps=25)
    learned = load_checkpoint(tmp_path / "a.safetensors")
    assert learned.model_id == once
    assert learned.model_id.startswith("scdm-")
    assert nats(learned, found) < nats(start, found) - 0.1
    assert nats(learned, own) < nats(start, own) + 0.2
    assert learned.card["fine_tuned"]["from"] == start.model_id
    # geometry and prototypes are as they were, and half of the prior
    for name, value in start.model.geometry.state_dict().items():
        assert torch.equal(value, learned.model.geometry.state_dict()[name])
    assert len(learned.prototypes) == len(start.prototypes)
    assert float(learned.prior.sum()) == pytest.approx(float(start.prior.sum()))
    assert bool((learned.prior >= 0.49 * start.prior).all())


def test_the_same_call_writes_the_same_file_on_any_number_of_threads(
    start: Checkpoint, own: list[LayerCrystal], tmp_path: Path
) -> None:
    found = [of(crystal, (21, 7)) for crystal in own]
    threads = torch.get_num_threads()
    ids = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            ids.append(fine_tune(start, found, [1.0] * len(found), own, tmp_path / f"{number}.safetensors", steps=4))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert ids[0] == ids[1]


def test_classes_of_stability_are_those_of_sampling() -> None:
    # up to 0.2 eV/atom three classes are drawn alike (skeletons.draw_skeletons); without a condition none is told
    assert stability_class(0.2) == 2
    torch.manual_seed(0)
    told = torch.cat([_told(stability_class(0.2) + 1) for _ in range(50)])
    share = torch.bincount(told, minlength=3) / len(told)
    assert share.tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    assert set(_told(stability_class(None) + 1).tolist()) == {-1}


def test_a_find_repeated_is_worth_no_more(own: list[LayerCrystal]) -> None:
    one, other = of(own[0], (42, 16)), of(own[1], (21, 7))
    assert shared([one, one, one, other], [0.9, 0.9, 0.9, 0.5]) == pytest.approx([0.3, 0.3, 0.3, 0.5])


def test_too_little_to_learn_from_is_refused(start: Checkpoint, own: list[LayerCrystal], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="3 crystals have a reward, at least 8 are needed"):
        fine_tune(start, own, [1.0] * 3 + [0.0] * (len(own) - 3), own, tmp_path / "x.safetensors")
    with pytest.raises(DatasetError, match="cannot be held; give some, or pull=0"):
        fine_tune(start, own, [1.0] * len(own), [], tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
