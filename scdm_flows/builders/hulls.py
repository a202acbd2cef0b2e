"""The authoritative hull: every relaxed candidate against the references and the other candidates.

Raw surrogate energies flatter layers by about 0.3 eV/atom, and the calibration was fitted on energies above
the hull of the *references*. So a candidate is first placed on the references' hull and calibrated there;
only then do candidates compete, each at the references' hull plus its calibrated distance. Only one below the
references' hull can change the place of another. Without a calibration (DFT) the two scales are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scdm_flows.analysis.calibration import CalibratedHull, calibrate, load_calibration
from scdm_flows.analysis.hull import Phase, energy_above_hull
from scdm_flows.builders.assemble import without_dots
from scdm_flows.builders.base import ScdmBuilder
from scdm_flows.documents.hull import HullDoc, HullPoint
from scdm_flows.errors import ScdmError
from scdm_flows.references.table import ReferenceTable
from scdm_flows.stores.database import Database

logger = logging.getLogger(__name__)

ALGORITHM = 2  # part of the inputs' hash: raise it when the computation changes
MAX_POINTS = 400
MAX_DRAWN_ELEMENTS = 5
_NEEDED = [
    "candidate_id",
    "formula",
    "chemsys",
    "elements",
    "energy_per_atom",
    "e_above_hull",
    "stages",
    "one_layer",
    "duplicate_of",
]


@dataclass(frozen=True)
class Placed:
    """A candidate on the hull of the references.

    phase: at its calibrated energy; raw: e_above_hull and formation energy of the scheme itself, eV/atom.
    """

    phase: Phase
    e_above_hull: float
    e_above_hull_raw: float
    formation_energy_per_atom: float
    decomposition: dict[str, float]
    calibrated: CalibratedHull | None


class HullBuilder(ScdmBuilder):
    """Candidates with a static energy -> their E_hull fields, and ``hulls``: one document a chemical system.

    Rivals of a candidate are the other candidates of its chemical system and subsystems that relaxed to one
    layer, converged, and are no duplicates. Chemical systems whose inputs have not changed are not computed
    again.

    Parameters
    ----------
    table
        Reference phases, the packaged ones when absent; only candidates with energies of its scheme are placed.
    campaigns
        Only candidates of these: campaigns whose own reference file ``table`` is. ``hulls`` holds one document a
        chemical system, of the packaged table, so for others only the candidates' fields are written.
    """

    def __init__(
        self,
        database: Database,
        table: ReferenceTable | None = None,
        campaigns: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.table = table or ReferenceTable.load()
        self.campaigns = None if campaigns is None else list(campaigns)
        super().__init__(database, [database.candidates], [database.hulls, database.candidates], **kwargs)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """One item for each chemical system: its candidates, and all that may compete there."""
        criteria: dict[str, Any] = {"energy_per_atom": {"$ne": None}, "energy_scheme": self.table.scheme}
        if self.campaigns is not None:
            criteria["campaign"] = {"$in": self.campaigns}
        known = list(self.database.candidates.query(criteria, properties=_NEEDED))
        others = set(self.database.candidates.distinct("energy_scheme")) - {self.table.scheme, None}
        if others and self.campaigns is None:
            logger.info("no hull for %s: the reference table is of %s", ", ".join(sorted(others)), self.table.scheme)
        rivals = [c for c in known if _competes(c)]
        before = {
            d["chemsys"]: d
            for d in self.database.hulls.query({}, properties=["chemsys", "inputs_sha256", "candidates", "errors"])
        }
        for chemsys in sorted({c["chemsys"] for c in known}):
            elements = set(chemsys.split("-"))
            item = {
                "chemsys": chemsys,
                "members": [c for c in known if c["chemsys"] == chemsys],
                "rivals": [c for c in rivals if set(c["elements"]) <= elements],
            }
            item["inputs_sha256"] = self._hash(item)
            if self.campaigns is not None or not _is_current(item, before.get(chemsys)):
                yield item

    def process_item(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """The hull document and the new fields of its candidates; what cannot be placed is left as it is."""
        try:
            references = self.table.entries(item["chemsys"].split("-"))
        except ScdmError as error:
            self.skip(f"hull {item['chemsys']}", error)
            return None
        errors: dict[str, str] = {}
        placed: dict[str, Placed] = {}
        for candidate in [*item["members"], *item["rivals"]]:
            name = candidate["candidate_id"]
            if name in placed or name in errors:
                continue
            try:
                placed[name] = place(candidate, references, surrogate=self.table.surrogate)
            except Exception as error:
                self.skip(name, error)
                errors[name] = self.errors[name]
        rivals = [placed[c["candidate_id"]] for c in item["rivals"] if c["candidate_id"] in placed]
        members = [c["candidate_id"] for c in item["members"] if c["candidate_id"] in placed]
        fields = {name: _fields(placed[name], rivals, references) for name in members}
        document = HullDoc(
            chemsys=item["chemsys"],
            energy_scheme=self.table.scheme,
            surrogate=self.table.surrogate,
            reference_sha256=self.table.sha256,
            calibration_id=next((p.calibrated.calibration_id for p in placed.values() if p.calibrated), None),
            n_reference_phases=len(references),
            inputs_sha256=item["inputs_sha256"],
            candidates={name: fields[name]["e_above_hull"] for name in sorted(fields)},
            errors=errors,
            points=points(item["chemsys"].split("-"), references, [p.phase for p in rivals]),
        )
        return {"hull": document.model_dump(), "fields": fields}

    def update_targets(self, items: list[dict[str, Any]]) -> None:
        """Write the candidates whose values changed, then the hull that says they are current."""
        for item in items:
            self.update_fields(self.database.candidates, item["fields"])
            if self.campaigns is None:
                self.write_changed(self.database.hulls, [item["hull"]])

    def _hash(self, item: dict[str, Any]) -> str:
        calibration = load_calibration().header["id"] if self.table.surrogate else None
        rows = [
            sorted([c["candidate_id"], c["formula"], c["energy_per_atom"]] for c in item[group])
            for group in ("members", "rivals")
        ]
        text = json.dumps([ALGORITHM, self.table.scheme, self.table.sha256, calibration, rows])
        return hashlib.sha256(text.encode()).hexdigest()


def _competes(candidate: dict[str, Any]) -> bool:
    relax = (candidate.get("stages") or {}).get("relax") or {}
    converged = relax.get("status") == "passed"
    return converged and candidate.get("one_layer") is not False and candidate.get("duplicate_of") is None


def _is_current(item: dict[str, Any], before: dict[str, Any] | None) -> bool:
    """Whether the stored hull comes from the same inputs, and its candidates still carry its values."""
    if before is None or before.get("inputs_sha256") != item["inputs_sha256"]:
        return False
    values, errors = before.get("candidates") or {}, before.get("errors") or {}
    return all(
        c["candidate_id"] in errors or c.get("e_above_hull") == values.get(c["candidate_id"]) for c in item["members"]
    )


def place(candidate: dict[str, Any], references: Sequence[Phase], *, surrogate: bool) -> Placed:
    """The candidate on the hull of the references, calibrated where its energy is a surrogate's."""
    own = Phase.from_formula(candidate["candidate_id"], candidate["formula"], candidate["energy_per_atom"])
    hull = energy_above_hull(own.fractions, own.energy_per_atom, references)
    calibrated = None
    if surrogate:
        calibrated = calibrate(own.fractions, hull.e_above_hull, hull.formation_energy_per_atom)
    value = hull.e_above_hull if calibrated is None else calibrated.e_above_hull
    energy = own.energy_per_atom - hull.e_above_hull + value
    return Placed(
        Phase(own.name, own.fractions, energy, own.formula),
        value,
        hull.e_above_hull,
        hull.formation_energy_per_atom,
        hull.decomposition,
        calibrated,
    )


