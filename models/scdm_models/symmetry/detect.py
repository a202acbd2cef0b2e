"""Finds the layer group and space group of a structure with two independent tools (moyopy and spglib)."""

from __future__ import annotations

from typing import Any

import moyopy
import numpy as np
import spglib
from pymatgen.core import Structure

from scdm_models.errors import SymmetryError


def _centred(structure: Structure) -> tuple[Any, Any, list[int]]:
    """Lattice, fractional coordinates with the slab's middle at z = 1/2, atomic numbers.

    spglib's layer-group search is wrong for a slab across the boundary (measured: 1H-MoS2 at z = 0 gives 69
    instead of 78), so the slab is unwrapped over its largest gap first.
    """
    frac = np.array(structure.frac_coords, dtype=float)
    z = np.sort(frac[:, 2] % 1.0)
    gaps = np.diff(np.append(z, z[0] + 1.0))
    top = z[int(np.argmax(gaps))]  # the slab ends below the largest gap
    below = (frac[:, 2] - top - 1e-9) % 1.0  # 0 .. 1 above the gap's lower edge; the slab is the upper part
    frac[:, 2] = below - (below.min() + below.max()) / 2 + 0.5
    return np.array(structure.lattice.matrix), frac, [int(s.specie.Z) for s in structure]


def _check(structure: Structure, symprec: float) -> None:
    if not symprec > 0:
        raise SymmetryError(f"symprec={symprec} must be > 0 angstrom; 0.01 suits relaxed slabs")
    if len(structure) == 0:
        raise SymmetryError("a structure without atoms has no symmetry; give at least one atom")


def moyo_layer_dataset(structure: Structure, symprec: float = 0.01) -> Any:
    """The ``moyopy.MoyoLayerDataset`` of the centred slab, in the standard setting (origin choice 2).

    Parameters
    ----------
    structure
        Slab with c perpendicular to a and b.
    symprec
        Tolerance in angstrom, > 0.

    Raises
    ------
    SymmetryError
        If no layer group can be assigned.
    """
    _check(structure, symprec)
    lattice, frac, numbers = _centred(structure)
    frac[:, 2] -= 0.5
    cell = moyopy.Cell(lattice.tolist(), frac.tolist(), numbers)
    try:
        return moyopy.MoyoLayerDataset(cell, symprec=symprec, setting=moyopy.LayerSetting.standard())
    except Exception as error:  # moyopy raises plain ValueError with its own wording
        raise SymmetryError(
            f"moyopy finds no layer group for {structure.composition.reduced_formula} at symprec={symprec} "
            f"angstrom ({error}); check overlapping atoms and that c is perpendicular to a and b"
        ) from error


def detect_layer_group(structure: Structure, symprec: float = 0.01) -> int:
    """The layer group number (1-80) by moyopy; ``SymmetryError`` where there is none."""
    return int(moyo_layer_dataset(structure, symprec).number)


def detect_layer_group_spglib(structure: Structure, symprec: float = 0.01) -> int:
    """The layer group number (1-80) by spglib; ``SymmetryError`` where there is none."""
    _check(structure, symprec)
    try:
        found = spglib.get_layergroup(_centred(structure), aperiodic_dir=2, symprec=symprec)
    except Exception as error:
        raise SymmetryError(f"spglib finds no layer group at symprec={symprec} angstrom ({error})") from error
    if found is None:
        raise SymmetryError(
            f"spglib finds no layer group for {structure.composition.reduced_formula} at symprec={symprec} angstrom"
        )
    return int(found.number)


def detect_space_group(structure: Structure, symprec: float = 0.01) -> int:
    """The space group number (1-230) of the three-periodic cell by moyopy; ``SymmetryError`` where there is none."""
    _check(structure, symprec)
    lattice, frac, numbers = _centred(structure)
    try:
        dataset = moyopy.MoyoDataset(moyopy.Cell(lattice.tolist(), frac.tolist(), numbers), symprec=symprec)
    except Exception as error:
        raise SymmetryError(f"moyopy finds no space group at symprec={symprec} angstrom ({error})") from error
    return int(dataset.number)
