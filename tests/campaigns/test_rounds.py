"""A loop's plan, its configuration, and what counts as found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.documents import candidate, energies, six_candidates
from support.layers import mx2
from support.loops_demo import chosen
from support.memory import memory_database

from scdm_flows.campaigns import promotion, rounds, worth
from scdm_flows.campaigns.estimate import Fit
from scdm_flows.campaigns.findings import OTHER_SCALE_EV, SAME_SCALE_EV, findings_of
from scdm_flows.campaigns.rounds import Next, Step, begun, count, is_found, next_step, register_loop, save, stored_loop
from scdm_flows.config import parse_config
from scdm_flows.config.loop import LoopConfig, load_loop, parse_loop
from scdm_flows.documents import CandidateDoc, CandidateState, LoopDoc, LoopRound, ParentRecord, StageName, StageRecord
from scdm_flows.engines.base import StageCost
from scdm_flows.engines.forcefield.energies import see
from scdm_flows.errors import CampaignError, ConfigError
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database
from scdm_flows.stores.names import OUTPUTS
from scdm_flows.thermo.energy_model import load_energy_model
from scdm_flows.thermo.table import ReferenceTable

LOOP: dict[str, Any] = {
    "name": "l",
    "candidates": {"generator": {"kind": "scdm", "n": 20, "seed": 4}},
    "compute": {"engine": {"kind": "gpaw"}},
    "choose": {"n": 2},
    "learn": {"generator": False},
    "rounds": 3,
}


def this(number: int, *, finished: bool = True) -> LoopRound:
    return LoopRound(
        number=number, energy_model="m", learned_from=0, pool=5, expected=1.0, expected_by_rank=1.0,
        expected_at_random=0.5, finished=finished,
    )  # fmt: skip


def loop(**changes: Any) -> LoopConfig:
    return parse_loop(LOOP | changes)


def document(*rounds: LoopRound) -> LoopDoc:
    config = loop()
    return LoopDoc(name="l", config=config.model_dump(mode="json"), config_hash=config.config_hash, rounds=rounds)


def test_rounds_follow_each_other() -> None:
    assert next_step(loop(), document(), [], 0) == Next(Step.GENERATE, 1)
    assert next_step(loop(), document(), ["l-r01"], 0) == Next(Step.CHOOSE, 1)
    assert next_step(loop(), document(this(1, finished=False)), ["l-r01"], 0) == Next(Step.COMPUTE, 1)
    assert next_step(loop(), document(this(1)), ["l-r01"], 0) == Next(Step.GENERATE, 2)
    done = [this(k) for k in (1, 2, 3)]
    assert next_step(loop(), document(*done), [], 0).step is Step.END
    assert next_step(loop(rounds=4), document(*done), [], 0) == Next(Step.GENERATE, 4)  # a raised number goes on


def test_a_used_up_budget_ends_it_but_not_what_was_chosen() -> None:
    short = loop(core_hours=1)
    assert next_step(short, document(this(1)), [], 1.0).step is Step.END
    assert "1 core hours" in str(next_step(short, document(this(1)), [], 1.0).why)
    assert next_step(short, document(this(1, finished=False)), [], 1.0) == Next(Step.COMPUTE, 1)


def test_a_generator_learns_before_it_generates_from_the_second_round_on() -> None:
    learning = loop(learn={"generator": True})
    assert next_step(learning, document(), [], 0) == Next(Step.GENERATE, 1)
    assert next_step(learning, document(this(1)), [], 0) == Next(Step.TEACH, 2)
    assert next_step(learning, document(this(1)), [], 0, taught=[2]) == Next(Step.GENERATE, 2)
    assert next_step(loop(), document(this(1)), [], 0) == Next(Step.GENERATE, 2)


@given(st.integers(0, 5), st.booleans(), st.booleans())
def test_every_step_leads_on(n: int, finished: bool, generated: bool) -> None:
    """Whatever is stored, doing what comes next reaches the end after at most three steps for each round that is left."""
    config, rounds = loop(rounds=4), [this(k + 1) for k in range(min(n, 4))]
    if rounds:
        rounds[-1].finished = finished
    over, steps = {f"l-r{len(rounds) + 1:02d}"} if generated else set(), 0
    while (now := next_step(config, document(*rounds), over, 0.0)).step is not Step.END:
        if now.step is Step.GENERATE:
            over.add(f"l-r{now.number:02d}")
        elif now.step is Step.CHOOSE:
            rounds.append(this(now.number, finished=False))
        else:
            rounds[-1].finished = True
        steps += 1
    assert [r.number for r in rounds] == [1, 2, 3, 4]
    assert steps <= 3 * (4 - min(n, 4)) + 1


def test_without_a_computation_the_generator_alone_learns() -> None:
    alone = parse_loop({"name": "l", "candidates": {"generator": {"kind": "scdm", "n": 20}}})
    assert alone.computed(1) is None
    assert alone.computing().engine == alone.candidates.engine
    assert alone.config_hash != loop().config_hash
    assert next_step(alone, document(this(1)), [], 0) == Next(Step.TEACH, 2)


def test_campaigns_of_the_rounds() -> None:
    first, second = loop().campaign(1), loop().campaign(2)
    assert first is not None
    assert second is not None
    assert (first.name, second.name, loop().computed(2)) == ("l-r01", "l-r02", "l-r02-gpaw")
    assert (first.generator.seed, second.generator.seed) == (4, 5)  # type: ignore[union-attr]
    files = loop(candidates={"generator": {"kind": "files", "paths": ["/x"]}})
    assert files.campaign(1) is not None
    assert files.campaign(2) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chose": {"n": 2}}, "unknown key 'chose'; did you mean 'choose'"),
        ({"choose": {"n": 0}}, "choose.n = 0: .* greater than or equal to 1"),
        ({"choose": {"by": "luck"}}, "choose.by = 'luck': .*'chance', 'improvement'"),
        ({"compute": {"engine": {"kind": "gpa"}}}, "did you mean 'gpaw'"),
        ({"choose": {"gap_ev": [2.0, 1.0]}}, r"gap_ev = \[2.0, 1.0\] must be \[lowest, highest\]"),
        ({"name": "a" * 51}, "at most 50 characters"),
        ({"candidates": {"generator": {"kind": "promoted"}}}, "candidates.generator.kind = 'promoted': must be one of"),
    ],
)
def test_mistakes_are_told_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loop(**change)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loop file .*x.yaml does not exist; launchpad/loops holds examples"):
        load_loop(tmp_path / "x.yaml")


def test_a_loop_is_registered_once_and_may_grow() -> None:
    database = memory_database()
    register_loop(loop(), database)
    config, known = stored_loop(database, "l")
    known.ended = "all 3 rounds are done"
    save(database, known)
    register_loop(loop(), database)
    assert stored_loop(database, "l")[1].ended == "all 3 rounds are done"
    register_loop(loop(rounds=5, core_hours=2), database)
    config, known = stored_loop(database, "l")
    assert known.ended is None  # it goes on
    assert (config.rounds, config.core_hours, known.rounds) == (5, 2, [])
    with pytest.raises(CampaignError, match="another configuration; only rounds, core_hours"):
        register_loop(loop(choose={"n": 3}), database)
    with pytest.raises(CampaignError, match="no loop is called 'm'; `scdm campaign list --loops` shows"):
        stored_loop(database, "m")


@pytest.mark.parametrize("which", ["memory", "server"])
def test_a_loop_is_only_written_over_what_was_read(which: str, request: pytest.FixtureRequest) -> None:
    """A process that was stopped for long must not take back the rounds that another has made since."""
    if which == "server":
        pytest.importorskip("secantus", reason="the embedded server is an optional extra")
    connected: Database = memory_database() if which == "memory" else request.getfixturevalue("database")
    register_loop(loop(), connected)
    stopped, other = (stored_loop(connected, "l")[1] for _ in range(2))
    for number in (1, 2):  # in the same millisecond, too
        other.rounds.append(this(number))
        save(connected, other)
    stopped.ended = "nothing to do"
    with pytest.raises(CampaignError, match="loop 'l' was changed by another process meanwhile.* wait for its end"):
        save(connected, stopped)
    after = stored_loop(connected, "l")[1]
    assert (len(after.rounds), after.ended) == (2, None)
    connected.mongo["loops"].delete_many({})  # nor bring back one that was removed
    with pytest.raises(CampaignError, match="changed by another process"):
        save(connected, after)
    assert connected.loop("l") is None
    rounds._insert(connected, after)
    with pytest.raises(CampaignError, match="changed by another process"):  # nor register it twice
        rounds._insert(connected, after)


def with_outputs(config: LoopConfig) -> Database:
    """A database in which the first round's surrogate has taken one hour of wall time, and its computation two."""
    connected = memory_database()
    for name, hours in (("l-r01", 1), (config.computed(1), 2)):
        about = {"campaign": name, "seconds": 3600.0 * hours}
        connected.mongo[OUTPUTS].insert_one({"uuid": name, "index": 1, "metadata": about})
    return connected


