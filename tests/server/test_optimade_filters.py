"""OPTIMADE filters: what they choose, in memory and on the embedded server, and what they refuse."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.memory import memory_database

pytest.importorskip("optimade.server", reason="the server is an optional extra")

from optimade.exceptions import BadRequest, NotImplementedResponse
from optimade.filterparser import LarkParser
from optimade.server.query_params import EntryListingQueryParams

from scdm_flows.builders.optimade import optimade_of
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CandidateDoc
from scdm_flows.server.entries import Entries
from scdm_flows.server.filters import MAX_CHARACTERS, Parser
from scdm_flows.server.optimade_app import optimade_app
from scdm_flows.server.properties import provider_fields, sortable
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port


def _document(number: int, symbols: list[str], **fields: Any) -> dict[str, Any]:
    """A candidate with these atoms one above the other, as the candidate builder leaves it."""
    coordinates = [[0.0, 0.0, i / (len(symbols) + 1)] for i in range(len(symbols))]
    structure = Structure(mx2("1H").lattice, symbols, coordinates)
    elements = sorted(set(symbols))
    document = CandidateDoc(
        candidate_id=f"c-{number}",
        campaign="c",
        formula=structure.composition.reduced_formula,
        chemsys="-".join(elements),
        elements=elements,
        nelements=len(elements),
        nsites=len(symbols),
        structure=structure.as_dict(),
        last_updated=datetime(2023, 11, 14, 22, 13, 20 + number, tzinfo=UTC),
        **{"generator": "scdm", **fields},
    )
    document.optimade = optimade_of(document)
    return document.model_dump()


KNOWN = {
    "novel": False,
    "known_as": [{"id": name, "source": "C2DB", "formula": "MoS2"} for name in ("MoS2-1", "MoS2-12")],
    "duplicate_of": "c-0",
    "bulk_compound": True,
}
PREDICTED = {"surrogate": True, "energy_scheme": "c2db-pbe", "energy_model": "sevennet-l3i5+chgnet-1a2b3c4d"}
DOCUMENTS = [
    _document(0, ["Mo", "S", "S"], e_above_hull=0.0, **PREDICTED),
    _document(
        1,
        ["Mo", "S", "S"] * 2,
        e_above_hull=0.2,
        surrogate=False,
        energy_scheme="vasp-pbe",
        min_frequency_thz=-1.0,
        **KNOWN,
    ),
    _document(2, ["Mo", "S", "Se"], generator="files", energy_scheme="chgnet-0.3.0"),
    _document(3, ["C", "C"], e_above_hull=0.1, layer_group=80, novel=True),
    _document(4, ["C", "C", "H", "H"]),
    _document(5, ["O", "O"]),  # pymatgen's reduced formula of oxygen is O2, OPTIMADE's is O
    _document(6, ["Ca", "H", "O", "O", "H", "O", "O"]),  # the formulas of these two have parentheses
    _document(7, ["Ti", "Ga", "Ga", *["Se", "Br"] * 2, *["Se", "Br"] * 2]),
]
ALL = set(range(len(DOCUMENTS)))


@pytest.fixture(scope="module", params=["in memory", "embedded"])
def entries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entries]:
    """The structures of the documents; the last one was stored before OPTIMADE's properties were, and is not served."""
    if request.param == "in memory":
        yield _entries(memory_database())
        return
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    server = EmbeddedServer(tmp_path_factory.mktemp("filters"), free_port())
    with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
        yield _entries(database)
    server.stop()


def _entries(database: Database) -> Entries:
    database.mongo["candidates"].insert_many([dict(document) for document in DOCUMENTS])
    earlier = {**DOCUMENTS[0], "candidate_id": "c-9"}
    del earlier["optimade"]
    database.mongo["candidates"].insert_one(earlier)
    found = optimade_app(database).state.entry_collections["structures"]
    assert isinstance(found, Entries)
    return found


