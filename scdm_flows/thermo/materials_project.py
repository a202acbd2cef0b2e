"""Fetches reference phases from the Materials Project into a file for ``engine.references``.

Needs the package mp-api (extra ``mp``), a key in ``MP_API_KEY`` and a network. Plain GGA entries are kept, those with
+U are left out by name: candidates are computed without it, and schemes never mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.entries import PLAIN_GGA, SCHEME

KEY = "MP_API_KEY"
# thermo type whose entries are GGA, and GGA+U for some oxides and fluorides
THERMO_TYPES = ["GGA_GGA+U"]


def fetch(elements: Sequence[str], out: Path) -> dict[str, Any]:
    """Write the phases of a chemical system and its subsystems; what was kept and what was left out.

    Parameters
    ----------
    elements
        Symbols, at least one.
    out
        JSON file to write.

    Raises
    ------
    ReferenceDataError
        If mp-api or the key is missing, the Materials Project does not answer, or an element has no entry left.
    """
    key = os.environ.get(KEY)
    if not key:
        raise ReferenceDataError(f"{KEY} is not set; set it to your key of materialsproject.org/api")
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise ReferenceDataError('mp-api is not installed; pip install "scdm-flows[mp]"') from None
    try:
        with MPRester(key) as rester:
            found = rester.get_entries_in_chemsys(
                list(elements), additional_criteria={"thermo_types": THERMO_TYPES}, compatible_only=False
            )
    except Exception as error:  # the client has no errors of its own
        text = str(error).replace(key, "***").splitlines() or [type(error).__name__]
        raise ReferenceDataError(f"the Materials Project did not answer ({text[0][:200]}); try again") from None
    kept, left_out = [], []
    for entry in found:
        run_type = entry.parameters.get("run_type")
        plain = str(getattr(run_type, "value", run_type)) in PLAIN_GGA and not entry.parameters.get("is_hubbard")
        name = f"{entry.entry_id} ({entry.composition.reduced_formula})"
        if plain:
            row = entry.as_dict()
            row.pop("structure", None)
            kept.append(row)
        else:
            left_out.append(f"{name}: {run_type}")
    alone = {str(e) for row in kept for e in row["composition"] if len(row["composition"]) == 1}
    missing = sorted(set(elements) - alone)
    if missing:
        raise ReferenceDataError(f"no plain GGA entry of {', '.join(missing)} was found; check the symbols")
    document = {"scheme": SCHEME, "source": "Materials Project", "elements": sorted(elements), "entries": kept}
    out.write_text(json.dumps(document) + "\n")
    return {"entries": len(kept), "left_out": left_out}
