"""The report: one self-contained file whose numbers are those of the documents."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.documents import ENERGY_MODEL, CampaignDocuments
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.cli.report import write_figures
from scdm_flows.documents import CampaignState, CandidateDoc, Funnel, KnownAs, Novelty
from scdm_flows.documents.phonon import ThermalQuantities
from scdm_flows.errors import CampaignError
from scdm_flows.report import bands, content, crystals, figures, paper_figures, render, render_documents
from scdm_flows.report.cards import energy_model_card
from scdm_flows.report.figures import svg

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects addresses and text, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += f" {data.strip()}"


def page_of(documents: CampaignDocuments, top: int = 12, **changes: object) -> str:
    d = documents
    campaign = d.campaign.model_copy(update=changes)
    more = {"energy_model": ENERGY_MODEL, "top": top, "written": NOON}
    return render_documents(campaign, d.candidates, d.phonons, d.failures, **more)


@pytest.fixture(scope="module")
def html(campaign_documents: CampaignDocuments) -> str:
    return page_of(campaign_documents)


def test_everything_is_inside_the_file(html: str) -> None:
    page = Page(html)
    assert page.open == []  # every tag is closed
    assert page.addresses, "the report has pictures"
    assert all(a.startswith("data:image/svg+xml;base64,") for a in page.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert "link" not in page.tags


def test_it_reads_on_a_phone(html: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html


def test_the_same_documents_give_the_same_bytes(html: str, campaign_documents: CampaignDocuments) -> None:
    assert page_of(campaign_documents) == html


def test_funnel_beside_the_papers(campaign_documents: CampaignDocuments) -> None:
    rows = {row.step: row for row in content.funnel_rows(campaign_documents.campaign)}
    assert (rows["valid"].count, round(rows["valid"].share, 1)) == (5, 83.3)
    # Xu et al., Section 3: 4000 -> 3378 -> 2140 -> 1145 -> 6
    papers = {s: (rows[s].paper, round(rows[s].paper_share or 0, 2)) for s in rows if rows[s].paper is not None}
    assert papers == {
        "generated": (4000, 100.0),
        "valid": (3378, 84.45),
        "unique": (2140, 53.5),
        "in_window": (1145, 28.62),
        "dynamically_stable": (6, 0.15),
    }
    # before and after relaxation, and never in the same words
    new = {step: rows[step].words for step in ("sample_novel", "novel")}
    assert new == {"sample_novel": "of these new as sampled", "novel": "of these new after relaxation"}
    assert all(rows[step].paper is None for step in new)  # the paper counts neither


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        ({"kind": "scdm", "guidance": True}, True),
        ({"kind": "scdm", "guidance": False}, False),
        ({"kind": "files"}, False),
    ],
)
def test_page_says_that_draws_were_passed_over_where_they_were(
    campaign_documents: CampaignDocuments, generator: dict, said: bool
) -> None:
    html = page_of(campaign_documents, top=1, config={**campaign_documents.campaign.config, "generator": generator})
    assert ("passed over draws" in Page(html).text) is said


def test_bins_hold_each_relaxed_candidate_once(campaign_documents: CampaignDocuments) -> None:
    bins = {b.label: b.count for b in content.hull_bins(campaign_documents.candidates)}
    # 0.01, 0.08, 0.15, 0.75
    assert bins == {"≤ 0": 0, "0–0.05": 1, "0.05–0.1": 1, "0.1–0.2": 1, "0.2–0.6": 0, "> 0.6": 1}


@pytest.mark.parametrize(
    ("value", "label"),
    [(0.0, "≤ 0"), (0.05, "0–0.05"), (0.0501, "0.05–0.1"), (0.6, "0.2–0.6"), (0.61, "> 0.6")],
)
def test_a_bin_includes_its_upper_edge(value: float, label: str, campaign_documents: CampaignDocuments) -> None:
    one = campaign_documents.candidates[0].model_copy(update={"e_above_hull": value})
    assert [b.label for b in content.hull_bins([one]) if b.count] == [label]


def test_duplicates_do_not_count_in_the_histogram(campaign_documents: CampaignDocuments) -> None:
    twin = campaign_documents.candidates[0].model_copy(update={"duplicate_of": "demo-000000000001"})
    assert sum(b.count for b in content.hull_bins([twin])) == 0


def rediscovered(candidate: CandidateDoc) -> CandidateDoc:
    """The candidate, relaxed to a known layer and equal to one of another campaign; values are made up."""
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
    update = {"novel": False, "known_as": [entry, elsewhere], "novelty": novelty, "sample_novel": True}
    return candidate.model_copy(update=update)


def test_a_known_layer_stays_visible_as_a_check(campaign_documents: CampaignDocuments) -> None:
    first, second, third, *others = campaign_documents.candidates
    twin = rediscovered(third).model_copy(update={"duplicate_of": first.candidate_id, "rank": None})
    candidates = [rediscovered(second), twin, rediscovered(first), *others]
    assert [c.candidate_id for c in content.rediscovered(candidates)] == [first.candidate_id, second.candidate_id]
    page = Page(page_of(dataclasses.replace(campaign_documents, candidates=candidates)))
    assert "known as MoS2 (C2DB MoS2-165798ab5e33, 0.03 Å), rediscovered" in page.text
    assert "2 candidates relaxed to known layers" in page.text


def test_the_check_is_an_entry_that_says_something(campaign_documents: CampaignDocuments) -> None:
    near, far = (KnownAs(id=name, source="C2DB", formula="MoS2") for name in ("near", "far"))
    candidate = campaign_documents.candidates[0].model_copy(update={"novel": False, "known_as": [near, far]})
    assert content.check_of(candidate).id == "near"
    says = far.model_copy(update={"dynamically_stable": False})
    assert content.check_of(candidate.model_copy(update={"known_as": [near, says]})).id == "far"


def test_what_is_said_of_novelty(campaign_documents: CampaignDocuments) -> None:
    candidate = campaign_documents.candidates[0]

    def words(**fields: Any) -> str:
        return content.novelty_words(candidate.model_copy(update={"novel": None, "sample_novel": None} | fields))

    assert words(novel=True) == "new after relaxation"
    assert words() == "novelty unknown"
    assert words(sample_novel=True) == "novelty unknown; the sample was new"
    known = {"sample_novel": False, "sample_known_as": ["MoS2-1"]}
    assert words(**known) == "novelty unknown; the sample was known as MoS2-1"


def test_page_says_that_energies_are_surrogate(html: str, campaign_documents: CampaignDocuments) -> None:
    text = Page(html).text
    assert "These are surrogate energies." in text
    assert "c2db-pbe (surrogate)" in text
    # how good the energies are, as the energy model says
    assert "from what SevenNet-l3i5 and CHGNet see of a layer relaxed with CHGNet" in text
    assert "the mean error of E hull is 0.037 eV/atom (0.035 to 0.039)" in re.sub(r"\s+", " ", text)
    assert "90 % of these layers" in text
    assert "fitted on 4000 layers of C2DB" in text
    dft = {"surrogate": False, "energy_scheme": "vasp-pbe", "energy_model": None, "extrapolated": None}
    real = [c.model_copy(update=dft) for c in campaign_documents.candidates]
    other = Page(render_documents(campaign_documents.campaign, real, {}, top=1, written=NOON)).text
    assert "surrogate" not in other.lower()
    assert "vasp-pbe" in other


def test_best_candidates_have_pictures_bands_and_values(html: str) -> None:
    cards = re.findall(r"<article class=\"card\">(.*?)</article>", html, re.DOTALL)
    assert len(cards) == 3  # those with a rank
    assert [card.count("<img") for card in cards] == [2, 1, 2]  # the second best has no phonons
    assert "phonon-stable" in cards[0]
    assert "phonons unknown" in cards[1]
    assert "phonon-unstable" in cards[2]
    assert "<strong>0.010</strong> ± 0.10 eV/atom" in re.sub(r"\s+", " ", cards[0])
    assert "MoS<sub>2</sub>" in cards[0]


def test_extrapolated_energies_are_marked_and_the_mark_is_explained(
    html: str, campaign_documents: CampaignDocuments
) -> None:
    mark = '<abbr title="outside what the energy model has learned from: its error may be larger than said">?</abbr>'
    cards = re.findall(r"<article class=\"card\">(.*?)</article>", html, re.DOTALL)
    assert [mark in card for card in cards] == [False, True, False]
    assert "Its energy is extrapolated" in cards[1]
    rows = {c.candidate_id: False for c in campaign_documents.candidates[:3]}
    for row in re.findall(r"<tr>.*?</tr>", html):
        rows |= {name: mark in row for name in rows if name in row}
    assert list(rows.values()) == [False, False, True]
    inside = [c.model_copy(update={"extrapolated": False}) for c in campaign_documents.candidates]
    assert mark not in render_documents(campaign_documents.campaign, inside, {}, written=NOON)


def test_another_energy_model_than_the_packaged_one_is_named_without_its_numbers(
    campaign_documents: CampaignDocuments,
) -> None:
    others = [c.model_copy(update={"energy_model": "chgnet-0badcafe"}) for c in campaign_documents.candidates]
    text = Page(render_documents(campaign_documents.campaign, others, {}, written=NOON)).text
    assert "chgnet-0badcafe" in text
    assert "mean error" not in text
    assert energy_model_card(c.model_copy(update={"energy_model": None}) for c in others) is None


@pytest.mark.usefixtures("packaged_energy_model")
def test_the_card_of_the_energy_model_is_told_only_of_its_own_energies(campaign_documents: CampaignDocuments) -> None:
    assert energy_model_card(campaign_documents.candidates) == ENERGY_MODEL
    others = [c.model_copy(update={"energy_model": "chgnet-0badcafe"}) for c in campaign_documents.candidates]
    assert energy_model_card(others) is None


def test_top_limits_the_cards_not_the_ranking(campaign_documents: CampaignDocuments) -> None:
    c = campaign_documents
    html = render_documents(c.campaign, c.candidates, c.phonons, c.failures, top=1, written=NOON)
    assert html.count('<article class="card">') == 1
    assert all(candidate.candidate_id in html for candidate in c.candidates[:3])


def test_failures_and_reasons_are_counted(html: str, campaign_documents: CampaignDocuments) -> None:
    text = Page(html).text
    assert "RuntimeError: no neighbours <within> 6 angstrom" in text  # shown as text, not as markup
    assert dict(content.reason_counts(campaign_documents.candidates)) == {
        "atoms too close": 1,
        "E_hull … eV/atom is above the window of …": 1,
        "relax": 1,
    }


def test_what_users_write_is_text_and_never_markup(campaign_documents: CampaignDocuments) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    html = page_of(campaign_documents, top=0, description=evil)
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert evil in Page(html).text.replace("  ", " ")


def test_data_of_the_page_is_readable_by_machines(html: str, campaign_documents: CampaignDocuments) -> None:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["campaign"]["funnel"] == campaign_documents.campaign.funnel.model_dump()
    assert [c["rank"] for c in data["candidates"]] == [1, 2, 3]
    assert data["candidates"][0]["dynamically_stable"] is True


def test_a_campaign_without_results_has_a_report(campaign_documents: CampaignDocuments) -> None:
    fresh = campaign_documents.campaign.model_copy(update={"funnel": Funnel(), "state": CampaignState.RUNNING})
    text = Page(render_documents(fresh, [], {}, written=NOON)).text
    assert "No candidate has an energy yet." in text
    assert "No candidate has been ranked yet." in text
    assert "The campaign is not finished" in text


@pytest.mark.usefixtures("packaged_energy_model")
def test_render_takes_the_campaign_from_the_database(campaign_documents: CampaignDocuments) -> None:
    database = memory_database()
    campaign_documents.store(database)
    seen: list[tuple[int, int]] = []
    html = render(database, "demo", progress=lambda done, total: seen.append((done, total)))
    ranks = re.findall(r'<span class="rank">(\d+)</span>', html)
    assert ranks == ["1", "2", "3"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert "no neighbours" in html
    with pytest.raises(CampaignError, match="did you mean 'demo'"):
        render(database, "dema")


@pytest.mark.parametrize(
    ("field", "harmless", "odd", "words"),
    [
        ("e_above_hull", -0.09, -0.11, "below the hull of all known phases"),
        ("e_above_hull_error", 0.24, 0.26, "Expected error"),
        ("extrapolated", False, True, "Its energy is extrapolated"),
        ("rmsd_to_relaxed_angstrom", 0.49, 0.51, "another structure"),
    ],
)
def test_implausible_values_are_warned_about(
    field: str, harmless: float, odd: float, words: str, campaign_documents: CampaignDocuments
) -> None:
    usual = campaign_documents.candidates[0].model_copy(update={field: harmless})
    strange = campaign_documents.candidates[0].model_copy(update={field: odd})
    assert not any(words in w for w in content.candidate_warnings(usual))
    assert any(words in w for w in content.candidate_warnings(strange))


@pytest.mark.parametrize(
    ("total", "words"),
    [(4.0, "geometry, bands and phonons are those of the ferro"), (0.0, "its geometry is that of the ferro")],
)
def test_what_is_the_ferromagnetic_orders_where_another_is_lower(
    total: float, words: str, campaign_documents: CampaignDocuments
) -> None:
    # moments that cancel in the candidate's own cell were there in the runs of bands and phonons
    lower = {"antiferromagnetic_ev_per_atom": -0.01, "total_magnetization": total}
    said = content.candidate_warnings(campaign_documents.candidates[0].model_copy(update=lower))
    assert any(" 10.0 meV/atom below" in w and words in w for w in said)


def test_what_is_said_against_the_vacuum(campaign_documents: CampaignDocuments) -> None:
    metal = campaign_documents.candidates[0].model_copy(update={"work_function": 4.5, "vacuum_level_difference": 0.0})
    assert content.vacuum_words(metal) == [("work function", "4.50 eV")]
    # the level above lies 0.3 eV higher: electrons leave the layer there for 0.3 eV more
    known = {"vbm_vs_vacuum": -6.0, "cbm_vs_vacuum": -4.4, "vacuum_level_difference": 0.3}
    polar = campaign_documents.candidates[0].model_copy(update=known)
    assert content.vacuum_words(polar) == [
        ("ionisation energy", "6.15 eV above, 5.85 eV below"),
        ("electron affinity", "4.55 eV above, 4.25 eV below"),
        ("vacuum level above minus below", "0.30 eV"),
    ]
    assert content.vacuum_words(campaign_documents.candidates[1]) == []


def test_implausible_phonons_are_warned_about(campaign_documents: CampaignDocuments) -> None:
    candidate = campaign_documents.candidates[0]
    phonon = campaign_documents.phonons[candidate.candidate_id]
    assert content.candidate_warnings(candidate, phonon) == []
    stiff = phonon.model_copy(update={"frequencies_thz": [[x * 10 for x in row] for row in phonon.frequencies_thz]})
    assert any("90 THz without hydrogen" in w for w in content.candidate_warnings(candidate, stiff))
    # translations cost nothing, so three modes are 0 at Γ; here they are at 1 THz
    shifted = phonon.model_copy(update={"frequencies_thz": [[x + 1 for x in row] for row in phonon.frequencies_thz]})
    assert any("Acoustic modes reach 1.0 THz at Γ" in w for w in content.candidate_warnings(candidate, shifted))
    broken = phonon.model_copy(update={"sum_rule_change": 0.05})
    assert any("changed the force constants by 5.0 %" in w for w in content.candidate_warnings(candidate, broken))
    # C2DB's criterion looks at the q-points of the supercell alone, that of path and mesh at all
    between = phonon.model_copy(update={"min_frequency_thz": -0.74, "min_hessian_ev_per_angstrom2": 0.0})
    assert any("modes reach −0.74 THz" in w for w in content.candidate_warnings(candidate, between))
    near_gamma = between.model_copy(update={"min_hessian_ev_per_angstrom2": None})
    assert content.candidate_warnings(candidate, near_gamma) == []
    # light atoms: the zero-point energy of a hydride is larger than most energies above hull
    numbers = {"free_energy_ev_per_atom": [0.1442], "entropy_kb_per_atom": [0.0], "heat_capacity_kb_per_atom": [0.0]}
    warm = phonon.model_copy(update={"thermal": ThermalQuantities(temperatures_k=[0.0], **numbers)})
    hydride = candidate.model_copy(update={"elements": ["H", "Ni"]})
    assert any("This layer's is 0.144 eV/atom" in w for w in content.candidate_warnings(hydride, warm))
    assert content.candidate_warnings(candidate, warm) == []


def test_campaign_is_warned_about(campaign_documents: CampaignDocuments) -> None:
    campaign, candidates = campaign_documents.campaign, campaign_documents.candidates
    assert content.campaign_warnings(campaign, candidates) == []
    failing = campaign.model_copy(update={"funnel": Funnel(generated=20, valid=20, relaxed=8, failed=4)})
    assert any("4 of 12 computed candidates failed" in w for w in content.campaign_warnings(failing, candidates))
    empty = campaign.model_copy(update={"funnel": Funnel(generated=20)})
    assert any("No sample is valid" in w for w in content.campaign_warnings(empty, []))
    below = [candidates[0].model_copy(update={"e_above_hull": -0.3})]
    assert any("rarely are: MoS2" in w for w in content.campaign_warnings(campaign, below))


def test_picture_draws_the_bonds_of_the_crystal() -> None:
    # 1H-MoS2: Mo is six-fold (trigonal prism of S), S three-fold; no Mo-Mo and no S-S bond
    patch = crystals._patch(mx2("1H"), (4, 4))
    elements = patch.numbers[patch.bonds]
    assert {tuple(sorted(pair)) for pair in elements.tolist()} == {(16, 42)}
    coordination = [int((patch.bonds == k).any(axis=1).sum()) for k in range(len(patch.numbers))]
    assert max(n for n, z in zip(coordination, patch.numbers, strict=True) if z == 42) == 6
    assert max(n for n, z in zip(coordination, patch.numbers, strict=True) if z == 16) == 3


def test_picture_of_graphene_has_three_bonds_an_atom(graphene: Structure) -> None:
    patch = crystals._patch(graphene, (5, 5))
    assert max(int((patch.bonds == k).any(axis=1).sum()) for k in range(50)) == 3


def test_picture_shows_a_slab_in_one_piece_whatever_its_place_in_the_cell() -> None:
    picture = svg(crystals.layer_picture(mx2("1H")))
    assert svg(crystals.layer_picture(mx2("1H", shift=0.0))) == picture
    assert svg(crystals.layer_picture(mx2("1H", c=40.0))) == picture  # vacuum is not drawn


def test_large_cells_stay_small_pictures() -> None:
    big = mx2("1H").copy()
    big.make_supercell([6, 6, 1])  # 108 atoms
    n, m = crystals._repeats(big)
    assert n * m * len(big) <= crystals.MAX_ATOMS


def test_legend_names_every_element() -> None:
    assert [symbol for symbol, _ in crystals.legend(mx2("1H"))] == ["Mo", "S"]
    assert len({colour for _, colour in crystals.legend(mx2("1H"))}) == 2


def test_path_ticks_join_where_points_meet() -> None:
    assert figures.path_ticks([(0.0, "Γ"), (0.5, "M"), (0.5, "X"), (0.8, "K"), (0.8, "K")]) == {
        0.0: "Γ",
        0.5: "M|X",
        0.8: "K",
    }


@given(places=st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True))
def test_labels_of_a_path_do_not_run_into_each_other(places: list[float]) -> None:
    labels = bands.staggered(dict.fromkeys(places, "X"))
    lowered = [label.startswith("\n") for label in labels]
    assert [label.strip() for label in labels] == ["X"] * len(places)
    near = [b - a < bands.TOO_CLOSE * max(places) for a, b in itertools.pairwise(sorted(places))]
    assert all(
        low != before if close else not low for before, low, close in zip(lowered, lowered[1:], near, strict=False)
    )  # a close one changes the line, one with room is on the first
    assert not lowered[0]


def test_figures_for_a_paper(campaign_documents: CampaignDocuments, tmp_path: Path) -> None:
    database = memory_database()
    campaign_documents.store(database)
    drawn = dict(paper_figures(database, "demo", top=2))
    assert list(drawn)[:2] == ["funnel", "e_above_hull"]
    assert sum(name.endswith("-structure") for name in drawn) == 2
    assert any(name.endswith("-phonons") for name in drawn)
    legend = drawn["funnel"].axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["this campaign (surrogate energies)", "paper (DFT)"]
    for fmt, magic in {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}.items():
        assert write_figures(database, "demo", tmp_path / fmt, fmt, top=2, force=False) == len(drawn)
        for name in drawn:
            assert (tmp_path / fmt / f"{name}.{fmt}").read_bytes().startswith(magic)
    with pytest.raises(CampaignError, match="did you mean 'demo'"):
        next(paper_figures(database, "dema"))
