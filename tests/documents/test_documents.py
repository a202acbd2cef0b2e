"""The data contract: schemas as they are stored beside the code, words and units on every field, and migrations."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, Field
from support.layers import mx2

from scdm_flows.documents import CampaignDoc, CandidateDoc, reference, schemas
from scdm_flows.documents.base import ScdmDocument, versioned
from scdm_flows.documents.candidate import queryable_fields
from scdm_flows.documents.hull import HullDoc
from scdm_flows.documents.migrations import MIGRATIONS, NewerDocumentError, migrate, version_of
from scdm_flows.documents.stages import GateDoc
from scdm_flows.errors import StoreError

# floats without a unit, and why
WITHOUT_UNIT = {
    ("CandidateDoc", "score"): "a score",
    ("CandidateDoc", "score_terms"): "parts of it",
    ("PhononDoc", "labels"): "as distances",
    ("BandsDoc", "labels"): "as distances",
    ("BandMass", "r_squared"): "1 is perfect",
}
UNITS = re.compile(
    r"\b(eV|meV|angstrom|THz|GPa|K|s|h|C|electron masses|Bohr magnetons?|Boltzmann constants?|states/eV|modes per THz"
    r"|fractions?|fractional|dimensionless|e/angstrom|N/m)\b|\d/angstrom"
)


@pytest.mark.parametrize("name", schemas.documents())
def test_no_field_changes_without_a_new_schema(name: str) -> None:
    before, after = schemas.stored(name), schemas.schema(schemas.documents()[name])
    assert before is not None, f"{name} has no schema; run `{schemas.COMMAND}` and commit the file"
    raised = schemas.version(after) > schemas.version(before)
    assert before == after, schemas.what_to_do(name, *schemas.differences(before, after), raised=raised)


def test_no_schema_without_a_class() -> None:
    assert {p.stem for p in schemas.FOLDER.glob("*.json")} == set(schemas.documents())


def test_every_step_between_versions_is_there() -> None:
    for name, model in schemas.documents().items():
        for version in range(1, version_of(model)):
            assert (name, version) in MIGRATIONS, f"{name}: add the step from {version} to {version + 1}"


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from _models(field.annotation)
    for part in get_args(kind):
        yield from _models(part)


def _fields() -> Iterator[tuple[str, str, str | None, bool]]:
    """(class, field, description, holds floats) of every document and its parts. A field that has the name of one of
    ``CandidateDoc`` means the same, and may leave the words to it.
    """
    for model in {m for document in schemas.documents().values() for m in _models(document)}:
        for name, field in model.model_fields.items():
            words = field.description or getattr(CandidateDoc.model_fields.get(name), "description", None)
            yield model.__name__, name, words, bool(re.search(r"\bfloat\b", str(field.annotation)))


def test_every_field_is_described() -> None:
    lacking = {(model, name) for model, name, words, _ in _fields() if not words}
    assert not lacking, "give each a Field(description=...) with its unit"


def test_every_number_that_is_no_count_names_its_unit() -> None:
    lacking = [
        f"{model}.{name}: {words!r}"
        for model, name, words, is_float in _fields()
        if is_float and words and not UNITS.search(words) and (model, name) not in WITHOUT_UNIT
    ]
    assert not lacking, "say the unit in the description (or 'dimensionless')"


# --- what a changed schema is called ---------------------------------------------------------------------------------


class _Part(BaseModel):
    value: float = Field(description="eV")


class _Before(ScdmDocument):
    name: str = Field(description="its name")
    part: _Part | None = Field(None, description="a part")


class _Added(_Before):
    more: int | None = Field(None, description="a count")


class _Wider(ScdmDocument):
    name: str | None = Field(description="its name")
    part: _Part | None = Field(None, description="a part")


class _Reworded(ScdmDocument):
    name: str = Field(description="its only name")
    part: _Part | None = Field(None, description="a part")


class _Gone(ScdmDocument):
    name: str = Field(description="its name")


class _Other(ScdmDocument):
    name: int = Field(description="its name")
    part: _Part | None = Field(None, description="a part")


class _Required(_Before):
    more: int = Field(description="a count")


@pytest.mark.parametrize(
    ("model", "breaks", "says"),
    [
        (_Added, False, "more is new"),
        (_Wider, False, "name is of another type"),
        (_Reworded, False, "name is described in other words"),
        (_Gone, True, "part is gone"),
        (_Other, True, "name is of another type"),
        (_Required, True, "more is new and required"),
    ],
)
def test_what_stored_documents_survive(model: type[ScdmDocument], breaks: bool, says: str) -> None:
    before, after = schemas.schema(_Before), {**schemas.schema(model), "title": "_Before"}
    harmless, breaking = schemas.differences(before, after)
    assert bool(breaking) == breaks
    assert any(says in text for text in breaking + harmless)
    words = schemas.what_to_do("Doc", harmless, breaking, raised=False)
    assert schemas.COMMAND in words
    assert ("versioned(N+1)" in words) == breaks


def test_the_command_refuses_a_breaking_change_until_the_version_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "FOLDER", tmp_path)
    (tmp_path / "Stale.json").write_text("{}")
    monkeypatch.setattr(schemas, "documents", lambda: {"Doc": _Before})
    assert schemas.write() == (["Doc", "Stale"], [])
    assert schemas.write() == ([], [])

    class Changed(ScdmDocument):
        name: int = Field(description="its name")
        part: _Part | None = Field(None, description="a part")

    Changed.__name__ = "_Before"
    monkeypatch.setattr(schemas, "documents", lambda: {"Doc": Changed})
    monkeypatch.setattr(schemas, "schema", lambda model: {**model.model_json_schema(), "title": "_Before"})
    written, refused = schemas.write()
    assert written == []
    assert "name is of another type" in refused[0]

    class Raised(Changed):
        schema_version: int = versioned(2)

    monkeypatch.setattr(schemas, "documents", lambda: {"Doc": Raised})
    assert schemas.write() == (["Doc"], [])


def test_the_command_runs_and_finds_nothing_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scdm_flows.documents.schemas"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "nothing has changed\n"


# --- migrations ------------------------------------------------------------------------------------------------------


class Thing(ScdmDocument):
    schema_version: int = versioned(3)
    name: str = Field(description="its name")
    energy_per_atom: float | None = Field(None, description="eV/atom")


STEPS = {
    ("Thing", 1): lambda d: {"name": d.pop("title"), **d},
    ("Thing", 2): lambda d: {"energy_per_atom": d.pop("energy_mev", 0) / 1000, **d},
}


def test_documents_are_brought_to_the_version_that_is_known() -> None:
    old = {"title": "a", "energy_mev": 500, "last_updated": "2026-01-01T00:00:00Z"}  # 1 needs no saying
    new = migrate(Thing, old, migrations=STEPS)
    assert Thing.model_validate(new).model_dump(include={"name", "energy_per_atom", "schema_version"}) == {
        "name": "a",
        "energy_per_atom": 0.5,
        "schema_version": 3,
    }
    assert old == {
        "title": "a",
        "energy_mev": 500,
        "last_updated": "2026-01-01T00:00:00Z",
    }  # what went in is left alone
    half = {"name": "b", "energy_mev": 1000, "schema_version": 2}
    assert migrate(Thing, half, migrations=STEPS)["energy_per_atom"] == 1.0
    assert migrate(Thing, new, migrations=STEPS) == new


def test_a_later_version_and_a_missing_step_are_refused() -> None:
    later = {"schema_version": 4, "provenance": {"versions": {"scdm-flows": "9.0"}}}
    with pytest.raises(
        NewerDocumentError, match=r"thing 'x' has schema version 4.*knows 3.*needs scdm-flows 9\.0 or later"
    ):
        migrate(Thing, later, "thing 'x'")
    with pytest.raises(NewerDocumentError, match="it needs a later scdm-flows: upgrade"):
        migrate(Thing, {"schema_version": 4, "provenance": None})
    with pytest.raises(StoreError, match="nothing leads from there to 2; read it with the scdm-flows that wrote it"):
        migrate(Thing, {"schema_version": 1}, migrations={})


def test_hulls_of_version_1_are_read_and_computed_anew() -> None:
    old = {
        "schema_version": 1,
        "chemsys": "Mo-S",
        "energy_scheme": "chgnet-0.3.0",
        "surrogate": True,
        "reference_sha256": "0" * 64,
        "calibration_id": None,
        "n_reference_phases": 12,
        "inputs_sha256": "1" * 64,
        "candidates": {"a": 0.1, "b": 0.2},
        "errors": {"c": "no energy"},
        "points": [],
    }
    hull = HullDoc.model_validate(migrate(HullDoc, old))
    assert (hull.hull_id, hull.references, hull.elements) == ("chgnet-0.3.0:Mo-S", "chgnet-0.3.0", ["Mo", "S"])
    assert (hull.schema_version, hull.n_candidates, hull.revision) == (3, 3, 0)
    # no basis has this hash and larger systems have not followed: the builder takes it up again
    assert (hull.basis_sha256, hull.spread) == ("", False)


def test_hulls_of_version_2_lose_the_calibration() -> None:
    old = {
        "schema_version": 2,
        "hull_id": "chgnet-0.3.0:Mo-S",
        "references": "chgnet-0.3.0",
        "chemsys": "Mo-S",
        "elements": ["Mo", "S"],
        "energy_scheme": "chgnet-0.3.0",
        "surrogate": True,
        "basis_sha256": "1" * 64,
        "reference_sha256": "0" * 64,
        "calibration_id": "c2db-trees-1a2b3c4d",
        "revision": 4,
        "n_reference_phases": 12,
        "n_candidates": 1,
        "candidates": {"a": 0.1},
    }
    hull = HullDoc.model_validate(migrate(HullDoc, old))
    # the builder's basis has another hash, so it takes the hull up again
    assert (hull.schema_version, hull.revision, hull.basis_sha256) == (3, 4, "1" * 64)


@pytest.fixture
def old_energies() -> dict[str, Any]:
    """What a candidate and its gate's output of version 1 said of energies."""
    return {
        "schema_version": 1,
        "candidate_id": "a-0",
        "campaign": "a",
        "energy_per_atom": -6.4,
        "energy_scheme": "chgnet-0.3.0",
        "surrogate": True,
        "e_above_hull_raw": -0.05,
        "e_above_hull": 0.2,
        "e_above_hull_error": 0.1,
        "calibration_id": "c2db-trees-1a2b3c4d",
    }


