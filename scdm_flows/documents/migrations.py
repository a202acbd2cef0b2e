"""From one version of a document's schema to the next: pure functions, applied when a document is read, and in bulk.

To change a document: raise its version (``schema_version: int = versioned(2)`` in its class), add to ``MIGRATIONS``
the function that turns a document of version 1 into one of version 2, and write the schemas anew
(``python -m scdm_flows.documents.schemas``). A field that is added with a default needs no version of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scdm_flows.documents.base import ScdmDocument
from scdm_flows.errors import StoreError

Document = dict[str, Any]
Step = Callable[[Document], Document]


def _hull_2(hull: Document) -> Document:
    """Version 1 knew one set of references and no revisions; the empty basis has the hull computed anew."""
    scheme, chemsys = str(hull["energy_scheme"]), str(hull["chemsys"])
    kept = {k: v for k, v in hull.items() if k != "inputs_sha256"}
    return kept | {
        "hull_id": f"{scheme}:{chemsys}",
        "references": scheme,
        "elements": chemsys.split("-"),
        "basis_sha256": "",
        "n_candidates": len(hull.get("candidates") or {}) + len(hull.get("errors") or {}),
        "spread": False,
    }


def _hull_3(hull: Document) -> Document:
    """Version 2 named a calibration of its candidates' energies; members now bring their energies with them."""
    return {k: v for k, v in hull.items() if k != "calibration_id"}


def _one_energy_above_hull(document: Document) -> Document:
    """Of a candidate or of a gate's output: what maps surrogate energies to DFT's is the energy model.

    ``e_above_hull_raw``, an energy above an incomplete hull of surrogate energies, is dropped; outputs in the job store
    are not written anew and still hold it. Whether an old value was extrapolated is not known.
    """
    kept = {k: v for k, v in document.items() if k not in ("calibration_id", "e_above_hull_raw")}
    return kept | {"energy_model": document.get("calibration_id")}


def _novelty_of_the_sample(candidate: Document) -> Document:
    """Version 2 judged the sample alone; of the relaxed structure nothing is known until the next build."""
    sample = {"sample_novel": candidate.pop("novel", None), "sample_known_as": candidate.pop("known_as", None) or []}
    return candidate | sample


def _funnel_of_samples(campaign: Document) -> Document:
    """Version 1 counted new samples alone."""
    funnel = dict(campaign.get("funnel") or {})
    sample_novel = funnel.pop("novel", 0)
    return campaign | {"funnel": {**funnel, "sample_novel": sample_novel}}


def _ranks_in_candidates(ranking: Document) -> Document:
    """Version 1 named blocks that held the ranks; nothing is ranked until the next build."""
    kept = {k: v for k, v in ranking.items() if k != "n_blocks"}
    return kept | {"revision": 0, "complete": False}


# (name of the document's class, version before) -> the document one version later, without its schema_version
MIGRATIONS: dict[tuple[str, int], Step] = {
    ("HullDoc", 1): _hull_2,
    ("HullDoc", 2): _hull_3,
    ("CandidateDoc", 1): _one_energy_above_hull,
    ("CandidateDoc", 2): _novelty_of_the_sample,
    ("CampaignDoc", 1): _funnel_of_samples,
    ("RankingDoc", 1): _ranks_in_candidates,
    ("GateDoc", 1): _one_energy_above_hull,
}


class NewerDocumentError(StoreError):
    """A document that a later scdm-flows wrote: this one does not know what its fields mean."""


def version_of(model: type[Any]) -> int:
    """The version of its schema that this program reads and writes; 1 for a class that declares none."""
    field = model.model_fields.get("schema_version")
    return 1 if field is None else int(field.default)


def stored_version(document: Mapping[str, Any]) -> int:
    """The version a stored document says it has; 1 where it says nothing."""
    version = document.get("schema_version")
    return version if isinstance(version, int) and not isinstance(version, bool) else 1


def check_version(model: type[Any], document: Mapping[str, Any], name: str) -> None:
    """Nothing, or ``NewerDocumentError`` for a document of a later version. name: the document's, for the message."""
    version, known = stored_version(document), version_of(model)
    if version <= known:
        return
    provenance = document.get("provenance")
    versions = provenance.get("versions") if isinstance(provenance, Mapping) else None
    writer = versions.get("scdm-flows") if isinstance(versions, Mapping) else None
    needed = f"scdm-flows {writer} or later" if writer else "a later scdm-flows"
    raise NewerDocumentError(
        f"{name} has schema version {version}, this scdm-flows knows {known} at most; it needs {needed}: "
        "upgrade (pip install -U scdm-flows), or use another database (SCDM_DATABASE)"
    )


def migrate(
    model: type[ScdmDocument] | type[Any],
    document: Mapping[str, Any],
    name: str = "a document",
    migrations: Mapping[tuple[str, int], Step] = MIGRATIONS,
) -> Document:
    """The document in the version of its schema that this program knows; unchanged where it has it already.

    Raises
    ------
    NewerDocumentError
        If it is of a later version.
    StoreError
        If a step is missing.
    """
    check_version(model, document, name)
    current = dict(document)
    for version in range(stored_version(document), version_of(model)):
        step = migrations.get((model.__name__, version))
        if step is None:
            raise StoreError(
                f"{name} has schema version {version}, and nothing leads from there to {version + 1}; "
                "read it with the scdm-flows that wrote it"
            )
        current = {**step(dict(current)), "schema_version": version + 1}
    return current
