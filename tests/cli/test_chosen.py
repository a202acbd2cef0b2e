"""Which candidates ``scdm candidates`` commands are about: the same filters everywhere, and names of single ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.documents import CampaignDocuments, candidate, energies
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.cli import candidates as commands
from scdm_flows.documents.candidate import StageRecord
from scdm_flows.errors import CampaignError

BEST, UNSTABLE, THIRD = (f"demo-{k:012x}" for k in (0, 1, 2))
TELLURIDE = "other-4f2a00000000"
NO_ELECTRONS = StageRecord(status="skipped", reason="no bands: a force field has no electrons")


@pytest.fixture(autouse=True)
def stored(campaign_documents: CampaignDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six candidates of MoS2 in ``demo`` and one of MoTe2 in ``other``, in a database that the commands find."""
    layer = mx2("1H", a=3.55)
    layer.replace_species({"S": "Te"})
    relaxed = {
        c.candidate_id: c.model_copy(
            update={
                "relaxed_structure": c.structure if c.e_above_hull is not None else None,
                "stages": {"bands": NO_ELECTRONS},
            }
        )
        for c in campaign_documents.candidates
    }
    other = candidate(9, layer, **energies(0.2, rank=1, score=0.5)).model_copy(
        update={"candidate_id": TELLURIDE, "campaign": "other"}
    )
    documents = [*relaxed.values(), other]
    database = memory_database()
    CampaignDocuments(campaign_documents.campaign, documents, campaign_documents.phonons, []).store(database)
    database.upsert(database.campaigns, [campaign_documents.campaign.model_copy(update={"name": "other"}).model_dump()])

    @contextmanager
    def here(**_: Any) -> Iterator[Any]:
        yield database

    for module in ("candidates", "compare", "show"):
        monkeypatch.setattr(f"scdm_flows.cli.{module}.database", here)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(commands.candidates, [*map(str, arguments)])


