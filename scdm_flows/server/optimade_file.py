"""Candidates as a file of OPTIMADE's JSON lines: what the server would answer, for who serves it without ours.

A header, what ``/info`` says of the entries, the entries, the references that they name: as optimade-maker and
optimade-python-tools (``insert_from_jsonl``) read it. Pure.
"""

from __future__ import annotations

import logging
from typing import Any

from optimade import __api_version__
from optimade.models import EntryInfoResource, ReferenceResource, StructureResource
from optimade.server.schemas import ENTRY_INFO_SCHEMAS, retrieve_queryable_properties

from scdm_flows.documents import CandidateDoc
from scdm_flows.server.properties import CandidateMapper, optimade_config, provider_fields, sortable
from scdm_flows.server.records import REFERENCES

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class OptimadeFile:
    """The lines of a file: ``head``, then ``entry`` of each candidate, then ``tail``."""

    def __init__(self) -> None:
        self._config = optimade_config()
        self._mapper = CandidateMapper(self._config)
        self._fields = {"candidate_id", "last_updated", "optimade", *provider_fields()}
        self._cited: set[str] = set()

    def head(self) -> list[Record]:
        """The header, and the properties of structures and references."""
        return [{"x-optimade": {"meta": {"api_version": __api_version__}}}, *map(self._info, ENTRY_INFO_SCHEMAS)]

    def entry(self, document: CandidateDoc) -> Record | None:
        """The candidate as an entry; None where OPTIMADE has no words for it. What is not known is left out."""
        if document.optimade is None:
            return None
        stored = document.model_dump(mode="json", include=self._fields)
        entry: Record = self._mapper.map_back(stored)
        entry["attributes"] = {name: value for name, value in entry["attributes"].items() if value is not None}
        try:
            StructureResource.model_validate(entry)
        except ValueError as error:
            logger.warning("the OPTIMADE file will not have %s: %s", document.candidate_id, error)
            return None
        cited = entry.get("relationships", {}).get("references", {}).get("data", [])
        self._cited |= {reference["id"] for reference in cited}
        return entry

    def tail(self) -> list[Record]:
        """The references that entries name."""
        return [_reference(record) for record in REFERENCES if record["id"] in self._cited]

    def _info(self, kind: str) -> Record:
        schema = ENTRY_INFO_SCHEMAS[kind]
        asked = {"id", "type", "attributes"}
        properties: Any = retrieve_queryable_properties(schema, asked, entry_type=kind, config=self._config)
        if kind == "structures":
            for name, about in properties.items():
                about["sortable"] = name in sortable()
        info = EntryInfoResource(
            id=kind,
            formats=["json"],
            description=" ".join((schema.__doc__ or kind).split()),
            properties=properties,
            output_fields_by_format={"json": list(properties)},
        )
        found: Record = info.model_dump(mode="json", exclude_none=True)
        return found


def _reference(record: Record) -> Record:
    attributes = {name: value for name, value in record.items() if name != "id"}
    entry = {"id": record["id"], "type": "references", "attributes": attributes}
    found: Record = ReferenceResource(**entry).model_dump(mode="json", exclude_unset=True)
    return found