def _fields(own: Placed, rivals: Sequence[Placed], references: Sequence[Phase]) -> dict[str, Any]:
    """The fields of a candidate, among rivals that lie below the references' hull."""
    value, decomposition = own.e_above_hull, own.decomposition
    lower = [r.phase for r in rivals if r.e_above_hull < 0 and r.phase.name != own.phase.name]
    if lower:
        hull = energy_above_hull(own.phase.fractions, own.phase.energy_per_atom, [*references, *lower])
        value, decomposition = hull.e_above_hull, hull.decomposition
    calibrated = own.calibrated
    return {
        "formation_energy_per_atom": own.formation_energy_per_atom,
        "e_above_hull_raw": own.e_above_hull_raw,
        "e_above_hull": value,
        "e_above_hull_error": None if calibrated is None else calibrated.error,
        "calibration_id": None if calibrated is None else calibrated.calibration_id,
        "decomposition": without_dots(decomposition),
    }


def points(elements: Sequence[str], references: Sequence[Phase], candidates: Sequence[Phase]) -> list[HullPoint]:
    """The phases of a chemical system with their formation energies, those on the hull marked.

    Of more than ``MAX_POINTS`` phases, elements, candidates, those on the hull, and the lowest others are
    kept.
    """
    phases = [*references, *candidates]
    lowest = {e: min(p.energy_per_atom for p in phases if set(p.fractions) == {e}) for e in elements}
    x = np.array([[p.fractions.get(e, 0.0) for e in elements] for p in phases])
    formation = np.array([p.energy_per_atom for p in phases]) - x @ np.array([lowest[e] for e in elements])
    stable = lower_hull(x, formation)
    order = sorted(
        range(len(phases)),
        key=lambda i: (
            i < len(references) and len(phases[i].fractions) > 1 and not (stable is not None and stable[i]),
            formation[i],
        ),
    )
    return [
        HullPoint(
            name=phases[i].name,
            formula=phases[i].formula,
            candidate=i >= len(references),
            energy_per_atom=phases[i].energy_per_atom,
            formation_energy_per_atom=float(formation[i]),
            stable=None if stable is None else bool(stable[i]),
        )
        for i in order[:MAX_POINTS]
    ]


def lower_hull(x: np.ndarray[Any, Any], formation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Which points lie at corners of the lower convex hull; None where that is not worked out.

    x: (n, n_elements) atom fractions; formation: (n,) eV/atom, 0 for the stable elements.
    """
    n_elements = x.shape[1]
    stable = np.zeros(len(x), dtype=bool)
    if n_elements == 1:
        stable[int(np.argmin(formation))] = True
        return stable
    if n_elements > MAX_DRAWN_ELEMENTS:
        return None
    from scipy.spatial import ConvexHull, QhullError

    # only what is not above the elements' plane can be stable; a far point above closes the hull, so that all
    # other corners are of the lower hull
    rows = np.flatnonzero(formation <= 1e-9)
    top = np.append(np.full(n_elements - 1, 1 / n_elements), 10.0)
    cloud = np.vstack([np.column_stack([x[rows][:, 1:], formation[rows]]), top])
    try:
        corners = ConvexHull(cloud).vertices
    except QhullError as error:
        logger.warning("the corners of a hull were not found: %s", str(error).splitlines()[0])
        return None
    stable[rows[[k for k in corners if k < len(rows)]]] = True
    return stable
