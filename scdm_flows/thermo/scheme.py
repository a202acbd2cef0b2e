"""What an energy of VASP depends on besides the crystal, and its name, such as ``vasp-pbe``. Pure.

Energies of two schemes never share a hull. The name says all that differs from the Materials Project's GGA runs (PBE,
potentials of the release PBE by its own choice, a cut-off of 520 eV, no +U, no dispersion correction; Jain et al., APL
Mater. 1, 011002 (2013), doi:10.1063/1.4812323), so two runs with one name have energies that can be compared::

    vasp-pbe                            the Materials Project's
    vasp-pbe-d3                         with DFT-D3
    vasp-pbe-PBE_54-700eV-Mo_sv-U4Fe    potentials of the release PBE_54, Mo_sv for Mo, 700 eV, U = 4 eV on Fe

Energies are as VASP gives them; corrections fitted to experiments (``mp2020``) would be part of the name. What no
name can say is the date of a potential, part of its TITEL: entries and runs tell it, and ``title_problems`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from scdm_flows.errors import ReferenceDataError

PREFIX = "vasp-"
STANDARD = "vasp-pbe"
STANDARD_ENCUT_EV = 520.0
_ENCUT = re.compile(r"(\d+(?:\.\d+)?)eV")
_PLUS_U = re.compile(r"U(\d+(?:\.\d+)?)([A-Z][a-z]?)")
_POTENTIAL = re.compile(r"([A-Z][a-z]?)(?:\d*\.\d+)?(?:_[A-Za-z0-9_.]+)?")
_MP_U = "mpu"  # its values of U for d metals in oxides and fluorides


@cache
def materials_project() -> dict[str, Any]:
    """INCAR tags, potentials and k-points of the Materials Project's relaxations, as pymatgen has them."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    return dict(MPRelaxSet()._config_dict)


@cache
def standard_potentials() -> dict[str, str]:
    """Element -> potential of the Materials Project's GGA runs, so that energies fit its entries."""
    return dict(materials_project()["POTCAR"])


def element_of(potential: str) -> str:
    """The element of a potential such as Mo_pv or H1.25."""
    match = re.match(r"[A-Z][a-z]?", potential)
    return match[0] if match else potential


@dataclass(frozen=True)
class Scheme:
    """The settings of a run of VASP that its energy depends on.

    functional: as in the name, lower case; release: of the PAW potentials; encut_ev: cut-off of the plane waves;
    dispersion, corrections: none, or which, lower case; symbols: element -> potential where it is not the Materials
    Project's; plus_u: element -> U in eV, in whatever compound; mp_u: the Materials Project's U instead, in oxides and
    fluorides only.
    """

    functional: str = "pbe"
    release: str = "PBE"
    encut_ev: float = STANDARD_ENCUT_EV
    dispersion: str = "none"
    corrections: str = "none"
    symbols: Mapping[str, str] = field(default_factory=dict)
    plus_u: Mapping[str, float] = field(default_factory=dict)
    mp_u: bool = False

    @property
    def name(self) -> str:
        """The name, which ``parse`` reads."""
        parts = [PREFIX + self.functional]
        parts += [kind for kind in (self.dispersion, self.corrections) if kind != "none"]
        parts += [_MP_U] * self.mp_u
        if self.release != "PBE":
            parts.append(self.release)
        if self.encut_ev != STANDARD_ENCUT_EV:
            parts.append(f"{self.encut_ev:g}eV")
        parts += [symbol for element, symbol in sorted(self.symbols.items()) if symbol != standard(element)]
        parts += [f"U{u:g}{element}" for element, u in sorted(self.plus_u.items()) if u]
        return "-".join(parts)

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The settings that a name says; ``ReferenceDataError`` where it is none of VASP's."""
        functional, *parts = name.removeprefix(PREFIX).split("-")
        found: dict[str, str] = {}
        encut, symbols, plus_u, mp_u = STANDARD_ENCUT_EV, {}, {}, False
        known = name.startswith(PREFIX) and functional.isalnum() and functional.islower()
        for part in parts:
            if match := _ENCUT.fullmatch(part):
                encut = float(match[1])
            elif match := _PLUS_U.fullmatch(part):
                plus_u[match[2]] = float(match[1])
            elif re.fullmatch(r"PBE_\d+", part):
                found["release"] = part
            elif part == _MP_U:
                mp_u = True
            elif re.fullmatch(r"[a-z]\w*", part):
                found["corrections" if part.startswith("mp") else "dispersion"] = part
            elif match := _POTENTIAL.fullmatch(part):
                symbols[match[1]] = part
            else:
                known = False
        if not known:
            raise ReferenceDataError(
                f"{name!r} is no scheme of VASP's energies; write it like {STANDARD}, or {STANDARD}-PBE_54-700eV-Mo_sv "
                "(dispersion, release of the potentials, cut-off, other potentials, +U, each where it is not the "
                "Materials Project's)"
            )
        return cls(functional, encut_ev=encut, symbols=symbols, plus_u=plus_u, mp_u=mp_u, **found)

    def symbol(self, element: str) -> str:
        """The potential of an element."""
        return self.symbols.get(element) or standard(element)

    def plus_u_of(self, elements: Iterable[str]) -> dict[str, float]:
        """Element -> U in eV in a compound of these elements, without those that have none."""
        present = set(elements)
        values: Mapping[str, float] = self.plus_u
        if self.mp_u:  # pymatgen's MPRelaxSet: by the most electronegative element
            anion = next((e for e in ("F", "O") if e in present), None)
            values = {} if anion is None else materials_project()["INCAR"]["LDAUU"][anion]
        return {e: float(u) for e, u in values.items() if u and e in present}

    def differences(self, wanted: Scheme) -> list[str]:
        """Which settings of all elements together are others than wanted, in words."""
        rows = (
            ("functional", self.functional, wanted.functional, ""),
            ("release of the potentials", self.release, wanted.release, " (engine.potcar_functional)"),
            ("cut-off", f"{self.encut_ev:g} eV", f"{wanted.encut_ev:g} eV", " (engine.encut_ev)"),
            ("dispersion correction", self.dispersion, wanted.dispersion, " (engine.vdw)"),
            ("corrections", self.corrections, wanted.corrections, ""),
        )
        return [f"{what} {there} there, {ours} here{key}" for what, there, ours, key in rows if there != ours]


def standard(element: str) -> str:
    """The Materials Project's potential of an element; its symbol where it has none."""
    return standard_potentials().get(element, element)


def title_problems(ours: Mapping[str, str], theirs: Mapping[str, str], elements: Iterable[str]) -> list[str]:
    """Elements whose potential is another one than that of the references, in words.

    ours, theirs: element -> TITEL, such as ``PAW_PBE Mo_pv 08Apr2002``; nothing is said of elements that one lacks.
    """
    return [
        f"potential of {e}: {ours[e]!r} here, {theirs[e]!r} in the references"
        for e in sorted(set(elements) & set(ours) & set(theirs))
        if " ".join(ours[e].split()) != " ".join(theirs[e].split())
    ]


def refuse_other_potentials(ours: Mapping[str, str], theirs: Mapping[str, str], elements: Iterable[str]) -> None:
    """``ReferenceDataError`` where a run's potentials are others than those of the references; see above."""
    other = title_problems(ours, theirs, elements)
    if other:
        raise ReferenceDataError(f"the energy is of another scheme than the references: {'; '.join(other)}")
