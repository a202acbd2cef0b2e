"""Downloads: a candidate as CIF, POSCAR or JSON, and a listing as CSV. Flask routes; they read only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scdm_flows.errors import CampaignError, ConfigError, ScdmError, StoreError
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_db import FLAT
from scdm_flows.query.candidate_files import as_text, cell
from scdm_flows.server.pages.address import Question
from scdm_flows.server.pages.parts import words

if TYPE_CHECKING:
    from flask import Flask, Response

MOST_ROWS = 10_000  # of a CSV file; more are for `scdm candidates list --json`
FORMATS = {"cif": "chemical/x-cif", "vasp": "text/plain", "json": "application/json"}
_NAMES = {"cif": "cif", "vasp": "poscar", "json": "json"}
_CHUNK = 500


def register(server: Flask, query: CandidateDB) -> None:
    """Add the routes to a Flask application."""
    from flask import Response, request

    def refused(error: ScdmError) -> Response:
        status = 503 if isinstance(error, StoreError) else 404 if isinstance(error, CampaignError) else 400
        return Response(f"{words(error)}\n", status, mimetype="text/plain")

    @server.get("/files/<candidate_id>.<suffix>")
    def structure(candidate_id: str, suffix: str) -> Response:
        try:
            if suffix not in FORMATS:
                raise ConfigError(f"no file ends in .{suffix}; there are .{', .'.join(FORMATS)}")
            text = as_text(query.get(candidate_id), _NAMES[suffix])
        except ScdmError as error:
            return refused(error)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{candidate_id}.{suffix}")
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text, mimetype=FORMATS[suffix], headers=headers)

    @server.get("/candidates.csv")
    def listing() -> Response:
        try:
            question = Question.of(request.query_string.decode("utf-8", "replace"))
            records, following = query.flat_page(sort=question.sort, limit=_CHUNK, **question.filters)
        except ScdmError as error:
            return refused(error)
        headers = {"Content-Disposition": 'attachment; filename="candidates.csv"'}
        return Response(_lines(query, question, records, following), mimetype="text/csv", headers=headers)


def _lines(
    query: CandidateDB, question: Question, records: list[dict[str, Any]], following: str | None
) -> Iterator[str]:
    """The file in pieces, so that memory does not grow; a last line says where it was cut."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FLAT)
    writer.writeheader()
    written = 0
    while True:
        writer.writerows({name: cell(value) for name, value in record.items()} for record in records)
        written += len(records)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        if following is None:
            return
        if written >= MOST_ROWS:
            yield f"# cut after {written} candidates; narrow the filters, or use `scdm candidates list --json`\r\n"
            return
        try:
            records, following = query.flat_page(sort=question.sort, limit=_CHUNK, after=following, **question.filters)
        except StoreError as error:
            yield f"# incomplete: {words(error)}\r\n"
            return