def test_hours_of_vasp_are_those_of_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hour of one core, and two of 32; what is left of them is said to the campaign in its own node hours."""
    monkeypatch.setenv("SCDM_VASP_RANKS", "32")
    config = loop(compute={"engine": {"kind": "vasp"}}, core_hours=100)
    connected = with_outputs(config)
    assert rounds.unit_of(config) == "core hours"
    assert rounds.hours_of(config, connected, 1) == pytest.approx(65)
    assert rounds.hours_of(config, connected, 1, computed=False) == pytest.approx(1)
    assert rounds.spent(config, connected, 2) == pytest.approx(65)
    assert rounds.hours_left(config, connected, 1) == pytest.approx(99)
    assert rounds.hours_left(config, connected, 2) == pytest.approx(35)
    assert rounds.asked_of(config, this(1), 99.0).node_hours == pytest.approx(3.09375)
    assert rounds.count(config, connected, this(1), []).core_hours == pytest.approx(65)
    # 100 hours are used up after 3.1 hours of VASP, not after 100
    assert next_step(config, document(this(1)), [], 65.0) == Next(Step.GENERATE, 2)


def test_hours_of_the_other_engines_are_those_of_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_VASP_RANKS", "32")
    for kind in ("gpaw", "forcefield"):
        config = loop(compute={"engine": {"kind": kind}}, core_hours=100)
        assert rounds.unit_of(config) == "core hours"
        assert rounds.hours_of(config, with_outputs(config), 1) == pytest.approx(3)
        assert rounds.asked_of(config, this(1), 99.0).node_hours == pytest.approx(99)


def test_without_ranks_they_are_node_hours_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCDM_VASP_RANKS", raising=False)
    config = loop(compute={"engine": {"kind": "vasp"}}, core_hours=3)
    assert rounds.unit_of(config) == "node hours"
    hours = rounds.hours_of(config, with_outputs(config), 1)
    assert hours == pytest.approx(3)
    assert rounds.asked_of(config, this(1), 2.0).node_hours == pytest.approx(2)
    ended = next_step(config, document(this(1)), [], hours, unit=rounds.unit_of(config))
    assert ended.why == "its 3 node hours are used up"


RUNS = [StageCost("relax", 1, 3, 4, 20, 4.0), StageCost("static", 1, 3, 4, 20, 1.0)]
RELAX, BOTH = (
    {StageName.RELAX: Fit(12, 0.25, 2.0)},
    {StageName.RELAX: Fit(12, 0.25, 2.0), StageName.STATIC: Fit(12, 0.5, 2.0)},
)


@pytest.mark.parametrize(
    ("known", "cores", "hours"),
    [
        ({}, 32, 5.0),  # as estimated
        (RELAX, 32, 5.0),  # of the static run nothing is known, and core hours are beside node hours in no ranking
        (BOTH, 32, 48.0),  # 0.25 * 4 + 0.5 * 1 node hours of 32 cores
        (BOTH, 1, 1.5),
        (BOTH, None, 5.0),
    ],
)
def test_candidates_cost_core_hours_whatever_is_known(
    known: dict[StageName, Fit], cores: int | None, hours: float
) -> None:
    assert worth.core_hours(RUNS, known, cores) == pytest.approx(hours)
    assert worth.core_hours([], known, cores) is None  # next to nothing


@pytest.mark.parametrize(("ranks", "left"), [("32", 35.0), (None, None)])
def test_core_hours_are_chosen_within_core_hours_alone(
    monkeypatch: pytest.MonkeyPatch, ranks: str | None, left: float | None
) -> None:
    """Where what is left is in node hours, the campaign of the round keeps to it, and the choice to nothing."""
    monkeypatch.delenv("SCDM_VASP_RANKS", raising=False)
    if ranks is not None:
        monkeypatch.setenv("SCDM_VASP_RANKS", ranks)
    files = {"generator": {"kind": "files", "paths": ["/x"]}}
    config = loop(candidates=files, compute={"engine": {"kind": "vasp"}}, core_hours=100)
    seen: list[Any] = []
    real = worth.choose

    def choose(*options: Any, **more: Any) -> Any:
        seen.append(more.get("core_hours"))
        return real(*options, **more)

    monkeypatch.setattr(worth, "choose", choose)
    monkeypatch.setattr(worth, "_model", lambda *_: load_energy_model())
    worth.choose_round(config, with_outputs(config), 2, document())
    assert seen[0] == (left if left is None else pytest.approx(left))


def test_what_failed_was_computed_for_nothing() -> None:
    database = memory_database()
    made = [
        candidate(0, mx2("1H"), **energies(0.0, surrogate=False)),
        candidate(1, mx2("1H"), state=CandidateState.FAILED, reason="relax: no end"),
        candidate(2, mx2("1H"), state=CandidateState.PENDING),
    ]
    for one in made:
        one.campaign = "l-r01-gpaw"
    database.upsert(database.candidates, [one.model_dump() for one in made])
    found = count(loop(), database, this(1).model_copy(update={"computed": "l-r01-gpaw"}), [])
    assert (found.ended, found.found) == (2, 1)


@pytest.mark.parametrize("finished", [True, False])
def test_a_choice_counts_once_something_of_it_was_computed(finished: bool) -> None:
    """What the budget left out may be chosen again, what failed may not."""
    database = memory_database()
    relaxed = {"screen": StageRecord(status="passed"), "relax": StageRecord(status="passed")}
    pending = {"state": CandidateState.PENDING}
    came: list[dict[str, Any]] = [
        energies(0.4),
        {"state": CandidateState.FAILED, "reason": "relax: no end"},
        {**pending, "stages": relaxed},
        {**pending, "stages": {"screen": relaxed["screen"]}},  # left out
        {**pending, "stages": {"screen": relaxed["screen"]}},  # taken out of the queue by somebody
    ]
    made = [candidate(k, mx2("1H"), promoted_from=chosen(k).candidate_id, **fields) for k, fields in enumerate(came)]
    for one in made:
        one.campaign = "l-r01-gpaw"
    database.upsert(database.candidates, [one.model_dump() for one in made])
    first = this(1, finished=finished).model_copy(
        update={"computed": "l-r01-gpaw", "chosen": [chosen(k) for k in range(6)]}  # the last one was not screened
    )
    kept = [0, 1, 2, 4] if finished else list(range(6))
    assert begun(CandidateDB(database), first, [made[4].candidate_id]) == [chosen(k) for k in kept]


def test_what_was_left_out_is_chosen_again_but_not_when_it_was_computed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has failed since has no structure to be known by, and would be computed in every round."""
    files = {"generator": {"kind": "files", "paths": ["/x"]}}
    config = loop(candidates=files, compute={"engine": {"kind": "forcefield"}})
    left_out = {"state": CandidateState.PENDING, "stages": {"screen": StageRecord(status="passed")}}
    layer = mx2("1H")
    documents = []
    for campaign, fields in (
        ("l-r01", energies(0.02, rank=1, relaxed_structure=layer.as_dict())),
        ("l-r01-forcefield", left_out),
        ("l-r02-forcefield", {"state": CandidateState.FAILED, "reason": "relax: no end"}),
    ):
        one = candidate(0, layer, promoted_from=None if campaign == "l-r01" else chosen(0).candidate_id, **fields)
        name = f"{campaign}-{0:012x}"
        documents.append(one.model_copy(update={"campaign": campaign, "candidate_id": name}).model_dump())
    seen: dict[str, Any] = {}

    def predict(model: Any, structures: list[Any]) -> list[str]:
        seen["pool"] = len(structures)
        return ["not predicted"] * len(structures)

    def choose(*_: Any, before: Any = (), **__: Any) -> list[Any]:
        seen.setdefault("before", [one.candidate_id for one in before])
        return []

    monkeypatch.setattr(worth, "_model", lambda *_: load_energy_model())
    monkeypatch.setattr(worth, "predict_by", predict)
    monkeypatch.setattr(worth, "choose", choose)
    done = [this(k).model_copy(update={"computed": f"l-r0{k}-forcefield", "chosen": [chosen(0)]}) for k in (1, 2)]
    # for diversity it counts once as well, and not against itself
    for n, pool, before in ((1, 1, []), (2, 0, [chosen(0).candidate_id])):
        database = memory_database()
        database.upsert(database.candidates, documents[: n + 1])
        seen.clear()
        worth.choose_round(config, database, 3, document(*done[:n]))
        assert seen == {"pool": pool, "before": before}, n


