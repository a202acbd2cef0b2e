"""Keeps the convex hulls: every relaxed candidate against the references and the other candidates.

A chemical system is computed again when one of its candidates changed (``hull_pending``, set by the candidate builder
in the same write as the change), when the basis did (references, algorithm), when a candidate is gone, or when one is
still on a hull of other references.
A candidate below the hull of the references also moves those of every larger system that holds its elements, and only
such a one does.

No order of events leaves a wrong hull. The hull document is written first, only over the revision that was read
(otherwise its system is computed anew), and says whether larger systems have followed (``spread``); then come the
candidates, only over results of an earlier revision or of another hull; then the larger systems; at last the candidates
are no longer pending, unless they changed meanwhile. Whatever is interrupted is found again, and done twice it is the
same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from scdm_flows.builders.assemble import without_dots
from scdm_flows.builders.base import UNREADABLE, ScdmBuilder, comparable, content
from scdm_flows.config import VaspEngineConfig
from scdm_flows.documents.base import utc_now
from scdm_flows.documents.candidate import HULL_FIELDS, CandidateDoc
from scdm_flows.documents.hull import HullDoc, LowerPhase
from scdm_flows.documents.migrations import check_version
from scdm_flows.documents.provenance import made_here
from scdm_flows.engines.forcefield.potentials import scheme_of
from scdm_flows.engines.gpaw.presets import SCHEME as GPAW_SCHEME
from scdm_flows.engines.vasp.checks import scheme_of as vasp_scheme
from scdm_flows.errors import ReferenceDataError, ScdmError, StoreError
from scdm_flows.stores.database import Database, strip
from scdm_flows.thermo.competing_phases import Place, Placed, compete, place, points
from scdm_flows.thermo.completeness import missing_phases
from scdm_flows.thermo.entries import load_references
from scdm_flows.thermo.hull import Phase, PhaseSystem, check_energy
from scdm_flows.thermo.scheme import refuse_other_potentials
from scdm_flows.thermo.table import ReferenceTable

logger = logging.getLogger(__name__)

# part of the basis: raise it when the computation changes (5: formulas with brackets are read right, 6: candidates
# say which competing phases are candidates, 7: and which are missing, 8: layers of an element, and equal ones of other
# campaigns, are no rivals)
ALGORITHM = 8
ATTEMPTS = 20
_NEEDED = [
    "candidate_id",
    "formula",
    "chemsys",
    "energy_per_atom",
    "potentials",
    "surrogate",
    "stages.relax.status",
    "one_layer",
    "duplicate_of",
    "novelty.first",
    "hull_pending",
    *HULL_FIELDS,
]


@dataclass(frozen=True)
class Basis:
    """The references of some campaigns. key: part of ``hull_id``; scope: criteria of the candidates they judge."""

    key: str
    table: ReferenceTable
    scope: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Of everything but the candidates that a hull comes from."""
        text = json.dumps([ALGORITHM, self.table.scheme, self.table.sha256])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """Fields of a hull document that every system has in common."""
        return {
            "references": self.key,
            "energy_scheme": self.table.scheme,
            "basis_sha256": self.sha256,
            "reference_sha256": self.table.sha256,
        }

    @property
    def criteria(self) -> dict[str, Any]:
        """Of its candidates that have an energy."""
        return {**self.scope, "energy_scheme": self.table.scheme}

    def hull_id(self, chemsys: str) -> str:
        """Key of a hull document."""
        return f"{self.key}:{chemsys}"


