"""Any ASE calculator as a force field, one structure at a time: atomate2's by name, others by import path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from scdm_flows.engines.forcefield.potentials.base import NOT_FINITE, Answer, Seen, finite, in_words
from scdm_models.training.forcefield.network import without_denormals

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


class CalculatorForceField:
    """One ASE calculator in memory; see ``base.ForceField``."""

    def __init__(self, name: str, scheme: str, calculator: Any) -> None:
        self.name, self.scheme, self.calculator = name, scheme, calculator
        self.program = f"{type(calculator).__module__}.{type(calculator).__qualname__}"

    def evaluate(self, structures: Sequence[Structure]) -> list[Answer | str]:
        """See ``base.ForceField``."""
        answers: list[Answer | str] = []
        for structure in structures:
            try:
                answers.append(self._one(finite(structure)))
            except Exception as error:  # an element without parameters, a calculator without stress
                answers.append(in_words(error))
        return answers

    def features(self, structures: Sequence[Structure]) -> list[Seen | str]:
        """None: an ASE calculator does not show them."""
        return [f"{self.name} shows no features of atoms; CHGNet and SevenNet do"] * len(structures)

    def _one(self, structure: Structure) -> Answer | str:
        from pymatgen.io.ase import AseAtomsAdaptor

        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = self.calculator
        with without_denormals():
            energy = float(atoms.get_potential_energy())
            forces = np.array(atoms.get_forces(), dtype=float)
            stress = np.array(atoms.get_stress(voigt=False), dtype=float)
        whole = np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()
        return (energy, forces, stress) if whole else NOT_FINITE


def by_import_path(path: str, options: Mapping[str, Any]) -> Any:
    """The calculator of ``package.module:Class``, or what a function of that name returns."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)(**options)


def by_atomate2(name: str, options: Mapping[str, Any]) -> Any:
    """The calculator of one of atomate2's names; its own defaults where an option is not given."""
    from atomate2.forcefields.jobs import ForceFieldStaticMaker

    # it fills the defaults in and calls atomate2.forcefields.utils.ase_calculator
    return ForceFieldStaticMaker(force_field_name=name, calculator_kwargs=dict(options)).calculator
