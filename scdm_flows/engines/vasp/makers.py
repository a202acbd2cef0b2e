"""atomate2's VASP jobs as a campaign runs them: slabs only, fresh handlers, c held, failures in words.

What a worker decides (command, Gamma-only command, handlers) is decided when the job runs: a maker that lies in a
queue holds neither a path of the machine that submitted it nor handlers that count errors.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.vasp.flows.core import DoubleRelaxMaker
from atomate2.vasp.jobs.base import BaseVaspMaker, vasp_job
from atomate2.vasp.jobs.core import NonSCFMaker
from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.vasp.handlers import LargeSigmaHandler, WalltimeHandler
from jobflow.core.flow import Flow
from monty.io import zopen
from monty.os.path import zpath
from pymatgen.io.vasp.inputs import Kpoints

from scdm_flows.config import VaspEngineConfig, engine_now
from scdm_flows.config.settings import get_settings
from scdm_flows.engines.attempts import attempts
from scdm_flows.engines.vasp.checks import layer_problems
from scdm_flows.engines.vasp.continuing import FAIR_SECONDS, beginning
from scdm_flows.engines.vasp.disk import converged_by_itself, local_folder, needed, take_wave_functions, tidy
from scdm_flows.engines.vasp.inputs import BAND_GAP, SlabSetGenerator, as_begun, in_blocks, input_set
from scdm_flows.errors import EngineError, ProgramKilled, StructureError, Unfinished

if TYPE_CHECKING:
    from jobflow.core.job import Response
    from pymatgen.core.structure import Structure

MONITOR_SECONDS = 300.0  # how often custodian's monitors (frozen run, wall time) look, at most
WALLTIME_SHARE = 0.2  # of a short wall time is kept for stopping
OWN_SHARE = 0.3  # of the engine's own wall time is a fair try at an ionic step
WALLTIME_REACHED = "Walltime reached"  # custodian's name of it
KILLED, NOT_BEGUN, NOT_RELAXED = "VASP ended in the middle", "VASP did not begin", "the relaxation did not converge"
C_TOLERANCE_ANGSTROM = 1e-3
FORCE_SLACK = 1.1  # VASP judges its forces before they are rounded and drift is taken off
WALLTIME_START = "CUSTODIAN_WALLTIME_START"  # custodian counts from here, through all jobs of a process


def fresh_run_settings(
    walltime: float | None = None, *, relaxes: bool = False, noncollinear: bool = False
) -> dict[str, Any]:
    """Arguments of atomate2's ``run_vasp`` for one run on this machine.

    The handlers are new objects: atomate2's own are shared by all jobs of a process, and their error counts go from
    one job to the next. The same holds for the start of the wall time, which custodian keeps in the environment.

    walltime: seconds after which VASP is told to stop, after an ionic step where it relaxes, else at once;
    noncollinear: whether it needs the build for spin-orbit coupling.
    """
    settings = get_settings()
    poll, monitor = settings.vasp_poll_seconds, MONITOR_SECONDS
    # one that changes SIGMA would have forces of displaced cells, and energies of a hull, smeared each in its own way
    handlers: list[Any] = [type(h)() for h in DEFAULT_HANDLERS if not isinstance(h, LargeSigmaHandler)]
    if walltime is not None:
        os.environ.pop(WALLTIME_START, None)
        monitor = min(monitor, WALLTIME_SHARE * walltime)
        handlers.append(WalltimeHandler(walltime, buffer_time=monitor, electronic_step_stop=not relaxes))
    found: dict[str, Any] = {
        "handlers": handlers,
        "custodian_kwargs": {"polling_time_step": poll, "monitor_freq": max(1, round(monitor / poll))},
    }
    if noncollinear:
        if not settings.vasp_ncl_cmd:
            raise EngineError(
                "a run with spin-orbit coupling needs SCDM_VASP_NCL_CMD on this worker, and it is not set; set it to "
                "the command of VASP's noncollinear build, such as 'srun vasp_ncl'"
            )
        found["vasp_cmd"] = found["vasp_gamma_cmd"] = settings.vasp_ncl_cmd
    elif settings.vasp_cmd:  # else atomate2's own settings on the worker
        found["vasp_cmd"] = settings.vasp_cmd
        found["vasp_gamma_cmd"] = settings.vasp_gamma_cmd or settings.vasp_cmd
    return found


def run_slab(maker: Any, structure: Structure, run: Callable[[Any, Structure], Response[Any]]) -> Response[Any]:
    """Check the slab, run VASP through ``run``, check the result; every failure in words.

    A relaxation goes on from the last geometry of its earlier attempts.
    """
    slab = maker.min_vacuum is not None
    problems = layer_problems(structure, maker.min_vacuum) if slab else []
    if problems:
        raise StructureError("; ".join(problems))
    maker = _executed(maker)
    incar, known = maker.input_set_generator.config_dict["INCAR"], attempts()
    relaxes = incar.get("NSW", 0) > 0
    if maker.input_set_generator.stage.startswith("relax"):
        structure = as_begun(structure) if slab else in_blocks(structure)
    start = structure
    if relaxes:
        fair = min(FAIR_SECONDS, OWN_SHARE * (maker.walltime or FAIR_SECONDS / OWN_SHARE))
        begins = beginning(structure, known, incar["NSW"], fair, holds_c=slab)
        if begins.folder is not None:
            start = begins.structure
            known.went_on_from(begins.folder)
            take_wave_functions(begins.folder, Path.cwd())
    if maker.optcell is not None:
        Path("OPTCELL").write_text(maker.optcell + "\n")
    left = None if known.until is None else max(known.until - time.time(), 1.0)
    limit = min((t for t in (maker.walltime, left) if t is not None), default=None)
    of_worker = limit is not None and limit == left
    generator = maker.input_set_generator.copy_for(start)
    settings = fresh_run_settings(limit, relaxes=relaxes, noncollinear=generator.couples_spin)
    try:
        response = run(replace(maker, run_vasp_kwargs={**settings, **maker.run_vasp_kwargs}), start)
        if relaxes:
            _check_relaxation(response.output, structure, -float(incar["EDIFFG"]), holds_c=slab)
            relaxed, moments = response.output.structure, start.site_properties.get("magmom")
            if moments and not relaxed.site_properties.get("magmom"):  # a run without spin names none
                relaxed.add_site_property("magmom", moments)
        check_k_points(Path.cwd(), generator.kpoints)
        if generator.metal_sigma is not None:  # what follows is smeared by it
            response.output.structure.properties[BAND_GAP] = response.output.calcs_reversed[0].output.bandgap
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the machine's trouble, no candidate's
        folder, words = Path.cwd(), failure_in_words(error, Path.cwd())
        stopped = WALLTIME_REACHED in _corrections(folder)
        if (stopped and (relaxes or of_worker)) or (relaxes and NOT_RELAXED in words):
            raise Unfinished(words, of_worker=stopped and of_worker) from error
        if KILLED in words or NOT_BEGUN in words:  # of this machine, its modules or its memory
            raise ProgramKilled(words) from error
        raise EngineError(words) from error
    tidy(Path.cwd(), {*needed(incar), *maker.keep_files})
    for folder in known.folders if relaxes else ():
        tidy(folder, maker.keep_files)
    return response


def _executed(maker: Any) -> Any:
    """The maker with the execution settings that its campaign has now."""
    now = engine_now("vasp")
    if not isinstance(now, VaspEngineConfig):
        return maker
    limits = {**maker.run_vasp_kwargs, "max_errors": now.max_custodian_errors}
    return replace(maker, walltime=now.walltime_s, keep_files=now.keep_files, run_vasp_kwargs=limits)


def check_k_points(folder: Path, intended: Kpoints) -> None:
    """``EngineError`` where a run ended with other k-points than it began with, whose energies are not comparable.

    Of errors of the density's mixing (BRMIX) custodian's third remedy is another mesh.
    """
    final = Kpoints.from_file(zpath(str(folder / "KPOINTS")))
    one, other = (_mesh_in_words(points) for points in (intended, final))
    same = intended.style == final.style and np.shape(intended.kpts) == np.shape(final.kpts)
    one_shift, other_shift = (np.array(points.kpts_shift or (0, 0, 0)) for points in (intended, final))
    if not same or not np.allclose(intended.kpts, final.kpts, atol=1e-6) or not np.allclose(one_shift, other_shift):
        raise EngineError(
            f"the run was to have k-points {one} and ended with {other}, as custodian had changed them; energies of "
            "the two are not comparable: let the density settle otherwise (engine.incar, such as {static: {AMIX: 0.1, "
            "BMIX: 0.001}}), or leave the layer out"
        )


def _mesh_in_words(points: Kpoints) -> str:
    if points.num_kpts:
        return f"{points.num_kpts} one by one"
    return f"{points.style.name} {' '.join(f'{n:g}' for n in points.kpts[0])}"


def _check_relaxation(task: Any, before: Structure, fmax: float, *, holds_c: bool = True) -> None:
    """``EngineError`` where c moved, VASP stopped as it was told, or the forces are not what was asked for.

    The parsers call every relaxation with steps to spare converged, also one that a STOPCAR ended.
    """
    if WALLTIME_REACHED in _corrections(Path.cwd()) and not converged_by_itself(Path.cwd()):
        raise EngineError(f"the relaxation was stopped after {len(task.calcs_reversed[0].output.ionic_steps)} steps")
    after = task.structure.lattice.matrix
    moved = float(np.abs(after[2] - before.lattice.matrix[2]).max())
    if holds_c and moved > C_TOLERANCE_ANGSTROM:
        raise EngineError(
            f"c moved by {moved:.3f} angstrom though it was to be held: this VASP "
            f"({task.calcs_reversed[0].vasp_version}) does not know LATTICE_CONSTRAINTS or OPTCELL, use one that does"
        )
    largest = float(np.linalg.norm(np.array(task.output.forces, dtype=float), axis=1).max())
    if largest > FORCE_SLACK * fmax:
        raise EngineError(
            f"the relaxation ended with a largest force of {largest:.3g} eV/angstrom, {fmax:g} was asked for"
        )


def default_set(stage: str = "static") -> SlabSetGenerator:
    """The input of a stage by the default configuration."""
    return input_set(VaspEngineConfig(), stage)


@dataclass
class SlabMaker(BaseVaspMaker):
    """One VASP run of a layer; without arguments a static run as the default configuration has it.

    min_vacuum: angstrom, or None for a bulk crystal, whose cell is free; optcell: content of an OPTCELL file, for a
    VASP patched to read it; walltime: seconds; keep_files: large files that stay though no later run reads them.
    """

    name: str = "slab"
    input_set_generator: SlabSetGenerator = field(default_factory=default_set)
    min_vacuum: float | None = 10.0
    optcell: str | None = None
    walltime: int | None = None
    keep_files: tuple[str, ...] = ()

    @vasp_job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Response[Any]:
        """Run VASP on the layer; prev_dir: folder of a run to start from."""
        original: Any = BaseVaspMaker.make
        return run_slab(self, structure, lambda maker, start: original.original(maker, start, prev_dir))


@dataclass
class SlabBandsMaker(NonSCFMaker):
    """A run on a fixed charge density: uniform (density of states) or line (bands); see ``SlabMaker``."""

    name: str = "bands"
    input_set_generator: SlabSetGenerator = field(default_factory=lambda: default_set("uniform"))
    min_vacuum: float = 10.0
    optcell: str | None = None
    walltime: int | None = None
    keep_files: tuple[str, ...] = ()

    @vasp_job
    def make(self, structure: Structure, prev_dir: str | Path | None, mode: str = "uniform") -> Response[Any]:
        """Run VASP on the charge density in ``prev_dir``; mode: uniform or line."""
        folder = local_folder(str(prev_dir))
        if not list(folder.glob("CHGCAR*")):
            raise EngineError(
                f"the static run's CHGCAR is not in {folder} on this machine; keep all VASP runs of a candidate on one "
                "file system, or run the static stage again"
            )
        original: Any = NonSCFMaker.make
        return run_slab(self, structure, lambda maker, start: original.original(maker, start, prev_dir, mode))


@dataclass
class SlabDoubleRelaxMaker(DoubleRelaxMaker):
    """Two relaxations, the second tighter and on a new basis for the changed cell.

    Unlike atomate2's, the second starts from the first one's structure alone, so it may run on another machine.
    """

    name: str = "relax"
    relax_maker1: BaseVaspMaker | None = field(
        default_factory=lambda: SlabMaker(input_set_generator=default_set("relax_1"))
    )
    relax_maker2: BaseVaspMaker = field(default_factory=lambda: SlabMaker(input_set_generator=default_set("relax_2")))

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Flow:
        """A flow whose output is the second relaxation's."""
        makers: tuple[Any, Any] = (self.relax_maker1, self.relax_maker2)
        first = makers[0].make(structure)
        second = makers[1].make(first.output.structure)
        return Flow([first, second], output=second.output, name=self.name)


