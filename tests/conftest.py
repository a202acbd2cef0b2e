"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymatgen.core import Lattice, Structure
from support.documents import ENERGY_MODEL, CampaignDocuments, six_candidates
from support.layers import mx2
from support.places import ROOT

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_models.datasets.known import KnownLayers

pytest_plugins = ["support.standin.fixtures"]
# how long an example takes says how busy the machine is, and nothing of what is tested
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Worker processes, which get equal shares of the list to begin with, each begin with their share of slow tests."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    at = [k * len(rest) // workers for k in range(workers + 1)]
    items[:] = [item for k in range(workers) for item in (*slow[k::workers], *rest[at[k] : at[k + 1]])]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the compact JSON lines of the real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("SCDM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "c2db.jsonl.gz").is_file():
        pytest.skip(f"real data sets are not at {folder}; set SCDM_SHARED_DATA to their folder")
    return folder


@pytest.fixture
def mos2() -> Structure:
    """1H-MoS2."""
    return mx2("1H")


@pytest.fixture
def graphene() -> Structure:
    """Graphene, a = 2.46 angstrom."""
    return Structure(Lattice.hexagonal(2.46, 20.0), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])


@pytest.fixture
def packaged_energy_model(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """``ENERGY_MODEL`` in place of the packaged energy model, for what reports say of it."""
    monkeypatch.setattr("scdm_flows.report.cards.load_energy_model_card", lambda: ENERGY_MODEL)
    return ENERGY_MODEL


@pytest.fixture(scope="session")
def campaign_documents() -> CampaignDocuments:
    """See ``six_candidates``."""
    return six_candidates()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data folder of an embedded server of a module's own."""
    folder = tmp_path_factory.mktemp("data")
    yield folder
    EmbeddedServer(folder).stop()


@pytest.fixture
def settings(server: Path) -> ScdmSettings:
    """A database of each test's own on the server."""
    return ScdmSettings(data_dir=server, database=f"t{secrets.token_hex(6)}")


@pytest.fixture
def database(settings: ScdmSettings) -> Iterator[Database]:
    """An empty database of each test's own."""
    with connect(settings) as connected:
        yield connected


@pytest.fixture
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks leave files in the working folder; and nothing is known of any layer."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(KnownLayers, "load", classmethod(lambda cls, path=None: cls.build([])[0]))
