"""Reference phases from a JSON file of computed entries: the user's own, or what the Materials Project gives.

One scheme a file (``scheme``), and energies as VASP gave them. Corrections (MP2020 and the like) are taken off from
every entry alike, as candidates have none. A file of another scheme is refused, and so is one that mixes functionals,
cut-offs or +U. An entry with another potential is left out, and named in a warning and in the table's header.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.hull import Phase
from scdm_flows.thermo.scheme import PREFIX, STANDARD, Scheme, element_of
from scdm_flows.thermo.table import ReferenceTable

logger = logging.getLogger(__name__)

SCHEME = STANDARD
PLAIN_GGA = {"GGA", "PBE"}  # how entries name it
NAMED = 5  # offending entries that a message names
_REMEDY = (
    "give entries of one scheme: the Materials Project's with thermo type GGA and run type GGA (`scdm refs fetch`), or "
    "your own PBE runs"
)


def load_entries(path: str | Path, scheme: str = SCHEME) -> ReferenceTable:
    """The table of a file of entries.

    Parameters
    ----------
    path
        JSON (may be gzipped): a list of ``ComputedEntry`` or ``ComputedStructureEntry`` dictionaries, or a mapping
        with them under ``entries`` and, if it likes, ``scheme``; without one it is taken for the Materials Project's.
    scheme
        What the energies must be: the name of a ``Scheme``, or of a force field.

    Raises
    ------
    ReferenceDataError
        If the file is missing or no such file, or holds energies of another scheme or of several; the settings that
        differ and the entries are named.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError:
        raise ReferenceDataError(
            f"the file of reference entries {path} does not exist here; give its path in engine.references, on a file "
            "system that workers see too"
        ) from None
    return _load(str(path), stat.st_mtime_ns, scheme)


def load_references(path: str | Path, scheme: str | None = None) -> ReferenceTable:
    """The table of a user's file: computed entries (``.json``, ``.json.gz``), or a table that ``scdm refs build`` made.

    scheme: what the energies must be; what the file says where absent. Raises as ``load_entries``.
    """
    if scheme is None and not Path(path).name.endswith((".json", ".json.gz")):
        return ReferenceTable.load(path)
    return load_entries(path, SCHEME if scheme is None else scheme)


@lru_cache(maxsize=4)
def _load(path: str, stamp: int, scheme: str) -> ReferenceTable:
    raw, said, rows = _read(Path(path))
    wanted = theirs = None
    if scheme.startswith(PREFIX):
        wanted = Scheme.parse(scheme)
        if (said or SCHEME).startswith(PREFIX):
            theirs = Scheme.parse(said or SCHEME)
    differing = theirs.differences(wanted) if wanted is not None and theirs is not None else []
    if differing or (theirs is None and (said or SCHEME) != scheme):
        raise ReferenceDataError(
            f"{path} holds energies of scheme {said or SCHEME}, those of {scheme} are needed"
            + (f": {', '.join(differing)}" if differing else "")
            + f'; give a file whose "scheme" is {scheme} (`scdm refs compute` makes one)'
        )
    entries = [_entry(row, number, path) for number, row in enumerate(rows)]
    offending: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    kept = []
    titles = _common_titles((entry.parameters for entry in entries), wanted)
    for number, entry in enumerate(entries):
        name = f"{entry.entry_id or f'entry {number + 1}'} ({entry.composition.reduced_formula})"
        elements = [str(e) for e in entry.composition]
        problem = _problem(entry.parameters, elements, wanted, theirs, said is not None)
        other = None if wanted is None else _other_potential(entry.parameters, elements, wanted, theirs, titles)
        if problem is not None:
            offending.setdefault(problem, []).append(name)
        elif other is not None:
            left_out[name] = other
        else:
            kept.append((number, entry))
    if offending:
        raise ReferenceDataError(f"{path} mixes schemes ({_by_reason(offending)}); {_REMEDY}")
    for name, reason in left_out.items():
        logger.warning("%s: %s is left out: %s", path, name, reason)
    phases: dict[str, list[Phase]] = {}
    parents: dict[str, str] = {}
    corrected = 0
    for number, entry in kept:
        corrected += abs(entry.correction) > 1e-9
        energy = entry.uncorrected_energy / entry.composition.num_atoms
        fractions = {str(e): float(x) for e, x in entry.composition.fractional_composition.items()}
        formula = "".join(f"{e}{n:g}" for e, n in entry.composition.items())
        phase = Phase(str(entry.entry_id or f"entry {number + 1}"), fractions, energy, formula)
        parents |= dict.fromkeys(_layers(entry.data, phase.name, path), phase.name)
        phases.setdefault("-".join(sorted(fractions)), []).append(phase)
    header = {
        "scheme": scheme,
        "surrogate": False,
        "file": path,
        "counts": {"bulk": sum(map(len, phases.values()))},
        "corrections_taken_off": corrected,
        "left_out": left_out,
        "titles": titles,
        "parents": parents,
    }
    frozen = {k: tuple(v) for k, v in phases.items()}
    return ReferenceTable(scheme, False, hashlib.sha256(raw).hexdigest(), header, frozen)