def test_a_budget_that_was_taken_out_is_one_no_longer() -> None:
    stored = parse_config(
        {"name": "c", "generator": {"kind": "files", "paths": ["x"]}, "budget": {"node_hours": 2, "max_candidates": 3}}
    )
    assert promotion._with_hours(stored, None).budget.node_hours == 2  # nothing was said
    without = promotion._with_hours(stored, promotion.UNLIMITED).budget
    assert (without.node_hours, without.max_candidates) == (None, 3)
    assert rounds.asked_of(loop(), this(1), None).node_hours == promotion.UNLIMITED


def test_what_is_found() -> None:
    def one(e: float, **fields: Any) -> CandidateDoc:
        return candidate(0, mx2("1H"), **energies(e, **{"surrogate": False, **fields}))

    assert is_found(loop(), one(0.1))
    assert not is_found(loop(), one(0.11))
    assert not is_found(loop(), one(0.0, novel=False))
    assert not is_found(loop(), one(0.0, novel=None))  # not judged is not new
    assert not is_found(loop(), one(0.0, e_above_hull_lower_bound=True))
    asked = loop(choose={"gap_ev": [1.0, 2.0]})
    assert is_found(asked, one(0.0, band_gap=1.5))
    assert not is_found(asked, one(0.0, band_gap=0.5))
    assert not is_found(asked, one(0.0))


