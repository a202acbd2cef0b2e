"""Novelty and duplicates of relaxed candidates: as judged once, and whatever changes, is interrupted or runs beside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.builders import CandidateBuilder, FunnelBuilder, NoveltyBuilder, RankingBuilder
from scdm_flows.builders import novelty as novelty_module
from scdm_flows.campaigns.choice import _ranked
from scdm_flows.config import parse_config
from scdm_flows.documents import CampaignDoc, CandidateDoc, StageRecord
from scdm_flows.query import CandidateDB
from scdm_flows.report.content import beside_known, novelty_words
from scdm_flows.stores import Database
from scdm_models.datasets.known import KnownLayers, look_up_all
from scdm_models.datasets.records import LayerRecord

CAMPAIGNS = ("c", "d")
H = mx2("1H", a=3.18)
SAID = {"e_above_hull": 0.0, "dynamically_stable": True, "band_gap": 1.58}


def known(*layers: tuple[str, str, Structure]) -> KnownLayers:
    """Known layers of (id, source, structure), which say the same of themselves."""
    found, dropped = KnownLayers.build([LayerRecord(name, source, s, SAID) for name, source, s in layers])
    assert not dropped
    return found


KNOWN = known(("MoS2-1", "C2DB", H))
NOTHING = known()


def tungsten() -> Structure:
    """1H-WS2."""
    other = mx2("1H")
    other.replace(0, "W")
    return other


def moved(structure: Structure, atom: int, distance: float) -> Structure:
    """With one atom moved in the plane; distance in angstrom."""
    other = structure.copy()
    other.translate_sites([atom], [distance, 0, 0], frac_coords=False)
    return other


class Layers:
    """Candidates of two campaigns written as the candidate builder does, and what follows from them."""

    def __init__(self, database: Database | None = None, known_layers: KnownLayers = KNOWN) -> None:
        self.database, self.known = database or memory_database(), known_layers
        documents = [CampaignDoc(name=name, config={}, config_hash="0" * 64).model_dump() for name in CAMPAIGNS]
        self.database.upsert(self.database.campaigns, documents)

    def put(self, name: str, index: int, structure: Structure, *, campaign: str = "c", **fields: Any) -> None:
        """A candidate that relaxed to a structure."""
        elements = sorted(str(e) for e in structure.composition)
        given: dict[str, Any] = {
            "stages": {s: StageRecord(status="passed") for s in ("screen", "relax", "static", "gate")},
            "state": "completed",
            "relaxed_structure": structure.as_dict(),
            "energy_per_atom": -7.0,
            "energy_scheme": "test",
            "e_above_hull": 0.1,
            "one_layer": True,
            "sample_novel": True,
        }
        document = CandidateDoc(
            candidate_id=name,
            campaign=campaign,
            index=index,
            generator="files",
            formula=structure.composition.reduced_formula,
            chemsys="-".join(elements),
            elements=elements,
            nelements=len(elements),
            nsites=len(structure),
            structure=mx2("1T").as_dict(),
            **given | fields,
        )
        CandidateBuilder(self.database)._write_candidates([document.model_dump()])

    def builder(self, **options: Any) -> NoveltyBuilder:
        return NoveltyBuilder(self.database, self.known, processes=1, **options)

    def build(self, **options: Any) -> int:
        """Judge and rank; how many candidates were written in judging."""
        builder = self.builder(**options)
        for one in (builder, FunnelBuilder(self.database), RankingBuilder(self.database)):
            one.run()
        return builder.written

    def get(self, name: str) -> CandidateDoc:
        return CandidateDB(self.database).get(name)

    def values(self) -> dict[str, Any]:
        """What is judged of every candidate, and its rank."""
        names = ("novel", "known_as", "novelty", "duplicate_of", "rank")
        found = CandidateDB(self.database).find()
        return {c.candidate_id: c.model_dump(include=set(names)) for c in found}

    def anew(self) -> dict[str, Any]:
        """The same, of a new database with the same candidates in another order."""
        other = Layers(known_layers=self.known)
        for c in sorted(CandidateDB(self.database).find(), key=lambda c: c.candidate_id, reverse=True):
            kept = {"stages": c.stages, "one_layer": c.one_layer, "state": c.state}
            if c.stages["screen"].status == "rejected":
                kept["duplicate_of"] = c.duplicate_of
            assert c.relaxed_structure is not None
            structure = Structure.from_dict(c.relaxed_structure)
            other.put(c.candidate_id, c.index, structure, campaign=c.campaign, **kept)
        other.build()
        return other.values()


@pytest.fixture
def layers() -> Layers:
    return Layers()


def test_the_relaxed_structure_is_judged(layers: Layers) -> None:
    layers.put("again", 0, moved(H, 0, 0.12), dynamically_stable=False, layer_group=78, surrogate=True)
    layers.put("other", 1, mx2("1T", a=3.18), sample_novel=False, sample_known_as=["MoS2-1"])
    layers.put("metal", 2, tungsten())
    layers.build()
    again, other, metal = (layers.get(name) for name in ("again", "other", "metal"))
    assert (again.novel, other.novel, metal.novel) == (False, True, True)
    assert (again.sample_novel, other.sample_novel, other.sample_known_as) == (True, False, ["MoS2-1"])
    (entry,) = again.known_as
    assert (entry.id, entry.source, entry.formula, entry.layer_group) == ("MoS2-1", "C2DB", "MoS2", 78)
    assert (entry.e_above_hull, entry.dynamically_stable) == (0.0, True)
    assert entry.band_gap == pytest.approx(1.58, abs=1e-4)
    # one of three atoms by 0.12: the best superposition moves all by a third, so two are 0.04 away and one 0.08
    assert entry.displacement_angstrom == pytest.approx(np.sqrt((2 * 0.04**2 + 0.08**2) / 3), abs=2e-3)
    assert other.known_as == []
    assert again.novelty is not None
    assert (again.novelty.judged_on, again.novelty.version) == ("relaxed", KNOWN.version)
    assert (again.novelty.against, again.novelty.reason) == ({"C2DB": 1}, None)
    assert novelty_words(again) == "known as MoS2 (C2DB MoS2-1, 0.06 Å), rediscovered"
    assert novelty_words(other) == "new after relaxation"
    beside = beside_known(again)
    assert beside == (
        ["", "here", "C2DB MoS2-1"],
        [
            ["E_hull, eV/atom", "0.100 (surrogate)", "0.000"],
            ["phonon-stable", "no (surrogate)", "yes"],
            ["gap, eV", "–", "1.58"],
            ["layer group", "78", "78"],
            ["distance of atoms, Å", "", "0.06"],
        ],
    )
    assert beside_known(other) is None


def test_what_has_no_relaxed_layer_is_not_judged(layers: Layers) -> None:
    stages = {"screen": StageRecord(status="passed"), "relax": StageRecord(status="failed")}
    layers.put("pending", 0, H, relaxed_structure=None, stages={"screen": StageRecord(status="passed")})
    layers.put("endless", 1, H, stages=stages, state="failed")
    layers.put("apart", 2, H, one_layer=False)
    layers.put("broken", 3, H, relaxed_structure={"lattice": "nonsense"})
    layers.put("good", 4, H)
    layers.build()
    assert layers.get("pending").novelty is None
    reasons = {}
    for name in ("endless", "apart", "broken", "good"):
        found = layers.get(name)
        assert found.novelty is not None
        reasons[name] = (found.novel, found.novelty.reason)
    assert reasons == {
        "endless": (None, "the relaxation did not end"),
        "apart": (None, "not one connected layer after relaxation"),
        "broken": (None, "unreadable: no structure"),
        "good": (False, None),
    }
    assert layers.get("good").duplicate_of is None  # nobody's: the others are no layers
    assert novelty_words(layers.get("apart")) == (
        "novelty unknown; not one connected layer after relaxation; the sample was new"
    )
    assert layers.build() == 0


def test_the_first_index_is_no_duplicate_whatever_came_first(layers: Layers) -> None:
    # 8 % longer each: neighbours are within the matcher's 10 %, the ends are not, and are equal all the same
    for name, index, a in (("long", 2, 3.5), ("link", 1, 3.24)):
        layers.put(name, index, mx2("1H", a=a))
    layers.build()
    assert (layers.get("link").duplicate_of, layers.get("long").duplicate_of) == (None, "link")
    assert (layers.get("link").rank, layers.get("long").rank) == (1, None)
    before = layers.get("long")
    layers.put("short", 0, mx2("1H", a=3.0))
    layers.build()
    marked = {name: layers.get(name).duplicate_of for name in ("short", "link", "long")}
    assert marked == {"short": None, "link": "short", "long": "short"}
    after = layers.get("long")
    assert (after.state, after.e_above_hull, after.energy_per_atom) == (before.state, 0.1, -7.0)  # its own results
    assert [layers.get(name).rank for name in ("short", "link", "long")] == [1, None, None]
    funnel = CandidateDB(layers.database).campaign("c").funnel
    assert (funnel.unique, funnel.relaxed, funnel.distinct, funnel.in_window) == (3, 3, 1, 1)
    found = CandidateDB(layers.database).find(duplicate_of="short")
    assert {c.candidate_id for c in found} == {"link", "long"}


def test_duplicates_do_not_compete_in_the_hull(layers: Layers) -> None:
    layers.put("twin", 1, H)
    stored = layers.database.candidates.query_one({"candidate_id": "twin"})
    assert stored is not None
    layers.database.mongo["candidates"].update_one({"candidate_id": "twin"}, {"$set": {"hull_pending": None}})
    layers.put("first", 0, H)
    layers.build()
    stored = layers.database.candidates.query_one({"candidate_id": "twin"})
    assert stored is not None
    assert stored["hull_pending"]  # it left the hull that it was part of


def test_a_duplicate_by_its_sample_stays_one(layers: Layers) -> None:
    """It had been relaxed before another shard was screened."""
    rejected = {s: StageRecord(status="passed") for s in ("relax", "static")}
    rejected["screen"] = StageRecord(status="rejected", reason="duplicate")
    layers.put("a", 0, mx2("1T"))
    layers.put("b", 1, H, duplicate_of="a", stages=rejected, state="rejected")
    layers.put("c", 2, H)
    layers.build()
    assert (layers.get("b").duplicate_of, layers.get("b").novel) == ("a", False)
    assert layers.get("c").duplicate_of is None  # of a candidate that was rejected there is no duplicate
    # before the other shard was known, 'c' was a duplicate of 'b'
    layers.put("b", 1, H)
    layers.build()
    assert layers.get("c").duplicate_of == "b"
    layers.put("b", 1, H, duplicate_of="a", stages=rejected, state="rejected")
    layers.build()
    assert layers.get("c").duplicate_of is None


def test_equal_candidates_of_other_campaigns_are_named(layers: Layers) -> None:
    layers.known = NOTHING
    layers.put("c1", 1, H, layer_group=78)
    layers.put("c2", 2, moved(H, 0, 0.12))
    layers.build()
    assert layers.get("c1").known_as == []
    layers.put("d1", 0, moved(H, 0, 0.12), campaign="d")
    layers.build()
    for name, other, apart in (("c1", "d1", 0.0566), ("c2", "d1", 0.0), ("d1", "c1", 0.0566)):
        (entry,) = layers.get(name).known_as
        campaign = "d" if other == "d1" else "c"
        assert (entry.id, entry.source, entry.of_campaign) == (other, f"campaign {campaign}", campaign)
        assert entry.displacement_angstrom == pytest.approx(apart, abs=1e-3)
    assert layers.get("d1").known_as[0].layer_group == 78
    # a candidate elsewhere is no data set: it is new all the same, and nobody's duplicate
    assert all(layers.get(name).novel for name in ("c1", "c2", "d1"))
    assert [layers.get(name).duplicate_of for name in ("c1", "c2", "d1")] == [None, "c1", None]
    layers.database.candidates.remove_docs({"candidate_id": "d1"})
    layers.build()
    assert layers.get("c1").known_as == []


def test_candidates_that_were_equal_through_a_removed_one_are_equal_no_longer(layers: Layers) -> None:
    """The two ends name each other alone, and the one between is of another campaign."""
    layers.known = NOTHING
    layers.put("short", 0, mx2("1H", a=3.0))
    layers.put("link", 1, mx2("1H", a=3.24), campaign="d")
    layers.put("long", 2, mx2("1H", a=3.5))
    layers.build()
    assert layers.get("long").duplicate_of == "short"
    said = layers.get("long").novelty
    assert said is not None
    assert (said.first, said.equal) == ("short", 3)
    layers.database.candidates.remove_docs({"candidate_id": "link"})
    layers.build()
    for name in ("short", "long"):
        left = layers.get(name)
        assert (left.duplicate_of, left.known_as) == (None, [])
        assert left.novelty is not None
        assert (left.novelty.first, left.novelty.equal) == (None, 1)
    assert layers.build() == 0


def test_groups_that_were_never_counted_are_counted(layers: Layers) -> None:
    """Of an older version of the program."""
    layers.put("a", 0, H)
    layers.put("b", 1, H)
    layers.build()
    old = {"$unset": {"novelty.first": "", "novelty.equal": ""}}
    layers.database.mongo["candidates"].update_many({}, old)
    assert layers.build() == 2
    assert layers.values() == layers.anew()
    assert layers.build() == 0


def test_only_what_changed_is_compared_again(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(structures: Sequence[Structure | None], *arguments: Any) -> Any:
        compared.append(len(structures))
        return look_up_all(structures, *arguments)

    monkeypatch.setattr(novelty_module, "look_up_all", counted)
    layers.put("a", 0, H)
    layers.put("b", 1, mx2("1T"))
    layers.put("w", 2, tungsten())
    assert (layers.build(), compared) == (3, [3])
    assert (layers.build(), compared) == (0, [3])
    layers.put("b", 1, mx2("1T"), e_above_hull=0.2)  # the same structure
    assert (layers.build(), compared) == (0, [3])
    layers.put("b", 1, mx2("1T", a=3.3))
    assert layers.get("b").novel is None  # until it has been judged
    assert (layers.build(), compared) == (1, [3, 1])
    # the user adds a set: what was judged before is judged again, and nothing is relaxed
    layers.known = KNOWN.joined(known(("mine-1", "mine", tungsten())))
    assert (layers.build(), compared) == (3, [3, 1, 3])
    assert [k.source for k in layers.get("w").known_as] == ["mine"]
    found = layers.get("w").novelty
    assert found is not None
    assert (found.version, found.against) == (layers.known.version, {"C2DB": 1, "mine": 1})
    assert (layers.build(everything=True), compared) == (0, [3, 1, 3, 3])


def test_candidates_of_a_known_layer_can_be_asked_for(layers: Layers) -> None:
    layers.known = KNOWN.joined(known(("MoS2-12", "2dMatPedia", mx2("1T"))))
    layers.put("a", 0, H)
    layers.put("b", 1, mx2("1T"))
    layers.build()
    db = CandidateDB(layers.database)
    assert [c.candidate_id for c in db.find(known_as="MoS2-1")] == ["a"]
    assert [c.candidate_id for c in db.find(novel=False, known_as="MoS2-12")] == ["b"]
    assert db.find(known_as="MoS2") == []
    (record,) = db.flat_records(known_as="MoS2-1")
    assert record["known_as"] == "MoS2 (C2DB MoS2-1, 0.00 Å)"


def test_documents_of_a_later_version_are_left_alone(layers: Layers) -> None:
    layers.put("a", 0, H)
    later = {"schema_version": 99, "novelty": {"version": "", "structure": "?"}}
    layers.database.mongo["candidates"].update_one({"candidate_id": "a"}, {"$set": later})
    layers.put("b", 1, H)
    layers.build()
    assert layers.get("b").duplicate_of is None
    stored = layers.database.mongo["candidates"].find_one({"candidate_id": "a"})
    assert stored["novelty"] == later["novelty"]


def test_phonons_of_new_layers_are_those_of_new_samples_where_nothing_was_judged(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New after relaxation, known after relaxation, and two that could not be compared."""
    layers.put("new", 0, mx2("1T"), sample_novel=False)
    layers.put("known", 1, H, sample_novel=True)
    layers.put("odd", 2, tungsten(), sample_novel=True, relaxed_structure=None)
    layers.put("old", 3, tungsten(), sample_novel=False, relaxed_structure=None)
    layers.build()
    budget = {"phonons": {"best": 4, "novel_only": True}}
    config = parse_config({"name": "c", "generator": {"kind": "files", "paths": ["."]}, "budget": budget})
    gates = [
        {"metadata": {"candidate_id": name}, "output": {"phonon": True}} for name in ("new", "known", "odd", "old")
    ]
    monkeypatch.setattr(layers.database.job_store.docs_store, "query", lambda *_, **__: iter(gates))
    assert sorted(_ranked(layers.database, config)) == ["new", "odd"]


