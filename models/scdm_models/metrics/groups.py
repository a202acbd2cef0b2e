"""Whether two independent tools find the layer group that a sample was drawn in, or a supergroup of it."""

from __future__ import annotations

from pymatgen.core import Structure

from scdm_models.errors import ScdmError
from scdm_models.symmetry.detect import detect_layer_group, detect_layer_group_spglib
from scdm_models.symmetry.tables import N_GROUPS, layer_group

SYMPREC = 1e-3


def _point_operations(number: int) -> int:
    """Operations of a layer group for each lattice point."""
    table = layer_group(number)
    return table.general.multiplicity // (2 if table.centred else 1)


def found_by_both(structure: Structure, asked: int, symprec: float = SYMPREC) -> bool:
    """Whether moyopy and spglib each find ``asked`` or a group that can contain it; no where it is no layer group.

    A sample can have more symmetry than its group by accident. Every operation of the asked group is then still one of
    the found group, so the number of operations in the sample's cell (the found group's for each lattice point, times
    the lattice points in the cell) is a multiple of the asked group's.
    """
    if not 1 <= asked <= N_GROUPS:
        return False
    for find in (detect_layer_group, detect_layer_group_spglib):
        try:
            found = find(structure, symprec)
        except ScdmError:
            return False
        if found == asked:
            continue
        cells = len(structure) // len(structure.get_primitive_structure(tolerance=symprec))
        if (_point_operations(found) * cells) % _point_operations(asked):
            return False
    return True
