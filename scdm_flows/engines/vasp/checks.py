"""What must be in order before VASP runs, each in words with the remedy. Light: loads no atomate2.

``scdm doctor``, submission and the jobs themselves ask here.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scdm_flows.config import VaspEngineConfig
from scdm_flows.config.engines import check_version
from scdm_flows.config.settings import get_settings
from scdm_flows.thermo.scheme import Scheme, standard_potentials
from scdm_models.symmetry.lattice import vacuum_thickness

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

CONSTRAINTS_SINCE = (6, 4)  # LATTICE_CONSTRAINTS with IBRION = 1, 2; older ones ignore the tag without a word
TILT_DEGREES = 0.01  # POSCARs of other programs are rarely exact to more
SET_POTCARS = "run `pmg config -p VASP_FOLDER OUT`, then `pmg config --add PMG_VASP_PSP_DIR OUT`"


def command_problem() -> str | None:
    """Why VASP cannot be started."""
    settings = get_settings()
    if not settings.vasp_cmd:
        return "SCDM_VASP_CMD is not set; set it to the command that runs VASP, such as 'srun vasp_std'"
    for name, command in (("SCDM_VASP_CMD", settings.vasp_cmd), ("SCDM_VASP_GAMMA_CMD", settings.vasp_gamma_cmd)):
        first = (shlex.split(command) if command else [""])[0]
        if command and shutil.which(first) is None:
            return f"{name}={command!r}: {first} is not on the PATH; give the full path"
    return None


def noncollinear_problem(config: VaspEngineConfig) -> str | None:
    """Why bands with spin-orbit coupling cannot be computed: vasp_std and vasp_gam know none."""
    command = get_settings().vasp_ncl_cmd
    if config.spin_orbit == "off":
        return None
    if not command:
        return (
            f"spin_orbit: {config.spin_orbit} needs VASP's noncollinear build, and SCDM_VASP_NCL_CMD is not set; set "
            "it to the command that runs it, such as 'srun vasp_ncl', or take spin_orbit: off"
        )
    if shutil.which(shlex.split(command)[0]) is None:
        first = shlex.split(command)[0]
        return f"SCDM_VASP_NCL_CMD={command!r}: {first} is not on the PATH; give the full path"
    return None


def version_problem(config: VaspEngineConfig | None = None) -> str | None:
    """Why c would not be held: VASP is too old for LATTICE_CONSTRAINTS, or of unknown version."""
    config = config or VaspEngineConfig()
    if config.cell_constraint != "lattice_constraints":
        return None
    version = config.vasp_version or get_settings().vasp_version
    since = ".".join(map(str, CONSTRAINTS_SINCE))
    if version is None:
        return (
            f"the version of VASP is not known, and c is held only from {since} on; set SCDM_VASP_VERSION to the "
            "number in the first line of an OUTCAR, such as 6.4.3"
        )
    if check_version(version) < CONSTRAINTS_SINCE:
        return (
            f"VASP {version} ignores LATTICE_CONSTRAINTS ({since} or newer knows it), so c would relax in silence; use "
            "a newer VASP, or cell_constraint: optcell with one that was patched to read OPTCELL"
        )
    return None


def potcar_folder() -> tuple[Path | None, str | None]:
    """The folder of pymatgen's setting PMG_VASP_PSP_DIR, or None and why there is none."""
    from pymatgen.core import SETTINGS

    named = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not named:
        return None, f"PMG_VASP_PSP_DIR is not set, so there are no POTCAR files; {SET_POTCARS}"
    folder = Path(str(named)).expanduser()
    if not folder.is_dir():
        return None, f"PMG_VASP_PSP_DIR={named} is not a folder; set it to the folder with the POTCAR files"
    return folder, None


def potcar_problems(config: VaspEngineConfig, elements: Iterable[str]) -> list[str]:
    """Why the POTCARs of some elements cannot be had; an empty list of elements checks the folder alone."""
    folder, problem = potcar_folder()
    if problem is not None:
        return [problem]
    from pymatgen.io.vasp.inputs import PotcarSingle

    symbols = potcar_symbols(config)
    missing = []
    for element in sorted(set(elements)):
        symbol = symbols.get(element, element)
        try:
            PotcarSingle.from_symbol_and_functional(symbol, config.potcar_functional)
        except Exception:  # pymatgen's errors differ with what is missing
            missing.append(f"{element} ({symbol})")
    if not missing:
        return []
    text = (
        f"no {config.potcar_functional} POTCAR for {', '.join(missing)} in {folder}; add it there, leave the element "
        "out (generator.elements), or name another potential in engine.potcar_symbols"
    )
    return [text]


def potcar_symbols(config: VaspEngineConfig) -> dict[str, str]:
    """Element -> name of its potential."""
    return {**standard_potentials(), **config.potcar_symbols}


def scheme_of(config: VaspEngineConfig) -> Scheme:
    """What the energies are."""
    return Scheme(
        release=config.potcar_functional,
        encut_ev=config.encut_ev,
        dispersion=config.vdw.lower(),
        symbols=config.potcar_symbols,
        plus_u=config.hubbard_u_ev if isinstance(config.hubbard_u_ev, dict) else {},
        mp_u=config.hubbard_u_ev == "materials-project",
    )


def potcar_titles(config: VaspEngineConfig, elements: Iterable[str]) -> dict[str, str]:
    """Element -> TITEL of its POTCAR on this machine; those whose POTCAR cannot be read are left out."""
    if potcar_folder()[0] is None:
        return {}
    from pymatgen.io.vasp.inputs import PotcarSingle

    symbols, found = potcar_symbols(config), {}
    for element in elements:
        with suppress(Exception):  # said by ``potcar_problems``
            potcar = PotcarSingle.from_symbol_and_functional(symbols.get(element, element), config.potcar_functional)
            found[element] = str(potcar.TITEL).strip()
    return found


def layer_problems(structure: Structure, min_vacuum: float) -> list[str]:
    """Why a structure is no slab that VASP can hold c of.

    c must also lie along z, as LATTICE_CONSTRAINTS speaks of Cartesian axes. min_vacuum: angstrom.
    """
    problems = []
    matrix = np.array(structure.lattice.matrix)
    tilt = max(abs(structure.lattice.alpha - 90.0), abs(structure.lattice.beta - 90.0))
    if tilt > TILT_DEGREES:
        problems.append(
            f"c is not perpendicular to a and b (alpha {structure.lattice.alpha:.2f}, beta "
            f"{structure.lattice.beta:.2f} degrees), so it cannot be held; give the slab with alpha = beta = 90"
        )
    elif np.abs([*matrix[:2, 2], *matrix[2, :2]]).max() > 1e-3:
        problems.append("c does not lie along z, so it cannot be held; rotate the cell")
    vacuum = vacuum_thickness(structure)
    if vacuum < min_vacuum - 1e-6:
        problems.append(
            f"the vacuum along c is {vacuum:.1f} angstrom, at least {min_vacuum:g} are needed (min_vacuum_angstrom); "
            "lengthen c"
        )
    return problems