def bases(
    database: Database, packaged: ReferenceTable, skip: Callable[[str, Exception], None] = lambda key, error: None
) -> list[Basis]:
    """The packaged references, for surrogates and for GPAW, and those that campaigns name in ``engine.references``.

    Files of equal content are one basis, wherever they are. A file that cannot be read here is left out with a warning;
    its candidates keep the energies they have. So do those of a campaign whose file is another than when it was
    registered, as its gate refuses that file, and of one whose engine this program does not know; ``skip`` is called
    with that one and the error.
    """
    named: dict[tuple[str, str | None], dict[str, str | None]] = {}
    unread = []
    for found in database.campaigns.query({}, properties=["name", "config.engine", "config.registered"]):
        config = found.get("config") or {}
        engine = config.get("engine") or {}
        if engine.get("references") is not None:
            noted = ((config.get("registered") or {}).get("contents") or {}).get("references")
            try:
                named.setdefault((engine["references"], _scheme_of(engine)), {})[found["name"]] = noted
            except UNREADABLE as error:
                skip(f"campaign {found['name']}", error)
                unread.append(found["name"])
    elsewhere = sorted([*unread, *(name for names in named.values() for name in names)])
    scope = {"campaign": {"$nin": elsewhere}} if elsewhere else {}
    by_gpaw = replace(packaged, scheme=GPAW_SCHEME)  # its energies are brought to the scale of the packaged phases
    files: dict[str, tuple[ReferenceTable, list[str]]] = {}
    for (path, scheme), names in sorted(named.items(), key=str):
        try:
            table = load_references(path, scheme)
        except ReferenceDataError as error:
            logger.warning("candidates of %s keep their energies above hull: %s", ", ".join(names), error)
            continue
        changed = [name for name, noted in names.items() if noted not in (None, table.sha256)]
        if changed:
            logger.warning(
                "candidates of %s keep their energies above hull: engine.references: %s has another content (sha256 "
                "%s) than at registration; put the file back, or submit a campaign of another name",
                ", ".join(changed),
                path,
                table.sha256[:12],
            )
        if len(changed) < len(names):
            _, members = files.setdefault(f"{table.scheme}-{table.sha256[:12]}", (table, []))
            members += [name for name in names if name not in changed]
    return [
        Basis(packaged.scheme, packaged, scope),
        Basis(GPAW_SCHEME, by_gpaw, scope),
        *(Basis(key, table, {"campaign": {"$in": sorted(names)}}) for key, (table, names) in files.items()),
    ]


def _scheme_of(engine: dict[str, Any]) -> str | None:
    """What the energies of an engine's stored configuration are called; None where its references say it."""
    if engine.get("kind") == "forcefield":
        return scheme_of(engine["force_field"], engine.get("force_field_options"))
    if engine.get("kind") == "vasp":
        return vasp_scheme(VaspEngineConfig.model_validate(engine)).name
    return None


