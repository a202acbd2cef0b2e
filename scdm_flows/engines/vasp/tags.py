"""INCAR tags of each stage: what follows from the configuration alone, +U and the user's own tags among it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scdm_flows.analysis.bands import spin_orbit_matters
from scdm_flows.config import VaspEngineConfig
from scdm_flows.thermo.scheme import materials_project

SMEARING = {"gaussian": 0, "fermi": -1, "methfessel-paxton": 1, "auto": 0}
DISPERSION = {"none": None, "D3": 11, "D3BJ": 12}  # IVDW
LATTICE_CONSTRAINTS = ".TRUE. .TRUE. .FALSE."
SHELLS = {"p": 1, "d": 2, "f": 3}


def incar_tags(config: VaspEngineConfig) -> dict[str, dict[str, Any]]:
    """Stage -> the INCAR tags that do not depend on the structure, without the user's own."""
    common = {
        "GGA": "PE",
        "PREC": "Accurate",
        "ALGO": "Fast",
        "ENCUT": config.encut_ev,
        "EDIFF": config.ediff_ev,
        "NELM": config.max_electronic_steps,
        "ISMEAR": SMEARING[config.smearing],
        "SIGMA": config.sigma_ev,
        "LASPH": True,
        "LREAL": False,
        "LORBIT": 11,
        "LWAVE": False,
        "LCHARG": False,
    }
    if DISPERSION[config.vdw] is not None:
        common["IVDW"] = DISPERSION[config.vdw]
    common |= hubbard_tags(config)
    relax_of_atoms = {**common, "IBRION": 2, "ISIF": 2, "NSW": config.max_relax_steps, "LWAVE": True}
    relax = {**relax_of_atoms, "ISIF": 3}
    if config.cell_constraint == "lattice_constraints":
        relax["LATTICE_CONSTRAINTS"] = LATTICE_CONSTRAINTS
    static = {**common, "NSW": 0}
    bands = {**static, "ICHARG": 11}
    # HSE06 (doi:10.1063/1.2404663) in the place of PBE and +U, and a gap knows no dispersion; NELMIN electronic steps
    # are enough for the k-points of weight zero, which do not count in the energy
    hybrid = {"ALGO": "Normal", "LHFCALC": True, "AEXX": 0.25, "HFSCREEN": 0.2, "PRECFOCK": "Fast", "NELMIN": 5}
    return {
        "relax_1": {**relax, "EDIFFG": -config.first_fmax_ev_per_angstrom},
        "relax_2": {**relax, "EDIFFG": -config.fmax_ev_per_angstrom},
        "static": {**static, "LCHARG": True, "LVHAR": True},
        "strain": {**relax_of_atoms, "EDIFFG": -config.fmax_ev_per_angstrom},
        "phonon": {**static, "ALGO": "Normal", "EDIFF": config.phonon_ediff_ev},
        "uniform": {**bands, "NEDOS": config.dos_points},
        "line": {**bands, "ISYM": 0},
        "hse": {tag: value for tag, value in {**static, **hybrid}.items() if tag != "IVDW" and "LDAU" not in tag},
    }


def own_tags(config: VaspEngineConfig, stage: str) -> dict[str, Any]:
    """The user's tags of a stage, which go over all others; those of the stage itself over those of ``all``."""
    told: dict[Any, dict[str, Any]] = dict(config.incar)
    tags = {**told.get("all", {}), **told.get(stage, {})}
    return {tag: list(value) if isinstance(value, tuple) else value for tag, value in tags.items()}


def hubbard_tags(config: VaspEngineConfig) -> dict[str, Any]:
    """+U as pymatgen takes it: element -> value, which it writes for the species of POSCAR that have one.

    The Materials Project's hold for d metals where oxygen or fluorine is the most electronegative element
    (doi:10.1103/PhysRevB.73.195107).
    """
    if config.hubbard_u_ev == "none" or not config.hubbard_u_ev:
        return {}
    if config.hubbard_u_ev == "materials-project":
        told = materials_project()["INCAR"]
        return {tag: told[tag] for tag in ("LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL")}
    from pymatgen.core import Element

    given = dict(config.hubbard_u_ev)
    return {
        "LDAU": True,
        "LDAUTYPE": 2,
        "LDAUU": given,
        "LDAUJ": dict.fromkeys(given, 0),
        "LDAUL": {element: SHELLS[Element(element).block] for element in given},
    }


def hubbard_problem(config: VaspEngineConfig, elements: Iterable[str]) -> str | None:
    """Why +U by hand does not fit layers of these elements: it names others."""
    given = config.hubbard_u_ev if isinstance(config.hubbard_u_ev, dict) else {}
    lacking = sorted(set(given) - set(elements))
    if not lacking:
        return None
    values = ", ".join(f"{element}: {given[element]:g}" for element in lacking)
    return (
        f"hubbard_u_ev gives +U to {', '.join(lacking)} ({values} eV), which the layers lack; leave the values out, or "
        "correct the element"
    )


def with_spin_orbit(choice: str, elements: Iterable[str]) -> bool:
    """Whether bands of layers of these elements have spin-orbit coupling.

    choice: ``spin_orbit`` of the engine's configuration (auto, on, off).
    """
    return choice == "on" or (choice == "auto" and spin_orbit_matters(elements))


def parallel_tags(ranks: int | None, k_points: int, *, hybrid: bool = False) -> dict[str, int]:
    """KPAR and NCORE of a run on so many MPI ranks; none where that number is not known.

    KPAR is the largest divisor of the ranks that is no larger than the number of k-points; NCORE the largest divisor of
    the ranks of one k-point that is no larger than their square root (vasp.at/wiki, NCORE), which hybrids do without.
    """
    if ranks is None or ranks == 1:
        return {}
    kpar = max(n for n in range(1, ranks + 1) if ranks % n == 0 and n <= max(k_points, 1))
    share = ranks // kpar
    ncore = 1 if hybrid else max(n for n in range(1, share + 1) if share % n == 0 and n * n <= share)
    return {"KPAR": kpar, "NCORE": ncore}
