"""Writes the packaged Wyckoff table of the 80 layer groups from PyXtal (developer tool, not used at run time).

Run ``python -m scdm_models.symmetry.build_tables`` with PyXtal installed. Positions are listed from 'a' to the
general position; every orbit point is a coordinate triplet in the group's standard setting
(International Tables for Crystallography, volume E), as in PyXtal's ``Group(n, dim=2)``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE_PATH = Path(__file__).with_name("wyckoff_layer.json")


def build() -> dict[str, Any]:
    """A dictionary ``{"groups": [{number, symbol, positions: [{letter, points}]}]}`` read from PyXtal."""
    from pyxtal.symmetry import Group

    groups = []
    for number in range(1, 81):
        group = Group(number, dim=2)
        positions = [{"letter": wp.letter, "points": [op.as_xyz_str().replace(" ", "") for op in wp]} for wp in group]
        groups.append({"number": number, "symbol": group.symbol, "positions": positions[::-1]})
    return {"source": "PyXtal Group(n, dim=2)", "groups": groups}


def main() -> None:
    """Write the table beside this file."""
    table = build()
    lines = ",\n".join(json.dumps(group, separators=(",", ":")) for group in table["groups"])
    TABLE_PATH.write_text(f'{{"source":"{table["source"]}","groups":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
