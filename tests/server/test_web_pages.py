"""The web pages, asked as a browser asks them but without one: every page, downloads, wrong questions, no database."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.documents import CampaignDocuments
from support.memory import memory_database
from support.pages_asked import Browser
from support.pages_demo import store_demo
from support.stopping import stop

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import KnownAs, Novelty
from scdm_flows.documents.candidate import StageRecord, queryable_fields
from scdm_flows.errors import ConfigError, ScdmError
from scdm_flows.query import CandidateDB
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port

pytest.importorskip("dash", reason="the extra `server` is not installed")

from starlette.testclient import TestClient
from werkzeug.test import Client

from scdm_flows.server import app
from scdm_flows.server.pages import browse, comparison, figures, files, pages_app
from scdm_flows.server.pages.address import Question


@pytest.fixture(scope="module")
def filled(campaign_documents: CampaignDocuments) -> Database:
    database = memory_database()
    store_demo(database, campaign_documents)
    return database


@pytest.fixture(scope="module")
def browser(filled: Database) -> Browser:
    return Browser(filled)


def test_everything_comes_from_the_server_and_scripts_only_with_a_hash(browser: Browser) -> None:
    answer = browser.client.get("/")
    assert answer.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert len(sources) > 5
    assert [s for s in sources if not s.startswith("/") or s.startswith("//")] == []
    policy = answer.headers["Content-Security-Policy"]
    scripts = next(part for part in policy.split(";") if part.strip().startswith("script-src"))
    assert "unsafe" not in scripts
    assert "'sha256-" in scripts
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_table_answers_filters_sort_and_count(browser: Browser) -> None:
    rows, total, notice = browser.rows("?max_e_above_hull=0.2&generator=scdm", sort="-e_above_hull")
    assert total == 3  # 0.01, 0.08 and 0.15 eV/atom of the six
    assert [r["e_above_hull"] for r in rows] == ["0.150 ± 0.10 ?", "0.080 ± 0.10", "0.010 ± 0.10"]
    assert ["its error may be larger than said" in r["doubt"] for r in rows] == [True, False, False]
    assert [r["candidate_id"] for r in browser.rows("?extrapolated=true&generator=scdm")[0]] == ["demo-000000000002"]
    assert {r["surrogate"] for r in rows} == {"surrogate"}
    assert notice == '""'
    assert browser.rows(stop=10**9)[1] == 12  # an answer is cut, whatever is asked


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("?layer_grup=78", "did you mean 'layer_group'?"),
        ("?elements=Mo,Xx", "'Xx' is not an element"),
        ("?layer_group=p1", "layer_group='p1' must be a whole number"),
        ("?layer_group=99", "layer_group=99 must be between 1 and 80"),
        ("?state=complete", "did you mean 'completed'?"),
        ("?min_e_above_hull=0.5&max_e_above_hull=0.1", "is above max_e_above_hull=0.1, so nothing can match"),
        ("?max_band_gap=%24gt", "must be a number"),
        ("?sort=hull", "unknown field 'hull'"),
        ("?limit=5", "unknown field 'limit'"),  # an argument of our own functions is no field
        ("?formula=" + "x" * 5000, "at most 4000 are read"),
    ],
)
def test_a_wrong_question_is_told_in_words(browser: Browser, search: str, words: str) -> None:
    rows, total, notice = browser.rows(search)
    assert (rows, total) == ([], 0)
    assert words in json.loads(notice)["props"]["children"][1]["props"]["children"]
    answer = browser.client.get(f"/candidates.csv{search}")
    assert answer.status_code == 400
    assert words in answer.text


@pytest.mark.parametrize(
    "search",
    [
        "?elements=Mo,S&max_e_above_hull=0.2&layer_group=78&layer_group=72&sort=-score",
        "?dynamically_stable=true&min_nsites=3&campaign=a%26b%20c&state=completed",
        "?layer_group=x&min_band_gap=1.5",
    ],
)
def test_addresses_go_both_ways(search: str) -> None:
    assert Question.of(search).search() == search


def test_values_of_an_address_have_the_types_of_their_fields() -> None:
    found = Question.of(
        "?layer_group=78&dynamically_stable=false&max_e_above_hull=0.1&elements=Mo&elements=S,W"
    ).filters
    assert found == {
        "layer_group": 78,
        "dynamically_stable": False,
        "max_e_above_hull": 0.1,
        "elements": ["Mo", "S", "W"],
    }


def test_candidate_page_shows_all_that_is_known(browser: Browser) -> None:
    page = browser.page("/candidates/demo-000000000000")
    for words in (
        "surrogate energies, predicted by the energy model",
        "MoS2 (mp-2815)",  # decomposition
        "convex hull of Mo-S",
        "this candidate",  # marked in the hull
        "phonon bands and density of states",
        "1.600 eV, direct",
        "rank 1: score 0.900 = ",
        "00000000-0000-4000-8000-000000000001",  # uuid of the relaxation's job
        "torch 2.13.0",
        "/files/demo-000000000000.cif",
        "scatter3d",
        "data:image/svg+xml",
    ):
        assert words in page.replace("\\u00b1", "±"), words


def test_candidate_page_draws_the_hull_of_its_own_references(campaign_documents: CampaignDocuments) -> None:
    """Another campaign's file of references makes another hull of the same system and scheme."""
    database = memory_database()
    store_demo(database, campaign_documents)
    hulls, candidates = database.mongo["hulls"], database.mongo["candidates"]
    other = hulls.find_one({"hull_id": "demo:Mo-S"}, {"_id": 0})  # of 3 reference phases
    hulls.insert_one({**other, "hull_id": "own:Mo-S", "references": "own", "n_reference_phases": 22})
    candidates.update_one({"candidate_id": "demo-000000000000"}, {"$set": {"hull_id": "own:Mo-S"}})
    page = Browser(database).page("/candidates/demo-000000000000")
    assert "22 reference phases" in page
    assert "3 reference phases" not in page


