"""``scdm campaign inputs``: the files that VASP would read; and what a campaign costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scdm_flows.cli.common import FORCE, JSON, database, echo_json, table
from scdm_flows.cli.files import check_output, make_folder, output_file
from scdm_flows.errors import ConfigError, StoreError, StructureError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.campaigns.estimate import Fit
    from scdm_flows.config import CampaignConfig
    from scdm_flows.documents import StageName

YAML_SUFFIXES = (".yaml", ".yml")
MOST_ESTIMATED = 50  # known layers whose cost is worked out one by one; the mean stands for the others
TYPICAL_ATOMS = (3, 6, 12)


@click.command()
@click.argument("file_or_id")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--settings", type=click.Path(path_type=Path), help="Campaign file whose engine settings to use.")
@FORCE
@JSON
def inputs(file_or_id: str, out: Path, settings: Path | None, force: bool, as_json: bool) -> None:
    """Write the INCAR, KPOINTS, POSCAR and POTCAR of every stage, to be read before a node hour is spent.

    FILE_OR_ID is a file of structures, a campaign file whose generator reads files, or a candidate's id. Neither VASP
    nor POTCARs are needed: without them POTCAR.spec names the potentials.
    """
    from scdm_flows.analysis.screening import prepared
    from scdm_flows.config import CampaignConfig, VaspEngineConfig, load_config
    from scdm_flows.engines import engine_of

    config, layers, given = _layers(file_or_id)
    if not layers:
        raise StructureError(f"{file_or_id} holds no structure that can be read; `scdm screen` tells why")
    if settings is not None:
        config = load_config(settings)
    if config is None:
        config = CampaignConfig(name="inputs", engine=VaspEngineConfig())
    engine = engine_of(config.engine)
    folders = [out] if len(layers) == 1 else [out / name for name in _folder_names([name for name, _ in layers])]
    written: dict[str, list[str]] = {}
    texts: dict[Path, str] = {}
    once: dict[str, str] = {}  # POTCARs are large, and the same in all runs of a layer
    for folder, (name, structure) in zip(folders, layers, strict=True):
        structure = prepared(config, structure) if given else structure
        problems = engine.layer_problems(structure)
        if problems:
            raise StructureError(f"{name}: {'; '.join(problems)}")
        files = engine.input_files(structure)
        if not files:
            raise ConfigError(
                f"the {config.engine.kind} engine reads no input files; give --settings FILE of a campaign with the "
                "vasp engine"
            )
        texts |= {folder / run / file: once.setdefault(t, t) for run, made in files.items() for file, t in made.items()}
        written[str(folder)] = [run for run in files if run]
    parents = sorted({path.parent for path in texts})
    for path in texts:  # all of them before the first is written
        if path.parent.is_dir():
            check_output(path, force=force)
    for parent in parents:
        make_folder(parent)
    for path, text in texts.items():
        with output_file(path, force=force) as handle:
            handle.write(text)
    if as_json:
        echo_json(written)
        return
    for folder_name, runs in written.items():
        click.echo(f"wrote {len(runs)} runs to {folder_name}: {', '.join(runs)}")


def _layers(file_or_id: str) -> tuple[CampaignConfig | None, list[tuple[str, Structure]], bool]:
    """The configuration, where one belongs to it; (name, structure); whether those are as a user gave them."""
    from pymatgen.core.structure import Structure

    from scdm_flows.config import FilesGeneratorConfig, load_config, stored_config
    from scdm_flows.engines import engine_of
    from scdm_flows.generators import GENERATORS
    from scdm_flows.query import CandidateDB

    path = Path(file_or_id)
    if path.suffix.lower() in YAML_SUFFIXES:
        config = load_config(path)
        layers = list(GENERATORS[config.generator.kind].given(config.generator))
        if not layers:
            raise ConfigError(
                f"{path}: its generator ({config.generator.kind}) makes structures later; give a structure file or "
                "the id of a candidate"
            )
        return config, layers, True
    if path.exists():
        return None, list(GENERATORS["files"].given(FilesGeneratorConfig(paths=(str(path),)))), True
    if path.suffix or "/" in file_or_id:
        raise ConfigError(f"{file_or_id} does not exist; give a structure file, a campaign file or a candidate's id")
    with database(create=False) as connected:
        query = CandidateDB(connected)
        document = query.get(file_or_id)
        stored = stored_config(query.campaign(document.campaign).config, origin=f"campaign {document.campaign}")
    structure = Structure.from_dict(document.relaxed_structure or document.structure)
    reads_files = bool(engine_of(stored.engine).input_files(structure))
    return stored if reads_files else None, [(file_or_id, structure)], False


def _folder_names(ids: Sequence[str]) -> list[str]:
    """A folder name of each structure's id: the whole id in safe characters.

    Raises
    ------
    StructureError
        If two would be the same.
    """
    names = ["".join(c if c.isalnum() or c in "-_." else "_" for c in one).strip(".") or "structure" for one in ids]
    first: dict[str, str] = {}
    for one, name in zip(ids, names, strict=True):
        if name.casefold() in first:  # there are file systems that do not tell cases apart
            raise StructureError(
                f"the layers {first[name.casefold()]!r} and {one!r} would both be written to the folder {name}; "
                "give the folder that both files are in, rename one of them, or give them one at a time"
            )
        first[name.casefold()] = one
    return names


def known_fits(config: CampaignConfig) -> dict[StageName, Fit]:
    """What the database, where there is one, says of finished jobs of the campaign's kind of engine."""
    from scdm_flows.campaigns.estimate import fits
    from scdm_flows.stores.database import connect

    try:
        with connect(create=False, indexes=False) as connected:
            return fits(connected, config)
    except StoreError:
        return {}


