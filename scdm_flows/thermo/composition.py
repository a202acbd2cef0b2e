"""What a composition is made of, in numbers that models can compare. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

Array = NDArray[np.float64]
U_METALS = ("V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W")  # +U in oxides and fluorides (pymatgen, MPCompatibility.yaml)
PROPERTIES = ("X", "row", "group", "atomic_radius", "mendeleev_no", "ionization_energy", "electron_affinity")
N_ELEMENTS = 103


def element_properties() -> Array:
    """(103, 7) ``PROPERTIES`` of pymatgen's elements by atomic number, 0 where an element has none."""
    with warnings.catch_warnings():  # noble gases have no electronegativity
        warnings.simplefilter("ignore", UserWarning)
        rows = [[getattr(Element.from_Z(z), name) for name in PROPERTIES] for z in range(1, N_ELEMENTS + 1)]
    return np.array([[0.0 if v is None or v != v else float(v) for v in row] for row in rows])


def descriptor(fractions: Mapping[str, float], properties: Array) -> Array:
    """(29,) number of elements, and of each property its mean over the atoms, smallest, largest and mean deviation.

    properties: (103, 7) by atomic number.
    """
    amounts = np.array(list(fractions.values()), dtype=float)
    amounts = amounts / amounts.sum()
    values = properties[[Element(e).Z - 1 for e in fractions]]
    mean = amounts @ values
    return np.concatenate([[len(amounts)], mean, values.min(0), values.max(0), amounts @ np.abs(values - mean)])


def plus_u_terms(fractions: Mapping[str, float]) -> Array:
    """(16,) fractions of ``U_METALS`` where oxygen is, then where fluorine is without oxygen."""
    oxide = "O" in fractions
    metals = [fractions.get(metal, 0.0) for metal in U_METALS]
    none = [0.0] * len(U_METALS)
    return np.array([*(metals if oxide else none), *(metals if "F" in fractions and not oxide else none)])