def test_candidate_page_tells_of_vacuum_and_stiffness(campaign_documents: CampaignDocuments) -> None:
    first, *others = campaign_documents.candidates
    stiff = {"stiffness_n_per_m": [[130.2, 32.1, 0.0], [32.1, 130.2, 0.0], [0.0, 0.0, 49.0]]}
    phonons = campaign_documents.phonons | {
        first.candidate_id: campaign_documents.phonons[first.candidate_id].model_copy(update=stiff)
    }
    candidates = [first.model_copy(update={"work_function": 4.5}), *others]
    database = memory_database()
    dataclasses.replace(campaign_documents, candidates=candidates, phonons=phonons).store(database)
    page = Browser(database).page(f"/candidates/{first.candidate_id}")
    assert "4.50 eV" in page
    assert "xx 130, yy 130, xx,yy 32, xy 49" in page


def test_candidate_page_marks_an_extrapolated_energy(browser: Browser) -> None:
    page = browser.page("/candidates/demo-000000000002")
    assert page.count('"children": "? extrapolated"') == 2  # beside the formula and beside the energy
    assert '"title": "outside what the energy model has learned from: its error may be larger than said"' in page
    assert "Its energy is extrapolated" in page
    assert "extrapolated" not in browser.page("/candidates/demo-000000000000")


def test_pages_set_a_rediscovered_layer_beside_its_source(campaign_documents: CampaignDocuments) -> None:
    entry = KnownAs(
        id="MoS2-165798ab5e33",
        source="C2DB",
        formula="MoS2",
        layer_group=78,
        displacement_angstrom=0.031,
        e_above_hull=0.0,
        dynamically_stable=True,
        band_gap=1.58,
    )
    elsewhere = KnownAs(id="other-0123456789ab", source="campaign other", formula="MoS2")
    novelty = Novelty(structure="0" * 12, version="1" * 12, against={"C2DB": 16905})
    known = {"novel": False, "known_as": [entry, elsewhere], "novelty": novelty, "bulk_compound": True}
    first, second, *others = campaign_documents.candidates
    twin = second.model_copy(update={"duplicate_of": first.candidate_id, "rank": None})
    documents = [first.model_copy(update=known), twin, *others]
    database = memory_database()
    dataclasses.replace(campaign_documents, candidates=documents).store(database)
    browser = Browser(database)
    page = browser.page("/candidates/demo-000000000000")
    for words in (
        "rediscovered",
        "Known as MoS2 (C2DB MoS2-165798ab5e33, 0.03 Å), rediscovered.",
        "0.010 ± 0.100 (surrogate)",  # ours, and what C2DB says
        "1.58",
        "16,905 layers of C2DB",
        "/candidates/other-0123456789ab",
        "in the Materials Project",
    ):
        assert json.dumps(words)[1:-1] in page, words
    page = browser.page("/candidates/demo-000000000001")
    assert "A duplicate, so it is not ranked; its results are its own." in page
    assert "/candidates/demo-000000000000" in page
    page = browser.campaign("demo")
    assert json.dumps("MoS2 (C2DB MoS2-165798ab5e33, 0.03 Å)")[1:-1] in page
    rows, total, _ = browser.rows("?known_as=MoS2-165798ab5e33")
    assert total == 1
    assert rows[0]["known_as"].startswith("MoS2 (C2DB MoS2-165798ab5e33, 0.03 Å)")
    assert browser.rows("?novel=false")[1] == 1