class HullBuilder(ScdmBuilder):
    """Candidates with a static energy -> their hull fields, and ``hulls``: one document a chemical system.

    A candidate competes if it relaxed to one layer, converged, and is no duplicate.

    Parameters
    ----------
    database
        Connected.
    table
        Reference phases of campaigns that name none of their own; the packaged ones when absent.
    everything
        Compute every system again, whatever is known.
    """

    not_for_workers = ScdmBuilder.not_for_workers | {"table", "_bases"}

    def __init__(
        self, database: Database, table: ReferenceTable | None = None, *, everything: bool = False, **kwargs: Any
    ) -> None:
        self.table = table or ReferenceTable.load()
        self.everything = everything
        super().__init__(database, [database.candidates], [database.hulls, database.candidates], **kwargs)
        self._bases: dict[str, Basis] = {}

    def get_items(self) -> Iterator[dict[str, Any]]:
        """One item for each chemical system to compute, smaller systems first."""
        self._bases = {basis.key: basis for basis in bases(self.database, self.table, self.skip)}
        for find in (self._dirty, self._shifted):  # what changed first: what is gone takes longer to find
            for basis in self._bases.values():
                for chemsys in sorted(find(basis), key=lambda name: (name.count("-"), name)):
                    yield self._read(basis, chemsys)

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The hull document and the new fields of its candidates; what cannot be placed is left as it is."""
        chemsys, about, members = item["chemsys"], item["about"], item["members"]
        errors: dict[str, str] = {}
        system, placed = None, list[Placed]()
        try:
            if isinstance(item["references"], ScdmError):
                raise item["references"]
            system = PhaseSystem(chemsys.split("-"), item["references"])
        except ScdmError as error:
            self.skip(f"hull {chemsys}", error)
            errors = {c["candidate_id"]: self.errors[f"hull {chemsys}"] for c in members}
        else:
            given = []
            for candidate in members:
                name, energy = candidate["candidate_id"], candidate["energy_per_atom"]
                try:
                    refuse_other_potentials(candidate.get("potentials") or {}, item["titles"], system.elements)
                    check_energy(name, energy)
                    given.append(Phase.from_formula(name, candidate["formula"], energy))
                except Exception as error:
                    self.skip(name, error)
                    errors[name] = self.errors[name]
            placed = place(system, given)
        competing = {c["candidate_id"] for c in members if competes(c)}
        own = [p.phase for p in placed if p.e_above_hull < 0 and p.phase.name in competing]
        here = {c["candidate_id"] for c in members}  # a subsystem may still hold one that is of this system now
        below = [x for x in item["lower"] if x["name"] not in here]
        lower = own + [Phase.from_formula(x["name"], x["formula"], x["energy_per_atom"]) for x in below]
        equal = {c["candidate_id"]: first for c in members if (first := _group(c)) is not None}
        places = [] if system is None else compete(placed, system, lower, equal)
        fields = {p.phase.name: _fields(p, where, item["missing"]) for p, where in zip(placed, places, strict=True)}
        drawn = [p.phase for p in placed if p.phase.name in competing]
        drawn += [phase for phase in lower if phase.name not in competing]
        document = HullDoc(
            hull_id=item["hull_id"],
            chemsys=chemsys,
            elements=chemsys.split("-"),
            **about,
            surrogate=any(bool(c.get("surrogate")) for c in members),
            n_reference_phases=0 if system is None else len(system.phases),
            missing_competitors=item["missing"],
            n_candidates=len(members),
            candidates={name: fields[name]["e_above_hull"] for name in sorted(fields)},
            lower=[LowerPhase(name=p.name, formula=p.formula, energy_per_atom=p.energy_per_atom) for p in own],
            errors=errors,
            provenance=made_here(),
            points=[] if system is None else points(chemsys.split("-"), system.phases, drawn),
        )
        return {**item, "document": document.model_dump(), "fields": fields}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write hulls, then candidates, then the larger systems that depend on them."""
        for item in items:
            self._settle(item)

    def _settle(self, item: dict[str, Any]) -> None:
        basis, chemsys = self._bases[item["basis"]], item["chemsys"]
        for _ in range(ATTEMPTS):
            revision, spread = self._write_hull(item)
            # what changes in a subsystem after this look comes back to the hull that was just written
            if revision is not None and comparable(self._lower(basis, chemsys)) == comparable(item["lower"]):
                break
            item = self.process_item(self._read(basis, chemsys))  # somebody was faster
        else:
            raise StoreError(f"the hull of {chemsys} changed {ATTEMPTS} times while it was computed; build again")
        self._write_candidates(item, revision)
        if not spread:
            for larger in self._larger(basis, chemsys):
                self._settle(self.process_item(self._read(basis, larger)))
            same = {"hull_id": basis.hull_id(chemsys), "revision": revision}
            if item["members"]:
                self._hulls.update_one(same, {"$set": {"spread": True}})
            else:
                self._hulls.delete_one(same)
        taken_in = [
            UpdateOne({k: c[k] for k in ("candidate_id", "hull_pending")}, {"$set": {"hull_pending": None}})
            for c in item["members"]
            if c.get("hull_pending") is not None
        ]
        if taken_in:
            self._candidates.bulk_write(taken_in, ordered=False)

    def _write_hull(self, item: dict[str, Any]) -> tuple[int | None, bool]:
        """The hull's revision now and whether larger systems have followed; no revision where somebody was faster."""
        before, document = item["before"], item["document"]
        lower_before = [] if before is None else before.get("lower") or []
        settled = before is None or bool(before.get("spread"))
        spread = settled and comparable(lower_before) == comparable(document["lower"]) and bool(item["members"])
        if before is not None:
            revision = int(before["revision"])
            if content({**before, "revision": 0, "spread": True}) == content({**document, "spread": True}):
                return revision, spread
            new = {**document, "revision": revision + 1, "spread": spread, "last_updated": utc_now()}
            found = self._hulls.replace_one({"hull_id": document["hull_id"], "revision": revision}, new)
            if not found.matched_count:
                return None, False
        else:
            new = {**document, "revision": 1, "spread": spread, "last_updated": utc_now()}
            try:
                found = self._hulls.update_one({"hull_id": document["hull_id"]}, {"$setOnInsert": new}, upsert=True)
            except DuplicateKeyError:  # inserted by another builder at the same moment
                return None, False
            if found.matched_count:
                return None, False
        self.written += 1
        return int(new["revision"]), spread

    def _write_candidates(self, item: dict[str, Any], revision: int) -> None:
        hull_id, older = item["hull_id"], {"$not": {"$gte": revision}}  # or none
        updates = []
        for before in item["members"]:
            name = before["candidate_id"]
            values = item["fields"].get(name)
            if values is None or before.get("energy_per_atom") is None:
                continue
            same = all(comparable(before.get(k)) == comparable(v) for k, v in values.items())
            if same and before.get("hull_id") == hull_id and before.get("hull_revision") is not None:
                continue
            new = self.database.stamped({"$set": {**values, "hull_id": hull_id, "hull_revision": revision}})
            # revisions count within one hull only; two updates, of which at most one finds the candidate, as the
            # embedded server would read every candidate with $or or $nor
            if before.get("hull_id") != hull_id:
                updates.append(UpdateOne({"candidate_id": name, "hull_id": {"$ne": hull_id}}, new))
            updates.append(UpdateOne({"candidate_id": name, "hull_id": hull_id, "hull_revision": older}, new))
        if updates:
            self.written += int(self._candidates.bulk_write(updates, ordered=False).modified_count)

    def _dirty(self, basis: Basis) -> set[str]:
        """Chemical systems of a basis that have to be computed."""
        if self.everything:
            hulls = [{"references": basis.key}]
            found = set(self._candidates.distinct("chemsys", basis.criteria))
        else:
            # in ranges of one index each
            unlike: list[dict[str, Any]] = [{"basis_sha256": {o: basis.sha256}} for o in ("$lt", "$gt")]
            hulls = [{"references": basis.key, **other} for other in (*unlike, {"spread": False})]
            pending = self._candidates.find({**basis.criteria, "hull_pending": {"$gt": ""}}, {"chemsys": 1})
            found = {d["chemsys"] for d in pending}
        return found | {d["chemsys"] for criteria in hulls for d in self._hulls.find(criteria, {"chemsys": 1})}

    def _shifted(self, basis: Basis) -> set[str]:
        """Systems with a hull of more or fewer candidates than there are, or with candidates of another hull."""
        own = {**basis.criteria, "energy_per_atom": {"$ne": None}}
        group = {"_id": "$chemsys", "n": {"$sum": 1}, "revision": {"$max": "$hull_revision"}}
        group |= {"first": {"$min": "$hull_id"}, "last": {"$max": "$hull_id"}}  # without those that are on none
        there = {d["_id"]: d for d in self._candidates.aggregate([{"$match": own}, {"$group": group}])}
        stored = self._hulls.find({"references": basis.key}, {"chemsys": 1, "n_candidates": 1})
        found = {d["chemsys"] for d in stored if there.get(d["chemsys"], {"n": 0})["n"] != d["n_candidates"]}
        for chemsys, d in there.items():
            hull_id = basis.hull_id(chemsys)
            if d["revision"] is None or {d["first"], d["last"]} == {hull_id} or chemsys in found:
                continue
            hull = self._hulls.find_one({"hull_id": hull_id}, {"errors": 1}) or {}
            criteria = {"chemsys": chemsys, **own, "hull_revision": {"$ne": None}, "hull_id": {"$ne": hull_id}}
            others = {c["candidate_id"] for c in self._candidates.find(criteria, {"candidate_id": 1})}
            if others - (hull.get("errors") or {}).keys():  # what has no place on this hull stays where it is
                found.add(chemsys)
        return found

    def _read(self, basis: Basis, chemsys: str) -> dict[str, Any]:
        """What a hull comes from: the document before, its candidates, and those below the hull in its subsystems."""
        elements, lower = chemsys.split("-"), self._lower(basis, chemsys)
        before = self._hulls.find_one({"hull_id": basis.hull_id(chemsys)})
        if before is not None:
            check_version(HullDoc, before, f"hull {chemsys}")
        criteria = {"chemsys": chemsys, **basis.criteria}
        members = [
            strip(d)
            for d in self._candidates.find(criteria, dict.fromkeys(_NEEDED, 1)).sort("candidate_id", 1)
            if d.get("energy_per_atom") is not None
        ]
        references: list[Phase] | ScdmError
        try:
            references = basis.table.entries(elements)
        except ScdmError as error:
            references = error
        return {
            "basis": basis.key,
            "hull_id": basis.hull_id(chemsys),
            "chemsys": chemsys,
            "about": basis.about,
            "references": references,
            "titles": basis.table.titles,
            "missing": missing_phases(basis.table, elements),
            "before": before and strip(before),
            "members": members,
            "lower": lower,
        }

    def _lower(self, basis: Basis, chemsys: str) -> list[dict[str, Any]]:
        """Candidates of the subsystems below the hull of the references."""
        elements = chemsys.split("-")
        subsystems = ["-".join(c) for n in range(1, len(elements)) for c in combinations(elements, n)]
        ids = [basis.hull_id(s) for s in subsystems]
        smaller = self._hulls.find({"hull_id": {"$in": ids}}, {"lower": 1, "chemsys": 1})
        return [phase for d in sorted(smaller, key=lambda d: str(d["chemsys"])) for phase in d.get("lower") or []]

    def _larger(self, basis: Basis, chemsys: str) -> list[str]:
        elements = chemsys.split("-")
        some = self._hulls.find({"elements": elements[0], "references": basis.key}, {"chemsys": 1, "elements": 1})
        found = {d["chemsys"] for d in some if set(elements) <= set(d["elements"])}
        return sorted(found - {chemsys}, key=lambda name: (name.count("-"), name))

    @property
    def _hulls(self) -> Any:
        return self.database.hulls._collection

    @property
    def _candidates(self) -> Any:
        return self.database.candidates._collection


