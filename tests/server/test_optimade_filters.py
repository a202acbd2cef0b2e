"""OPTIMADE filters on columns: what they choose, what they refuse, and that optimade's own transformer agrees."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.layers import mx2

pytest.importorskip("optimade.server", reason="the server is an optional extra")

from optimade.exceptions import BadRequest
from optimade.filterparser import LarkParser

from scdm_flows.documents import CandidateDoc
from scdm_flows.server.columns import Records
from scdm_flows.server.composition import composition
from scdm_flows.server.filters import MAX_CHARACTERS, evaluate, parse
from scdm_flows.server.structures import StructureColumns, UnreadableError, provider_fields, resource
from scdm_flows.stores.table import Table


def _document(number: int, formula: str, counts: dict[str, int], **fields: Any) -> dict[str, Any]:
    layer = mx2("1H")
    symbols = [e for e, n in counts.items() for _ in range(n)]
    structure = layer.as_dict()
    structure["sites"] = [
        {"species": [{"element": e, "occu": 1}], "abc": [0, 0, 0], "xyz": [0.0, 0.0, float(i)]}
        for i, e in enumerate(symbols)
    ]
    known = {"campaign": "c", "generator": "scdm", "chemsys": "-".join(sorted(counts)), "elements": sorted(counts)}
    sizes = {"nelements": len(counts), "nsites": len(symbols), "structure": structure}
    return CandidateDoc(candidate_id=f"c-{number}", formula=formula, **{**known, **sizes, **fields}).model_dump()


KNOWN = {
    "novel": False,
    "known_as": [{"id": name, "source": "C2DB", "formula": "MoS2"} for name in ("MoS2-1", "MoS2-12")],
    "duplicate_of": "c-0",
    "bulk_compound": True,
}
PREDICTED = {"surrogate": True, "energy_scheme": "c2db-pbe", "energy_model": "sevennet-l3i5+chgnet-1a2b3c4d"}
DOCUMENTS = [
    _document(0, "MoS2", {"Mo": 1, "S": 2}, e_above_hull=0.0, **PREDICTED),
    _document(1, "MoS2", {"Mo": 2, "S": 4}, e_above_hull=0.2, surrogate=False, energy_scheme="vasp-pbe", **KNOWN),
    _document(2, "MoSSe", {"Mo": 1, "S": 1, "Se": 1}, generator="files", energy_scheme="chgnet-0.3.0"),
    _document(3, "C", {"C": 2}, e_above_hull=0.1, layer_group=80, novel=True),
    _document(4, "CH", {"C": 2, "H": 2}),
    _document(5, "O2", {"O": 2}),  # pymatgen's reduced formula of oxygen, OPTIMADE's is O
]
TABLE = Table.of(DOCUMENTS)
TIMES = np.arange(6) + 1.7e9  # 2023-11-14T22:13:20Z and the seconds after it
COLUMNS = StructureColumns(TABLE, lambda table: TIMES)


def _chosen(text: str) -> set[int]:
    return set(np.flatnonzero(evaluate(parse(text), COLUMNS, "scdm")).tolist())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('id="c-3"', {3}),
        ('type="structures" AND NOT id="c-3"', {0, 1, 2, 4, 5}),
        ('elements HAS "Mo"', {0, 1, 2}),
        ('elements HAS ALL "Mo","Se"', {2}),
        ('elements HAS ANY "C","Se"', {2, 3, 4}),
        ('elements HAS ONLY "Mo","S"', {0, 1}),
        ('NOT elements HAS ONLY "Mo","S"', {2, 3, 4, 5}),
        ('elements HAS "mo"', set()),
        ("elements LENGTH 2", {0, 1, 4}),
        ("elements LENGTH >= 3 OR elements LENGTH < 2", {2, 3, 5}),
        ("species_at_sites LENGTH = 6", {1}),
        ("cartesian_site_positions LENGTH 6", {1}),
        ("lattice_vectors LENGTH 3 AND dimension_types LENGTH 3", {0, 1, 2, 3, 4, 5}),
        ('species.name HAS "Se"', {2}),
        ('elements:elements_ratios HAS "S":>0.5', {0, 1}),
        ('elements:elements_ratios HAS ANY "Se":<0.5,"H":0.5', {2, 4}),
        ('elements:elements_ratios HAS ONLY "Mo":<0.5,"S":<0.9', {0, 1}),
        ("elements_ratios HAS 1", {3, 5}),
        ("nelements>=2 AND nsites<=3", {0, 2}),
        ("3=nsites", {0, 2}),
        ("3<nsites", {1, 4}),
        ("nsites=nelements", {2}),
        ("nsites=99999999999999999999999999999999", set()),
        ('chemical_formula_reduced="MoS2"', {0, 1}),
        ('chemical_formula_reduced="O"', {5}),
        ('chemical_formula_hill="Mo2S4"', {1}),
        ('chemical_formula_hill="C2H2"', {4}),
        ('chemical_formula_anonymous="A2B"', {0, 1}),
        ('chemical_formula_descriptive STARTS WITH "Mo" AND chemical_formula_descriptive ENDS "e"', {2}),
        ('chemical_formula_reduced CONTAINS "S"', {0, 1, 2}),
        ("structure_features LENGTH 0 AND dimension_types HAS 0", {0, 1, 2, 3, 4, 5}),
        ('structure_features HAS "disorder"', set()),
        ("nperiodic_dimensions=2", {0, 1, 2, 3, 4, 5}),
        # an energy that is not known is neither below nor above anything, also under NOT
        ("_scdm_e_above_hull<0.15", {0, 3}),
        ("NOT _scdm_e_above_hull<0.15", {1}),
        ("_scdm_e_above_hull IS UNKNOWN", {2, 4, 5}),
        ("NOT _scdm_e_above_hull IS KNOWN", {2, 4, 5}),
        ("_scdm_e_above_hull<0.15 OR nsites=3", {0, 2, 3}),
        ("_scdm_surrogate=TRUE", {0}),
        ("_scdm_surrogate!=TRUE", {1}),
        ("_scdm_layer_group=80", {3}),
        ("_scdm_rank=1", set()),  # there is no ranking
        ("_scdm_novel=FALSE AND _scdm_bulk_compound=TRUE", {1}),
        ('_scdm_duplicate_of="c-0"', {1}),
        ('_scdm_known_as HAS "MoS2-1"', {1}),
        ('_scdm_known_as HAS "MoS2-"', set()),
        ("_scdm_known_as LENGTH 2", {1}),
        ("_scdm_known_as LENGTH 0", {3}),  # new: none, which is known of it
        ("_scdm_known_as IS UNKNOWN", {0, 2, 4, 5}),
        ("immutable_id IS KNOWN", set()),
        ('immutable_id="x" OR NOT immutable_id="x"', set()),
        ("_exmpl_something > 3", set()),  # of another provider: unknown
        ("NOT _exmpl_something > 3", set()),
        # a force field's own energies, and those that an energy model predicts from two
        ('references.id HAS "chgnet"', {0, 2}),
        ('references.id HAS "sevennet"', {0}),
        ('_scdm_energy_model STARTS WITH "sevennet-l3i5"', {0}),
        ("_scdm_extrapolated IS UNKNOWN", {0, 1, 2, 3, 4, 5}),
        ('references.id HAS ONLY "scdm"', {1, 3, 4, 5}),
        ('last_modified>="2023-11-14T22:13:24Z"', {4, 5}),
        ('last_modified<"2023-11-14T23:13:21+01:00"', {0}),
        ('((nsites=3)) AND (NOT (elements HAS "Se"))', {0}),
    ],
)
def test_what_filters_choose(text: str, rows: set[int]) -> None:
    assert _chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("_scdm_e_above_hul<1", "did you mean _scdm_e_above_hull?"),
        ("crazyfield=2", "crazyfield is not a known property"),
        ('nsites="three"', "it takes a number"),
        ("elements=1", "ask for its items with HAS"),
        ("nsites HAS 1", "is not a list"),
        ("nsites LENGTH 1", "is not a list"),
        ("species HAS 1", "cannot be searched by its items"),
        ("_scdm_surrogate>TRUE", "has no order"),
        ("_scdm_surrogate=1", "TRUE or FALSE"),
        ('last_modified>"yesterday"', "2026-01-31T12:00:00Z"),
        ('nsites CONTAINS "1"', "CONTAINS compares the text"),
        ("nsites=id", "of different types"),
        ("nsites=3 nelements=2", "join them with AND or OR"),  # optimade's own server reads the first alone
        ("", "several expressions"),
        ("1=1", "a property on one side"),
        ("nsites=", "cannot be read at its end"),
        ("nsites=3 AN", "cannot be read at character 10"),
        ('elements:elements_ratios HAS "S":0.5:1', "needs 2 values"),
        ("elements HAS nsites", "not with the property nsites"),
        ('id="a\x00"', "NUL"),
        ("(" * 1500 + "nsites=3" + ")" * 1500, "nested too deeply"),
        ("nsites=3 OR " * 400 + "nsites=3", f"{MAX_CHARACTERS} are allowed"),
    ],
)
def test_what_filters_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words.replace("?", "\\?").replace("+", "\\+")):
        _chosen(text)


def test_a_filter_has_a_time_limit() -> None:
    with pytest.raises(BadRequest, match="takes too long"):
        evaluate(parse("nsites=3"), COLUMNS, "scdm", seconds=-1)


@pytest.mark.parametrize("text", ['id="a\\"b"', 'id="a\\\\b"', 'id="c\\\\\\"d"'])
def test_escaped_characters(text: str) -> None:
    # OPTIMADE escapes " and \ alone
    values = {'id="a\\"b"': 'a"b', 'id="a\\\\b"': "a\\b", 'id="c\\\\\\"d"': 'c\\"d'}
    records = Records([{"id": values[text]}, {"id": "other"}], ["id"])
    assert evaluate(parse(text), records, "scdm").tolist() == [True, False]


def test_the_grammar_reads_as_optimade_does() -> None:
    # ours is LALR, whose time grows with the length alone; the trees are the same, but for TRUE and FALSE
    own = LarkParser()
    for text in (
        'elements HAS ALL "Si","Al" AND nsites<=10 OR NOT (a.b_c:d HAS ANY "x":>1,"y":<2)',
        '"x"=a AND 3>b AND c IS UNKNOWN AND d LENGTH >=3 AND e STARTS "f" AND g ENDS WITH h',
        'a HAS <3 AND b HAS ONLY 1,"2",c AND _x_y.z=-1.5e-3',
    ):
        assert parse(text) == own.parse(text)


_ELEMENTS = st.sampled_from(['"Mo"', '"S"', '"Se"', '"C"', '"H"', '"X"'])
_SIGNS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
_TEXTS = st.sampled_from(['"MoS2"', '"A2B"', '"AB"', '"C"', '"S"', '""'])
_COMPARISONS = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["nsites", "nelements"]), _SIGNS, st.integers(1, 6)),
    st.builds("{} {} {}".format, st.just("_scdm_e_above_hull"), _SIGNS, st.sampled_from([0.0, 0.1, 0.15])),
    st.builds("chemical_formula_{} {} {}".format, st.sampled_from(["reduced", "anonymous"]), _SIGNS, _TEXTS),
    st.builds(
        "chemical_formula_reduced {} {}".format,
        st.sampled_from(["CONTAINS", "STARTS WITH", "ENDS"]),
        st.sampled_from(['"Mo"', '"S2"', '"e"']),
    ),
    st.builds("elements HAS {}".format, _ELEMENTS),
    st.builds(
        lambda word, values: f"elements HAS {word} {','.join(values)}",
        st.sampled_from(["ALL", "ANY", "ONLY"]),
        st.lists(_ELEMENTS, min_size=1, max_size=3, unique=True),
    ),
    st.sampled_from(["_scdm_layer_group IS KNOWN", "_scdm_layer_group IS UNKNOWN", "elements LENGTH 2"]),
)
_FILTERS = st.recursive(
    _COMPARISONS,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
    ),
    max_leaves=5,
)


@cache
def _theirs() -> tuple[Any, Any, Any]:
    """optimade's own way: the same resources in mongomock, its transformer and its parser."""
    import mongomock
    from optimade.filtertransformers.mongo import MongoTransformer
    from optimade.server.mappers import StructureMapper

    from scdm_flows.server.optimade_app import _config

    collection = mongomock.MongoClient().db.structures
    collection.insert_many([resource(document) for document in DOCUMENTS])
    return collection, MongoTransformer(mapper=StructureMapper(_config())), LarkParser()


