"""Entries from the Materials Project: plain GGA is kept, the rest is named, and every obstacle is told apart.

There is no network here: a stand-in takes the client's place and gives entries as the client does.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymatgen.entries.computed_entries import ComputedEntry

from scdm_flows.cli.refs import refs
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.materials_project import fetch

ENTRIES = [
    ComputedEntry("Fe1", -8.2, parameters={"run_type": "GGA"}, entry_id="mp-13"),
    ComputedEntry("O2", -9.8, parameters={"run_type": "GGA"}, entry_id="mp-1"),
    ComputedEntry("Fe2O3", -40.0, parameters={"run_type": "GGA", "is_hubbard": False}, entry_id="mp-2"),
    ComputedEntry("FeO", -13.0, parameters={"run_type": "GGA+U", "is_hubbard": True}, entry_id="mp-3"),
]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in was asked, and what it answers."""
    seen: dict[str, Any] = {"entries": ENTRIES}

    class Rester:
        def __init__(self, key: str) -> None:
            seen["key"] = key

        def __enter__(self) -> Rester:
            return self

        def __exit__(self, *_: object) -> None: ...

        def get_entries_in_chemsys(self, elements: list[str], **options: Any) -> list[ComputedEntry]:
            if "error" in seen:
                raise seen["error"]
            seen.update(elements=elements, **options)
            return list(seen["entries"])

    module = types.ModuleType("mp_api.client")
    module.MPRester = Rester  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setenv("MP_API_KEY", "secret-key")
    return seen


def test_plain_gga_becomes_a_reference_file(client: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "entries.json"
    result = CliRunner().invoke(refs, ["fetch", "Fe,O", "-o", str(out)], catch_exceptions=False)
    assert "3 entries" in result.output
    assert "mp-3 (FeO): GGA+U" in result.output
    assert client["elements"] == ["Fe", "O"]
    table = load_entries(out)
    assert table.scheme == "vasp-pbe"
    assert {p.name for p in table.entries(["Fe", "O"])} == {"mp-13", "mp-1", "mp-2"}
    assert "secret-key" not in out.read_text()


def test_obstacles_are_told_apart(client: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "entries.json"
    client["error"] = RuntimeError("403 for key secret-key")
    with pytest.raises(ReferenceDataError, match=r"did not answer \(403 for key \*\*\*\)"):
        fetch(["Fe"], out)
    del client["error"]
    client["entries"] = [ENTRIES[3]]
    with pytest.raises(ReferenceDataError, match="no plain GGA entry of Fe, O"):
        fetch(["O", "Fe"], out)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(ReferenceDataError, match=r"pip install .*scdm-flows\[mp\]"):
        fetch(["Fe"], out)
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(ReferenceDataError, match="MP_API_KEY is not set"):
        fetch(["Fe"], out)
    assert not out.exists()
