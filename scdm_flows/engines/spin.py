"""With which moments DFT runs of a layer begin, and when they go on without spin: the same for VASP and GPAW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdm_flows.analysis.bands import is_magnetic

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

# high spin relaxes to low spin, seldom back
OFTEN_MAGNETIC = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Ru", "Rh", "Os", "Ir")
F_METALS = (
    "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb",
    "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
)  # fmt: skip
OTHER_D_METALS = ("Sc", "Y", "Zr", "Nb", "Mo", "Tc", "Pd", "Ag", "La", "Lu", "Hf", "Ta", "W", "Re", "Pt", "Au")
# of the periodic table; zinc, cadmium and mercury have full shells
BULK = "bulk"
OPEN_SHELLS = frozenset((*OFTEN_MAGNETIC, *F_METALS, *OTHER_D_METALS))


def may_be_magnetic(structure: Structure) -> bool:
    """Whether a layer may carry a moment: d or f metals, or an odd number of electrons.

    C2DB begins every layer with spin and goes on without where no atom keeps a moment (doi:10.1088/2053-1583/aacfc1);
    2p and s metals with an even number of electrons are left out here, as none of its magnets is among them.
    """
    odd = sum(site.specie.Z for site in structure) % 2 == 1
    return odd or any(str(element) in OPEN_SHELLS for element in structure.composition)


def with_spin(choice: str, structure: Structure) -> bool:
    """Whether a run is spin-polarised; choice: ``spin`` of the engine's configuration (auto, on, off), or bulk.

    That is auto of bulk crystals, which all begin with spin: solid oxygen and superoxides are magnets without a metal.
    Where every atom has a moment (property ``magmom``, Bohr magnetons), of a file or of the run before, those decide:
    an odd number of electrons is an even one in a supercell.
    """
    if choice not in ("auto", BULK):
        return choice == "on"
    moments: Any = structure.site_properties.get("magmom")
    known = bool(moments) and all(moment is not None for moment in moments)
    return is_magnetic(moments) if known else choice == BULK or may_be_magnetic(structure)