def _chosen(entries: Entries, text: str) -> set[int]:
    params = EntryListingQueryParams(filter=text, page_limit=100)
    found, total, more, _, _ = entries.find(params)
    ids = [int(entry["id"].removeprefix("c-")) for entry in found or ()]
    assert (ids, total, more) == (sorted(ids), len(ids), False)
    return set(ids)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('id="c-3"', {3}),
        ('type="structures" AND NOT id="c-3"', ALL - {3}),
        ('elements HAS "Mo"', {0, 1, 2}),
        ('elements HAS "Ca"', {6}),
        ('elements HAS ALL "Mo","Se"', {2}),
        ('elements HAS ANY "C","Se"', {2, 3, 4, 7}),
        ('elements HAS ONLY "Mo","S"', {0, 1}),
        ('elements HAS "mo"', set()),
        ("elements LENGTH 2", {0, 1, 4}),
        ("NOT elements LENGTH 2", ALL - {0, 1, 4}),
        ("elements LENGTH >= 3 OR elements LENGTH < 2", {2, 3, 5, 6, 7}),
        ("elements LENGTH 3", {2, 6}),
        ("species_at_sites LENGTH = 6", {1}),
        ("cartesian_site_positions LENGTH 6", {1}),
        ("lattice_vectors LENGTH 3 AND dimension_types LENGTH 3", ALL),
        ('species.name HAS "Se"', {2, 7}),
        ("elements_ratios HAS 1", {3, 5}),
        ("nelements>=2 AND nsites<=3", {0, 2}),
        ("3=nsites", {0, 2}),
        ("6<nsites", {6, 7}),
        ('chemical_formula_reduced="MoS2"', {0, 1}),
        ('chemical_formula_reduced="O"', {5}),
        ('chemical_formula_reduced="CaH2O4"', {6}),
        ('chemical_formula_descriptive="Ca(HO2)2"', {6}),
        ('chemical_formula_descriptive CONTAINS "(HO2)"', {6}),  # no regular expression
        ('chemical_formula_descriptive ENDS "."', set()),
        ('chemical_formula_hill="Mo2S4"', {1}),
        ('chemical_formula_hill="C2H2"', {4}),
        ('chemical_formula_anonymous="A2B"', {0, 1}),
        ('chemical_formula_reduced STARTS WITH "Mo" AND chemical_formula_reduced ENDS "e"', {2}),
        ('chemical_formula_reduced CONTAINS "S"', {0, 1, 2, 7}),
        ('NOT chemical_formula_reduced CONTAINS "S"', {3, 4, 5, 6}),
        ("structure_features LENGTH 0 AND dimension_types HAS 0", ALL),
        ('structure_features HAS "disorder"', set()),
        ("nperiodic_dimensions=2", ALL),
        # an energy that is not known is neither below nor above anything, also under NOT
        ("_scdm_e_above_hull<0.15", {0, 3}),
        ("NOT _scdm_e_above_hull<0.15", {1}),
        ("_scdm_e_above_hull IS UNKNOWN", ALL - {0, 1, 3}),
        ("NOT _scdm_e_above_hull IS KNOWN", ALL - {0, 1, 3}),
        ("_scdm_e_above_hull<0.15 OR nsites=3", {0, 2, 3}),
        ("_scdm_min_frequency_thz<-0.5", {1}),
        ("_scdm_surrogate=TRUE", {0}),
        ("_scdm_surrogate!=TRUE", {1}),
        ("_scdm_surrogate=FALSE", {1}),
        ("_scdm_layer_group=80", {3}),
        ("_scdm_rank=1", set()),  # there is no ranking
        ("_scdm_novel=FALSE AND _scdm_bulk_compound=TRUE", {1}),
        ('_scdm_duplicate_of="c-0"', {1}),
        ('_scdm_known_as HAS "MoS2-1"', {1}),
        ('_scdm_known_as HAS ALL "MoS2-1","MoS2-12"', {1}),
        ('NOT _scdm_known_as HAS ALL "MoS2-1","WS2-1"', {1}),
        ('NOT _scdm_known_as HAS "WS2-1"', {1}),
        ('NOT references.id HAS "chgnet"', ALL - {0, 2}),
        ('_scdm_known_as HAS "MoS2-"', set()),
        ("_scdm_known_as IS KNOWN", {1}),
        ("_scdm_known_as IS UNKNOWN", ALL - {1}),
        ("immutable_id IS KNOWN", set()),
        ('immutable_id="x" OR NOT immutable_id="x"', set()),
        ("_exmpl_something > 3", set()),  # of another provider: unknown
        ("NOT _exmpl_something > 3", set()),
        # a force field's own energies, and those that an energy model predicts from two
        ('references.id HAS "chgnet"', {0, 2}),
        ('references.id HAS "sevennet"', {0}),
        ('_scdm_energy_model STARTS WITH "sevennet-l3i5+chgnet"', {0}),
        ("_scdm_extrapolated IS UNKNOWN", ALL),
        ('references.id HAS ONLY "scdm"', ALL - {0, 2}),
        ('last_modified>="2023-11-14T22:13:26Z"', {6, 7}),
        ('last_modified<"2023-11-14T23:13:21+01:00"', {0}),
        ('((nsites=3)) AND (NOT (elements HAS "Se"))', {0}),
        ("NOT (NOT nsites=3)", {0, 2}),
        ("nsites<99999999999999999999999999999999 AND nsites<1e999", ALL),  # more than MongoDB's whole numbers hold
        ("nsites=-99999999999999999999999999999999", set()),
        ('nsites="three"', set()),  # as optimade answers: of another type, so equal to none
    ],
)
def test_what_filters_choose(entries: Entries, text: str, rows: set[int]) -> None:
    assert _chosen(entries, text) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("_scdm_e_above_hul<1", "did you mean _scdm_e_above_hull?"),
        ("crazyfield=2", "crazyfield is not a known property"),
        ('last_modified>"yesterday"', "2026-01-31T12:00:00Z"),
        ("nsites=3 nelements=2", "join them with AND or OR"),  # optimade's own server reads the first alone
        ("", "holds no expression"),
        ("1=1", "a property on one side"),
        ("nsites=", "cannot be read at its end"),
        ("nsites=3 AN", "cannot be read at character 10"),
        ("nsites CONTAINS 1", "a text in quotes"),
        ('id="a\x00"', "NUL"),
        ("(" * 1500 + "nsites=3" + ")" * 1500, "nested too deeply"),
        ("nsites=3 OR " * 400 + "nsites=3", f"{MAX_CHARACTERS} are allowed"),
    ],
)
def test_what_filters_are_refused(entries: Entries, text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)):
        entries.find(EntryListingQueryParams(filter=text or " ", page_limit=100))


