"""What it takes to peel a layer off its bulk crystal. Pure.

Which crystal a layer comes from, nothing that is packaged says: C2DB names ICSD and COD numbers of some, 2DMatPedia the
crystal that some were made from, also where elements were replaced; and a crystal of the same composition need not be
made of the layer. So the parent is who the references' file says it is: a layered crystal there names its layers under
``parent_of`` in its ``data``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scdm_flows.errors import ReferenceDataError

if TYPE_CHECKING:
    from scdm_flows.thermo.hull import Phase
    from scdm_flows.thermo.table import ReferenceTable

SAME_FRACTION = 1e-6


@dataclass(frozen=True)
class Exfoliation:
    """parent: name of the bulk crystal; mev_per_angstrom2: energy of the layer above it, over the layer's area."""

    parent: str
    mev_per_angstrom2: float


def exfoliation_energy(layer_ev_per_atom: float, bulk_ev_per_atom: float, area_per_atom: float) -> float:
    """Exfoliation energy, meV/angstrom^2, from total energies of one scheme and the layer's area (angstrom^2/atom).

    The energy of an isolated layer above that of its bulk crystal, for the same number of atoms, over the area. It
    equals the energy that binds the layers of the crystal (Jung, Park and Ihm, Nano Lett. 18, 2759 (2018),
    doi:10.1021/acs.nanolett.7b04201).
    """
    return 1000 * (layer_ev_per_atom - bulk_ev_per_atom) / area_per_atom


def exfoliation_of(
    names: Sequence[str],
    fractions: Mapping[str, float],
    energy_per_atom: float,
    area_per_atom: float,
    references: ReferenceTable,
) -> Exfoliation | None:
    """Of a layer whose parent the references name; None where they name none.

    Parameters
    ----------
    names
        What the layer is called: by its file, its campaign, or data sets that know it.
    fractions, energy_per_atom, area_per_atom
        Element -> atom fraction; eV/atom of the references' scheme; angstrom^2/atom.
    references
        The table.

    Raises
    ------
    ReferenceDataError
        If the parent is of another composition.
    """
    parent = next((found for name in names if (found := references.parents.get(name)) is not None), None)
    if parent is None:
        return None
    bulk = _phase(parent, references)
    elements = {*fractions, *bulk.fractions}
    if max(abs(fractions.get(e, 0.0) - bulk.fractions.get(e, 0.0)) for e in elements) > SAME_FRACTION:
        raise ReferenceDataError(
            f"the references call {parent} ({bulk.formula}) the parent of {' or '.join(names)}, which is of another "
            "composition; correct its parent_of"
        )
    return Exfoliation(parent, exfoliation_energy(energy_per_atom, bulk.energy_per_atom, area_per_atom))


def _phase(name: str, references: ReferenceTable) -> Phase:
    return next(phase for phases in references.phases.values() for phase in phases if phase.name == name)
