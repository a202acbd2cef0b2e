"""Judges relaxed candidates: which known layers they are, and which candidates relaxed to the same layer.

A candidate is compared when its relaxed structure is new or has changed (``Novelty.version`` is empty then, set by the
candidate builder in the same write), or when it was compared with other known layers, as before the user added some.
With it all candidates of its formula, of every campaign, are compared with each other.

No order of events leaves a wrong verdict. Each is written only over the structure that was read. After writing, the
candidates of the formulas are looked at once more: where one came, went or changed meanwhile, all is done again. What
was not judged before is written last, so whatever is interrupted is found again, and done twice it is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymatgen.core import Structure
from pymongo import UpdateOne

from scdm_flows.builders.assemble import without_dots
from scdm_flows.builders.base import ScdmBuilder, batches, comparable
from scdm_flows.builders.hulls import pending_token
from scdm_flows.config.settings import get_settings
from scdm_flows.documents.candidate import NOVELTY_FIELDS, CandidateDoc
from scdm_flows.documents.migrations import stored_version, version_of
from scdm_flows.documents.novelty import CAMPAIGN, KnownAs, Novelty
from scdm_flows.errors import StoreError
from scdm_flows.stores.database import Database, strip
from scdm_flows.stores.known_sets import known_layers
from scdm_models.datasets.known import KnownLayers, KnownMatch, look_up_all
from scdm_models.datasets.matching import LayerMatcher

BATCH = 5000  # candidates compared together: worker processes pay only for many
FORMULAS = 50  # in a request: the embedded server compares each with all of them
LOOKED_UP = 50  # candidates whose names are looked up in a request, for the same reason
ATTEMPTS = 20
MOST_KNOWN = 10  # entries of data sets that are kept of a candidate, the nearest
_NEEDED = [
    "candidate_id",
    "schema_version",
    "campaign",
    "index",
    "formula",
    "layer_group",
    "relaxed_structure",
    "one_layer",
    "stages.screen.status",
    "stages.relax.status",
    "energy_per_atom",
    "energy_scheme",
    "surrogate",
    "hull_pending",
    *NOVELTY_FIELDS,
]
_MATCHER = LayerMatcher()
Candidate = dict[str, Any]


def judged_token(candidate: Mapping[str, Any]) -> str | None:
    """A hash of what is judged of a candidate; None where it has no relaxed structure."""
    if not candidate.get("relaxed_structure"):
        return None
    said = [_status(candidate, "screen"), _status(candidate, "relax"), candidate.get("one_layer")]
    text = json.dumps([candidate["relaxed_structure"], *said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_sample_duplicate(candidate: Mapping[str, Any]) -> bool:
    """Whether the screen rejected the sample as a duplicate: then ``duplicate_of`` is the screen's."""
    return candidate.get("duplicate_of") is not None and _status(candidate, "screen") == "rejected"


def _status(candidate: Mapping[str, Any], stage: str) -> str | None:
    record = (candidate.get("stages") or {}).get(stage) or {}
    return None if record.get("status") is None else str(record["status"])


