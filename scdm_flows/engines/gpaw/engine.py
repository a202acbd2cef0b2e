"""The GPAW engine: PBE with plane waves and PAW for layers, without a licence, on C2DB's energy scale.

GPAW is GPL: it runs as a process (``process``, ``runner.py``) that is asked and answers in JSON, and is never imported.
Relaxation in the plane with c held, a static run, bands and density of states with spin-orbit coupling, forces of
displaced 2 x 2 supercells and the stiffness tensor, which together are C2DB's criteria of dynamic stability. Presets
are in ``presets``, what it costs in ``cost``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.analysis.bands import is_magnetic
from scdm_flows.analysis.magnetism import lowest
from scdm_flows.config import GpawEngineConfig
from scdm_flows.documents.bands import GapKind
from scdm_flows.documents.static import StaticSummary
from scdm_flows.engines.base import (
    Ahead,
    PackagedReferences,
    StageCost,
    layer_phonopy,
    supercell_of,
    with_moments_of,
)
from scdm_flows.engines.gpaw import process
from scdm_flows.engines.gpaw.presets import SCHEME, lacking, missing_offsets, on_scale, read_offsets
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.thermo.table import ReferenceTable

if TYPE_CHECKING:
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure


class GpawEngine(PackagedReferences):
    """GPAW in a process of its own."""

    scheme = SCHEME
    static_scheme = SCHEME
    surrogate = False
    category = "gpaw"
    keeps_runs = True
    cannot: Mapping[str, str] = {}

    def __init__(self, config: GpawEngineConfig) -> None:
        self.config = config

    def check(self) -> list[str]:
        """What is missing to run."""
        problems = [process.problem()]
        if self.config.offsets is not None:
            try:
                read_offsets(self.config.offsets)
            except ReferenceDataError as error:
                problems.append(str(error))
        return [problem for problem in problems if problem is not None]

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Why some elements cannot be computed: no setup, no offset, no reference energy."""
        problems = []
        try:
            without = sorted(set(elements) - set(process.describe()["elements"]))
            if without:
                problems.append(
                    f"GPAW has no PBE setup of {', '.join(without)}; leave the elements out (generator.elements)"
                )
        except EngineError:
            pass  # said by check
        try:
            missing = lacking(self.config.preset, elements, self.config.offsets)
            if missing:
                problems.append(missing_offsets(self.config.preset, missing))
            self.references().entries(list(elements))
        except ReferenceDataError as error:
            problems.append(str(error))
        return problems

    def check_settings(self, elements: Sequence[str]) -> list[str]:
        """Nothing: moments of elements that no layer has do no harm."""
        return []

    def layer_problems(self, structure: Structure) -> list[str]:
        """Why a layer cannot be computed: too many atoms, or an element."""
        problems = []
        if len(structure) > self.config.max_atoms:
            hours = sum(cost.core_hours for cost in self.cost(structure))
            problems.append(
                f"{len(structure)} atoms, at most {self.config.max_atoms} are computed (engine.max_atoms); this layer "
                f"would take about {hours:.2g} core hours, raise the limit if that is meant"
            )
        return problems + self.check_elements([str(e) for e in structure.composition])

    def time_problems(self, structure: Structure) -> list[str]:
        """Nothing that is known beforehand."""
        return []

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """See ``cost``."""
        from scdm_flows.engines.gpaw.cost import cost
        from scdm_flows.engines.vasp.cost import typical_layer

        layer = typical_layer(n_atoms) if structure is None else structure
        return cost(layer, self.config, self.displaced(layer)[1])

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """The runner's input of every run."""
        import json

        from scdm_flows.engines.gpaw import inputs

        supercells = self.displaced(structure)[1]
        tasks = {
            "relax": inputs.relax_task(self.config, structure),
            "static": inputs.static_task(self.config, structure),
            "bands": inputs.bands_task(self.config, structure),
            "stiffness": inputs.stiffness_task(self.config, structure),
        }
        for number, order in enumerate(inputs.orders_ahead(self.config, structure), 1):
            tasks[f"static_order_{number}"] = inputs.order_task(self.config, order, structure)
        dipole = bool(tasks["static"]["dipole"])
        tasks["phonon_undisplaced"] = inputs.forces_task(self.config, self.at_rest(structure), dipole=dipole)
        width = len(str(len(supercells)))
        for number, supercell in enumerate(supercells, 1):
            tasks[f"phonon_{number:0{width}d}"] = inputs.forces_task(self.config, supercell, dipole=dipole)
        return {run: {process.INPUT: json.dumps(task, indent=1) + "\n"} for run, task in tasks.items()}

    def no_bands_to_come(self, static: StaticSummary) -> None:
        """Nothing: no large files are left."""

    def references(self) -> ReferenceTable:
        """The packaged phases: they are on C2DB's scale, as this engine's energies are brought to it."""
        return replace(ReferenceTable.load(), scheme=self.scheme)

    def predicted(self, structure: Structure) -> None:
        """Nothing: the static energy is on the references' scale."""

    def relax_maker(self) -> Maker:
        """Atoms and the in-plane cell."""
        from scdm_flows.engines.gpaw.makers import GpawRelaxMaker

        return GpawRelaxMaker(engine=self.config)

    def relax_ahead(self, structures: Sequence[Structure]) -> Iterator[Ahead]:
        """Nothing ahead: each run of GPAW is its own."""
        return (Ahead(index, self.relax_maker()) for index in range(len(structures)))

    def static_maker(self) -> Maker:
        """A single point that keeps its density for the bands; of other magnetic orders besides where asked."""
        from scdm_flows.engines.gpaw.makers import GpawStaticMaker

        return GpawStaticMaker(engine=self.config)

    def static_summary(self, task: Any) -> StaticSummary:
        """From the document of the static run and of other orders; energies are brought to C2DB's scale."""
        own = self._summary(task, task)
        if "afm" not in self.config.magnetism.orderings:
            return own
        return lowest(own, [self._summary(order, task) for order in task.orders], task.failed_orders)

    def _summary(self, task: Any, own: Any) -> StaticSummary:
        """Of one order. own: the document of the layer's own cell, whose extra energies correct the cut-off of all."""
        structure, n = task.structure, len(own.structure)
        fractions = {str(e): float(x) for e, x in structure.composition.fractional_composition.items()}
        preset, spin = self.config.preset, task.total_magnetization is not None
        moments = structure.site_properties["magmom"] if spin else None
        energy = task.output.energy * n / len(structure)
        kind = None
        if task.band_gap_ev is not None:
            kind = GapKind.METAL if task.band_gap_ev <= 0 else GapKind.DIRECT if task.gap_direct else GapKind.INDIRECT
        return StaticSummary(
            energy_per_atom=on_scale(preset, fractions, energy, own.extra_energies, n, self.config.offsets),
            max_force_ev_per_angstrom=float(np.linalg.norm(np.array(task.output.forces), axis=1).max()),
            band_gap_ev=task.band_gap_ev,
            gap_kind=kind,
            spin_polarised=spin,
            magnetic=is_magnetic(moments),
            total_magnetization=task.total_magnetization,
            atom_magnetizations=moments,
            engine_version=task.engine_version,
            vacuum=task.vacuum,
            vacuum_note=task.vacuum_note,
            folder=task.dir_name,
        )

    def displaced(self, structure: Structure) -> tuple[Any, list[Structure]]:
        """A ``phonopy.Phonopy`` of the layer and its displaced (n, n, 1) supercells, in phonopy's order."""
        from pymatgen.io.phonopy import get_pmg_structure

        n = self.config.phonon_repeats
        phonon = layer_phonopy(structure, [[n, 0, 0], [0, n, 0], [0, 0, 1]])
        phonon.generate_displacements(distance=self.config.phonon_displacement_angstrom)
        cells = phonon.supercells_with_displacements or []
        return phonon, [with_moments_of(structure, get_pmg_structure(cell)) for cell in cells]

    def at_rest(self, structure: Structure) -> Structure:
        """The supercell of ``displaced`` before an atom is moved."""
        n = self.config.phonon_repeats
        return with_moments_of(structure, supercell_of(structure, [[n, 0, 0], [0, n, 0], [0, 0, 1]]))

    def phonon_maker(self) -> Maker:
        """A job for each displaced supercell, one for it at rest, one for the stiffness, and the summary."""
        from scdm_flows.engines.gpaw.flows import GpawPhononMaker

        return GpawPhononMaker(self.config)

    def bands_maker(self) -> Maker:
        """One job."""
        from scdm_flows.engines.gpaw.flows import GpawBandsMaker

        return GpawBandsMaker(self.config)