def test_candidates_of_version_1_have_one_energy_above_hull(old_energies: dict[str, Any]) -> None:
    of_the_sample = {"generator": "scdm", "formula": "MoS2", "chemsys": "Mo-S", "structure": {}}
    old = old_energies | of_the_sample | {"elements": ["Mo", "S"], "nelements": 2, "nsites": 3}
    found = CandidateDoc.model_validate(migrate(CandidateDoc, old))
    assert (found.schema_version, found.energy_model, found.e_above_hull) == (3, "c2db-trees-1a2b3c4d", 0.2)
    assert found.extrapolated is None  # nobody looked
    dft = {k: v for k, v in old.items() if k not in ("calibration_id", "e_above_hull_error")} | {"surrogate": False}
    assert CandidateDoc.model_validate(migrate(CandidateDoc, dft)).energy_model is None


def test_candidates_of_version_2_know_novelty_of_the_sample_alone() -> None:
    old = {
        "schema_version": 2,
        "candidate_id": "a-0",
        "campaign": "a",
        "generator": "scdm",
        "formula": "MoS2",
        "chemsys": "Mo-S",
        "elements": ["Mo", "S"],
        "nelements": 2,
        "nsites": 3,
        "structure": {},
        "novel": False,
        "known_as": ["2dm-3150"],
        "duplicate_of": "a-1",
    }
    found = CandidateDoc.model_validate(migrate(CandidateDoc, old))
    assert (found.sample_novel, found.sample_known_as, found.duplicate_of) == (False, ["2dm-3150"], "a-1")
    assert (found.novel, found.known_as, found.novelty, found.bulk_compound) == (None, [], None, None)
    # a listing reads some fields alone
    few = migrate(CandidateDoc, {"schema_version": 2, "candidate_id": "a-0"})
    assert few == {"schema_version": 3, "candidate_id": "a-0", "sample_novel": None, "sample_known_as": []}


def test_funnels_of_version_1_counted_new_samples() -> None:
    old = {"name": "a", "config": {}, "config_hash": "0" * 64, "funnel": {"generated": 5, "unique": 4, "novel": 3}}
    found = CampaignDoc.model_validate(migrate(CampaignDoc, old))
    assert found.schema_version == 2
    assert (found.funnel.unique, found.funnel.sample_novel) == (4, 3)
    assert (found.funnel.distinct, found.funnel.novel) == (0, 0)  # of relaxed layers nothing was known


def test_outputs_of_old_gates_are_read(old_energies: dict[str, Any]) -> None:
    verdict = {"relax_converged": True, "in_window": True, "phonon": False}
    old = old_energies | verdict | {"relaxed_structure": mx2("1H").as_dict()}
    found = GateDoc.model_validate(migrate(GateDoc, old))
    assert (found.schema_version, found.energy_model, found.extrapolated) == (2, "c2db-trees-1a2b3c4d", None)


def test_the_page_of_fields_is_current() -> None:
    assert reference.FILE.read_text() == reference.fields_markdown(), f"run `{reference.COMMAND}` and commit the file"
    assert all(f"| `{name}` |" in reference.fields_markdown() for name in queryable_fields())