class NoveltyBuilder(ScdmBuilder):
    """Relaxed candidates -> their ``NOVELTY_FIELDS``; of all campaigns, as one that is new changes what others are.

    Parameters
    ----------
    database
        Connected.
    known
        Known layers; the packaged ones and those that the user added when absent.
    processes
        Worker processes where there is much to compare; those of the settings when absent.
    everything
        Compare every candidate again, whatever is known.
    """

    not_for_workers = ScdmBuilder.not_for_workers | {"_known"}

    def __init__(
        self,
        database: Database,
        known: KnownLayers | None = None,
        *,
        processes: int | None = None,
        everything: bool = False,
        **kwargs: Any,
    ) -> None:
        self._known = known
        self.processes = processes or get_settings().processes
        self.everything = everything
        super().__init__(database, [database.candidates], [database.candidates], **kwargs)

    @property
    def known(self) -> KnownLayers:
        """The known layers that candidates are compared with: the same throughout a build."""
        if self.__dict__.get("_known") is None:
            self._known = known_layers()
        assert self._known is not None
        return self._known

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Formulas with something to compare, in lots, and all their candidates that have a relaxed structure."""
        lot: list[str] = []
        size = 0
        for formula, n in sorted(self._dirty().items()):
            lot.append(formula)
            size += n
            if size >= BATCH:
                yield self._read(lot)
                lot, size = [], 0
        if lot:
            yield self._read(lot)

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with the verdict on each of its candidates."""
        candidates: list[Candidate] = item["candidates"]
        structures = {c["candidate_id"]: _structure(c) for c in candidates}
        again = [c for c in candidates if self.everything or c["novelty"]["version"] != self.known.version]
        fit = [c for c in again if _why_not(c) is None]
        found = look_up_all([structures[c["candidate_id"]] for c in fit], self.known, self.processes)
        looked_up = {c["candidate_id"]: matches for c, matches in zip(fit, found, strict=True)}
        verdicts = {c["candidate_id"]: {name: c[name] for name in NOVELTY_FIELDS} for c in candidates}
        against = without_dots(self.known.sources)
        for candidate in again:
            name = candidate["candidate_id"]
            verdicts[name] |= self._verdict(candidate, looked_up.get(name, _why_not(candidate) or ""), against)
        for candidate in candidates:
            own = verdicts[candidate["candidate_id"]]
            own["known_as"] = [k for k in own["known_as"] if not k["source"].startswith(CAMPAIGN)]
            own["novelty"] = {**own["novelty"], "first": None, "equal": 1}
            if not is_sample_duplicate(candidate):
                own["duplicate_of"] = None
        for group in self._equal(candidates, structures):
            first = group[0][0]["candidate_id"]
            for name, fields in _among(group).items():
                verdicts[name]["novelty"] |= {"first": first, "equal": len(group)}
                verdicts[name]["duplicate_of"] = fields["duplicate_of"]
                verdicts[name]["known_as"] = verdicts[name]["known_as"] + fields["known_as"]
        return {**item, "verdicts": verdicts}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write what changed; again where the candidates changed meanwhile."""
        for item in items:
            for _ in range(ATTEMPTS):
                self._write(item)
                changed = self._changed(item)
                if not changed:
                    break
                item = self.process_item(self._read(changed))
            else:
                raise StoreError(f"candidates changed {ATTEMPTS} times while they were compared; build again")

    def _dirty(self) -> Counter[str]:
        """Formula -> candidates to compare: those that were not, or with other known layers, and those of which an
        equal one was removed since.
        """
        version = self.known.version
        # in ranges of an index
        ranges = [{"$gte": ""}] if self.everything else [{"$lt": version}, {"$gt": version}]
        found = Counter(
            d["formula"] for r in ranges for d in self._candidates.find({"novelty.version": r}, {"formula": 1})
        )
        return found if self.everything else found + self._bereft()

    def _bereft(self) -> Counter[str]:
        """Formula -> candidates of a group of equal ones that has lost some: its others may be equal no longer.

        Those that hold no count of their group were judged before there was one.
        """
        fields = ("candidate_id", "formula", "duplicate_of", "stages.screen.status", "novelty")
        # in ranges of indexes; the first of a group that has one campaign names nobody
        naming = [{"duplicate_of": {"$gt": ""}}, {"known_as.source": {"$gte": CAMPAIGN, "$lt": f"{CAMPAIGN}~"}}]
        named = {c["candidate_id"]: c for q in naming for c in self._candidates.find(q, dict.fromkeys(fields, 1))}
        equal = [c for c in named.values() if c.get("novelty") and not is_sample_duplicate(c)]
        firsts = {c["novelty"].get("first") for c in equal} - named.keys() - {None}
        for some in batches(sorted(firsts), LOOKED_UP):
            equal += self._candidates.find({"candidate_id": {"$in": some}}, dict.fromkeys(fields, 1))
        there = Counter(c["novelty"].get("first") for c in equal)
        return Counter(
            c["formula"]
            for c in equal
            if (first := c["novelty"].get("first")) is None or c["novelty"]["equal"] != there[first]
        )

    def _read(self, formulas: Sequence[str]) -> dict[str, Any]:
        candidates = [strip(d) for d in self._of(formulas, _NEEDED)]
        return {"formulas": formulas, "candidates": sorted(candidates, key=lambda c: (c["index"], c["candidate_id"]))}

    def _changed(self, item: dict[str, Any]) -> list[str]:
        """Formulas of which other candidates have a relaxed structure by now, or another one."""
        now = self._of(item["formulas"], ["candidate_id", "formula", "schema_version", "novelty.structure"])
        differing = {_head(d) for d in now} ^ {_head(c) for c in item["candidates"]}
        return sorted({formula for formula, *_ in differing})

    def _of(self, formulas: Sequence[str], fields: Sequence[str]) -> Iterator[Candidate]:
        """Candidates of these formulas that are ours to judge."""
        for some in batches(formulas, FORMULAS):
            found = self._candidates.find({"formula": {"$in": some}}, dict.fromkeys(fields, 1))
            yield from (d for d in found if _is_ours(d))

    def _equal(
        self, candidates: Sequence[Candidate], structures: Mapping[str, Structure | None]
    ) -> Iterator[list[tuple[Candidate, Structure]]]:
        """Groups of candidates that relaxed to the same layer, in the order given, without duplicates by the sample."""
        fit = [c for c in candidates if _why_not(c) is None and not is_sample_duplicate(c)]
        members = [(c, s) for c in fit if (s := structures[c["candidate_id"]]) is not None]
        for group in _MATCHER.group([s for _, s in members], processes=self.processes):
            if len(group) > 1:
                yield [members[i] for i in group]

    def _verdict(
        self, candidate: Candidate, matches: list[KnownMatch] | str, against: dict[str, int]
    ) -> dict[str, Any]:
        """What the known layers say of a candidate. matches: or why it could not be compared."""
        reason = matches if isinstance(matches, str) else None
        entries = [] if isinstance(matches, str) else [entry_of(match) for match in matches[:MOST_KNOWN]]
        novelty = Novelty(
            structure=candidate["novelty"]["structure"],
            version=self.known.version,
            against=against,
            reason=reason,
        )
        known_as = [entry.model_dump() for entry in entries]
        return {"novel": None if reason else not entries, "known_as": known_as, "novelty": novelty.model_dump()}

    def _write(self, item: dict[str, Any]) -> None:
        updates: dict[bool, list[UpdateOne]] = {False: [], True: []}
        for candidate in item["candidates"]:
            fields = item["verdicts"][candidate["candidate_id"]]
            if all(comparable(candidate.get(name)) == comparable(value) for name, value in fields.items()):
                continue
            token = pending_token({**candidate, **fields})
            if token != pending_token(candidate):  # whether it competes has changed
                fields = {**fields, "hull_pending": token}
            before = candidate["novelty"]
            same = {"candidate_id": candidate["candidate_id"], "novelty.structure": before["structure"]}
            update = UpdateOne(same, self.database.stamped({"$set": fields}))
            updates[before["version"] == ""].append(update)
        if todo := updates[False] + updates[True]:
            self.written += int(self._candidates.bulk_write(todo, ordered=True).modified_count)

    @property
    def _candidates(self) -> Any:
        return self.database.candidates._collection


def _is_ours(document: Mapping[str, Any]) -> bool:
    """Whether it has something to judge, and no other version of the program wrote it."""
    return bool(document.get("novelty")) and stored_version(document) == version_of(CandidateDoc)


def _head(candidate: Mapping[str, Any]) -> tuple[str, str, str]:
    return candidate["formula"], candidate["candidate_id"], candidate["novelty"]["structure"]


def _structure(candidate: Candidate) -> Structure | None:
    try:
        return Structure.from_dict(candidate["relaxed_structure"])
    except Exception:  # a structure can break a library in ways nobody lists
        return None


def _why_not(candidate: Candidate) -> str | None:
    """Why a relaxed structure is not worth comparing; None where it is."""
    if _status(candidate, "relax") != "passed":
        return "the relaxation did not end"
    return "not one connected layer after relaxation" if candidate.get("one_layer") is False else None


def entry_of(match: KnownMatch) -> KnownAs:
    """What documents say of a known layer."""
    said = {name: match.properties.get(name) for name in ("e_above_hull", "dynamically_stable", "band_gap")}
    return KnownAs(
        id=match.id,
        source=match.source,
        formula=match.formula,
        layer_group=match.layer_group or None,
        displacement_angstrom=round(match.displacement_angstrom, 4),
        **said,
    )


def _among(group: Sequence[tuple[Candidate, Structure]]) -> dict[str, dict[str, Any]]:
    """candidate_id -> what it duplicates in its own campaign, and the first equal ones of others."""
    firsts: dict[str, Candidate] = {}
    for candidate, _ in group:
        firsts.setdefault(candidate["campaign"], candidate)
    several = len(firsts) > 1
    layers = {candidate["candidate_id"]: _MATCHER.layer(structure) for candidate, structure in group if several}
    found = {}
    for candidate, _ in group:
        name, campaign = candidate["candidate_id"], candidate["campaign"]
        first = firsts[campaign]["candidate_id"]
        known_as = []
        for other in sorted(set(firsts) - {campaign}):
            equal = firsts[other]
            apart = _MATCHER.displacement(layers[name], layers[equal["candidate_id"]])
            entry = KnownAs(
                id=equal["candidate_id"],
                source=f"{CAMPAIGN}{other}",
                formula=equal["formula"],
                layer_group=equal.get("layer_group"),
                displacement_angstrom=None if apart is None else round(apart, 4),
            )
            known_as.append(entry.model_dump())
        found[name] = {"duplicate_of": None if first == name else first, "known_as": known_as}
    return found
