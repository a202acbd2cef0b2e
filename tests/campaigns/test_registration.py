"""What is wrong is known before the first job: told at once by a dry run and at registration, and mended in place."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.campaigns.controls import mark_cancelled
from scdm_flows.campaigns.registration import MOST_SHARDS, obstacles, refusals, register
from scdm_flows.campaigns.under_way import running
from scdm_flows.config import CampaignConfig, parse_config
from scdm_flows.errors import CampaignError, ConfigError, EngineError


def campaign(**parts: Any) -> CampaignConfig:
    return parse_config({"name": "c", **parts})


def sampled(**asked: Any) -> CampaignConfig:
    return campaign(generator={"kind": "scdm", "n": 3, **asked})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"elements": ["Mo", "Zz"]}, "'Zz' is no element"),
        ({"formula": "Xx2Qq"}, "'Xx', 'Qq' is no element"),
        ({"formula": "Mo" + "9" * 400}, "needs whole numbers"),
        ({"n_atoms": 1000}, "n_atoms=1000 must be 1 to 40"),
        ({"formula": "PuO2"}, "Pu did not occur in the training data"),
        # p6/mmm has one position of one atom (International Tables E), so two atoms there are of one element
        ({"formula": "MoS", "n_atoms": 2, "layer_group": 80}, "no combination of at most"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
    ],
)
def test_a_request_that_no_sample_can_meet_is_refused_before_it_is_registered(asked: dict[str, Any], said: str) -> None:
    config, database = sampled(**asked), memory_database()
    (told,) = obstacles(config)
    assert said in told
    assert "; " in told  # what; remedy
    assert refusals(config, database) == [told]
    with pytest.raises(ConfigError) as error:
        register(config, database)
    assert str(error.value) == told
    assert database.campaign("c") is None


def test_a_checkpoint_that_was_changed_does_not_match_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "changed.safetensors"
    shutil.copy(str(files("scdm_models").joinpath("data", "scdm.safetensors")), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert any("does not match its checksum" in told for told in obstacles(sampled(checkpoint=str(path))))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    config = campaign(
        generator={
            "kind": "several",
            "generators": [
                {"kind": "scdm", "elements": "Zz", "n_atoms": 1000, "checkpoint": "none"},
                {"kind": "files", "paths": [str(tmp_path / "gone")]},
            ],
        },
        engine={"kind": "vasp"},
    )
    with pytest.raises(ConfigError) as error:
        register(config, memory_database())
    for said in (
        "'Zz' is no element",
        "n_atoms=1000",
        "checkpoint",
        "gone does not exist",
        "SCDM_VASP_CMD",
        "references",
    ):
        assert said in str(error.value)


def test_a_vasp_campaign_without_references_is_refused_as_something_to_mend(tmp_path: Path) -> None:
    mx2("1H").to(filename=str(tmp_path / "a.cif"))
    config = campaign(generator={"kind": "files", "paths": [str(tmp_path)]}, engine={"kind": "vasp"})
    with pytest.raises(EngineError, match="engine.references names no file") as error:
        register(config, memory_database())
    assert error.value.exit_code == 2


def test_files_of_which_none_is_a_structure_are_refused_and_one_bad_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[" * 100_000)
    paths = [str(tmp_path / "bad.json")]
    assert "bad.json is neither JSON" in obstacles(campaign(generator={"kind": "files", "paths": paths}))[0]
    mx2("1H").to(filename=str(tmp_path / "good.cif"))
    good = campaign(generator={"kind": "files", "paths": [*paths, str(tmp_path / "good.cif")]})
    assert obstacles(good) == []
    database = memory_database()
    assert register(good, database)
    document = database.campaign("c")
    assert document is not None
    assert document.n_requested == 2  # the bad one will be a candidate that says why


def test_too_many_workflows_are_refused() -> None:
    (told,) = obstacles(sampled(n=MOST_SHARDS + 1, shard_size=1))
    assert "raise generator.shard_size" in told
    assert obstacles(sampled(n=MOST_SHARDS, shard_size=1)) == []


def test_a_campaign_that_has_computed_nothing_is_corrected_and_one_that_has_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = memory_database()
    assert register(sampled(n=3), database)
    assert not register(sampled(n=3), database)
    database.mongo["fireworks"].insert_one({"fw_id": 1, "state": "READY", "spec": {"campaign": "c"}})
    database.mongo["workflows"].insert_one({"nodes": [1], "metadata": {"campaign": "c"}})
    assert refusals(sampled(n=4), database) == []
    assert register(sampled(n=4), database)
    assert "had computed nothing yet and was corrected (generator.n: 3 there, 4 here)" in caplog.text
    corrected = database.campaign("c")
    assert corrected is not None
    assert (corrected.n_requested, corrected.config_hash) == (4, sampled(n=4).config_hash)
    # jobs of the old configuration must not run
    assert database.mongo["fireworks"].count_documents({}) == database.mongo["workflows"].count_documents({}) == 0
    with pytest.raises(ConfigError, match="is no element"):  # nor does a wrong correction undo what is there
        register(sampled(n=4, elements="Zz"), database)
    assert database.campaign("c") == corrected

    database.mongo["outputs"].insert_one({"uuid": "u", "metadata": {"campaign": "c"}})
    for ask in (lambda: register(sampled(n=5), database), lambda: _raise(refusals(sampled(n=5), database))):
        with pytest.raises(CampaignError, match=r"generator\.n: 4 there, 5 here.*new name.*`scdm campaign remove c`"):
            ask()


def _raise(problems: list[str]) -> None:
    raise CampaignError("; ".join(problems))


def test_what_computes_now_is_not_corrected() -> None:
    database = memory_database()
    register(sampled(n=3), database)
    database.mongo["fireworks"].insert_one({"fw_id": 1, "state": "RUNNING", "name": "j", "spec": {"campaign": "c"}})
    with pytest.raises(CampaignError, match="1 of its jobs run on the LaunchPad, such as j"):
        register(sampled(n=4), database)
    database.mongo["fireworks"].delete_many({})
    with running(database, "c"):  # this very process may: it has just begun
        assert register(sampled(n=4), database)


def test_a_dry_run_tells_of_a_cancelled_campaign() -> None:
    database = memory_database()
    register(sampled(), database)
    assert refusals(sampled(), database) == []
    mark_cancelled(database.mongo, "c")
    assert "--undo" in refusals(sampled(), database)[0]