# --- whatever happens --------------------------------------------------------------------------------------------------

SHAPES = [mx2("1H", a=3.0), mx2("1H", a=3.24), mx2("1H", a=3.5), mx2("1T"), moved(H, 1, 0.3)]


def change(layers: Layers, rng: np.random.Generator) -> None:
    """A candidate more or less, another relaxed structure, one that fell apart or that is a duplicate by its sample."""
    number = int(rng.integers(7))
    name = f"k{number}"
    if rng.random() < 0.2:
        layers.database.candidates.remove_docs({"candidate_id": name})
        return
    fields: dict[str, Any] = {"one_layer": bool(rng.random() < 0.85)}
    if rng.random() < 0.15:
        stages = {"screen": StageRecord(status="rejected"), "relax": StageRecord(status="passed")}
        fields |= {"stages": stages, "state": "rejected", "duplicate_of": "k0"}
    structure = tungsten() if number > 4 else SHAPES[rng.integers(len(SHAPES))]  # a formula stays
    layers.put(name, number // 2, structure, campaign=CAMPAIGNS[number % 2], **fields)


@pytest.mark.slow
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
@example(seed=1353)  # a candidate through which two others are equal is removed
def test_verdicts_that_follow_changes_equal_verdicts_made_anew(seed: int) -> None:
    rng, layers = np.random.default_rng(seed), Layers()
    for _ in range(4):
        for _ in range(rng.integers(1, 5)):
            change(layers, rng)
        layers.build()
        assert layers.values() == layers.anew()
        assert layers.build() == 0  # and what is done is not done again


class Stopped(Exception):
    """The process is killed."""


@pytest.mark.slow
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_build_stopped_at_any_write_leaves_no_wrong_verdict(seed: int) -> None:
    rng, layers = np.random.default_rng(seed), Layers()
    for _ in range(6):
        change(layers, rng)
    layers.build()
    for _ in range(4):
        change(layers, rng)
    collection = layers.database.candidates._collection
    real, left = collection.bulk_write, int(rng.integers(0, 5))  # updates until it is killed

    def bulk_write(updates: list[Any], **options: Any) -> Any:
        done = real(updates[:left], **options) if left else None
        if left < len(updates):
            raise Stopped
        return done

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stopped):
        patch.setattr(collection, "bulk_write", bulk_write)
        layers.builder().run()
    layers.build()
    assert layers.values() == layers.anew()


@pytest.mark.slow
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_two_builders_and_a_change_in_between_do_no_harm(seed: int) -> None:
    """One builder reads, another builds everything after a change, the first writes what it read."""
    rng, layers = np.random.default_rng(seed), Layers()
    for _ in range(6):
        change(layers, rng)
    slow = layers.builder()
    read: list[dict[str, Any]] = [slow.process_item(item) for item in slow.get_items()]
    change(layers, rng)
    layers.build()
    slow.update_targets(read)
    layers.build()
    assert layers.values() == layers.anew()


def test_candidates_that_never_stop_changing_end_a_build_in_words(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers.put("a", 0, H)
    real: Callable[..., Any] = NoveltyBuilder._write
    lengths = iter(np.linspace(3.0, 4.0, 100).tolist())

    def restless(self: NoveltyBuilder, item: dict[str, Any]) -> None:
        real(self, item)
        layers.put("b", 1, mx2("1T", a=next(lengths)))

    monkeypatch.setattr(NoveltyBuilder, "_write", restless)
    with pytest.raises(Exception, match="changed 20 times while they were compared; build again"):
        layers.builder().run()