@given(text=_FILTERS)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_optimades_own_transformer_chooses_the_same(text: str) -> None:
    collection, transformer, parser = _theirs()
    query = transformer.transform(parser.parse(text))
    expected = {int(found["id"].removeprefix("c-")) for found in collection.find(query)}
    assert _chosen(text) == expected


def test_formulas() -> None:
    found = composition("Mo2SSe3")
    assert found is not None
    assert (found.elements, found.numbers) == (("Mo", "S", "Se"), (2, 1, 3))
    assert (found.reduced, found.anonymous, found.hill(12)) == ("Mo2SSe3", "A3B2C", "Mo4S2Se6")
    assert composition("Mo0.5S") is None
    assert composition("") is None


def test_properties_carry_what_the_field_declares() -> None:
    fields = provider_fields()
    assert fields["_scdm_e_above_hull"]["unit"] == "eV/atom"
    assert fields["_scdm_band_gap"]["unit"] == "eV"
    assert fields["_scdm_min_frequency_thz"]["unit"] == "THz"
    assert fields["_scdm_area_per_atom_angstrom2"]["unit"] == "angstrom^2"
    assert fields["_scdm_total_magnetization"]["unit"] == "bohr_magneton"
    assert fields["_scdm_thickness_angstrom"]["unit"] == "angstrom"
    without = {name for name, entry in fields.items() if entry.get("unit") == "dimensionless"}
    assert without == {
        "_scdm_prototype_distance",
        "_scdm_score",
        "_scdm_stable_probability",
    }  # a new field's unit would be missed otherwise
    assert {entry["type"] for entry in fields.values()} == {"string", "integer", "float", "boolean", "list"}
    assert [name for name, entry in fields.items() if not entry["sortable"]] == ["_scdm_known_as"]
    assert fields["_scdm_surrogate"]["description"] == CandidateDoc.model_fields["surrogate"].description


