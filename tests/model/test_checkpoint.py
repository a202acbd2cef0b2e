"""The packaged checkpoints, and refusals of checkpoints that are not ours; classes of stability."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scdm_models.errors import CheckpointError
from scdm_models.model.checkpoint import identity, load_checkpoint, save_checkpoint
from scdm_models.model.denoiser import stability_class


@pytest.mark.parametrize(("packaged", "name"), [("scdm", "SCDM"), ("unscdm", "UnSCDM")])
def test_packaged_checkpoints_are_small_and_documented(packaged: str, name: str) -> None:
    from importlib.resources import files

    resource = files("scdm_models").joinpath("data", f"{packaged}.safetensors")
    assert len(resource.read_bytes()) <= 16 * 2**20
    card = load_checkpoint(packaged=packaged).card
    assert card["name"] == name
    assert card["licence"] == "BSD-3-Clause"
    assert card["n_training"] > 5000
    assert {"skeleton_nats", "plane_mse", "height_mse", "lattice_mse"} <= card["metrics"].keys()


def test_foreign_and_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match="expected 'scdm-checkpoint/3'"):
        load_checkpoint(foreign)
    packaged = load_checkpoint()
    changed, parts = tmp_path / "changed.safetensors", (packaged.model, packaged.prior, packaged.card)
    assert save_checkpoint(changed, *parts, packaged.prototypes) == packaged.model_id
    raw = bytearray(changed.read_bytes())
    raw[-5] ^= 1
    changed.write_bytes(raw)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load_checkpoint(changed)


def test_identity_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    packaged = load_checkpoint()
    name, digest = identity()
    assert (name, len(digest)) == (packaged.model_id, 64)
    assert name == f"scdm-{digest[:8]}"
    changed = tmp_path / "changed.safetensors"
    save_checkpoint(changed, packaged.model, packaged.prior + 1, packaged.card, packaged.prototypes)
    assert identity(changed) != identity()
    assert identity(changed)[0] == load_checkpoint(changed).model_id
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    for path in (foreign, tmp_path / "none.safetensors"):
        with pytest.raises(CheckpointError, match="is no checkpoint"):
            identity(path)


def test_stability_classes_have_their_edges_where_they_say() -> None:
    # eV/atom above hull; an edge belongs to the more stable class, as "at most 0.2" does
    assert [stability_class(e) for e in (-0.1, 0.0, 0.05, 0.051, 0.2, 0.4, 0.41, 9.0, None)] == [
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        4,
        -1,
    ]
