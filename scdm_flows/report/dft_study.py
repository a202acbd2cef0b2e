"""What the DFT page is made of: promoted campaigns' documents, C2DB's entries, and the measured error of the preset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.documents import BandsDoc, CampaignDoc, CandidateDoc, PhononDoc
from scdm_flows.documents.novelty import KnownAs
from scdm_flows.errors import CampaignError, ReferenceDataError
from scdm_flows.query import CandidateDB

if TYPE_CHECKING:
    from scdm_flows.stores.database import Database


@dataclass(frozen=True)
class DftStudy:
    """Documents and measurements of one DFT page.

    campaign, compounds: the campaign that computed the paper's compounds, and its candidates; stability: candidates of
    the campaigns that computed phonons of some of them; phonons, bands: candidate_id -> document, of both; drawn:
    campaign -> promoted candidates that were drawn from a study; known: reduced formula -> known layers of it;
    validation: rows of ``scdm refs gpaw``; commands: what made it, in order.
    """

    campaign: CampaignDoc
    compounds: list[CandidateDoc]
    stability: list[CandidateDoc] = field(default_factory=list)
    phonons: Mapping[str, PhononDoc] = field(default_factory=dict)
    bands: Mapping[str, BandsDoc] = field(default_factory=dict)
    drawn: Mapping[str, list[CandidateDoc]] = field(default_factory=dict)
    known: Mapping[str, list[KnownAs]] = field(default_factory=dict)
    validation: Sequence[Mapping[str, Any]] = ()
    commands: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def all_drawn(self) -> list[CandidateDoc]:
        """Of all campaigns."""
        return [c for own in self.drawn.values() for c in own]

    def verdict(self, candidate: CandidateDoc) -> tuple[CandidateDoc, PhononDoc] | None:
        """The candidate whose phonons were computed, itself or one promoted from it, and they."""
        for one in [candidate, *self.stability]:
            mine = one is candidate or (one.parent is not None and one.parent.candidate_id == candidate.candidate_id)
            if mine and one.candidate_id in self.phonons:
                return one, self.phonons[one.candidate_id]
        return None


def gather(
    database: Database,
    name: str,
    *,
    stability: Sequence[str] = (),
    drawn: Sequence[str] = (),
    known: Callable[[str], list[KnownAs]] = lambda formula: [],
    validation: Path | None = None,
    commands: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> DftStudy:
    """The study of a promoted campaign in a connected database; see ``DftStudy``.

    known: known layers of a reduced formula. A campaign that is among ``drawn`` itself has no compounds.

    Raises
    ------
    CampaignError
        If there is no such campaign, one was promoted from none, or one of ``drawn`` was not drawn.
    ReferenceDataError
        If ``validation`` is no file of `scdm refs gpaw`.
    """
    report = progress or (lambda what, done, total: None)
    query = CandidateDB(database)
    report("documents", 0, 1)
    campaign = query.campaign(name)
    rows = [] if validation is None else read_rows(validation)
    own: dict[str, list[CandidateDoc]] = {}
    for one in (name, *stability, *drawn):
        generator: Any = query.campaign(one).config.get("generator", {})
        own[one] = query.find(campaign=one)
        if not any(c.parent for c in own[one]):
            raise CampaignError(f"campaign {one} holds no promoted candidates; make it with `scdm campaign promote`")
        if one in drawn and generator.get("draw") is None:
            raise CampaignError(
                f"campaign {one} was promoted by rank or from a list, and what --drawn names must be drawn by lot; "
                "leave it out, or make one with `scdm campaign promote ... --draw SEED`"
            )
    everything = [c for found in own.values() for c in found]
    report("documents", 1, 1)
    return DftStudy(
        campaign,
        [] if name in drawn else own[name],
        [c for one in stability for c in own[one]],
        phonons={c.candidate_id: p for c in everything if (p := query.phonon(c.candidate_id)) is not None},
        bands={c.candidate_id: b for c in everything if (b := query.bands(c.candidate_id)) is not None},
        drawn={one: own[one] for one in drawn},
        known={formula: known(formula) for formula in {c.formula for c in own[name]}},
        validation=rows,
        commands=commands or {},
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of `scdm refs gpaw`; ``ReferenceDataError`` where the file has none."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if all({"id", "preset"} <= row.keys() for row in rows):
            return rows
        reason = "a row has no id or no preset"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise ReferenceDataError(f"{path} is no file of `scdm refs gpaw -o FILE` ({reason})")