def test_a_structure_that_is_none_is_refused() -> None:
    for structure in ({}, {"lattice": {"matrix": [[1, 0, 0]]}, "sites": []}):
        with pytest.raises(UnreadableError, match="c-0"):
            resource({**DOCUMENTS[0], "structure": structure})
    shared = {"species": [{"element": "Mo", "occu": 0.5}, {"element": "W", "occu": 0.5}], "xyz": [0, 0, 0]}
    with pytest.raises(UnreadableError):
        resource({**DOCUMENTS[0], "structure": {**DOCUMENTS[0]["structure"], "sites": [shared]}})


def test_known_layers_are_served_by_their_ids() -> None:
    served = [resource(DOCUMENTS[i])["_scdm_known_as"] for i in (0, 1, 3)]
    assert served == [None, ["MoS2-1", "MoS2-12"], []]
    assert resource(DOCUMENTS[1])["_scdm_duplicate_of"] == "c-0"


def test_the_relaxed_structure_is_served_where_there_is_one() -> None:
    relaxed = {**DOCUMENTS[0]["structure"], "lattice": {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 9]]}}
    assert resource({**DOCUMENTS[0], "relaxed_structure": relaxed})["lattice_vectors"][2] == [0.0, 0.0, 9.0]
    assert resource(DOCUMENTS[0])["lattice_vectors"][2][2] == pytest.approx(20.0)  # the sample's


def test_a_hundred_thousand_rows_take_little_time() -> None:
    many = StructureColumns(TABLE.rows(np.arange(100_000) % len(TABLE)), lambda table: TIMES)
    tree = parse('elements HAS ALL "Mo","S" AND nsites<=3 AND chemical_formula_reduced CONTAINS "S"')
    evaluate(tree, many, "scdm")  # lists and formulas are made once
    started = time.process_time()
    evaluate(tree, many, "scdm")
    assert time.process_time() - started < 0.1  # 5 ms on a quiet core
