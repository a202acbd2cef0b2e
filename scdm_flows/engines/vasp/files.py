"""Every input file of a layer's VASP runs as text, for people to read before a node hour is spent."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from atomate2 import SETTINGS

from scdm_flows.analysis.magnetism import orders_of
from scdm_flows.analysis.stiffness import strains
from scdm_flows.engines.spin import with_spin
from scdm_flows.engines.vasp.checks import potcar_problems
from scdm_flows.engines.vasp.inputs import as_begun, input_set, with_moments
from scdm_flows.engines.vasp.orders import without_density

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_flows.engines.vasp.engine import VaspEngine

NOTE = """\
Input of {formula} as a campaign would write it.

relax_1        from the structure given
relax_2        the same from the result of relax_1, with a tighter force criterion
static         from the result of relax_2; its CHGCAR is the start of uniform and line
static_order_* the same in antiferromagnetic orders, where they were asked for and the atoms keep moments
phonon_*       displaced supercells {n} x {m} x 1 of the relaxed layer, and the undisplaced one
strain_*       atoms relaxed in strained cells of the relaxed layer, for the stiffness tensor
uniform, line  density of states, and bands on the in-plane path
hse            HSE06, where asked for; a run adds PBE's band edges to the k-points, with weight zero

The files here are made for the structure given; a run writes its own for what the run before it left, with that
run's moments as MAGMOM, and for uniform and line with NBANDS = {factor:g} times the static run's, twice that with
spin-orbit coupling.
{potcar}
"""


def input_files(engine: VaspEngine, structure: Structure) -> dict[str, dict[str, str]]:
    """Run -> file name -> text; "" holds the note on all of them."""
    config, structure = engine.config, as_begun(structure)
    without = bool(potcar_problems(config, [str(e) for e in structure.composition]))
    matrix, supercells = engine.displaced(structure)
    files: dict[str, dict[str, str]] = {}

    def add(run: str, stage: str, of: Structure, layer: Structure | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen on potentials and smearing that are meant
            generator = input_set(config, stage, of=layer)
            if run.startswith("static_order") and len(of) != len(structure):
                generator = without_density(generator)
            made: Any = generator.get_input_set(of, potcar_spec=without)
        made.incar.update(SETTINGS.VASP_INCAR_UPDATES)  # what atomate2 adds on this machine, such as NCORE
        texts = {"INCAR": made.incar, "KPOINTS": made.kpoints, "POSCAR": made.poscar}
        files[run] = {name: str(value).rstrip("\n") + "\n" for name, value in texts.items()}
        potcar = "POTCAR.spec" if without else "POTCAR"
        files[run][potcar] = str(made[potcar]).rstrip("\n") + "\n"
        if stage.startswith("relax") and config.cell_constraint == "optcell":
            files[run]["OPTCELL"] = config.optcell + "\n"

    for stage in ("relax_1", "relax_2", "static"):
        add(stage, stage, structure)
    if "afm" in config.magnetism.orderings and with_spin(config.spin, structure):
        for number, start in enumerate(orders_of(with_moments(config, structure), config.magnetism.max_orderings), 1):
            add(f"static_order_{number}", "static", start)
    width = len(str(len(supercells)))
    for number, supercell in enumerate(supercells, 1):
        add(f"phonon_{number:0{width}d}", "phonon", supercell, structure)
    add("phonon_undisplaced", "phonon", engine.at_rest(structure), structure)
    for strain in strains(structure, config.strain):
        add(f"strain_{strain.name}", "strain", strain.of(structure), structure)
    for stage in ("uniform", "line", *(["hse"] if config.hse_gap else [])):
        add(stage, stage, structure)
    files[""] = {
        "README.txt": NOTE.format(
            formula=structure.composition.reduced_formula,
            n=matrix[0][0],
            m=matrix[1][1],
            factor=config.band_nbands_factor,
            potcar="POTCARs are not installed here: POTCAR.spec names them, one a line.\n" if without else "",
        )
    }
    return files
