"""The VASP engine: PBE-PAW for slabs through atomate2's makers, input sets and custodian.

Two relaxations with c held, a static run with its vacuum levels, phonons by finite displacements in a diagonal
(n, m, 1) supercell without Born charges (their three-dimensional correction is wrong for a slab), the stiffness tensor
from strained cells, a uniform run for the density of states and bands on the in-plane path. Input files are the
business of ``vasp_inputs``, the runs that of ``vasp_makers``, what must be in order before that of ``vasp_checks``, and
what it costs that of ``vasp_cost``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scdm_flows.analysis.bands import is_magnetic
from scdm_flows.analysis.phonons import phonon_supercell
from scdm_flows.analysis.vacuum import vacuum_levels
from scdm_flows.config import VaspEngineConfig, executed
from scdm_flows.config.settings import get_settings
from scdm_flows.documents.bands import GapKind
from scdm_flows.documents.static import StaticSummary, VacuumLevels
from scdm_flows.engines.base import (
    PHONON_SYMPREC_ANGSTROM,
    Ahead,
    StageCost,
    layer_phonopy,
    supercell_of,
    with_moments_of,
)
from scdm_flows.engines.vasp import checks as vasp_checks
from scdm_flows.engines.vasp.inputs import input_set
from scdm_flows.engines.vasp.tags import hubbard_problem
from scdm_flows.errors import EngineError, ReferenceDataError
from scdm_flows.thermo.entries import load_entries, titles_of
from scdm_flows.thermo.scheme import title_problems
from scdm_flows.thermo.table import ReferenceTable

if TYPE_CHECKING:
    from jobflow.core.maker import Maker
    from pymatgen.core.structure import Structure

OTHER_POTCAR = "their energies differ: use those POTCARs, or compute the references with yours (`scdm refs compute`)"
NO_RAW_OBJECTS = {"parse_dos": False, "parse_bandstructure": False}  # those of the uniform and line runs are kept


class VaspEngine:
    """VASP through atomate2."""

    scheme: str
    static_scheme: str
    surrogate = False
    category = "vasp"
    keeps_runs = True
    cannot: Mapping[str, str] = {}

    def __init__(self, config: VaspEngineConfig) -> None:
        self.config = config
        self.scheme = vasp_checks.scheme_of(
            config
        ).name  # all that energies of references must have in common with ours
        self.static_scheme = self.scheme

    def check(self) -> list[str]:
        """What is missing to run."""
        problems = [vasp_checks.command_problem(), vasp_checks.version_problem(self.config)]
        problems.append(vasp_checks.noncollinear_problem(self.config))
        problems += vasp_checks.potcar_problems(self.config, [])
        try:
            self.references()
        except (EngineError, ReferenceDataError) as error:
            problems.append(str(error))
        return [problem for problem in problems if problem is not None]

    def check_elements(self, elements: Sequence[str]) -> list[str]:
        """Why some elements cannot be computed: no POTCAR, another one than the references', no reference energy."""
        problems = [] if vasp_checks.potcar_folder()[1] else vasp_checks.potcar_problems(self.config, elements)
        try:
            references = self.references()
            references.entries(list(elements))
            titles = vasp_checks.potcar_titles(self.config, elements)
            other = title_problems(titles, references.titles, elements)
            if other:
                problems.append(f"{'; '.join(other)}; {OTHER_POTCAR}")
        except ReferenceDataError as error:
            problems.append(str(error))
        except EngineError:
            pass  # said by check
        return problems

    def check_settings(self, elements: Sequence[str]) -> list[str]:
        """Whether +U by hand names elements that no layer has."""
        problem = hubbard_problem(self.config, elements)
        return [] if problem is None else [problem]

    def layer_problems(self, structure: Structure) -> list[str]:
        """Why a layer cannot be computed."""
        return vasp_checks.layer_problems(structure, self.config.min_vacuum_angstrom)

    def time_problems(self, structure: Structure) -> list[str]:
        """Why no run gets anywhere within its wall time."""
        from scdm_flows.engines.vasp.cost import walltime_problem

        problem = walltime_problem(structure, self.config, get_settings().vasp_cmd)
        return [] if problem is None else [problem]

    def cost(self, structure: Structure | None, n_atoms: int = 0) -> list[StageCost]:
        """See ``vasp_cost``."""
        from scdm_flows.engines.vasp.cost import cost, typical_layer
        from scdm_flows.engines.vasp.inputs import as_begun

        layer = typical_layer(n_atoms) if structure is None else as_begun(structure)
        return cost(layer, self.config, self.displaced(layer)[1])

    def input_files(self, structure: Structure) -> dict[str, dict[str, str]]:
        """INCAR, KPOINTS, POSCAR and POTCAR (or POTCAR.spec) of every run; see ``vasp_files``."""
        from scdm_flows.engines.vasp.files import input_files

        return input_files(self, structure)

    def references(self) -> ReferenceTable:
        """The phases of the campaign's file of computed entries."""
        if self.config.references is None:
            raise EngineError(
                f"energies of scheme {self.scheme} need reference phases of it, and engine.references names no file; "
                "give a JSON file of computed GGA entries (of the Materials Project's API or your own), or use the "
                "forcefield engine"
            )
        return load_entries(self.config.references, self.scheme)

    def predicted(self, structure: Structure) -> None:
        """Nothing: the static energy is on the references' scale."""

    def _maker(self, stage: str, *, of: Structure | None = None, kind: Any = None, **kwargs: Any) -> Any:
        from scdm_flows.engines.vasp.makers import SlabBandsMaker, SlabMaker

        holds = stage.startswith("relax") and self.config.cell_constraint == "optcell"
        usual = SlabBandsMaker if stage in ("uniform", "line") else SlabMaker
        kwargs.setdefault("name", stage.replace("_", " "))
        return (kind or usual)(
            input_set_generator=input_set(self.config, stage, of=of),
            stop_children_kwargs={"handle_unsuccessful": "error"},  # whatever a worker's atomate2 settings say
            run_vasp_kwargs={"max_errors": self.config.max_custodian_errors},
            walltime=self.config.walltime_s,
            keep_files=self.config.keep_files,
            min_vacuum=self.config.min_vacuum_angstrom,
            optcell=self.config.optcell if holds else None,
            **kwargs,
        )

    def relax_maker(self) -> Maker:
        """Two relaxations with c held, the second tighter."""
        from scdm_flows.engines.vasp.makers import SlabDoubleRelaxMaker

        return SlabDoubleRelaxMaker(
            relax_maker1=self._maker("relax_1", task_document_kwargs=NO_RAW_OBJECTS),
            relax_maker2=self._maker("relax_2", task_document_kwargs=NO_RAW_OBJECTS),
        )

    def relax_ahead(self, structures: Sequence[Structure]) -> Iterator[Ahead]:
        """Nothing ahead: each run of VASP is its own."""
        return (Ahead(index, self.relax_maker()) for index in range(len(structures)))

    def static_maker(self) -> Maker:
        """A single point that keeps its charge density for the bands; of other magnetic orders besides where asked."""
        maker: Maker = self._maker("static", task_document_kwargs=NO_RAW_OBJECTS)
        if "afm" not in self.config.magnetism.orderings:
            return maker
        from scdm_flows.engines.vasp.orders import SlabOrderMaker, SlabOrdersMaker

        most = self.config.magnetism.max_orderings
        orders: list[Maker] = [
            self._maker(
                "static",
                kind=SlabOrderMaker,
                task_document_kwargs=NO_RAW_OBJECTS,
                engine=self.config,
                number=number,
                most=most,
                name=f"static order {number + 1}",
            )
            for number in range(most)
        ]
        return SlabOrdersMaker(maker, orders, self.config)

    def static_summary(self, task: Any) -> StaticSummary:
        """From atomate2's task document; what says it already stays as it is."""
        if isinstance(task, StaticSummary):
            return task
        calculation = task.calcs_reversed[0]
        output = calculation.output
        forces = task.output.forces
        moments = task.output.structure.site_properties.get("magmom") if task.output.structure else None
        spin = moments is not None and any(m is not None for m in moments)
        total = (output.outcar or {}).get("total_magnetization") if spin else None
        kind = None
        if output.bandgap is not None:
            kind = GapKind.METAL if output.is_metal else GapKind.DIRECT if output.is_gap_direct else GapKind.INDIRECT
        vacuum = _vacuum(task)
        return StaticSummary(
            energy_per_atom=float(task.output.energy_per_atom),
            max_force_ev_per_angstrom=float(np.linalg.norm(np.array(forces), axis=1).max()) if forces else None,
            band_gap_ev=output.bandgap,
            gap_kind=kind,
            spin_polarised=spin,
            magnetic=is_magnetic(moments) if spin else False,
            total_magnetization=None if total is None else float(total),
            atom_magnetizations=[float(m) for m in moments] if spin and moments else None,
            engine_version=calculation.vasp_version,
            potentials=_titles(task) or None,
            vacuum=None if isinstance(vacuum, str) else vacuum,
            vacuum_note=vacuum if isinstance(vacuum, str) else None,
            folder=task.dir_name,
        )

    def no_bands_to_come(self, static: StaticSummary) -> None:
        """Remove the static run's charge density."""
        from scdm_flows.engines.vasp.disk import local_folder, tidy

        if static.folder is not None:
            tidy(local_folder(static.folder), executed(self.config).keep_files)

    def displaced(self, structure: Structure) -> tuple[list[list[int]], list[Structure]]:
        """The (n, m, 1) supercell matrix and the displaced supercells, in phonopy's order."""
        from atomate2.common.jobs.phonons import generate_phonon_displacements

        matrix = phonon_supercell(structure, self.config.phonon_min_length_angstrom)
        generate: Any = generate_phonon_displacements
        found: list[Structure] = generate.original(structure, matrix, **self.phonopy_arguments())
        for supercell in found:
            with_moments_of(structure, supercell).properties = dict(structure.properties)
        return matrix, found

    def at_rest(self, structure: Structure) -> Structure:
        """The supercell of ``displaced`` before an atom is moved."""
        found = supercell_of(structure, phonon_supercell(structure, self.config.phonon_min_length_angstrom))
        found.properties = dict(structure.properties)
        return with_moments_of(structure, found)

    def phonon_of(self, structure: Structure, forces: Sequence[NDArray[np.float64]]) -> Any:
        """A ``phonopy.Phonopy`` of a layer with its force constants.

        forces: the restoring ones of each displaced supercell, (n_atoms, 3) eV/angstrom, in the order of ``displaced``.
        """
        from phonopy import Phonopy

        matrix = phonon_supercell(structure, self.config.phonon_min_length_angstrom)
        found = layer_phonopy(structure, matrix)
        # atomate2's, whose displacements these are, looks for a smaller cell
        theirs = Phonopy(found.unitcell, matrix, primitive_matrix="auto", symprec=PHONON_SYMPREC_ANGSTROM)
        theirs.generate_displacements(distance=self.config.phonon_displacement_angstrom)
        theirs.forces = list(forces)
        theirs.produce_force_constants()
        found.force_constants = theirs.force_constants
        found.symmetrize_force_constants(level=2)
        return found

    def phonopy_arguments(self) -> dict[str, Any]:
        """What atomate2's job that makes displacements is given."""
        return {
            "displacement": self.config.phonon_displacement_angstrom,
            "sym_reduce": True,
            "symprec": PHONON_SYMPREC_ANGSTROM,
            "use_symmetrized_structure": None,
            "kpath_scheme": "seekpath",
            "code": "vasp",
        }

    def displacement_maker(self, structure: Structure) -> Any:
        """The maker of a displaced supercell's forces; dipole correction and spin as for the layer itself."""
        return self._maker("phonon", of=structure, task_document_kwargs=NO_RAW_OBJECTS)

    def strain_maker(self, structure: Structure) -> Any:
        """The maker of a strained cell's stress; dipole correction, spin and mesh as for the layer itself."""
        from scdm_flows.engines.vasp.strained import SlabStrainMaker

        return self._maker("strain", of=structure, kind=SlabStrainMaker, task_document_kwargs=NO_RAW_OBJECTS)

    def phonon_maker(self) -> Maker:
        """A job for each displaced supercell and each strained cell."""
        from scdm_flows.engines.vasp.flows import SlabPhononMaker

        return SlabPhononMaker(self.config)

    def bands_maker(self) -> Maker:
        """Uniform and line runs, and one with HSE06 where asked."""
        from scdm_flows.engines.vasp.flows import SlabBandsFlowMaker
        from scdm_flows.engines.vasp.hybrid import SlabHseMaker

        hse = (
            self._maker("hse", kind=SlabHseMaker, task_document_kwargs=NO_RAW_OBJECTS) if self.config.hse_gap else None
        )
        return SlabBandsFlowMaker(self._maker("uniform"), self._maker("line"), hse)

    def bulk_problems(self, elements: Sequence[str]) -> list[str]:
        """VASP and POTCARs; references are what is to be made."""
        problems = [vasp_checks.command_problem(), *vasp_checks.potcar_problems(self.config, elements)]
        return [problem for problem in problems if problem is not None]

    def bulk_makers(self) -> tuple[Maker, Maker]:
        """Two relaxations of atoms and cell; a single point. See ``vasp.bulk``."""
        from scdm_flows.engines.vasp.bulk import STAGES, bulk_input_set
        from scdm_flows.engines.vasp.makers import SlabDoubleRelaxMaker

        kept: Any = {"min_vacuum": None, "optcell": None, "task_document_kwargs": NO_RAW_OBJECTS}
        makers = [
            replace(self._maker(stage), input_set_generator=bulk_input_set(self.config, stage), **kept)
            for stage in STAGES
        ]
        return SlabDoubleRelaxMaker(relax_maker1=makers[0], relax_maker2=makers[1]), makers[2]

    def bulk_cost(self, structure: Structure) -> list[StageCost]:
        """See ``vasp.bulk``."""
        from scdm_flows.engines.vasp.bulk import bulk_cost

        return bulk_cost(structure, self.config)

    def bulk_entry(self, task: Any, name: str) -> dict[str, Any]:
        """See ``vasp.bulk``."""
        from scdm_flows.engines.vasp.bulk import computed_entry

        return computed_entry(task, name)


def _vacuum(task: Any) -> VacuumLevels | str | None:
    """The vacuum levels of a run that wrote its electrostatic potential (LVHAR); None of another."""
    calculation = task.calcs_reversed[0]
    output, tags = calculation.output, calculation.input.incar
    if not output.locpot or output.efermi is None or not tags.get("LVHAR") or tags.get("LVTOT"):
        return None
    gapped = not output.is_metal
    edges = (output.vbm, output.cbm) if gapped else (None, None)
    return vacuum_levels(output.structure, output.locpot["2"], output.efermi, *edges)


def _titles(task: Any) -> dict[str, str]:
    """Element -> TITEL of the potentials of a run."""
    specs = getattr(task.orig_inputs, "potcar_spec", None) or []
    return titles_of({"potcar_spec": [{"titel": spec.titel} for spec in specs]})