def test_candidate_page_says_what_is_missing_and_why(browser: Browser) -> None:
    page = browser.page("/candidates/demo-000000000004")
    assert "No phonons: atoms too close: 0.312 angstrom" in page
    assert "not ranked" in page


def without_electrons(documents: CampaignDocuments, **of_first: Any) -> Browser:
    """Pages of a campaign whose engine has no electrons, and of which no job broke off; of_first: its fields."""
    skipped = {"bands": StageRecord(status="skipped", reason="no bands: a force field has no electrons")}
    candidates = [c.model_copy(update={"stages": skipped}) for c in documents.candidates]
    candidates[0] = candidates[0].model_copy(update=of_first)
    database = memory_database()
    dataclasses.replace(documents, candidates=candidates, failures=[]).store(database)
    return Browser(database)


def test_what_no_candidate_can_have_is_said(campaign_documents: CampaignDocuments) -> None:
    pages = without_electrons(campaign_documents)
    for search in ("?min_band_gap=1", "?gap_kind=direct&campaign=demo"):
        rows, total, notice = pages.rows(search)
        assert (rows, total) == ([], 0)
        assert "has a band gap: a force field has no electrons." in notice
    assert pages.rows("?max_e_above_hull=-9")[2] == '""'  # nothing matches, yet some could
    assert without_electrons(campaign_documents, band_gap=1.6).rows("?min_band_gap=9")[2] == '""'  # one has a gap
    page = pages.page("/candidates/demo-000000000000")
    assert '"No electronic bands: a force field has no electrons."' in page  # once
    page = pages.campaign("demo")
    assert "No job has broken off. One candidate counts as failed" in page
    assert "No stage has failed" not in page


def test_groups_are_shown_with_the_tolerance_they_were_found_within(campaign_documents: CampaignDocuments) -> None:
    first, second, *others = campaign_documents.candidates
    relaxed = first.model_copy(update={"relaxed_structure": first.structure})
    database = memory_database()
    dataclasses.replace(campaign_documents, candidates=[relaxed, second, *others]).store(database)
    pages = Browser(database)
    page = pages.page("/candidates/demo-000000000000")
    assert "layer group 78 (0.05 \\u00c5)" in page
    assert "layer group of the sample (0.001 \\u00c5)" in page
    assert "layer group 78 (0.001 \\u00c5)" in pages.page("/candidates/demo-000000000001")  # was not relaxed
    assert "Layer groups are those within 0.05 \\u00c5" in pages.page("/")


def test_unknown_addresses_are_told(browser: Browser) -> None:
    assert "did you mean demo-000000000005?" in browser.page("/candidates/demo-00000000000x")
    assert "did you mean 'demo'?" in browser.page("/campaigns/demoo")
    assert "No such page" in browser.page("/elsewhere")


def test_campaign_page(browser: Browser) -> None:
    assert "demo" in browser.page("/campaigns")
    page = browser.campaign("demo")
    for words in (
        "3,378 (84.5 %)",
        "no neighbours <within> 6 angstrom",
        "atoms too close",
        "37.5",
        "surrogate energies",
    ):
        assert words in page, words


def test_comparison_counts_by_generator(browser: Browser) -> None:
    # UnSCDM's lie 0.6 eV/atom higher: none within 0.6, of SCDM's three of six
    page = browser.energies()
    assert "3 (50.0 %)" in page
    assert "843 of 2,000" in page
    assert "unscdm (n = 4)" in page
    assert "No candidates are stored" in browser.energies(["none"])
    assert "Medians over 80 layers" in browser.page("/compare")


