"""Hulls follow every change of the candidates, whatever is interrupted or runs at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition
from support.memory import memory_database
from support.places import ROOT

from scdm_flows.builders import CandidateBuilder, HullBuilder
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CandidateDoc, StageRecord
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import ReferenceTable

SCHEME = "test-dft"
# elements at 0 and two compounds
ABCD = {e: (Phase(f"ref-{e}", {e: 1.0}, 0.0, e),) for e in ("Mo", "S", "W", "Se")} | {
    "Mo-S": (Phase("ref-MoS", {"Mo": 0.5, "S": 0.5}, -1.0, "Mo1S1"),),
    "S-W": (Phase("ref-WS", {"W": 0.5, "S": 0.5}, -0.9, "W1S1"),),
}
WIDE = ReferenceTable(SCHEME, False, "w" * 64, {}, ABCD)
FORMULAS = ["MoS2", "MoS", "WS2", "MoWS4", "MoSSe", "MoWS2Se2", "SSe", "MoSe2"]


class Hulls:
    """Candidates written as the candidate builder does, and hulls built on a table."""

    def __init__(self, database: Database | None = None, table: ReferenceTable = WIDE) -> None:
        self.database, self.table = database or memory_database(), table

    def put(self, name: str, formula: str, energy: float, one_layer: bool = True) -> None:
        elements = sorted(str(e) for e in Composition(formula).elements)
        document = CandidateDoc(
            candidate_id=name,
            campaign="c",
            generator="files",
            formula=formula,
            chemsys="-".join(elements),
            elements=elements,
            nelements=len(elements),
            nsites=1,
            structure={},
            energy_per_atom=energy,
            energy_scheme=self.table.scheme,
            thickness_angstrom=3.1,
            area_per_atom_angstrom2=2.9,
            one_layer=one_layer,
            stages={"relax": StageRecord(status="passed")},
        )
        CandidateBuilder(self.database)._write_candidates([document.model_dump()])

    def build(self, **options: Any) -> HullBuilder:
        builder = HullBuilder(self.database, self.table, **options)
        builder.run()
        return builder

    def values(self) -> dict[str, Any]:
        """What is stored of every candidate and hull, but for revisions and times."""
        names = ["candidate_id", "e_above_hull", "decomposition", "e_above_same_composition", "hull_pending", "hull_id"]
        candidates = {d["candidate_id"]: {k: d.get(k) for k in names} for d in self.database.candidates.query()}
        hulls = {
            d["hull_id"]: {k: v for k, v in d.items() if k not in ("_id", "revision", "last_updated", "provenance")}
            for d in self.database.hulls.query()
        }
        return {"candidates": candidates, "hulls": hulls}

    def anew(self) -> dict[str, Any]:
        """The same, of a new database with the same candidates built at once."""
        other = Hulls(table=self.table)
        for d in self.database.candidates.query():
            other.put(d["candidate_id"], d["formula"], d["energy_per_atom"], d["one_layer"])
        other.build()
        return other.values()


def change(hulls: Hulls, rng: np.random.Generator) -> None:
    """A candidate more, another energy, a layer that fell apart, or a candidate less."""
    name = f"k{rng.integers(6)}"
    if rng.random() < 0.25:
        hulls.database.candidates.remove_docs({"candidate_id": name})
        return
    known = hulls.database.candidates.query_one({"candidate_id": name})
    formula = known["formula"] if known else str(rng.choice(FORMULAS))
    hulls.put(name, formula, float(rng.uniform(-1.4, 0.2)), bool(rng.random() < 0.8))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_hulls_that_follow_changes_equal_hulls_built_anew(seed: int) -> None:
    rng, hulls = np.random.default_rng(seed), Hulls()
    for _ in range(4):
        for _ in range(rng.integers(1, 4)):
            change(hulls, rng)
        hulls.build()
        assert hulls.values() == hulls.anew()
        assert hulls.build().written == 0  # and what is done is not done again


class Stopped(Exception):
    """The process is killed."""


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_a_build_stopped_at_any_write_leaves_no_wrong_hull(seed: int) -> None:
    rng, hulls = np.random.default_rng(seed), Hulls()
    for _ in range(5):
        change(hulls, rng)
    hulls.build()
    for _ in range(3):
        change(hulls, rng)
    left = int(rng.integers(0, 8))  # writes until it is killed

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Stopped
            left -= 1
            return real(*arguments, **options)

        return write

    collections = [hulls.database.hulls._collection, hulls.database.candidates._collection]
    with pytest.MonkeyPatch.context() as patch:
        for collection in collections:
            for method in ("update_one", "replace_one", "delete_one", "bulk_write"):
                patch.setattr(collection, method, counted(getattr(collection, method)))
        with contextlib.suppress(Stopped):
            hulls.build()
    hulls.build()
    assert hulls.values() == hulls.anew()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_two_builders_and_a_change_in_between_do_no_harm(seed: int) -> None:
    """One builder reads, another builds everything after a change, the first writes what it read."""
    rng, hulls = np.random.default_rng(seed), Hulls()
    for _ in range(5):
        change(hulls, rng)
    slow = HullBuilder(hulls.database, WIDE)
    read = [slow.process_item(item) for item in slow.get_items()]
    change(hulls, rng)
    hulls.build()
    slow.update_targets(read)
    hulls.build()
    assert hulls.values() == hulls.anew()


def test_a_new_binary_moves_every_larger_system_and_its_removal_moves_them_back() -> None:
    hulls = Hulls()
    for name, formula in (("b", "MoS2"), ("t", "MoS2Se"), ("q", "MoWS3Se"), ("other", "WSe2")):
        hulls.put(name, formula, -0.3)
    hulls.build()
    before = hulls.values()
    hulls.put("new", "MoS2", -1.3)  # 0.63 eV/atom below the hull of MoS and S at -2/3
    hulls.build()
    after = hulls.values()["candidates"]
    assert after["b"]["e_above_hull"] == pytest.approx(1.0)
    assert after["b"]["e_above_same_composition"] == pytest.approx(1.0)
    # MoS2Se was MoS (1/2 of its atoms), S and Se: -0.5; now MoS2 (3/4) and Se: -0.975
    # MoWS3Se was MoS and WS (1/3 each), S and Se: -0.6333; now MoS2 (1/2), WS (1/3) and Se: -0.95
    for name, lowered in (("t", 0.475), ("q", 0.95 - 1.9 / 3)):
        raised = after[name]["e_above_hull"] - before["candidates"][name]["e_above_hull"]
        assert raised == pytest.approx(lowered)
        assert "new MoS2" in after[name]["decomposition"]
    assert after["other"] == before["candidates"]["other"]
    hulls.database.candidates.remove_docs({"candidate_id": "new"})
    hulls.build()
    assert hulls.values() == before


def test_a_candidate_of_another_composition_is_no_rival_of_itself() -> None:
    """Its new system is built first, while the hull of its old one still holds it."""
    hulls = Hulls()
    hulls.put("k", "MoS", -1.2)  # 0.2 eV/atom below the reference
    hulls.put("other", "MoSe2", -1.0)
    hulls.build()
    hulls.put("k", "MoSSe", -0.7)  # below MoS and Se, at -2/3, above "other", MoS and S, at -5/6
    builder = HullBuilder(hulls.database, WIDE)
    builder.update_targets([builder.process_item(next(builder.get_items()))])  # and stopped then
    hulls.build()
    assert hulls.values() == hulls.anew()


def test_another_basis_computes_every_hull_again() -> None:
    hulls = Hulls()
    hulls.put("a", "MoS2", -0.5)
    hulls.build()
    shifted = ABCD | {"Mo-S": (Phase("ref-MoS", {"Mo": 0.5, "S": 0.5}, -2.0, "Mo1S1"),)}
    builder = HullBuilder(hulls.database, ReferenceTable(SCHEME, False, "x" * 64, {}, shifted))
    builder.run()
    assert builder.written == 2
    (found,) = hulls.values()["candidates"].values()
    assert found["e_above_hull"] == pytest.approx(4 / 3 - 0.5)  # two thirds of the atoms make MoS at -2 eV/atom


def test_mrun_in_two_processes_builds_the_same(tmp_path: Path) -> None:
    """maggma's own command, on a server; it reads ahead of what it has written."""
    pytest.importorskip("secantus", reason="the embedded database is an optional extra")
    server = EmbeddedServer(tmp_path, free_port())
    settings_ = ScdmSettings(data_dir=tmp_path, port=server.port)
    with connect(settings_) as database:
        hulls = Hulls(database, ReferenceTable.load())
        for i, (formula, energy) in enumerate(
            [("MoS2", -20.0), ("MoS2", -7.0), ("MoSSe", -6.5), ("MoWS2Se2", -7.0), ("WSe2", -6.5), ("MoS", -7.5)]
        ):
            hulls.put(f"k{i}", formula, energy)
        environment = {**os.environ, "SCDM_DATA_DIR": str(tmp_path), "SCDM_PORT": str(server.port)}
        command = [Path(sys.executable).with_name("mrun"), "-n", "2", ROOT / "launchpad" / "builders" / "hulls.json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert hulls.values() == hulls.anew()
        # -20 eV/atom lies far below the hull of the packaged phases, so it moves the systems that hold Mo and S
        assert "k0 MoS2" in hulls.values()["candidates"]["k3"]["decomposition"]
        pid = server.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
