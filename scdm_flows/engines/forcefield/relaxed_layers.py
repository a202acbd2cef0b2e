"""Known layers relaxed with a force field, as candidates are: what an energy model is made of (``scdm refs fit``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from scdm_flows.analysis.relaxed import Relaxed
from scdm_flows.thermo.energy_model import Seen
from scdm_models.symmetry.lattice import orient_slab

PART = 400  # layers relaxed together and written: starting the processes takes as long as some fifty of them

Relax = Callable[[Sequence[Structure]], Sequence[Relaxed]]
See = Callable[[Sequence[Structure]], Sequence[Mapping[str, Seen] | str]]


def relax_known(
    records: Sequence[Mapping[str, Any]],
    kept: Path,
    relax: Relax,
    see: See,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Known layers relaxed and seen: id -> what became of it.

    They are kept as JSON lines in ``kept``; what it holds is not computed again.

    Parameters
    ----------
    records
        The layers, as ``training_layers.records_of`` gives them.
    kept
        File to keep the results in.
    relax
        Relaxes layers with the force field, in their order.
    see
        What the force fields of the model say of relaxed layers, by name, or why they cannot.
    progress
        Called with (done, total).
    """
    known: dict[str, dict[str, Any]] = {}
    if kept.exists():
        for line in kept.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            known[row["id"]] = row
    todo = [r for r in records if r["id"] not in known]
    with kept.open("a") as handle:
        handle.write("\n" if handle.tell() else "")  # after half a line
        for first in range(0, len(todo), PART):
            rows = todo[first : first + PART]
            layers = [orient_slab(Structure(Lattice(r["lattice"]), r["species"], r["frac_coords"])) for r in rows]
            given = see(layers)
            found = relax(layers)
            whole = [k for k, one in enumerate(found) if one.structure is not None]
            seen = dict(zip(whole, see([_structure(found[k]) for k in whole]), strict=True))
            for k, (record, one) in enumerate(zip(rows, found, strict=True)):
                row = {"id": record["id"], "error": one.error, "energy_per_atom": one.energy_per_atom}
                row["converged"], answer = one.converged, seen.get(k, one.error or "not relaxed")
                if isinstance(answer, str):
                    row["error"] = answer
                else:
                    structure = _structure(one)
                    row["lattice"] = np.round(structure.lattice.matrix, 6).tolist()
                    row["frac_coords"] = np.round(structure.frac_coords, 7).tolist()
                    row["species"] = [str(site.specie) for site in structure]
                    row["seen"], row["given"] = _plain(answer), _plain(given[k])
                known[record["id"]] = row
                handle.write(json.dumps(row) + "\n")
            handle.flush()
            if progress is not None:
                progress(len(records) - len(todo) + first + len(rows), len(records))
    return known


def _plain(answer: Mapping[str, Seen] | str) -> dict[str, list[Any]] | None:
    """For JSON: name -> [energy, features]; None where there is none."""
    if isinstance(answer, str):
        return None
    return {n: [round(s.energy_per_atom, 6), [float(f"{x:.6g}") for x in s.features]] for n, s in answer.items()}


def _structure(one: Relaxed) -> Structure:
    assert one.structure is not None
    return one.structure