@pytest.mark.parametrize(
    "text",
    [
        'elements:elements_ratios HAS "S":>0.5',
        "elements_ratios HAS >0.5",
        'elements HAS ANY "S",<"Mo"',
        "nsites=nelements",
        "elements HAS chemical_formula_reduced",
        'NOT elements HAS ONLY "Mo","S"',
        "dimension_types LENGTH > 2",  # optimade would ask for one more
        "_scdm_known_as LENGTH 2",
    ],
)
def test_what_filters_are_not_implemented(entries: Entries, text: str) -> None:
    # optional parts of the filter language, which optimade's transformer lacks: better refused than answered wrongly
    with pytest.raises(NotImplementedResponse):
        entries.find(EntryListingQueryParams(filter=text, page_limit=100))


@pytest.mark.parametrize(("text", "value"), [('"a\\"b"', 'a"b'), ('"a\\\\b"', "a\\b"), ('"c\\\\\\"d"', 'c\\"d')])
def test_escaped_characters(entries: Entries, text: str, value: str) -> None:
    # OPTIMADE escapes " and \ alone
    query = entries.transformer.transform(Parser().parse(f"id={text}"))
    assert query == {"candidate_id": {"$eq": value}}


def test_the_grammar_reads_as_optimade_does() -> None:
    # ours is LALR, whose time grows with the length alone; the trees are the same
    own = LarkParser()
    for text in (
        'elements HAS ALL "Si","Al" AND nsites<=10 OR NOT (a.b_c:d HAS ANY "x":>1,"y":<2)',
        '"x"=a AND 3>b AND c IS UNKNOWN AND d LENGTH >=3 AND e STARTS "f" AND g ENDS WITH h',
        'a HAS <3 AND b HAS ONLY 1,"2",c AND _x_y.z=-1.5e-3 AND d=TRUE',
    ):
        assert Parser().parse(text) == own.parse(text)


# filters with what they say of a document: true, false, or None where that is not known
Predicate = Callable[[dict[str, Any]], bool | None]
Filter = tuple[str, Predicate]
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "CONTAINS": lambda text, part: part in text,
    "STARTS WITH": str.startswith,
    "ENDS": str.endswith,
}
_LISTS: dict[str, Callable[[list[str], list[str]], bool]] = {
    "ALL": lambda items, asked: set(asked) <= set(items),
    "ANY": lambda items, asked: bool(set(asked) & set(items)),
}
_FORMULAS = ["MoS2", "A2B", "C", "S", "(HO2)2", "H", ""]
_FIELDS: dict[str, list[Any]] = {
    "_scdm_e_above_hull": [0.0, 0.1, 0.15],
    "_scdm_min_frequency_thz": [-1.0, 0.0],
    "_scdm_layer_group": [79, 80],
    "nsites": [2, 3, 6],
    "nelements": [1, 2, 3],
    "chemical_formula_reduced": _FORMULAS,
    "chemical_formula_descriptive": _FORMULAS,
}


def _value(document: dict[str, Any], name: str) -> Any:
    field = name.removeprefix("_scdm_")
    return document[field] if field != name else document["optimade"].get(name)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _of(text: str, name: str, holds: Callable[[Any], bool]) -> Filter:
    def predicate(document: dict[str, Any]) -> bool | None:
        value = _value(document, name)
        return None if value is None else holds(value)

    return text, predicate