def costs(config: CampaignConfig, known: Mapping[StageName, Fit]) -> list[dict[str, Any]]:
    """Estimated cost of each known layer, or of typical ones; empty for an engine that costs next to nothing.

    known: fits to finished jobs, by stage.
    """
    from scdm_flows.analysis.screening import prepared
    from scdm_flows.campaigns.estimate import estimate, in_node_hours
    from scdm_flows.generators import GENERATORS
    from scdm_models.errors import ScdmError

    found: list[dict[str, Any]] = []

    def add(name: str, atoms: int, is_known: bool, layer: Structure | None) -> None:
        runs = estimate(config, layer, atoms)
        if not runs:
            return
        fitted = in_node_hours(runs, known)
        one = {
            "name": name,
            "atoms": atoms,
            "known": is_known,
            "core_hours": float(f"{sum(run.core_hours for run in runs):.2g}"),
            "node_hours": None if fitted is None else float(f"{fitted[0]:.2g}"),
            "factor": None if fitted is None else float(f"{fitted[1]:.2g}"),
            "stages": [vars(run) for run in runs],
        }
        found.append(one)

    for number, (name, structure) in enumerate(GENERATORS[config.generator.kind].given(config.generator)):
        if number == MOST_ESTIMATED:
            break
        try:
            add(name, len(structure), True, prepared(config, structure))
        except ScdmError:
            continue  # the screen will reject it
    if not found:
        for atoms in TYPICAL_ATOMS:
            add(f"a layer of {atoms} atoms", atoms, False, None)
    return found


def show_costs(
    estimates: list[dict[str, Any]], config: CampaignConfig, total: int, known: Mapping[StageName, Fit]
) -> None:
    """The estimates as a table, and what ``total`` layers cost."""
    from scdm_flows.campaigns.estimate import MODEL_FACTOR, PARTS
    from scdm_flows.documents import StageName

    if not estimates:
        return
    rows = [
        [e["name"], s["stage"], s["runs"], s["atoms"], s["k_points"], s["bands"], s["core_hours"]]
        for e in estimates
        for s in e["stages"]
    ]
    title = f"Estimated cost (good to a factor of {MODEL_FACTOR:g}; every energy within the gates)"
    table(title, ["layer", "stage", "runs", "atoms", "k-points", "bands", "core hours"], rows)
    for stage, one in known.items():
        click.echo(
            f"{stage.value}: {one.jobs} finished jobs took {one.node_hours_per_core_hour:.2g} node hours for each "
            f"estimated core hour, 95 % of them within a factor of {one.factor:.2g}"
        )
    most = dict.fromkeys(StageName, total)
    if config.budget.phonons is not None:
        most[StageName.PHONON] = min(total, config.budget.phonons.best)
    mean = sum(e["core_hours"] for e in estimates) / len(estimates)
    runs = [(PARTS.get(s["stage"]) or StageName(s["stage"]), s["core_hours"]) for e in estimates for s in e["stages"]]
    whole = sum(hours * most[stage] for stage, hours in runs) / len(estimates)
    if estimates[0]["known"]:
        phonons = f" (phonons of {config.budget.phonons.best})" if config.budget.phonons is not None else ""
        click.echo(f"{mean:.2g} core hours a layer, {whole:.2g} for {total} that pass every gate{phonons}")
        fitted = [e for e in estimates if e["node_hours"] is not None]
        if len(fitted) == len(estimates):
            hours = sum(core * most[stage] * known[stage].node_hours_per_core_hour for stage, core in runs) / len(
                estimates
            )
            factor = max(e["factor"] for e in fitted)
            click.echo(f"by finished jobs {hours:.2g} node hours, each layer's to a factor of {factor:.2g}")
    else:
        click.echo("structures are made later: layers without symmetry are shown, an upper bound for their size")
