"""Entries from the Materials Project: plain GGA is kept, the rest is named, and every obstacle is told apart.

There is no network here: a stand-in takes the client's place and gives entries as the client does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from emmet.core.types.enums import ThermoType
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from support.layers import rock_salt

from scdm_flows.cli.refs import refs
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo import materials_project
from scdm_flows.thermo.crystals import bulk_structures
from scdm_flows.thermo.entries import load_entries
from scdm_flows.thermo.materials_project import fetch, needed_systems
from scdm_flows.thermo.table import ReferenceTable

ROCK_SALT = rock_salt("Fe", "O", 4.3)
IRON = Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def entry(name: str, formula: str, energy: float, run_type: str = "GGA", **said: Any) -> ComputedEntry:
    parameters = {"run_type": run_type, "is_hubbard": "+U" in run_type, **said}
    return ComputedEntry(formula, energy, parameters=parameters, entry_id=name)


ENTRIES: dict[str, list[ComputedEntry]] = {
    "Fe": [
        ComputedStructureEntry(IRON, -16.4, parameters={"run_type": "GGA"}, entry_id="mp-13"),
        ComputedStructureEntry(IRON, -16.0, parameters={"run_type": "GGA"}, entry_id="mp-150"),
    ],
    "O": [entry("mp-1", "O2", -9.8, potcar_spec=[{"titel": "PAW_PBE O 08Apr2002"}])],
    "Fe-O": [
        entry("mp-2", "Fe2O3", -40.0),
        entry("mp-4", "Fe3O4", -55.0, potcar_spec=[{"titel": "PAW_PBE Fe_sv 06Sep2000"}]),
        ComputedStructureEntry(ROCK_SALT, -52.0, parameters={"run_type": "GGA+U", "is_hubbard": True}, entry_id="mp-3"),
    ],
    "S": [entry("mp-5", "S", -4.1)],
}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in was asked, and what it answers."""
    seen: dict[str, Any] = {"entries": ENTRIES, "asked": []}

    class Rester:
        def __init__(self, key: str) -> None:
            seen["key"] = key

        def __enter__(self) -> Rester:
            return self

        def __exit__(self, *_: object) -> None: ...

        def get_entries(self, systems: list[str], **options: Any) -> list[ComputedEntry]:
            if len(seen["asked"]) >= seen.get("breaks_after", 99):
                raise RuntimeError("403 for key secret-key")
            seen["asked"].append(systems)
            seen.update(options)
            return [entry for system in systems for entry in seen["entries"].get(system, [])]

    module = types.ModuleType("mp_api.client")
    module.MPRester = Rester  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setenv("MP_API_KEY", "secret-key")
    return seen


