"""``scdm doctor``: what is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from scdm_flows.cli.common import JSON, USAGE, echo_json, table

MIN_FREE_GB = 0.5  # a quickstart leaves about 0.1 GB


class Missing(Exception):
    """Something is not there: what was found, and how to get it."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail, self.remedy = detail, remedy


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, whether the quickstart needs it, whether it is in order, and what to do
    if not.
    """

    what: str
    needed: bool
    ok: bool
    detail: str
    remedy: str | None = None


def _python() -> str:
    return sys.version.split()[0]


def _package(module: str, distribution: str, install: str) -> Callable[[], str]:
    def check() -> str:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise Missing(f"cannot be imported: {error}", install) from None
        return version(distribution)

    return check


def _secantus() -> str:
    # looked for, never imported: it is GPL-2.0 and only ever a process of its own
    if importlib.util.find_spec("secantus") is None:
        raise Missing("not installed", "pip install 'scdm-flows[embedded]', or set SCDM_MONGO_URI to a MongoDB server")
    return version("secantusdb")


def _checkpoint() -> str:
    from scdm_models.model.checkpoint import load_checkpoint

    loaded = load_checkpoint()
    return f"{loaded.model_id}, trained on {loaded.card.get('n_training', '?')} layers"


def _force_fields() -> str:
    from scdm_flows.config.engines import CHGNETS, SEVENNETS
    from scdm_flows.engines.forcefield.potentials import missing

    _missing(missing(CHGNETS[0]))
    others = [name for name in (*CHGNETS[1:], *SEVENNETS) if missing(name) is None]
    return f"{CHGNETS[0]} (the default), {', '.join(others)}; more by atomate2 and ASE"


def _known_layers() -> str:
    from scdm_flows.stores.known_sets import known_layers

    known = known_layers()
    return f"{len(known)}: " + ", ".join(f"{n} of {source}" for source, n in known.sources.items())


def _references() -> str:
    from scdm_flows.thermo.table import ReferenceTable

    reference = ReferenceTable.load()
    kind = " (surrogate)" if reference.surrogate else ""
    phases = sum(reference.header["counts"].values())
    return f"{reference.scheme}{kind}, {phases} phases of {len(reference.elements)} elements"


def _energy_model() -> str:
    from scdm_flows.engines.forcefield.potentials import missing
    from scdm_flows.thermo.energy_model import load_energy_model_card
    from scdm_flows.thermo.table import ReferenceTable

    header = load_energy_model_card()
    if header["reference_sha256"] != ReferenceTable.load().sha256:
        raise Missing(
            f"{header['id']} was fitted with another reference table",
            "fit it again with `scdm refs fit`, or reinstall",
        )
    for name in header["features"]:
        _missing(missing(name))
    return f"{header['id']}, mean error {header['e_above_hull']['mae']:.3f} eV/atom on left-out layers"


def _data_folder() -> str:
    from scdm_flows.config.settings import get_settings

    folder = get_settings().data_dir.absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise Missing(f"{existing} cannot be written", "set SCDM_DATA_DIR to a folder that can")
    free = shutil.disk_usage(existing).free / 1e9
    if free < MIN_FREE_GB:
        raise Missing(
            f"{folder}: {free:.2f} GB free, {MIN_FREE_GB:g} GB are needed",
            "free some space, or set SCDM_DATA_DIR to a folder on another disk",
        )
    return f"{folder}, {free:.0f} GB free"


def _database() -> str:
    from scdm_flows.config.settings import get_settings, masked

    settings = get_settings()
    if settings.mongo_uri is not None:
        from scdm_flows.stores.database import connect

        connect(settings, indexes=False).close()
        return f"{masked(settings.mongo_uri)} answers"
    from scdm_flows.stores.embedded import EmbeddedServer

    server = EmbeddedServer(settings.data_dir, settings.explicit_port)
    status = server.status()
    if status.running:
        return f"embedded, running on port {status.port}"
    from scdm_flows.stores.process import port_problem

    problem = None if settings.explicit_port is None else port_problem(settings.explicit_port)
    if problem is not None:
        raise Missing(f"port {settings.explicit_port} {problem}", "set SCDM_PORT to a free port, or unset it")
    return "embedded, started when it is needed"


def _indexes() -> str:
    """Looked at where the server runs already; nothing is started and nothing is made."""
    from scdm_flows.config.settings import get_settings
    from scdm_flows.stores.database import connect
    from scdm_flows.stores.embedded import EmbeddedServer
    from scdm_flows.stores.indexes import index_problems, wanted

    settings = get_settings()
    if settings.mongo_uri is None and not EmbeddedServer(settings.data_dir, settings.explicit_port).status().running:
        return "made when the database is used"
    with connect(settings, indexes=False) as database:
        problems = index_problems(database)
        n = len(wanted(database))
        new = database.mongo["campaigns"].find_one({}) is None
    if problems and not new:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise Missing("; ".join(t.detail for t in problems[:3]) + more, problems[0].remedy)
    return f"{n}" + (", made when the database is used" if problems else "")


def _launchpad() -> str:
    from scdm_flows.cli.launchpad import launchpad_dir

    return str(launchpad_dir())


def _missing(problem: str | None) -> None:
    """Raise ``Missing`` for a problem in words, "what; remedy"."""
    if problem is not None:
        detail, _, remedy = problem.partition("; ")
        raise Missing(detail, remedy)


def _vasp() -> str:
    from scdm_flows.config.settings import get_settings
    from scdm_flows.engines.vasp.checks import command_problem

    _missing(command_problem())
    return str(get_settings().vasp_cmd)


def _gpaw() -> str:
    from scdm_flows.engines.gpaw.process import describe, interpreter, problem

    _missing(problem())
    found = describe()
    slow = "" if found.get("native", True) else ", without BLAS: half as quick as it could be (docs/howto.md)"
    return f"{found['version']}, setups of {len(found['elements'])} elements, in {interpreter()}{slow}"


def _vasp_version() -> str:
    from scdm_flows.config.settings import get_settings
    from scdm_flows.engines.vasp.checks import version_problem

    _missing(version_problem())
    return str(get_settings().vasp_version)


def _potcars() -> str:
    from scdm_flows.config import VaspEngineConfig
    from scdm_flows.engines.vasp.checks import potcar_folder, potcar_problems, potcar_symbols

    folder, problem = potcar_folder()
    _missing(problem)
    config = VaspEngineConfig()
    lacking = [e for e in potcar_symbols(config) if potcar_problems(config, [e])]
    if lacking:
        few = ", ".join(lacking[:20]) + (f" and {len(lacking) - 20} more" if len(lacking) > 20 else "")
        raise Missing(
            f"{folder} has no {config.potcar_functional} POTCAR for {few}",
            "add them, or name others in a campaign's engine.potcar_functional and engine.potcar_symbols",
        )
    return str(folder)


def checks() -> list[tuple[str, bool, Callable[[], str]]]:
    """(what, needed by the quickstart, check) of every row; a check returns what it found or raises."""
    from scdm_flows.config.settings import get_settings

    embedded = get_settings().mongo_uri is None
    return [
        ("Python", True, _python),
        ("torch", True, _package("torch", "torch", "pip install torch==2.13.0")),
        ("CHGNet", True, _package("chgnet", "chgnet", "pip install chgnet==0.4.2")),
        ("SevenNet", False, _package("sevenn", "sevenn", "pip install sevenn==0.13.0")),
        ("force fields", True, _force_fields),
        ("atomate2", True, _package("atomate2", "atomate2", "pip install 'atomate2[ase,phonons]==0.1.5'")),
        ("phonopy", True, _package("phonopy", "phonopy", "pip install 'phonopy<4'")),
        ("checkpoint", True, _checkpoint),
        ("known layers (novelty)", True, _known_layers),
        ("reference phases (hull)", True, _references),
        ("energy model (E_hull)", True, _energy_model),
        ("data folder", True, _data_folder),
        ("SecantusDB (embedded database)", embedded, _secantus),
        ("database", True, _database),
        ("database indexes", False, _indexes),
        ("FireWorks", False, _package("fireworks", "fireworks", "pip install 'fireworks>=2.1.3,<3'")),
        ("FireWorks configuration", False, _launchpad),
        ("rocrate (campaign export)", False, _package("rocrate", "rocrate", "pip install 'rocrate>=0.16,<0.17'")),
        ("GPAW (DFT)", False, _gpaw),
        ("VASP", False, _vasp),
        ("VASP holds c (LATTICE_CONSTRAINTS)", False, _vasp_version),
        ("POTCAR files", False, _potcars),
    ]


def _initialise(folder: Path, *, force: bool, as_json: bool) -> None:
    """Write the FireWorks folder and say how to use it."""
    from scdm_flows.cli.launchpad import NEW, PRIVATE, initialise
    from scdm_flows.config.settings import get_settings
    from scdm_flows.execution.fireworks import launchpad_of
    from scdm_flows.stores.database import connect

    settings = get_settings()
    with connect(settings) as database:  # a folder for a database that cannot be reached would be of no use
        launchpad_of(database)
        assert database.uri is not None
        files = initialise(folder, database.uri, settings, force=force)
    if as_json:
        told = {"folder": str(folder.absolute()), "files": [str(file) for file in files]}
        echo_json({**told, "left": [str(file.with_suffix("")) for file in files if file.suffix == NEW]})
        return
    click.echo(f"wrote {len(files)} files to {folder}; only you can read {', '.join(PRIVATE)}")
    left = [f"{file.stem} ({file.name})" for file in files if file.suffix == NEW]
    if left:
        click.echo(
            f"what differs is left as it is, with what is new beside it: {', '.join(left)}; "
            "compare, and take over what you need"
        )
    click.echo(f"work here: scdm worker -c {folder}, or rlaunch -c {folder} rapidfire")
    click.echo(f"through a queue: edit {folder}/my_qadapter*.yaml, then qlaunch -c {folder} rapidfire")


def examine() -> list[Finding]:
    """Every check's finding; a broken installation can fail in any way, and each failure is a row."""
    findings = []
    for what, needed, check in checks():
        try:
            findings.append(Finding(what, needed, True, check()))
        except Missing as missing:
            findings.append(Finding(what, needed, False, missing.detail, missing.remedy))
        except Exception as error:
            detail, _, remedy = (str(error) or type(error).__name__).partition("; ")
            findings.append(Finding(what, needed, False, detail.splitlines()[0], remedy or None))
    return findings


