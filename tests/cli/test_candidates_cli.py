"""``scdm candidates plot`` and ``follow``: files that other programs and the next campaign can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Structure
from support.documents import CampaignDocuments
from support.layers import mx2
from support.memory import memory_database

from scdm_flows.builders import build_all
from scdm_flows.cli import candidates as commands
from scdm_flows.config import load_config, parse_config
from scdm_flows.documents import BandsDoc
from scdm_flows.documents.bands import BandEdge, DosData
from scdm_flows.documents.phonon import PhononDos, SoftMode
from scdm_flows.errors import CampaignError, OutputError
from scdm_flows.execution.local.runner import run_campaign
from scdm_flows.generators import GENERATORS
from scdm_flows.query import CandidateDB
from scdm_flows.report.bands import draw, electronic_plot, phonon_plot
from scdm_flows.report.interactive import figure, fragment

STABLE, UNSTABLE, WITHOUT = (f"demo-{k:012x}" for k in (0, 1, 2))
GAMMA_TO_GAMMA = [(0.0, "Γ"), (0.5, "M"), (0.5, "X"), (1.0, "Γ")]


@pytest.fixture
def stored(campaign_documents: CampaignDocuments, monkeypatch: pytest.MonkeyPatch) -> CampaignDocuments:
    """The small campaign in a database that the commands find; the unstable candidate has its soft mode."""
    documents = campaign_documents
    mode = SoftMode(
        q=(0.5, 0.0, 0.0),
        frequency_thz=-1.5,
        eigenvector_real=[(0.8, 0.0, 0.0), (-0.4, 0.0, 0.1), (-0.4, 0.0, -0.1)],
        eigenvector_imag=[(0.0, 0.0, 0.0)] * 3,
        supercell=[[2, 0, 0], [0, 1, 0], [0, 0, 1]],
        exact=True,
    )
    grid = np.linspace(-2, 10, 50)
    dos = PhononDos(
        frequencies_thz=grid.tolist(), density_per_thz=np.exp(-((grid - 4) ** 2)).tolist(), smearing_thz=0.1
    )
    unstable = documents.phonons[UNSTABLE].model_copy(update={"soft_mode": mode, "dos": dos})
    relaxed = [c.model_copy(update={"relaxed_structure": c.structure}) for c in documents.candidates]
    found = CampaignDocuments(
        documents.campaign, relaxed, {**documents.phonons, UNSTABLE: unstable}, documents.failures
    )
    database = memory_database()
    found.store(database)

    @contextmanager
    def here(**_: Any) -> Iterator[Any]:
        yield database

    monkeypatch.setattr(commands, "database", here)
    return found


def scdm(*arguments: object) -> str:
    return CliRunner().invoke(commands.candidates, [*map(str, arguments)], catch_exceptions=False).output


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG"), ("html", b"<!doctype html>")]
)
@pytest.mark.usefixtures("stored")
def test_plot_writes_what_the_name_says(suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bands.{suffix}"
    assert "wrote" in scdm("plot", UNSTABLE, "-o", path)
    data = path.read_bytes()
    assert data.startswith(start)
    if suffix == "html":
        assert b'src="http' not in data  # needs no network
        assert b"(surrogate)" in data  # says what made it
    with pytest.raises(OutputError, match="--force"):
        scdm("plot", UNSTABLE, "-o", path)


@pytest.mark.usefixtures("stored")
def test_what_cannot_be_drawn_or_followed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="has no phonons"):
        scdm("plot", WITHOUT, "-o", tmp_path / "x.svg")
    with pytest.raises(CampaignError, match="is stable"):
        scdm("follow", STABLE, "-o", tmp_path / "x")
    with pytest.raises(CampaignError, match="has no phonons"):
        scdm("follow", WITHOUT, "-o", tmp_path / "x")
    assert "must end in" in scdm("plot", STABLE, "-o", tmp_path / "x.doc")
    assert not list(tmp_path.iterdir())


def test_follow_writes_a_campaign_that_reads_its_structures(stored: CampaignDocuments, tmp_path: Path) -> None:
    folder = tmp_path / "followed"
    assert "scdm campaign run" in scdm("follow", UNSTABLE, "-o", folder, "--amplitude", 0.25)
    config = load_config(folder / "campaign.yaml")
    assert config.generator.kind == "files"
    assert config.gate.max_e_above_hull == 0.6  # the settings of the candidate's own campaign
    assert config.screen.require_novel is False
    records = GENERATORS["files"].generate(config.generator, 0, GENERATORS["files"].count(config.generator))
    assert records
    parent = Structure.from_dict(stored.candidates[1].structure)
    for record in records:
        assert UNSTABLE in record["source_id"]  # where it comes from goes into the provenance
        distorted = record["structure"]
        assert len(distorted) == 6
        large = parent * [2, 1, 1]
        moved = [min(site.distance(other) for other in large if other.specie == site.specie) for site in distorted]
        assert max(moved) == pytest.approx(0.25, abs=1e-6)
    lines = [json.loads(line) for line in (folder / "distorted.jsonl").read_text().splitlines()]
    assert lines[0]["followed_from"] == UNSTABLE
    assert lines[0]["surrogate"] is True
    with pytest.raises(OutputError, match="--force"):
        scdm("follow", UNSTABLE, "-o", folder)


def bands_doc(k: Any, labels: Any, energies: Any, **fields: Any) -> BandsDoc:
    """Bands along (n_k,) places of a line; energies: spin -> (n_k, n_bands) eV."""
    known = {
        "candidate_id": UNSTABLE,
        "campaign": "demo",
        "energy_scheme": "vasp-pbe",
        "engine_version": "6.5.0.stand-in",
        "energy_zero": "Fermi level",
        "energy_zero_ev": 0.0,
        "efermi_ev": 0.0,
        "band_gap_ev": 0.0,
        "direct_gap_ev": 0.0,
        "gap_kind": "metal",
        "spin_polarised": "down" in energies,
        "magnetic": False,
    }
    return BandsDoc(
        k_points=[[x, 0.0, 0.0] for x in k],
        distances=list(k),
        labels=labels,
        energies_ev={spin: values.tolist() for spin, values in energies.items()},
        **(known | fields),
    )


def test_the_command_draws_bands_where_there_are_some(stored: CampaignDocuments, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="has no bands: that stage has not run yet"):
        scdm("plot", UNSTABLE, "--what", "bands", "-o", tmp_path / "b.svg")
    k = np.linspace(0, 1, 5)
    document = bands_doc(k, [(0.0, "Γ"), (1.0, "X")], {"up": np.column_stack([k - 2, k + 1])})
    with commands.database() as connected:
        connected.upsert(connected.bands, [document.model_dump()])
    scdm("plot", UNSTABLE, "--what", "bands", "-o", tmp_path / "b.svg")
    assert "stand-in" in (tmp_path / "b.svg").read_text()  # the title names what made them


def test_bands_jump_where_the_path_does(stored: CampaignDocuments) -> None:
    plot = phonon_plot(stored.phonons[UNSTABLE])
    values = plot.branches[0].values
    torn = np.flatnonzero(np.isnan(values).all(axis=1))
    # the fixture has no q-point twice at M|X, so nothing is torn there
    assert len(torn) == 0
    k = np.array([0.0, 0.5, 0.5, 1.0])
    bands = np.array([[0.0, 1.0], [1.0, 2.0], [5.0, 6.0], [0.0, 1.0]])
    jumping = electronic_plot(bands_doc(k, GAMMA_TO_GAMMA, {"up": bands}))
    assert np.isnan(jumping.branches[0].values[2]).all()  # no line from M to X
    assert len(jumping.distances) == 5
    assert jumping.ticks[0.5] == "M|X"


def test_electronic_bands_in_both_kinds_of_figure() -> None:
    k = np.linspace(0, 1, 21)
    valence, conduction = -1 + np.cos(2 * np.pi * k), 2 - 0.5 * np.cos(2 * np.pi * k)
    up = np.column_stack([valence, conduction])
    energies = np.linspace(-3, 3, 61)
    density = np.exp(-((energies + 1) ** 2))
    edges = [BandEdge(energy_ev=e, k_point=[0.0, 0.0, 0.0], spin="up") for e in (0.2, 1.5)]
    document = bands_doc(
        k,
        [(0.0, "Γ"), (1.0, "X")],
        {"up": up, "down": up + 0.2},
        energy_zero="valence band maximum",
        vbm=edges[0],
        cbm=edges[1],
        dos=DosData(energies_ev=energies.tolist(), densities={"up": density.tolist(), "down": (density / 2).tolist()}),
    )
    plot = electronic_plot(document)
    assert plot.spans == [(0.2, 1.5)]
    bands_axes, dos_axes = draw(plot).axes
    drawn = [line for line in bands_axes.lines if len(line.get_xdata()) == len(k)]
    assert np.array(drawn[1].get_ydata()) == pytest.approx(conduction)
    assert "valence band maximum" in bands_axes.get_ylabel()
    assert {t.get_text() for t in bands_axes.get_legend().get_texts()} == {"spin up", "spin down"}
    assert dos_axes.get_xlim()[1] >= density.max()
    interactive = figure(plot)
    lines = [np.array(t.y, dtype=float) for t in interactive.data]
    assert any(len(y) == len(k) and np.allclose(y, conduction) for y in lines)
    assert len(interactive.data) == 4 + 2  # two bands of two spins, two densities
    assert "<script" in fragment(plot)
    assert len(fragment(plot)) < 200_000  # without plotly's own script


def test_an_unstable_candidate_is_followed_to_its_stable_distortion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Campaign, ``follow``, campaign: 1T-MoS2 is unstable at M and becomes 1T' (X. Qian et al., Science 346, 1344 (2014))."""
    mx2("1T", a=3.19).to(filename=str(tmp_path / "1T.cif"))
    config = parse_config(
        {
            "name": "parent",
            "generator": {"kind": "files", "paths": [str(tmp_path / "1T.cif")]},
            "screen": {"require_novel": False},
            "engine": {"kind": "forcefield", "phonon_min_length_angstrom": 9},
            "gate": {"phonon_max_atoms": 3, "phonon_max_e_above_hull": 2, "max_e_above_hull": 2},
        }
    )
    database = memory_database()

    @contextmanager
    def here(**_: Any) -> Iterator[Any]:
        yield database

    monkeypatch.setattr(commands, "database", here)
    run_campaign(config, database, processes=1)
    build_all(database)
    (parent,) = CandidateDB(database).find(campaign="parent")
    assert parent.dynamically_stable is False
    folder = tmp_path / "followed"
    scdm("follow", parent.candidate_id, "-o", folder)
    followed = load_config(folder / "campaign.yaml")
    run_campaign(followed, database, processes=1)
    build_all(database)
    (child,) = CandidateDB(database).find(campaign=followed.name)
    assert parent.candidate_id in (child.source_id or "")
    assert child.nsites == 6
    assert child.dynamically_stable is True
    assert child.energy_per_atom is not None
    assert parent.energy_per_atom is not None
    assert child.energy_per_atom < parent.energy_per_atom - 0.02  # eV/atom, surrogate