def test_comparison_leaves_out_what_was_promoted(campaign_documents: CampaignDocuments) -> None:
    # promoted candidates keep their generator and are the lowest ones: with them SCDM's share would be 4 of 7, not 3 of 6
    database = memory_database()
    store_demo(database, campaign_documents)
    first = campaign_documents.candidates[0]
    again = {"candidate_id": "dft-000000000000", "campaign": "dft", "promoted_from": first.candidate_id}
    computed = first.model_copy(update={**again, "surrogate": False})
    database.upsert(database.candidates, [computed.model_dump()])
    browser = Browser(database)
    page = browser.energies()
    assert "3 (50.0 %)" in page
    assert "1 promoted candidate is left out." in page
    assert "E_hull from surrogate energies;" in page
    assert "All candidates of this choice were promoted." in browser.energies(["dft"])
    assert "promoted" not in browser.energies(["demo"])
    own = first.model_copy(update={**again, "surrogate": False, "promoted_from": None})
    database.upsert(database.candidates, [own.model_dump()])  # generated in a DFT campaign: not of the same kind
    assert "E_hull of 8 from surrogate energies, of 1 from DFT: choose campaigns of one kind" in browser.energies()


def test_a_heading_sorts_where_the_database_can(filled: Database, browser: Browser) -> None:
    # a heading that sorted by another column would empty the table: the query refuses it
    columns = {column["field"]: column["sortable"] for column in browse.page(CandidateDB(filled), "")[-3].columnDefs}
    assert [field for field, sortable in columns.items() if not sortable] == ["known_as"]
    for field, sortable in columns.items():
        if sortable:
            assert browser.rows(sort=field)[1] == 12, field


def test_csv_holds_what_the_table_shows(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = browser.client.get("/candidates.csv?generator=scdm&sort=-e_above_hull")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [float(r["e_above_hull"]) for r in rows[:4]] == [0.75, 0.15, 0.08, 0.01]
    assert len(rows) == 6
    monkeypatch.setattr(files, "_CHUNK", 2)
    monkeypatch.setattr(files, "MOST_ROWS", 4)
    lines = browser.client.get("/candidates.csv").text.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[-1].startswith("# cut after 4 candidates")


def test_downloads(browser: Browser) -> None:
    from pymatgen.core import Structure

    answer = browser.client.get("/files/demo-000000000000.cif")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="demo-000000000000.cif"'
    assert Structure.from_str(answer.text, fmt="cif").composition.reduced_formula == "MoS2"
    assert browser.client.get("/files/demo-000000000000.vasp").text.startswith("MoS2 demo-000000000000")
    assert json.loads(browser.client.get("/files/demo-000000000000.json").text)["formula"] == "MoS2"
    assert browser.client.get("/files/demo-0000.cif").status_code == 404
    assert browser.client.get("/files/demo-000000000000.exe").status_code == 400


def test_an_empty_database_is_told() -> None:
    browser = Browser(memory_database())
    assert "No candidate is stored yet" in browser.rows()[2]
    assert "There is no campaign yet" in browser.page("/campaigns")
    assert "No candidates are stored" in browser.energies()
    assert "Elements" in browser.page("/")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "min_", "max_"]),
            st.sampled_from([*queryable_fields(), "sort", "limit", "start", "self", "$where"]) | st.text(max_size=8),
            st.sampled_from(["-1", "nan", "inf", "1e999", "9" * 400, "$gt", '{"$gt":1}', "Mo,S", "\x00", "-rank"])
            | st.text(max_size=12),
        ),
        max_size=5,
    )
)
@settings(max_examples=150)
def test_no_address_is_more_than_a_wrong_question(filled: Database, asked: list[tuple[str, str, str]]) -> None:
    search = "?" + urlencode([(prefix + name, value) for prefix, name, value in asked], errors="replace")
    query = CandidateDB(filled)
    with contextlib.suppress(ScdmError):  # anything else fails the test
        question = Question.of(search)
        query.window(0, 5, sort=question.sort, **question.filters)
        query.flat_page(sort=question.sort, limit=5, **question.filters)


