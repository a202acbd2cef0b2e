"""A Slurm and a database for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.slurm import NoSlurm, Slurm, missing
from support.places import unavailable

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.stores import EmbeddedServer
from scdm_flows.stores.process import free_port


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """A running Slurm; whatever runs on it is cancelled afterwards."""
    if (reason := missing()) is not None:
        unavailable(reason)
    made = Slurm(tmp_path / "slurm")
    try:
        made.start()
    except NoSlurm as error:
        made.stop()
        unavailable(str(error))
    yield made
    made.stop()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ScdmSettings]:
    """An embedded server of its own, stopped afterwards."""
    made = ScdmSettings(data_dir=tmp_path / "data", port=free_port())
    yield made
    EmbeddedServer(made.data_dir, made.port).stop()
