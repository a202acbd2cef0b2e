"""Equality of layers: pymatgen's StructureMatcher made safe for slabs.

With its defaults the matcher scales the vacuum into the comparison: at c >= 20 angstrom it calls 1H- and 1T-MoS2 the
same, and the same layer at two values of c different. Here c is set to the thickness plus 3.4 angstrom first, the
volume is not scaled, and only layers of one formula (and one layer group, where given) are compared at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from scdm_models.lattice import orient_slab

INTERLAYER_ANGSTROM = 3.4


class LayerMatcher:
    """Compares layers.

    Parameters
    ----------
    stol
        Largest root mean square distance of atoms, in units of (volume / atom)^(1/3).
    ltol
        Relative tolerance of the lattice lengths.
    """

    def __init__(self, stol: float = 0.2, ltol: float = 0.1) -> None:
        self._matcher = StructureMatcher(
            ltol=ltol, stol=stol, angle_tol=3, primitive_cell=True, scale=False, attempt_supercell=False
        )

    @staticmethod
    def prepare(structure: Structure) -> Structure:
        """The layer with c = thickness + 3.4 angstrom, as it is compared."""
        return orient_slab(structure, vacuum=INTERLAYER_ANGSTROM)

    def fit(self, first: Structure, second: Structure) -> bool:
        """Whether two layers are the same."""
        if first.composition.reduced_formula != second.composition.reduced_formula:
            return False
        return self._fit_prepared(self.prepare(first), self.prepare(second))

    def rms(self, first: Structure, second: Structure) -> float | None:
        """Root mean square distance in units of (volume / atom)^(1/3); None where the layers differ."""
        result = self._matcher.get_rms_dist(self.prepare(first), self.prepare(second))
        return None if result is None else float(result[0])

    def _fit_prepared(self, first: Structure, second: Structure) -> bool:
        # atoms per area differ by more than ltol allows: cannot match, and this is far cheaper than trying
        density = [len(s) / float(np.linalg.norm(np.cross(*s.lattice.matrix[:2]))) for s in (first, second)]
        if abs(np.log(density[0] / density[1])) > 0.25:
            return False
        return bool(self._matcher.fit(first, second))

    def group(self, structures: Sequence[Structure], keys: Sequence[Hashable] | None = None) -> list[list[int]]:
        """Indices of equal layers, each group in input order and groups by their first member.

        keys: only structures with the same reduced formula and the same key (such as the layer group) are compared.
        """
        labels = [
            (s.composition.reduced_formula, None if keys is None else keys[i]) for i, s in enumerate(structures)
        ]
        groups: list[list[int]] = []
        order = sorted(range(len(structures)), key=lambda i: (str(labels[i]), i))
        for _, members in itertools.groupby(order, key=lambda i: str(labels[i])):
            found: list[tuple[Structure, list[int]]] = []
            for i in members:
                prepared = self.prepare(structures[i])
                for representative, group in found:
                    if self._fit_prepared(representative, prepared):
                        group.append(i)
                        break
                else:
                    found.append((prepared, [i]))
            groups += [group for _, group in found]
        return sorted(groups)
