"""How the moments of a layer stand to each other, from the runs of the orders that were tried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.analysis.bands import MAGNETIC_MOMENT, is_magnetic
from scdm_flows.documents.static import MagneticOrder, StaticSummary

if TYPE_CHECKING:
    from pymatgen.core import Structure

CANCELLED = 0.1  # of the moments' sum without their signs: below, they count as cancelling
OPPOSITE = 1000  # added to the atomic numbers of atoms whose moments point down, which no operation maps on the others


def kinds_of_atoms(structure: Structure) -> list[int]:
    """(n_atoms,) what spglib takes for an atom's kind: atoms of one element with opposite moments are different ones.

    Moments are the site property ``magmom``, Bohr magnetons.
    """
    moments = structure.site_properties.get("magmom") or [0.0] * len(structure)
    return [
        site.specie.Z + OPPOSITE * (moment is not None and moment < -MAGNETIC_MOMENT)
        for site, moment in zip(structure, moments, strict=True)
    ]


def _cancel(moments: Sequence[float], total: float) -> bool:
    """Whether moments of atoms, Bohr magnetons, cancel. total: of the cell."""
    return abs(total) < CANCELLED * float(np.abs(moments).sum())


def order_of(moments: Sequence[float] | None, total: float | None = None) -> MagneticOrder:
    """How moments of atoms (Bohr magnetons; None without spin) stand to each other. total: of the cell; their sum."""
    if moments is None or not is_magnetic(moments):
        return MagneticOrder.NM
    return MagneticOrder.AFM if _cancel(moments, sum(moments) if total is None else total) else MagneticOrder.FM


def lowest(own: StaticSummary, others: Sequence[StaticSummary]) -> StaticSummary:
    """What is said of a layer whose orders were compared: the lowest one, and by how much orders differ.

    An order in the layer's own cell takes the place of the first run altogether. One in a larger cell gives its energy
    and its name; gap, moments and folder stay those of the first run, whose cell the layer has.

    Parameters
    ----------
    own
        The run in the order that the relaxation ended in, with moments of the cell's atoms.
    others
        Runs in other orders, with moments of the atoms of their cells.
    """
    every = [(found, order_of(found.atom_magnetizations)) for found in (own, *others)]
    best, order = min(every, key=lambda one: one[0].energy_per_atom)
    least = {
        kind: min((found.energy_per_atom for found, is_of in every if is_of is kind), default=None)
        for kind in (MagneticOrder.FM, MagneticOrder.AFM)
    }
    fm, afm = least[MagneticOrder.FM], least[MagneticOrder.AFM]
    same_cell = len(best.atom_magnetizations or []) == len(own.atom_magnetizations or [])
    changes = {
        "energy_per_atom": best.energy_per_atom,
        "magnetic_order": order,
        "antiferromagnetic_ev_per_atom": None if fm is None or afm is None else afm - fm,
    }
    return (best if same_cell else own).model_copy(update=changes)


def magnetic_order(
    moments: Sequence[float] | None, total: float | None, energy: float, tried: Sequence[Mapping[str, Any]]
) -> tuple[MagneticOrder, float, float | None]:
    """The lowest order, its energy, and by how much the lowest antiferromagnetic one lies above the ferromagnetic one.

    Energies are eV per cell. The last is None where one of the two was not found: what a run began with may turn into
    another order, and the run itself may end antiferromagnetic.

    Parameters
    ----------
    moments, total
        Of the run whose ``energy`` it is: of its atoms and of its cell, Bohr magnetons; None without spin.
    energy
        eV per cell.
    tried
        Orders beside it, each with ``energy`` (eV per the same cell) and ``moments``, or with ``failed``.
    """
    magnetic = [one for one in tried if "failed" not in one and is_magnetic(one["moments"])]
    found = [one["energy"] for one in magnetic if order_of(one["moments"]) is MagneticOrder.AFM]
    own = order_of(moments, total)
    above = min(found) - energy if found and own is MagneticOrder.FM else None
    lower = bool(found) and min(found) < energy
    return (MagneticOrder.AFM, min(found), above) if lower else (own, energy, above)