def _layers(data: Mapping[str, Any], name: str, path: str) -> list[str]:
    """The layers that a bulk crystal is made of, by their names."""
    found = data.get("parent_of") or []
    if not isinstance(found, list) or not all(isinstance(layer, str) for layer in found):
        raise ReferenceDataError(
            f"{path}: parent_of = {found!r} of {name} must be a list of names of layers, such as ['MoS2-b3b4685fb6e1']"
        )
    return found


def _by_reason(offending: Mapping[str, list[str]]) -> str:
    return "; ".join(
        f"{problem}: {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        for problem, names in offending.items()
    )


def read_document(path: str | Path) -> dict[str, Any]:
    """A file of entries as a mapping with them under ``entries``; ``ReferenceDataError`` where it is no JSON."""
    return _parsed(Path(path))[1]


def _parsed(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and its mapping."""
    try:
        raw = path.read_bytes()
        data = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise ReferenceDataError(f"{path} is not a JSON file of computed entries ({error}); write it again") from None
    return raw, data if isinstance(data, dict) else {"entries": data}


def _read(path: Path) -> tuple[bytes, str | None, list[Any]]:
    """The file's bytes, the scheme that it names, and its entries."""
    raw, data = _parsed(path)
    said, rows = data.get("scheme"), data.get("entries")
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


def _problem(
    parameters: Mapping[str, Any], elements: list[str], wanted: Scheme | None, theirs: Scheme | None, scheme_said: bool
) -> str | None:
    """Why an entry is of another scheme than its file; potentials are looked at by ``_other_potential``."""
    run_type = parameters.get("run_type")
    run_type = getattr(run_type, "value", run_type)
    if run_type is None and not scheme_said:
        return "run_type is not said"
    there = {e: float(u) for e, u in (parameters.get("hubbards") or {}).items() if u and e in elements}
    plus_u = {} if wanted is None else wanted.plus_u_of(elements)
    if run_type is not None and str(run_type).removesuffix("+U") not in PLAIN_GGA:
        return f"run_type {run_type}"
    if not there and (parameters.get("is_hubbard") or str(run_type).endswith("+U")):
        return f"run_type {run_type}, with U that are not said"
    if not there and theirs is not None and "hubbards" not in parameters:
        there = theirs.plus_u_of(elements)
    if there != plus_u:
        return f"+U: {_in_ev(there)} where ours is {_in_ev(plus_u)} (run_type {run_type})"
    encut = parameters.get("encut") or (parameters.get("incar") or {}).get("ENCUT")
    if wanted is not None and encut is not None and float(encut) != wanted.encut_ev:
        return f"cut-off {float(encut):g} eV where ours is {wanted.encut_ev:g} (engine.encut_ev)"
    return None


def _in_ev(plus_u: Mapping[str, float]) -> str:
    return ", ".join(f"{e} {u:g} eV" for e, u in sorted(plus_u.items())) or "none"


def _other_potential(
    parameters: Mapping[str, Any],
    elements: list[str],
    wanted: Scheme,
    theirs: Scheme | None,
    common: Mapping[str, str],
) -> str | None:
    """Which potential of an entry is another one than ours, or than that of most entries of its file."""
    said = {element_of(symbol): symbol for symbol in _potentials(parameters)}
    titles = titles_of(parameters)
    for element in elements:
        symbol = said.get(element) or (theirs or wanted).symbol(element)
        if symbol != wanted.symbol(element):
            return f"potential {symbol} where ours is {wanted.symbol(element)} (engine.potcar_symbols)"
        if titles.get(element, common.get(element)) != common.get(element):
            return f"potential {titles[element]!r} where most entries have {common[element]!r}"
    return None


def titles_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Element -> TITEL of its potential, where an entry says it with its date."""
    found = [" ".join(str((spec or {}).get("titel") or "").split()) for spec in parameters.get("potcar_spec") or []]
    return {element_of(title.split()[1]): title for title in found if len(title.split()) > 2}


def _common_titles(several: Iterable[Mapping[str, Any]], wanted: Scheme | None) -> dict[str, str]:
    """Element -> TITEL that most entries with the wanted potential have."""
    counted: dict[str, Counter[str]] = {}
    for parameters in several:
        for element, title in titles_of(parameters).items():
            if wanted is None or title.split()[1] == wanted.symbol(element):
                counted.setdefault(element, Counter())[title] += 1
    return {e: min(counts, key=lambda title: (-counts[title], title)) for e, counts in sorted(counted.items())}


def _potentials(parameters: Mapping[str, Any]) -> list[str]:
    """Names such as Mo_pv: of ``potcar_symbols`` ("PBE Mo_pv") or ``potcar_spec`` ("PAW_PBE Mo_pv 08Apr2002")."""
    named = [str(s) for s in parameters.get("potcar_symbols") or []]
    if not named:
        named = [str((s or {}).get("titel") or "") for s in parameters.get("potcar_spec") or []]
    return [parts[1] if len(parts) > 1 else parts[0] for parts in map(str.split, named) if parts]
