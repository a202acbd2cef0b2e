"""The wheel: two import packages with their data, the launchpad templates, nothing else; lock file and Makefile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the hatchling of this environment (no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked as pip would, in a folder that knows nothing of the checkout."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _python(installed: Path, code: str, cwd: Path) -> str:
    # -P: the working folder does not count; the checkout may be installed too, so the wheel comes first
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_both_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {i.filename: i.file_size for i in archive.infolist()}
    assert {
        "scdm_flows/py.typed",
        "scdm_flows/report/templates/campaign.html",
        "scdm_flows/thermo/data/c2db-pbe.csv.gz",
        "scdm_flows/thermo/data/energy-model.npz",
        "scdm_flows/_launchpad/my_launchpad.yaml",
        "scdm_flows/_cards/phonons.json",
        "scdm_flows/_cards/results.json",
        "scdm_flows/_launchpad/structures/paper-compounds.jsonl",
        "scdm_flows/server/pages/assets/pages.js",
        "scdm_flows/server/pages/assets/pages.css",
        "scdm_flows/_launchpad/campaigns/quickstart.yaml",
        "scdm_models/py.typed",
        "scdm_models/symmetry/wyckoff_layer.json",
        "scdm_models/data/known.npz",
        "scdm_models/data/scdm.safetensors",
    } <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"scdm_flows", "scdm_models"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    # the model is at most 16 MB, and a package index takes at most 100 MB
    assert sizes["scdm_models/data/scdm.safetensors"] <= 16e6
    assert sizes["scdm_models/data/known.npz"] <= 1.5e6
    assert wheel.stat().st_size < 50e6
    # a file of the checkout that git ignores does not slip in
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".log", ".jsonl.gz"))]


def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    out = _python(
        installed,
        "import scdm_flows, scdm_models\n"
        "from scdm_flows.cli.launchpad import launchpad_dir\n"
        "from scdm_flows.config import load_config\n"
        "from scdm_flows.cli.launchpad import initialise\n"
        "from scdm_flows.config.settings import ScdmSettings\n"
        "from pathlib import Path\n"
        "folder = launchpad_dir()\n"
        "made = initialise(Path('fw'), 'mongodb://h/x', ScdmSettings(), force=False)\n"
        "assert {'env.sh', 'my_fworker.vasp.yaml', 'my_qadapter.yaml'} <= {p.name for p in made}\n"
        "print(scdm_flows.__file__, scdm_models.__file__, folder, load_config(folder / 'campaigns/quickstart.yaml').name)",
        tmp_path,
    )
    flows, models, folder, name = out.split()
    assert flows.startswith(str(installed))
    assert models.startswith(str(installed))
    assert folder == str(installed / "scdm_flows" / "_launchpad")
    assert name == "quickstart"


def test_wheel_finds_its_tables(installed: Path, tmp_path: Path) -> None:
    out = _python(
        installed,
        "from scdm_flows.thermo.table import ReferenceTable\n"
        "from scdm_flows.thermo.energy_model import load_energy_model_card\n"
        "from scdm_models.datasets.known import KnownLayers\n"
        "table = ReferenceTable.load()\n"
        "print(len(table.elements), table.sha256 == load_energy_model_card()['reference_sha256'], len(KnownLayers.load()))",
        tmp_path,
    )
    elements, same, layers = out.split()
    assert int(elements) == 65  # C2DB's 62, and La, Ce and Tc
    assert same == "True"  # the calibration belongs to this table
    assert int(layers) == 9943  # all entries of C2DB (4,030) and 2DMatPedia (5,914) but one bulk crystal


def test_an_installation_has_the_cards_and_writes_none_beside_itself(installed: Path, tmp_path: Path) -> None:
    out = _python(
        installed,
        "from click import UsageError\n"
        "from scdm_flows.cli.cards import cards\n"
        "from scdm_flows.report.cards import PHONONS, RESULTS, card\n"
        "print(card(PHONONS)['command'] + '|' + ' '.join(card(RESULTS)))\n"
        "try:\n"
        "    cards.main(['phonons', '--c2db', 'x', '--work', 'y'], standalone_mode=False)\n"
        "except UsageError as error:\n"
        "    print(error.format_message())",
        tmp_path,
    )
    cards, refused = out.splitlines()
    command, parts = cards.split("|")
    assert command.startswith("scdm cards phonons ")
    assert "reconstruction" in parts.split()
    assert refused.startswith("this is no checkout")
    assert refused.endswith("give a folder by --output")
    assert not (installed / "models").exists()
    assert not list(tmp_path.iterdir())


def test_command_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        assert "scdm = scdm_flows.cli:main" in archive.read(name).decode()


def test_versions_are_one() -> None:
    import scdm_flows
    import scdm_models

    assert scdm_flows.__version__ == scdm_models.__version__


def _locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), f"{line!r}: exact, public, no local path"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_lock_file_pins_every_dependency_within_its_range() -> None:
    locked = _locked()
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(t for group in extras.values() for t in group)]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name == "scdm-flows":
            continue
        assert name in locked, f"{text} is not in requirements.lock"
        assert requirement.specifier.contains(Version(locked[name]), prereleases=True), f"{text}: {locked[name]}"


def test_the_gpl_server_is_an_extra_only() -> None:
    assert not [d for d in PROJECT["dependencies"] if canonicalize_name(Requirement(d).name) == "secantusdb"]
    assert [Requirement(d).name for d in PROJECT["optional-dependencies"]["embedded"]] == ["secantusdb"]


def test_continuous_integration_runs_exactly_what_make_runs() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "make test",
        "make test-cluster",
        "make test-browser",
    ]
    assert os.access(script, os.X_OK)


def test_make_says_what_it_can_do() -> None:
    done = subprocess.run(
        ["make", "-s", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True, timeout=60
    )
    for target in ("quickstart", "test", "test-cluster", "test-docker", "lint", "bench", "results", "clean"):
        assert f"make {target}" in done.stdout


def test_make_results_is_the_command() -> None:
    words = ["make", "-n", "-C", str(ROOT), "results", "DATA=set.jsonl.gz"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert "scdm cards results --data set.jsonl.gz --work scdm-data/results" in done.stdout


def test_no_python_in_the_launchpad_folder() -> None:
    assert not list((ROOT / "launchpad").rglob("*.py"))