def competes(candidate: dict[str, Any]) -> bool:
    """Whether a candidate may be part of a hull: one relaxed layer, and no duplicate."""
    relax = (candidate.get("stages") or {}).get("relax") or {}
    converged = relax.get("status") == "passed"
    return converged and candidate.get("one_layer") is not False and candidate.get("duplicate_of") is None


def pending_token(candidate: CandidateDoc | dict[str, Any]) -> str | None:
    """A hash of what a candidate brings to the hull; None where it brings no energy."""
    data = candidate if isinstance(candidate, dict) else candidate.model_dump()
    if data.get("energy_per_atom") is None:
        return None
    brought = [data.get(k) for k in ("formula", "energy_scheme", "energy_per_atom", "surrogate")] + [competes(data)]
    if data.get("potentials"):
        brought.append(data["potentials"])
    if (first := _group(data)) is not None:  # equal ones are no rivals
        brought.append(first)
    text = json.dumps(brought)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _group(candidate: Mapping[str, Any]) -> str | None:
    """The first of the candidates of all campaigns that are the same layer; None of one alone."""
    first: str | None = (candidate.get("novelty") or {}).get("first")
    return first


def _fields(own: Placed, where: Place, missing: list[str]) -> dict[str, Any]:
    """The hull fields of a candidate (``HULL_FIELDS`` without those that name the hull)."""
    return {
        "formation_energy_per_atom": own.formation_energy_per_atom,
        "e_above_hull": where.e_above_hull,
        "e_above_hull_lower_bound": bool(missing),
        "missing_competitors": missing,
        "e_above_same_composition": where.e_above_same_composition,
        "decomposition": without_dots(where.decomposition),
        "computed_competitors": list(where.computed_competitors),
    }