def ids(*arguments: object) -> list[str]:
    """Of ``list`` or ``show``."""
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    return [d["candidate_id"] for d in (found if isinstance(found, list) else [found])]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--campaign", "other"], [TELLURIDE]),
        (["--where", "campaign=other"], [TELLURIDE]),
        (["--formula", "Te2Mo"], [TELLURIDE]),
        (["--elements", "Mo,Te"], [TELLURIDE]),
        (["--where", "elements=Te"], [TELLURIDE]),
        (["--unstable"], [UNSTABLE]),
        (["--campaign", "demo", "--max-e-above-hull", 0.1], [BEST, UNSTABLE]),
        (["--where", "min_e_above_hull=0.1", "--where", "max_e_above_hull=0.2"], [TELLURIDE, THIRD]),
        (["--where", f"candidate_id={BEST}", "--where", f"candidate_id={THIRD}"], [BEST, THIRD]),  # either
    ],
)
def test_list_export_and_show_take_the_same_filters(filters: list[Any], expected: list[str], tmp_path: Path) -> None:
    assert ids("list", *filters) == expected
    done = call("export", *filters, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted(expected)
    assert ids("show", *filters) == expected[:1]  # the best by rank


def test_what_export_takes_is_said_and_all_is_all(tmp_path: Path) -> None:
    done = call("export", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "or --top N; --all exports every candidate" in done.output
    assert call("export", "--all", BEST, "-o", tmp_path / "out").exit_code == 2
    assert call("export", "--all", "-o", tmp_path / "all").exit_code == 0
    assert len(list((tmp_path / "all").iterdir())) == 7
    assert call("export", "--top", 9, "-o", tmp_path / "best").exit_code == 0
    assert len(list((tmp_path / "best").iterdir())) == 4  # no more have a rank


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--where", "campaign=othr"], "did you mean 'other'?"),
        (
            ["list", "--formula", "MoS2", "--where", "formula=WS2"],
            "--where formula=WS2 and --formula are about the same",
        ),
        (["list", "--stable", "--where", "dynamically_stable=false"], "and --stable are about the same"),
        (["list", "--where", "rank"], "must be FIELD=VALUE"),
        (["show"], "give ids or formulas, or a filter"),
        (["show", "0000"], "begins 6 ids: demo-000000000000, demo-000000000002, demo-000000000001, ...; give more"),
        (["show", "demo-00000000000x"], "did you mean demo-00000000000"),
        (["show", "MoSe2"], "no candidate matches formula=MoSe2"),
        (["show", "MoTe2", "--unstable"], "no candidate matches formula=MoTe2 dynamically_stable=false"),
        (["show", "4f2a", "--campaign", "other"], f"{TELLURIDE} is one candidate; filters (campaign=other) go with"),
        (["show", "MoS2", "--formula", "MoTe2"], "are two formulas"),
        (["compare", "MoTe2", "4f2a"], f"is one candidate, {TELLURIDE}; give two or more"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_in_words(arguments: list[str], words: str) -> None:
    done = call(*arguments)
    assert words in (str(done.exception) if isinstance(done.exception, CampaignError) else done.output)
    assert done.exit_code != 0


def test_a_candidate_has_short_names() -> None:
    assert ids("show", "4f2a00000000") == [TELLURIDE]  # the id without its campaign
    assert ids("show", "4f2a") == [TELLURIDE]  # the beginning of that
    assert ids("show", "S2Mo", "000000000001", THIRD, BEST) == [BEST, UNSTABLE, THIRD]  # each once
    told = call("show", "MoS2").stderr
    assert (
        f"{BEST} is the best by rank of 6 candidates; the 5 others: scdm candidates list --where formula=MoS2" in told
    )
    assert call("show", "MoTe2").stderr == ""  # there is one
    told = call("show", "MoS2", "--state", "rejected").stderr  # none has a rank, one an energy
    assert told.startswith("demo-000000000003 is the best by energy above hull of 2 candidates")
    shown = call("show", BEST, THIRD).stdout
    assert shown.index(BEST) < shown.index(THIRD)


def test_candidates_side_by_side() -> None:
    done = call("compare", BEST, UNSTABLE, THIRD, TELLURIDE)
    assert done.exit_code == 0, done.output
    lines = {line.split("  ")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "0.010 ± 0.100 (surrogate)" in lines["E_hull (eV/atom)"]
    assert "0.150 ± 0.100 (surrogate, extrapolated)" in lines["E_hull (eV/atom)"]
    assert lines["layer group"].count("78 (p-6m2), within 0.05 Å") == 3
    assert lines["layer group"].count("within 0.001 Å") == 1  # not relaxed
    assert "stable, lowest mode 0.00 THz" in lines["phonons"]
    assert "unstable, lowest mode -1.50 THz" in lines["phonons"]
    assert "a = 3.180 Å, b = 3.180 Å, γ = 120.0°" in lines["lattice"]
    assert lines["novelty"].count("new after relaxation") == 4
    assert "band gap (eV)" not in lines  # nobody has one
    found = json.loads(call("compare", BEST, UNSTABLE, THIRD, TELLURIDE, "--json").stdout)
    apart = [one["rmsd_to_first_angstrom"] for one in found]
    assert apart[0] is apart[1] is apart[3] is None  # itself, 1T beside 1H, another formula
    # the same layer with a of 3.3 for 3.18 angstrom: strain does not count, so the atoms lie where they did
    assert apart[2] == pytest.approx(0, abs=1e-6)
    assert "another layer" in lines["atoms from the first's (Å)"]
    assert "another formula" in lines["atoms from the first's (Å)"]


def test_an_empty_list_says_that_nobody_has_what_was_asked_for(tmp_path: Path) -> None:
    done = call("list", "--where", "min_band_gap=1")
    assert done.stderr == "no candidate has a band gap: a force field has no electrons\n"
    done = call("list", "--where", "gap_kind=direct", "--campaign", "demo", "--json")
    assert json.loads(done.stdout) == []
    assert done.stderr == "no candidate of demo has a band gap: a force field has no electrons\n"
    # some have phonons, none is that soft: nothing is missing
    assert call("list", "--where", "max_min_frequency_thz=-90").stderr == ""
    assert call("list", "--where", "max_e_above_hull=-9").stderr == ""
    done = call("plot", BEST, "--what", "bands", "-o", tmp_path / "b.svg")
    assert str(done.exception) == f"candidate {BEST} has no bands: a force field has no electrons"


def test_groups_are_shown_with_the_tolerance_they_were_found_within() -> None:
    words = "Layer groups are those within 0.05 Å, of what was not relaxed within 0.001 Å."
    assert words in call("list").stdout
    assert "layer_group (0.05 Å)" in call("show", BEST).stdout
    assert "layer_group (0.001 Å)" in call("show", TELLURIDE).stdout
