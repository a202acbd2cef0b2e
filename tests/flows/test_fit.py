"""Measuring a surrogate on C2DB: relaxations that go on after a kill, and a cross-validation that tells the truth."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import mx2
from pymatgen.core import Structure

from scdm_flows.errors import ReferenceDataError
from scdm_flows.calibration.fit import Measured, cross_validate, measure, relax_c2db
from scdm_flows.thermo.table import ReferenceTable


def test_relaxations_are_kept_and_half_a_line_is_done_again(tmp_path: Path, graphene: Structure) -> None:
    rows = [
        {
            "id": name,
            "lattice": s.lattice.matrix.tolist(),
            "species": [str(site.specie) for site in s],
            "frac_coords": s.frac_coords.tolist(),
            "e_hull": 0.0,
            "formation_energy_per_atom": 0.0,
        }
        for name, s in (("mos2", mx2("1H")), ("graphene", graphene))
    ]
    with gzip.open(tmp_path / "c2db.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    kept = tmp_path / "relaxed.jsonl"
    first = relax_c2db(tmp_path, kept, 1)
    assert set(first) == {"mos2", "graphene"}
    assert all(row["structure"] is not None and row["error"] is None for row in first.values())
    lines = [line for line in kept.read_text().splitlines() if line]
    kept.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote the second
    seen: list[tuple[int, int]] = []
    again = relax_c2db(tmp_path, kept, 1, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]  # one was known, one was done
    assert again["mos2"] == json.loads(json.dumps(first["mos2"]))  # as it was read back: JSON has no tuples
    assert again["graphene"]["energy_per_atom"] == pytest.approx(first["graphene"]["energy_per_atom"], abs=1e-5)
    done = relax_c2db(tmp_path, kept, 1, lambda done, total: pytest.fail("relaxed again"))
    assert done == json.loads(json.dumps(again))
    with pytest.raises(ReferenceDataError, match="2 layers .* at least 100"):
        measure(tmp_path, again, ReferenceTable.load())


def test_cross_validation_finds_what_can_be_learned_and_no_more() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is in the extra 'fit'")
    rng = np.random.default_rng(0)
    n, noise = 1200, 0.05
    x = np.column_stack([rng.uniform(0, 1, n), rng.normal(size=(n, 24))])
    # the surrogate is 0.3 eV/atom too low, by the sign of one feature 0.2 more or less; the rest is noise
    truth = x[:, 0] + 0.3 + 0.2 * np.sign(x[:, 5]) + rng.normal(0, noise, n)
    systems = [f"system{k}" for k in rng.integers(0, 200, n)]
    found = cross_validate(Measured(x, truth, truth, systems, [42], {}))
    assert found["raw"]["bias"] == pytest.approx(-0.3, abs=0.03)
    assert found["raw"]["mae"] == pytest.approx(0.3, abs=0.03)  # of 0.1 and 0.5
    # the mean of |noise| is 0.8 sigma: nobody who has not seen the noise can do better
    least = np.sqrt(2 / np.pi) * noise
    assert 0.9 * least < found["calibrated_left_out"]["mae"] < 2 * least
    assert found["error_coverage"] == pytest.approx(0.9, abs=0.02)
