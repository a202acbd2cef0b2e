"""Reference phases from a JSON file of computed entries: the user's own, or what the Materials Project gives.

One scheme a file: GGA without +U, one set of potentials, and energies as VASP gave them. Corrections (MP2020 and the
like) are taken off from every entry alike, as candidates have none; an entry of another scheme refuses the file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.table import ReferenceTable

SCHEME = "vasp-pbe"
PLAIN_GGA = {"GGA", "PBE"}  # how entries name it
NAMED = 5  # offending entries that a message names
_REMEDY = (
    "give entries of one scheme: the Materials Project's with thermo type GGA and run type GGA, or your own PBE runs"
)


def load_entries(path: str | Path, scheme: str = SCHEME, potcars: Mapping[str, str] | None = None) -> ReferenceTable:
    """The table of a file of entries.

    Parameters
    ----------
    path
        JSON (may be gzipped): a list of ``ComputedEntry`` or ``ComputedStructureEntry`` dictionaries, or a mapping
        with them under ``entries`` and, if it likes, ``scheme``.
    scheme
        What the energies must be.
    potcars
        Element -> potential that the energies must come from, where an entry names its own; not looked at when
        absent.

    Raises
    ------
    ReferenceDataError
        If the file is missing or no such file, or holds energies of several schemes; the entries are named.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError:
        raise ReferenceDataError(
            f"the file of reference entries {path} does not exist here; give its path in engine.references, on a file "
            "system that workers see too"
        ) from None
    return _load(str(path), stat.st_mtime_ns, scheme, tuple(sorted((potcars or {}).items())))


def load_references(path: str | Path, scheme: str | None = None) -> ReferenceTable:
    """The table of a user's file: computed entries (``.json``, ``.json.gz``), or a table that ``scdm refs build`` made.

    scheme: what the energies must be; what the file says where absent. Raises as ``load_entries``.
    """
    if scheme is None and not Path(path).name.endswith((".json", ".json.gz")):
        return ReferenceTable.load(path)
    return load_entries(path, SCHEME if scheme is None else scheme)


@lru_cache(maxsize=4)
def _load(path: str, stamp: int, scheme: str, potcars: tuple[tuple[str, str], ...]) -> ReferenceTable:
    raw, said, rows = _read(Path(path))
    if (said or SCHEME) != scheme:  # entries say that they are GGA, but not which dispersion correction they have
        raise ReferenceDataError(
            f"{path} holds energies of scheme {said or SCHEME}, those of {scheme} are needed; give a file whose "
            f'"scheme" is {scheme}'
        )
    wanted = dict(potcars)
    phases: dict[str, list[Phase]] = {}
    offending: dict[str, list[str]] = {}
    corrected = 0
    for number, row in enumerate(rows):
        entry = _entry(row, number, path)
        name = str(entry.entry_id or f"entry {number + 1}")
        problem = _problem(entry.parameters, wanted, said is not None)
        if problem is not None:
            offending.setdefault(problem, []).append(f"{name} ({entry.composition.reduced_formula})")
            continue
        corrected += abs(entry.correction) > 1e-9
        energy = entry.uncorrected_energy / entry.composition.num_atoms
        fractions = {str(e): float(x) for e, x in entry.composition.fractional_composition.items()}
        formula = "".join(f"{e}{n:g}" for e, n in entry.composition.items())
        phases.setdefault("-".join(sorted(fractions)), []).append(Phase(name, fractions, energy, formula))
    if offending:
        words = "; ".join(
            f"{problem}: {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            for problem, names in offending.items()
        )
        raise ReferenceDataError(f"{path} mixes schemes ({words}); {_REMEDY}")
    header = {
        "scheme": scheme,
        "surrogate": False,
        "file": path,
        "counts": {"bulk": sum(map(len, phases.values()))},
        "corrections_taken_off": corrected,
    }
    frozen = {k: tuple(v) for k, v in phases.items()}
    return ReferenceTable(scheme, False, hashlib.sha256(raw).hexdigest(), header, frozen)


def _read(path: Path) -> tuple[bytes, str | None, list[Any]]:
    """The file's bytes, the scheme that it names, and its entries."""
    try:
        raw = path.read_bytes()
        data = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise ReferenceDataError(f"{path} is not a JSON file of computed entries ({error}); write it again") from None
    said = data.get("scheme") if isinstance(data, dict) else None
    rows = data.get("entries") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not rows:
        raise ReferenceDataError(f"{path} holds no entries; it must be a list of computed entries' dictionaries")
    return raw, said, rows


def _entry(row: Any, number: int, path: str) -> Any:
    from pymatgen.entries.computed_entries import ComputedEntry

    try:
        return ComputedEntry.from_dict({"correction": 0.0, **{k: v for k, v in row.items() if k != "structure"}})
    except Exception as error:
        raise ReferenceDataError(
            f"{path}: entry {number + 1} is no computed entry ({type(error).__name__}: {error}); leave it out"
        ) from None


def _problem(parameters: Mapping[str, Any], potcars: Mapping[str, str], scheme_said: bool) -> str | None:
    """Why an entry is not plain GGA with our potentials."""
    run_type = parameters.get("run_type")
    run_type = getattr(run_type, "value", run_type)
    if run_type is None and not scheme_said:
        return "run_type is not said"
    if run_type is not None and str(run_type) not in PLAIN_GGA:
        return f"run_type {run_type}"
    if parameters.get("is_hubbard") or any((parameters.get("hubbards") or {}).values()):
        return "+U"
    for symbol in _potentials(parameters):
        element = symbol.partition("_")[0]
        if element in potcars and potcars[element] != symbol:
            return f"potential {symbol} where ours is {potcars[element]} (engine.potcar_symbols)"
    return None


def _potentials(parameters: Mapping[str, Any]) -> list[str]:
    """Names such as Mo_pv: of ``potcar_symbols`` ("PBE Mo_pv") or ``potcar_spec`` ("PAW_PBE Mo_pv 08Apr2002")."""
    named = [str(s) for s in parameters.get("potcar_symbols") or []]
    if not named:
        named = [str((s or {}).get("titel") or "") for s in parameters.get("potcar_spec") or []]
    return [parts[1] if len(parts) > 1 else parts[0] for parts in map(str.split, named) if parts]
