"""The web pages without a browser: what one sends to them, and the texts that it would show."""

from __future__ import annotations

import json
from typing import Any

from scdm_flows.stores import Database

GRID = ["browse-grid.getRowsResponse", "browse-count.children", "browse-notice.children"]


class Browser:
    """What a browser sends to the pages, and the texts that it would show."""

    def __init__(self, database: Database) -> None:
        from scdm_flows.server.pages import pages_app

        self.client = pages_app(database).test_client()

    def _ask(self, outputs: list[str], inputs: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        def parts(values: dict[str, Any]) -> list[dict[str, Any]]:
            return [{"id": k.split(".")[0], "property": k.split(".")[1], "value": v} for k, v in values.items()]

        named = [{"id": o.split(".")[0], "property": o.split(".")[1]} for o in outputs]
        body = {
            "output": outputs[0] if len(outputs) == 1 else f"..{'...'.join(outputs)}..",
            "outputs": named[0] if len(named) == 1 else named,
            "inputs": parts(inputs),
            "state": parts(state),
            "changedPropIds": list(inputs),
        }
        answer = self.client.post("/_dash-update-component", json=body)
        if answer.status_code == 204:  # nothing has changed
            return {}
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.get_json()["response"]
        return found

    def page(self, path: str, search: str = "") -> str:
        """A page as JSON text, figures included."""
        return json.dumps(self._ask(["content.children"], {"place.pathname": path}, {"place.search": search}))

    def rows(self, search: str = "", sort: str = "", stop: int = 100) -> tuple[list[dict[str, Any]], int, str]:
        """Rows of the table, how many match, and the notice's text."""
        model = [{"colId": sort.removeprefix("-"), "sort": "desc" if sort.startswith("-") else "asc"}] if sort else []
        request = {"startRow": 0, "endRow": stop, "sortModel": model}
        answer = self._ask(GRID, {"browse-grid.getRowsRequest": request}, {"browse-url.search": search})
        found = answer["browse-grid"]["getRowsResponse"]
        return found["rowData"], found["rowCount"], json.dumps(answer["browse-notice"]["children"])

    def campaign(self, name: str) -> str:
        """The part of a campaign's page that is kept up to date."""
        return json.dumps(self.followed("campaign", name))

    def loop(self, name: str) -> str:
        """The part of a loop's page that is kept up to date."""
        return json.dumps(self.followed("loop", name))

    def followed(self, what: str, name: str, shown: str | None = None) -> dict[str, Any]:
        """What is sent of the page of a campaign or loop to one who was shown a version, or nothing yet."""
        state = {f"{what}-name.data": name, f"{what}-shown.data": shown}
        return self._ask([f"{what}-content.children", f"{what}-shown.data"], {f"{what}-tick.n_intervals": None}, state)

    def energies(self, campaigns: list[str] | None = None) -> str:
        """The energies of the page that compares."""
        return json.dumps(self._ask(["compare-energies.children"], {"compare-campaigns.value": campaigns}, {}))
