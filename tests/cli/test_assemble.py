"""``scdm assemble``: models of one name stand beside one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scdm_flows.cli.assemble import assemble
from scdm_models.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from scdm_models.sampling.geometries import Geometry
from scdm_models.symmetry.encoding import LayerCrystal, Site


@pytest.fixture
def curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two layers that every model holds out."""
    from scdm_models.datasets.records import CuratedLayer, write_curated

    layers = []
    for k, metal in enumerate((42, 74)):
        sites = (Site(metal, "a", (0.0, 0.0, 0.0)), Site(16, "e", (1 / 3, 2 / 3, 1.56)))
        crystal = LayerCrystal(78, (3.18, 3.18, 120.0), sites)
        layers.append(CuratedLayer(f"c{k}", "test", (), crystal, 0.1, 0.0, 78, None, None, one_layer=True))
    write_curated(tmp_path / "curated.jsonl.gz", layers)
    monkeypatch.setattr(
        "scdm_models.training.data_split.held_out", lambda checkpoint, crystals, ids: ([], list(range(len(ids))))
    )
    return tmp_path / "curated.jsonl.gz"


def test_two_models_of_one_name_are_told_apart(tmp_path: Path, curated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = load_checkpoint()
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]
    first, second = (
        save_checkpoint(file, packaged.model, packaged.prior + k, packaged.card, packaged.prototypes)
        for k, file in enumerate(files)
    )

    def right_or_nothing(checkpoint: Checkpoint, crystals: Sequence[LayerCrystal], *_: Any) -> list[Geometry | None]:
        """The first model and UnSCDM make every layer as it is, the second one none."""
        made = [Geometry(crystal, True, False) for crystal in crystals]
        return [None] * len(made) if checkpoint.model_id == second else list(made)

    monkeypatch.setattr("scdm_models.sampling.reconstruct.from_skeletons", right_or_nothing)

    def shares(*checkpoints: Path) -> dict[str, float]:
        words = ["--data", str(curated), "--json"]
        for file in checkpoints:
            words += ["--checkpoint", str(file)]
        done = CliRunner().invoke(assemble, words, catch_exceptions=False)
        return {name: row["all"]["value"] for name, row in json.loads(done.stdout)["matches"].items()}

    ways = ("{}", "{}, nearest training crystal alone", "{}, from noise")
    assert shares(*files) == {way.format(one): share for one, share in ((first, 1), (second, 0)) for way in ways}
    # where names differ they stay, as the model cards have them
    assert shares() == {way.format(name): 1 for name in ("SCDM", "UnSCDM") for way in ways}
    assert list(shares(files[1])) == [way.format("SCDM") for way in ways]
