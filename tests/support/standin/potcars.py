"""Writes folders of dummy POTCAR files: headers that pymatgen and the input sets accept, and no pseudopotential.

Real POTCARs are licensed and cannot be in a repository. What is here says "stand-in, not a pseudopotential" in
every file, in the TITEL (and so in every vasprun.xml and every parsed document) and in the data.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

HEADER = """\
  PAW_PBE {symbol} stand-in
   {valence:.10f}
 parameters from PSCTR are:
   VRHFIN ={element}: stand-in, not a pseudopotential
   LEXCH  = PE
   EATOM  =     0.0000 eV,    0.0000 Ry

   TITEL  = PAW_PBE {symbol} stand-in
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        0    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =    0.000    partial core radius
   POMASS =  {mass:7.3f}; ZVAL   = {valence:8.3f}    mass and valenz
   RCORE  =    2.000    outmost cutoff radius
   RWIGS  =    2.500; RWIGS  =    1.323    wigner-seitz radius (au A)
   ENMAX  =  250.000; ENMIN  =  187.500 eV
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   =  400.000
   DEXC   =    0.000
 END of PSCTR-controll parameters
 stand-in, not a pseudopotential
 0.0 1.0
 End of Dataset
"""
# electrons that the suffix of a potential's name adds to the valence shell: semicore p, semicore s and p, d, lanthanide
SEMICORE = {"pv": 6, "sv": 8, "d": 10, "3": 6, "2": 6}


def valence_electrons(symbol: str) -> int:
    """Valence electrons of a potential by its name: 14 for Mo_sv, 12 for Mo_pv, 6 for S; enough for a stand-in."""
    from pymatgen.core import Element

    name, _, suffix = symbol.partition("_")
    element = Element(name)
    shell = 2 if name == "He" else element.group - (10 if element.group > 12 else 0)
    semicore = 2 if element.Z <= 10 and suffix else SEMICORE.get(suffix, 0)
    return shell + semicore


def potcar_text(symbol: str) -> str:
    """A dummy POTCAR of one potential, such as ``Mo_sv``."""
    from pymatgen.core import Element

    element = symbol.partition("_")[0]
    return HEADER.format(
        symbol=symbol, element=element, valence=valence_electrons(symbol), mass=float(Element(element).atomic_mass)
    )


def fake_potcars(folder: Path, elements: Iterable[str] | None = None) -> Path:
    """Writes dummy POTCARs of elements, under every name that the sets of atomate2 and pymatgen use for them.

    Parameters
    ----------
    folder
        Where: it becomes what ``PMG_VASP_PSP_DIR`` names, with a folder for each functional.
    elements
        Symbols of elements, such as ``Mo``; all that the sets know where not given.

    Returns
    -------
    Path
        ``folder``.
    """
    from atomate2.vasp.sets.base import _BASE_VASP_SET
    from pymatgen.io.vasp.inputs import PotcarSingle
    from pymatgen.io.vasp.sets import MPRelaxSet, MPScanRelaxSet

    names = [_BASE_VASP_SET["POTCAR"], MPRelaxSet.CONFIG["POTCAR"], MPScanRelaxSet.CONFIG["POTCAR"]]
    for functional in ("PBE", "PBE_52", "PBE_54", "PBE_64"):
        there = folder / PotcarSingle.functional_dir[functional]
        there.mkdir(parents=True, exist_ok=True)
        for element in names[0] if elements is None else elements:
            for symbol in {element, *(known.get(element, element) for known in names)}:
                with gzip.open(there / f"POTCAR.{symbol}.gz", "wt") as file:
                    file.write(potcar_text(symbol))
    return folder


def use_potcars(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes this process and those that it starts take their POTCARs from a folder; nobody's settings file changes."""
    from pymatgen.core import SETTINGS

    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(folder))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
