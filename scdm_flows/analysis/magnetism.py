"""Which magnetic orders of a layer are tried, and how its moments stand to each other by their runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scdm_flows.analysis.bands import MAGNETIC_MOMENT, is_magnetic
from scdm_flows.analysis.orderings import antiferromagnetic_orderings, ferromagnetic, ordered
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


def orders_of(structure: Structure, most: int) -> list[Structure]:
    """The layer in up to ``most`` antiferromagnetic orders other than its own.

    A layer whose own moments cancel comes first with all of them up.
    """
    found = [ordered(structure, order) for order in antiferromagnetic_orderings(structure, most)]
    own = order_of(structure.site_properties.get("magmom"))
    return [ferromagnetic(structure), *found][:most] if own is MagneticOrder.AFM else found


def lowest(own: StaticSummary, others: Sequence[StaticSummary], failed: Sequence[str] = ()) -> StaticSummary:
    """What is said of a layer whose orders were compared: the lowest one, and by how much orders differ.

    An order in the layer's own cell takes the place of the first run altogether. One in a larger cell gives its energy
    and its name; gap, moments and folder stay those of the first run, whose cell the layer has.

    Parameters
    ----------
    own
        The run in the order that the relaxation ended in, with moments of the cell's atoms.
    others
        Runs in other orders, with moments of the atoms of their cells.
    failed
        Why other runs have no energy.
    """
    every = [(found, order_of(found.atom_magnetizations, found.total_magnetization)) for found in (own, *others)]
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
        "magnetic_note": "; ".join(failed) or None,
    }
    return (best if same_cell else own).model_copy(update=changes)
