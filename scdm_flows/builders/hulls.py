"""The authoritative hull: every relaxed candidate against the references and all other candidates."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from scdm_flows.analysis.calibration import calibrate
from scdm_flows.analysis.hull import Phase, energy_above_hull
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents import utc_now
from scdm_flows.errors import ScdmError
from scdm_flows.references.table import ReferenceTable
from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)


class HullBuilder(ScdmBuilder):
    """Candidates with a static energy -> ``hulls`` (one document each chemical system) and their E_hull fields.

    A candidate competes with the reference phases and, at its own composition and its subsystems, with every other
    candidate of the same energy scheme that relaxed to one layer; schemes never mix.
    """

    def __init__(self, database: Database, table: ReferenceTable | None = None, **kwargs: Any) -> None:
        self.table = table or ReferenceTable.load()
        super().__init__(database, [database.candidates], [database.hulls, database.candidates], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """One item for each chemical system: its candidates and those of its subsystems."""
        fields = ["candidate_id", "formula", "chemsys", "elements", "energy_per_atom", "energy_scheme", "surrogate", "stages",
                  "relaxed_structure", "duplicate_of"]  # fmt: skip
        criteria = {"energy_per_atom": {"$ne": None}, "energy_scheme": self.table.scheme}
        known = [
            c
            for c in self.database.candidates.query(criteria, properties=fields)
            if c["stages"].get("gate", {}).get("reason") is None or "fell apart" not in c["stages"]["gate"]["reason"]
        ]
        for chemsys in sorted({c["chemsys"] for c in known}):
            elements = set(chemsys.split("-"))
            yield {
                "chemsys": chemsys,
                "members": [c for c in known if c["chemsys"] == chemsys],
                "rivals": [c for c in known if set(c["elements"]) <= elements],
            }

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """The hull document and the new fields of its candidates; a candidate that cannot be placed is left as it is."""
        try:
            phases = self.table.entries(item["chemsys"].split("-"))
        except ScdmError as error:
            logger.warning("no hull of %s: %s", item["chemsys"], error)
            return {"hull": None, "fields": {}}
        rivals = {c["candidate_id"]: _phase(c) for c in item["rivals"]}
        fields: dict[str, dict[str, Any]] = {}
        for candidate in item["members"]:
            name = candidate["candidate_id"]
            own = rivals[name]
            others = [p for key, p in rivals.items() if key != name]
            try:
                hull = energy_above_hull(own.fractions, own.energy_per_atom, phases + others)
            except ScdmError as error:
                logger.warning("no E_hull of %s: %s", name, error)
                continue
            values: dict[str, Any] = {
                "e_above_hull_raw": hull.e_above_hull,
                "formation_energy_per_atom": hull.formation_energy_per_atom,
                "decomposition": {k.replace(".", "_"): v for k, v in hull.decomposition.items()},
                "e_above_hull": hull.e_above_hull,
            }
            if self.table.surrogate:
                calibrated = calibrate(own.fractions, hull.e_above_hull, hull.formation_energy_per_atom)
                values |= {
                    "e_above_hull": calibrated.e_above_hull,
                    "e_above_hull_error": calibrated.error,
                    "calibration_id": calibrated.calibration_id,
                }
            fields[name] = values
        document = {
            "chemsys": item["chemsys"],
            "schema_version": 1,
            "energy_scheme": self.table.scheme,
            "surrogate": self.table.surrogate,
            "reference_sha256": self.table.sha256,
            "n_reference_phases": len(phases),
            "candidates": {k: v["e_above_hull"] for k, v in sorted(fields.items())},
            "points": [{"name": p.name, "formula": p.formula, "energy_per_atom": p.energy_per_atom} for p in phases[:400]],
            "last_updated": utc_now(),
        }
        return {"hull": document, "fields": fields}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write the hull and the candidates whose values changed."""
        for item in items:
            if item["hull"] is None:
                continue
            self.write_changed(self.database.hulls, [item["hull"]])
            keys = list(item["fields"])
            documents = [
                {**d, **item["fields"][d["candidate_id"]]}
                for d in self.database.candidates.query({"candidate_id": {"$in": keys}})
            ]
            self.write_changed(self.database.candidates, [{k: v for k, v in d.items() if k != "_id"} for d in documents])


def _phase(candidate: dict[str, Any]) -> Phase:
    phase = Phase.from_formula(candidate["candidate_id"], candidate["formula"], candidate["energy_per_atom"])
    return phase