def test_plain_gga_becomes_a_reference_file(client: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "entries.json"
    result = CliRunner().invoke(refs, ["fetch", "Fe,O", "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "5 entries of 3 chemical systems" in result.output
    assert "left out: mp-3 (FeO, GGA+U)" in result.output
    # an entry with another potential is named, and refuses nothing
    assert "mp-4 (Fe3O4): potential Fe_sv where ours is Fe_pv" in result.output
    assert client["asked"] == [["Fe", "O", "Fe-O"]]
    # emmet's ThermoType: those whose hulls hold GGA entries
    assert client["additional_criteria"] == {"thermo_types": ["GGA_GGA+U", "GGA_GGA+U_R2SCAN"]}
    assert all(ThermoType(name) for name in client["additional_criteria"]["thermo_types"])
    table = load_entries(out)
    assert table.scheme == "vasp-pbe"
    assert {p.name for p in table.entries(["Fe", "O"])} == {"mp-13", "mp-150", "mp-1", "mp-2"}
    assert "secret-key" not in out.read_text()
    # crystals of what has to be computed in this scheme, and of ground states alone
    crystals = bulk_structures([out])
    assert set(crystals) == {"Fe", "FeO"}
    assert crystals["FeO"] == ("mp-3", ROCK_SALT)
    assert crystals["Fe"][0] == "mp-13"


def test_a_fetch_goes_on_where_it_was_and_files_grow(
    client: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project, "AT_ONCE", 2)
    out = tmp_path / "entries.json.gz"
    systems = needed_systems([["O", "Fe"], ["Fe", "O"]])
    assert systems == ["Fe", "O", "Fe-O"]
    client["breaks_after"] = 1
    with pytest.raises(ReferenceDataError, match=r"did not answer \(403 for key \*\*\*\); the same command goes on"):
        fetch(systems, out)
    assert {p.name for p in load_entries(out).entries(["Fe", "O"])} == {"mp-13", "mp-150", "mp-1"}
    del client["breaks_after"]
    done: list[tuple[int, int]] = []
    assert fetch(systems, out, lambda *now: done.append(now))["entries"] == 5
    assert client["asked"] == [["Fe", "O"], ["Fe-O"]]
    assert done == [(2, 3), (3, 3)]
    fetch(needed_systems([["O", "S"]]), out)  # of another campaign
    assert client["asked"][2:] == [["S", "O-S"]]
    assert set(load_entries(out).phases) == {"Fe", "O", "S", "Fe-O"}


def test_two_fetches_into_one_file_keep_what_the_other_has_found(client: dict[str, Any], tmp_path: Path) -> None:
    """The second begins and ends while the first is waiting for an answer."""
    out = tmp_path / "entries.json"
    fetch(["Fe"], out)
    answer = client["entries"]

    class Slow(dict[str, list[ComputedEntry]]):
        def get(self, key: str, default: Any = None) -> Any:
            if key == "O":
                client["entries"] = answer
                fetch(["S"], out)
            return answer.get(key, default)

    client["entries"] = Slow()
    found = fetch(["O"], out)
    assert (found["entries"], found["systems"]) == (4, 3)
    assert set(load_entries(out).phases) == {"Fe", "O", "S"}
    assert [path.name for path in tmp_path.iterdir()] == ["entries.json"]  # neither locks nor parts


def test_who_adds_to_a_file_waits_for_the_other(tmp_path: Path) -> None:
    """Eight processes that each add one to a number: none is lost."""
    file = tmp_path / "n.json"
    file.write_text("0")
    script = (
        "import sys, time; from pathlib import Path; from scdm_flows.thermo.materials_project import locked\n"
        "file = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with locked(file):\n"
        "        n = int(file.read_text()); time.sleep(0.01); file.write_text(str(n + 1))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(file)]) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert file.read_text() == "40"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError, match="gone"), materials_project.locked(file):
        (tmp_path / "gone").read_text()  # what fails inside is told
    assert list(tmp_path.iterdir()) == [file]


def test_of_63_elements_only_the_systems_of_the_candidates_are_asked_for() -> None:
    elements = sorted(ReferenceTable.load().elements)[:63]
    # 63 + 1,953 + 39,711 + 595,665 of one to four elements
    with pytest.raises(ReferenceDataError, match=r"637,392 chemical systems of up to 4.*name a campaign"):
        needed_systems([elements])
    assert len(needed_systems([elements], 2)) == 63 + 1953
    layers = [elements[k : k + 3] for k in range(61)]
    # each element, each pair of neighbours and of next ones, each triple
    assert len(needed_systems(layers)) == 63 + 62 + 61 + 61
    assert needed_systems([["A", "B", "C", "D", "E"]])[-1] == "B-C-D-E"


def test_obstacles_are_told_apart(client: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "entries.json"
    client["breaks_after"] = 0
    with pytest.raises(ReferenceDataError, match=r"did not answer \(403 for key \*\*\*\)"):
        fetch(["Fe"], out)
    assert not out.exists()
    del client["breaks_after"]
    client["entries"] = {"Fe-O": ENTRIES["Fe-O"][2:]}
    with pytest.raises(ReferenceDataError, match="no plain GGA entry of Fe, O"):
        fetch(["O", "Fe", "Fe-O"], out)
    (tmp_path / "own.json").write_text(json.dumps({"scheme": "vasp-pbe-700eV", "entries": []}))
    with pytest.raises(ReferenceDataError, match="no file that `scdm refs fetch` made"):
        fetch(["Fe"], tmp_path / "own.json")
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(ReferenceDataError, match=r"pip install .*scdm-flows\[mp\]"):
        fetch(["Fe"], out)
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(ReferenceDataError, match="MP_API_KEY is not set"):
        fetch(["Fe"], out)