@st.composite
def _comparisons(draw: st.DrawFn) -> Filter:
    kind = draw(st.sampled_from(["value", "text", "list", "known", "length"]))
    if kind == "text":
        name = draw(st.sampled_from(["chemical_formula_reduced", "chemical_formula_descriptive"]))
        word, part = draw(st.sampled_from(sorted(_TEXTS))), draw(st.sampled_from(_FORMULAS))
        return _of(f'{name} {word} "{part}"', name, lambda value: _TEXTS[word](value, part))
    if kind == "list":
        word = draw(st.sampled_from(sorted(_LISTS)))
        asked = draw(st.lists(st.sampled_from(["Mo", "S", "Se", "C", "H", "Ca", "X"]), min_size=1, max_size=3))
        text = ",".join(map(_quoted, asked))
        return _of(f"elements HAS {word} {text}", "elements", lambda value: _LISTS[word](value, asked))
    name = draw(st.sampled_from(sorted(_FIELDS)))
    if kind == "known":
        known = draw(st.booleans())
        text = f"{name} IS {'KNOWN' if known else 'UNKNOWN'}"
        return text, lambda document: (_value(document, name) is not None) is known
    sign = draw(st.sampled_from(sorted(_SIGNS)))
    if kind == "length":
        sign, number = "=" if sign == "!=" else sign, draw(st.integers(0, 4))
        return _of(f"elements LENGTH {sign} {number}", "elements", lambda value: _SIGNS[sign](len(value), number))
    value = draw(st.sampled_from(_FIELDS[name]))
    if draw(st.booleans()):
        return _of(f"{_quoted(value)} {sign} {name}", name, lambda found: _SIGNS[sign](value, found))
    return _of(f"{name} {sign} {_quoted(value)}", name, lambda found: _SIGNS[sign](found, value))


def _not(one: Filter) -> Filter:
    def predicate(document: dict[str, Any]) -> bool | None:
        value = one[1](document)
        return None if value is None else not value

    return f"NOT ({one[0]})", predicate


def _joined(word: str, decides: bool, one: Filter, other: Filter) -> Filter:
    def predicate(document: dict[str, Any]) -> bool | None:
        values = {one[1](document), other[1](document)}
        return decides if decides in values else None if None in values else not decides

    return f"({one[0]}) {word} ({other[0]})", predicate


_FILTERS = st.recursive(
    _comparisons(),
    lambda inner: st.one_of(
        st.builds(_not, inner),
        st.builds(_joined, st.just("AND"), st.just(False), inner, inner),
        st.builds(_joined, st.just("OR"), st.just(True), inner, inner),
    ),
    max_leaves=5,
)


@given(asked=_FILTERS)
@settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_filter_chooses_what_a_plain_loop_does(entries: Entries, asked: Filter) -> None:
    text, predicate = asked
    assert _chosen(entries, text) == {i for i, document in enumerate(DOCUMENTS) if predicate(document)}, text


def test_properties_carry_what_the_field_declares() -> None:
    fields = {f"_scdm_{name}": entry for name, entry in provider_fields().items()}
    assert fields["_scdm_e_above_hull"]["unit"] == "eV/atom"
    assert fields["_scdm_band_gap"]["unit"] == "eV"
    assert fields["_scdm_exfoliation_mev_per_angstrom2"]["unit"] == "meV/angstrom^2"
    assert fields["_scdm_min_frequency_thz"]["unit"] == "THz"
    assert fields["_scdm_area_per_atom_angstrom2"]["unit"] == "angstrom^2"
    assert fields["_scdm_total_magnetization"]["unit"] == "bohr_magneton"
    assert fields["_scdm_thickness_angstrom"]["unit"] == "angstrom"
    without = {name for name, entry in fields.items() if entry.get("unit") == "dimensionless"}
    assert without == {
        "_scdm_prototype_distance",
        "_scdm_score",
        "_scdm_stable_probability",
        "_scdm_nonmetal_probability",
        "_scdm_magnetic_probability",
        "_scdm_direct_gap_probability",
    }  # a new field's unit would be missed otherwise
    assert {entry["type"] for entry in fields.values()} == {"string", "integer", "float", "boolean", "list"}
    unsorted = ("known_as", "e_above_hull_lower_bound", "nonmetal_probability", "magnetic_probability")
    unsorted += ("lacks_spin_orbit", "hse_gap", "valid_radii", "direct_gap_probability", "work_function")
    unsorted += ("vbm_vs_vacuum", "cbm_vs_vacuum", "vacuum_level_difference", "exfoliation_mev_per_angstrom2")
    assert fields.keys() - sortable() == {f"_scdm_{name}" for name in unsorted}
    assert fields["_scdm_surrogate"]["description"] == CandidateDoc.model_fields["surrogate"].description
