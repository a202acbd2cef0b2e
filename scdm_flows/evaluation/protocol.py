"""Protocols by which generators are judged: every number that a verdict depends on, under a name and version.

A protocol is never changed, only followed by another of a new name, so that numbers under one name can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """What is done with every sample; ``docs/evaluation.md`` says why.

    Parameters
    ----------
    name
        Such as ``2d-1``.
    displacement_angstrom
        How far every atom is moved in a random direction before relaxing: what only symmetry holds leaves its saddle.
    fmax_ev_per_angstrom, max_steps
        Forces on atoms and cell below which a relaxation ends, eV/angstrom; steps after which it has not converged.
    symprec_angstrom
        Tolerance of the layer group of the sample and of the relaxed layer, and at which this is brought onto its
        symmetry before its phonons.
    windows
        Surrogate energies above hull up to which a layer counts as stable, eV/atom.
    phonon_window
        The window whose stable, unique and new samples get phonons, eV/atom.
    phonon_max_atoms
        A larger layer gets no phonons and counts as not phonon-stable.
    polymorph_tolerance
        A layer counts as not above the lowest known polymorph up to this, eV/atom.
    most_atoms
        Known layers of more atoms are no prototypes, no training samples and no polymorphs to compare with.
    """

    name: str
    displacement_angstrom: float
    fmax_ev_per_angstrom: float
    max_steps: int
    symprec_angstrom: float
    windows: tuple[float, ...]
    phonon_window: float
    phonon_max_atoms: int
    polymorph_tolerance: float
    most_atoms: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"windows": list(self.windows)}


PROTOCOLS = {
    "2d-1": Protocol(
        name="2d-1",
        displacement_angstrom=0.05,
        fmax_ev_per_angstrom=0.01,
        max_steps=500,
        symprec_angstrom=0.1,
        windows=(0.0, 0.05, 0.1),
        phonon_window=0.1,
        phonon_max_atoms=20,
        polymorph_tolerance=0.005,
        most_atoms=40,
    )
}