def failure_in_words(error: Exception, folder: Path) -> str:
    """Why a VASP run failed: the error, what custodian mended before, and what did not converge."""
    message = " ".join(str(error).split()) or type(error).__name__
    if "Validator" in message:
        if not any(folder.glob("OUTCAR*")):
            message = f"{NOT_BEGUN}: are its command (SCDM_VASP_CMD), modules and libraries right here? ({message})"
        else:
            message = f"{KILLED}: killed (memory, queue), or a full disk ({message})"
    corrections = _corrections(folder)
    parts = [message[:400] if isinstance(error, EngineError) else _unconverged(folder) or message[:400]]
    if corrections.pop(WALLTIME_REACHED, 0):
        parts.insert(0, "the wall time was over and VASP was told to stop (engine.walltime_s, or the worker's)")
    words = _last_words(folder)
    if words:
        parts.append(f"its last words: {words!r}")
    if corrections:
        mended = [name if times == 1 else f"{name} ({times} times)" for name, times in corrections.items()]
        parts.append(f"custodian had mended {', '.join(mended)}")
    parts.append(f"the run is in {folder}")
    return "; ".join(parts)


def _last_words(folder: Path) -> str:
    """The last line that VASP wrote to standard error or, without one, to standard output."""
    for name in ("std_err.txt", "vasp.out"):
        try:
            lines = (folder / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        line = next((text.strip() for text in reversed(lines) if any(c.isalpha() for c in text)), "")
        if line:
            return line[:200]
    return ""


def _corrections(folder: Path) -> dict[str, int]:
    """Error that custodian found -> how often, in order."""
    found: dict[str, int] = {}
    for path in (folder / "custodian.json", folder / "custodian.json.gz"):
        if not path.is_file():
            continue
        try:
            with zopen(path, "rt") as handle:
                jobs = json.load(handle)
        except (OSError, ValueError):
            return {}
        for job in jobs:
            for correction in job.get("corrections") or []:
                for name in correction.get("errors") or []:
                    found[str(name)] = found.get(str(name), 0) + 1
    return found


def _unconverged(folder: Path) -> str | None:
    """What did not converge in a run that ended; None where that is not what failed."""
    from pymatgen.io.vasp.outputs import Vasprun

    path = next((p for p in (folder / "vasprun.xml", folder / "vasprun.xml.gz") if p.is_file()), None)
    if path is None:
        return None
    try:
        run = Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        electronic, ionic = run.converged_electronic, run.converged_ionic
    except Exception:
        return None
    if not electronic:
        return f"the electronic steps did not converge in {run.parameters.get('NELM')} (max_electronic_steps)"
    if not ionic:
        steps, most = len(run.ionic_steps), run.parameters.get("NSW")
        return f"{NOT_RELAXED}: {steps} of at most {most} ionic steps (max_relax_steps)"
    return None
