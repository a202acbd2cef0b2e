"""Named settings of GPAW, and how their energies come onto C2DB's scale. Pure, and light to load.

C2DB computes with plane waves up to 800 eV and 12 k-points per 1/angstrom (Haastrup et al., 2D Mater. 5, 042002 (2018),
doi:10.1088/2053-1583/aacfc1). Half the cut-off costs a fifth of the time and leaves an error that belongs to the atoms
and hardly to what surrounds them: it is measured once for each element in a one-atom fcc crystal and subtracted
(``offsets.json``, made by ``scdm refs offsets``). N, O and F are too hard for that; in layers with them the error is
measured in the layer itself on a few k-points. What is left of it is in ``docs/energies.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from scdm_flows.errors import EngineError, ReferenceDataError

SCHEME = "gpaw-pbe-c2db"  # total energies of GPAW with PBE, on C2DB's scale
HARD_ELEMENTS = frozenset({"N", "O", "F"})
FULL_CUTOFF_EV = 800.0
FEW_K_POINTS = 2.0  # per 1/angstrom, where the error of the cut-off is measured in the layer itself
OFFSETS = "offsets.json"


@dataclass(frozen=True)
class Preset:
    """What a preset stands for.

    cutoff_ev: of the plane waves; kpoint_density: k-points per 1/angstrom of reciprocal lattice, 2 pi included;
    mesh_density: the same of the mesh for the density of states; fmax: largest force at the end of a relaxation,
    eV/angstrom; offsets: whether energies are brought from its cut-off to C2DB's.
    """

    cutoff_ev: float
    kpoint_density: float
    mesh_density: float
    fmax: float
    offsets: bool


PRESETS = {
    "fast": Preset(400.0, 6.0, 8.0, 0.03, offsets=True),
    "c2db": Preset(FULL_CUTOFF_EV, 12.0, 12.0, 0.01, offsets=False),
}


def offsets(preset: str, path: str | None = None) -> dict[str, float]:
    """Element -> E(cut-off of the preset) - E(800 eV), eV/atom; empty for a preset without offsets.

    path: a file of `scdm refs offsets`, whose elements go before the packaged ones; ``ReferenceDataError`` where it is
    none.
    """
    packaged = read_offsets(str(files("scdm_flows.engines.gpaw").joinpath(OFFSETS)))
    return {**packaged.get(preset, {}), **({} if path is None else read_offsets(path).get(preset, {}))}


@cache
def read_offsets(path: str) -> dict[str, dict[str, float]]:
    """Preset -> element -> offset in eV/atom, of a file; ``ReferenceDataError`` where it is none."""
    try:
        table = json.loads(Path(path).read_text())["offsets"]
        return {str(name): {str(e): float(x) for e, x in row.items()} for name, row in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReferenceDataError(
            f"{path} is no file of offsets ({type(error).__name__}: {error}); make one with `scdm refs offsets`"
        ) from None


def extra_energies(preset: str, elements: Iterable[str]) -> list[tuple[float, float]]:
    """(cut-off, k-point density) of energies that a layer's static run needs besides its own, in order."""
    if not PRESETS[preset].offsets or not HARD_ELEMENTS.intersection(elements):
        return []
    return [(FULL_CUTOFF_EV, FEW_K_POINTS), (PRESETS[preset].cutoff_ev, FEW_K_POINTS)]


def lacking(preset: str, elements: Iterable[str], path: str | None = None) -> list[str]:
    """Elements whose offset is needed and not known, sorted. path: see ``offsets``."""
    known = offsets(preset, path)
    if not PRESETS[preset].offsets:
        return []
    return sorted(set(elements) - known.keys() - HARD_ELEMENTS)


def on_scale(
    preset: str,
    fractions: Mapping[str, float],
    energy: float,
    extra: Sequence[float],
    n_atoms: int,
    path: str | None = None,
) -> float:
    """The energy on C2DB's scale, eV/atom.

    Parameters
    ----------
    preset
        Name of the settings.
    fractions
        Element -> atom fraction.
    energy
        As GPAW gave it, eV per cell.
    extra
        Those of ``extra_energies``, eV per cell.
    n_atoms
        Atoms of the cell.
    path
        See ``offsets``.

    Raises
    ------
    EngineError
        If an element has no offset.
    """
    if not PRESETS[preset].offsets:
        return energy / n_atoms
    if extra_energies(preset, fractions):
        full, same = extra
        return (energy + full - same) / n_atoms
    missing = lacking(preset, fractions, path)
    if missing:
        raise EngineError(missing_offsets(preset, missing))
    known = offsets(preset, path)
    return energy / n_atoms - sum(x * known[e] for e, x in fractions.items())


def missing_offsets(preset: str, elements: Sequence[str]) -> str:
    """That elements have no offset, with the remedy."""
    return (
        f"no offset to C2DB's scale for {', '.join(elements)} with preset {preset}; use preset: c2db, leave the "
        f"elements out (generator.elements), or measure them with `scdm refs offsets {','.join(elements)} -o FILE` "
        "and name the file in engine.offsets"
    )