def test_findings_are_computed_layers_in_both_geometries() -> None:
    """Of six candidates of a surrogate nothing is learned; of a promoted DFT one its own and its parent's geometry."""
    database, model = memory_database(), load_energy_model()
    documents = six_candidates()
    documents.store(database)
    layer, relaxed = mx2("1H", a=3.2), mx2("1H", a=3.18)
    dft = {"surrogate": False, "energy_model": None, "formation_energy_per_atom": -0.9, "band_gap": 1.6}
    parent = ParentRecord(candidate_id="x", campaign="demo")
    made = [
        candidate(10, layer, **energies(0.0, energy_scheme="gpaw-pbe-c2db", parent=parent, **dft)),
        candidate(11, layer, **energies(0.05, energy_scheme="vasp-pbe", **dft)),
        candidate(12, layer, **energies(0.05, energy_scheme="vasp-pbe", e_above_hull_lower_bound=True, **dft)),
    ]
    for one in made:
        one.relaxed_structure = relaxed.as_dict()
    database.upsert(database.candidates, [one.model_dump() for one in made])
    found = {f.key: f for f in findings_of(database, model)}
    first, other = made[0].candidate_id, made[1].candidate_id
    assert set(found) == {f"{first} computed", f"{first} as relaxed before", f"{other} computed"}
    computed, before = found[f"{first} computed"], found[f"{first} as relaxed before"]
    assert (computed.formation_energy_per_atom, computed.error) == (-0.9, SAME_SCALE_EV)
    assert before.formation_energy_per_atom == -0.9
    names = model.force_fields
    for finding, structure in ((computed, relaxed), (before, layer)):
        seen = see([Structure.from_dict(structure.as_dict())], names)[0]
        assert not isinstance(seen, str)
        assert finding.seen[names[0]].energy_per_atom == pytest.approx(seen[names[0]].energy_per_atom, abs=1e-5)
    # of another scheme its energy above hull counts, on the hull of this one
    vasp = found[f"{other} computed"]
    hull = ReferenceTable.load().hull_energy({"Mo": 1 / 3, "S": 2 / 3})
    assert vasp.formation_energy_per_atom == pytest.approx(hull + 0.05, abs=1e-9)
    assert vasp.error == OTHER_SCALE_EV
    # molybdenum is heavy, and nobody said that the gap is without spin-orbit coupling
    assert (vasp.nonmetal, vasp.band_gap) == (True, None)