@click.command()
@click.option(
    "--init",
    "folder",
    type=click.Path(path_type=Path),
    help="Write a FireWorks folder for the settings' database: for rlaunch -c, qlaunch -c, lpad -c.",
)
@click.option("--force", is_flag=True, help="With --init: write an existing folder anew; what was edited in it stays.")
@JSON
def doctor(folder: Path | None, force: bool, as_json: bool) -> None:
    """What is there, what is missing, and how to get it.

    Exit code 0 if `scdm quickstart` can run, 2 if it cannot. With --init, 0 if the folder is written.
    """
    if folder is not None:
        _initialise(folder, force=force, as_json=as_json)
        return
    findings = examine()
    ready = all(f.ok for f in findings if f.needed)
    if as_json:
        echo_json({"ready": ready, "checks": [asdict(f) for f in findings]})
    else:
        state = {
            (True, True): "ok",
            (True, False): "MISSING",
            (False, True): "ok",
            (False, False): "optional",
        }
        rows = [[f.what, state[f.needed, f.ok], f.detail, f.remedy or ""] for f in findings]
        table("scdm doctor", ["what", "state", "found", "how to get it"], rows)
        click.echo("the quickstart can run" if ready else "the quickstart cannot run yet: mend what is MISSING")
    if not ready:
        raise click.exceptions.Exit(USAGE)
