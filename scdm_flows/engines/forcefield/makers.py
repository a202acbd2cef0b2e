"""atomate2's makers for force fields, driven by our relaxer: the same jobs and documents from common batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2 import SETTINGS
from atomate2.ase.schemas import AseResult
from atomate2.forcefields.jobs import ForceFieldRelaxMaker, ForceFieldStaticMaker
from jobflow.core.job import Job
from jobflow.core.maker import Maker
from pymatgen.core import Structure

from scdm_flows.config import CampaignConfig, ForceFieldEngineConfig
from scdm_flows.engines.forcefield.potentials import force_field
from scdm_flows.engines.forcefield.relaxation import IN_PLANE, SYMPREC_ANGSTROM, RelaxSettings, Run, relaxing
from scdm_flows.engines.jobs import phonon
from scdm_flows.errors import EngineError

if TYPE_CHECKING:
    from pymatgen.core import Molecule


def settings_of(config: ForceFieldEngineConfig) -> RelaxSettings:
    """How the layers of a campaign are relaxed."""
    return RelaxSettings(
        config.fmax_ev_per_angstrom,
        config.max_relax_steps,
        config.fix_symmetry,
        history=True,
        force_field=config.force_field,
        options=config.force_field_options,
    )


class _Named:
    """For atomate2's makers: ``force_field_name`` is any name of ``forcefields``, and documents say it.

    ``calculator_kwargs`` are its options.
    """

    force_field_name: Any
    calculator_meta: Any
    calculator_kwargs: dict[str, Any]
    task_document_kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        name = str(self.force_field_name)
        if name.startswith("MLFF."):  # a job that was queued when there was CHGNet alone
            name, self.calculator_kwargs = name.removeprefix("MLFF."), {}
        self.force_field_name, self.calculator_meta = "Forcefield", None  # atomate2's placeholder for one it lacks
        super().__post_init__()  # type: ignore[misc]
        self.force_field_name, self.calculator_meta = name, None
        self.task_document_kwargs["force_field_name"] = name

    @property
    def ase_calculator_name(self) -> str:
        """What documents call the force field."""
        return str(self.force_field_name)


@dataclass
class LayerRelaxMaker(_Named, ForceFieldRelaxMaker):
    """``ForceFieldRelaxMaker`` whose relaxer is ``relaxation.relaxing``.

    ended: the run of the layer, where it was relaxed before together with others; only in this process, never stored.
    """

    ended: Run | None = None

    def run_ase(self, mol_or_struct: Structure | Molecule, prev_dir: Any = None) -> AseResult:
        """Relax a layer, or take what was relaxed before; ``EngineError`` where that failed. prev_dir: not used."""
        self.calculator_meta = force_field(self.force_field_name, self.calculator_kwargs).program
        settings = RelaxSettings(
            self.relax_kwargs["fmax"],
            self.steps,
            self.fix_symmetry,
            history=True,
            force_field=self.force_field_name,
            options=self.calculator_kwargs,
        )
        run = self.ended
        if run is None:
            ((_, run),) = relaxing([_layer(mol_or_struct)], settings)
        return _result(run, run.converged, settings.fmax)


@dataclass
class LayerStaticMaker(_Named, ForceFieldStaticMaker):
    """``ForceFieldStaticMaker`` with the force field in memory."""

    def run_ase(self, mol_or_struct: Structure | Molecule, prev_dir: Any = None) -> AseResult:
        """Energy, forces and stress of a layer as it is. prev_dir: not used."""
        self.calculator_meta = force_field(self.force_field_name, self.calculator_kwargs).program
        settings = RelaxSettings(
            np.inf, 0, history=True, force_field=self.force_field_name, options=self.calculator_kwargs
        )
        ((_, run),) = relaxing([_layer(mol_or_struct)], settings)
        return _result(run, True, np.inf)


@dataclass
class LayerPhononMaker(Maker):
    """Phonons of a relaxed layer, all in one job."""

    name: str = "phonon"

    def make(self, structure: Structure, config: CampaignConfig, candidate_id: str) -> Job:
        """The job; its output is a ``PhononDoc``."""
        made: Job = phonon(config.model_dump(mode="json"), candidate_id, structure)
        return made


def relax_maker(config: ForceFieldEngineConfig, ended: Run | None = None) -> LayerRelaxMaker:
    """The relaxation of a campaign: atoms and the in-plane cell; ended: see ``LayerRelaxMaker``."""
    return LayerRelaxMaker(
        ended=ended,
        name="relax",
        force_field_name=config.force_field,
        relax_cell=True,
        fix_symmetry=config.fix_symmetry,
        symprec=SYMPREC_ANGSTROM,
        steps=config.max_relax_steps,
        relax_kwargs={
            "fmax": config.fmax_ev_per_angstrom,
            "cell_filter": "UnitCellFilter",
            "filter_kwargs": {"mask": IN_PLANE},
        },
        optimizer_kwargs={"optimizer": "BFGS"},
        calculator_kwargs=dict(config.force_field_options),
        ionic_step_data=("energy",),
    )


def static_maker(config: ForceFieldEngineConfig) -> LayerStaticMaker:
    """The static run of a campaign."""
    return LayerStaticMaker(
        name="static",
        force_field_name=config.force_field,
        calculator_kwargs=dict(config.force_field_options),
        ionic_step_data=("energy",),
    )


def _layer(given: Structure | Molecule) -> Structure:
    if not isinstance(given, Structure):
        raise EngineError(f"a {type(given).__name__} is no layer; give a pymatgen Structure")
    return given


def _result(run: Run, converged: bool, fmax: float) -> AseResult:
    """What atomate2's relaxer would return. fmax: eV/angstrom."""
    if run.error is not None:
        raise EngineError(run.error)
    history = run.history
    assert history is not None
    emmet = SETTINGS.ASE_FORCEFIELD_USE_EMMET_MODELS
    return AseResult(
        final_mol_or_struct=run.relaxed(),
        trajectory=history.to_emmet_trajectory() if emmet else history.to_pymatgen_trajectory(filename=None),
        converged=converged,
        is_force_converged=bool(np.linalg.norm(history.forces[-1], axis=1).max() < fmax),
        energy_downhill=history.energies[-1] < history.energies[0],
        dir_name=str(Path.cwd()),
        elapsed_time=run.seconds,
    )