def test_pages_outlive_the_database(tmp_path: Path, campaign_documents: CampaignDocuments) -> None:
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    server = EmbeddedServer(tmp_path / "data", free_port())
    try:
        with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
            store_demo(database, campaign_documents)
            browser = Browser(database)
            assert browser.rows()[1] == 12
            os.kill(server.status().pid or 0, signal.SIGKILL)
            rows, _, notice = browser.rows()
            assert rows == []
            assert "The database cannot be read now" in notice
            page = browser.page("/campaigns")
            assert "does not answer" in page
            assert str(server.port) not in page  # where the database is concerns no visitor
            assert browser.client.get("/files/demo-000000000000.cif").status_code == 503
            server.start()
            assert browser.rows()[1] == 12  # the same application, not started again
            assert "demo" in browser.page("/campaigns")
    finally:
        pid = server.status().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def test_no_page_waits_for_a_database_without_end(
    tmp_path: Path, campaign_documents: CampaignDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a stopped server keeps its connections and never answers; without a limit whoever asks waits until it goes on
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    monkeypatch.setattr(app, "DATABASE_SECONDS", 1.0)
    monkeypatch.setattr(comparison, "ALL_CANDIDATES_SECONDS", 3.0)
    server = EmbeddedServer(tmp_path / "data", free_port())
    going_on: list[threading.Timer] = []
    try:
        with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
            store_demo(database, campaign_documents)
            browser = Browser(database)
            browser.client = Client(app._within_limits(pages_app(database)))
            assert browser.rows()[1] == 12
            whole = TestClient(app.make_app(database), base_url="http://localhost")
            assert len(whole.get("/candidates.csv").text.splitlines()) == 1 + 12
            pid = server.status().pid
            assert pid is not None
            stop(pid)
            going_on.append(threading.Timer(30, os.kill, (pid, signal.SIGCONT)))
            going_on[0].start()
            started = time.monotonic()
            assert "does not answer" in browser.page("/campaigns")
            assert whole.get("/candidates.csv").status_code == 503
            compared = time.monotonic()
            assert compared - started < 8
            assert "does not answer" in browser.energies()
            assert 2 < time.monotonic() - compared < 20  # its own limit, not that of the others
            os.kill(pid, signal.SIGCONT)
            assert "3 (50.0 %)" in browser.energies()
    finally:
        for timer in going_on:
            timer.cancel()
        pid = server.status().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def test_windows_and_columns_say_what_find_says(filled: Database) -> None:
    query = CandidateDB(filled)
    whole = [c.candidate_id for c in query.find(sort="-e_above_hull")]
    rows, total = query.window(3, 8, sort="-e_above_hull")
    assert [r["candidate_id"] for r in rows] == whole[3:8]
    assert total == len(whole)
    assert query.window(50, 60)[0] == []
    columns = query.columns(["candidate_id", "e_above_hull", "band_gap"], generator="unscdm")
    found = {c.candidate_id: c.e_above_hull for c in query.find(generator="unscdm")}
    shown = dict(zip(columns["candidate_id"].tolist(), columns["e_above_hull"].tolist(), strict=True))
    assert {k: None if v != v else v for k, v in shown.items()} == found
    assert "band_gap" in queryable_fields()
    with pytest.raises(ConfigError, match="unknown field"):
        query.columns(["gap"])
    with pytest.raises(ConfigError, match="begins with row 0"):
        query.window(-1, 5)


def test_a_candidate_that_does_not_compete_is_marked_in_its_hull(
    filled: Database,
) -> None:
    candidate = CandidateDB(filled).get("demo-000000000064")  # 0.61 eV/atom above a hull that lies at -0.9
    hull = CandidateDB(filled).hull("Mo-S")
    assert hull is not None
    assert candidate.candidate_id not in {p.name for p in hull.points}
    drawn = figures.hull(hull, candidate)
    (trace,) = [t for t in drawn.data if t.name == "this candidate"]
    assert list(trace.y) == pytest.approx([-0.29])
    assert figures.hull(hull.model_copy(update={"elements": list("HCNOS")})) is None  # no drawing of five elements


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "",
        "[1]",
        "null",
        "{",
        '{"output": "x", "outputs": [], "inputs": []}',
        '{"output": "content.children", "outputs": {"id": "content", "property": "children"}, "inputs": 3}',
    ],
)
def test_what_no_page_asks_is_refused(browser: Browser, body: str) -> None:
    answer = browser.client.post("/_dash-update-component", data=body, content_type="application/json")
    assert answer.status_code in (400, 415), answer.text
    assert "Traceback" not in answer.text
