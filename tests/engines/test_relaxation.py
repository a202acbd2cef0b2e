"""Relaxing together gives what relaxing one by one gives; c is held; one bad structure stops none of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase._4.optimize.bfgs import BFGSMethod
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from support.memory import memory_database

from scdm_flows.analysis.gate import rmsd
from scdm_flows.config import ForceFieldEngineConfig
from scdm_flows.engines.forcefield.bfgs import CholeskyBFGS
from scdm_flows.engines.forcefield.engine import ForceFieldEngine
from scdm_flows.engines.forcefield.potentials import force_field
from scdm_flows.engines.forcefield.relaxation import IN_PLANE, RelaxSettings, relax_together
from scdm_flows.execution.jobs import hushed, run_job
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode
from scdm_models.training.forcefield.network import load

CHGNET = "CHGNet"  # as shipped


def layers() -> dict[str, Structure]:
    """Known layers, strained and displaced from their minimum."""
    third = (1 / 3, 2 / 3)
    crystals = {
        "1H-MoS2": LayerCrystal(78, (3.30, 3.30, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (*third, 1.5)))),
        "1T-HfS2": LayerCrystal(72, (3.55, 3.55, 120.0), (Site(72, "a", (0, 0, 0)), Site(16, "c", (*third, 1.4)))),
        "GaSe": LayerCrystal(78, (3.75, 3.75, 120.0), (Site(31, "d", (0, 0, 1.25)), Site(34, "e", (*third, 2.4)))),
    }
    found = {name: decode(crystal) for name, crystal in crystals.items()}
    oblique = found["1T-HfS2"].copy()
    oblique.perturb(0.05, min_distance=0.05)
    return found | {"1T-HfS2, no symmetry": oblique}


def test_one_backward_pass_gives_what_the_force_field_gives() -> None:
    from ase.units import GPa

    structures = list(layers().values())
    ours = force_field(CHGNET).evaluate(structures)
    theirs = load().predict_structure(structures, task="efs")
    for answer, p, s in zip(ours, theirs, structures, strict=True):
        assert not isinstance(answer, str)
        energy, forces, stress = answer
        assert energy / len(s) == pytest.approx(float(p["e"]), abs=1e-5)
        assert np.allclose(forces, p["f"], atol=1e-4)
        assert np.allclose(stress, p["s"] * GPa, atol=1e-5)


def test_it_ends_where_atomate2s_relaxation_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomate2.ase.utils import AseRelaxer
    from chgnet.model.dynamics import CHGNetCalculator

    monkeypatch.chdir(tmp_path)
    structures = layers()
    how = RelaxSettings(0.01, 300, force_field=CHGNET)
    together = dict(zip(structures, relax_together(list(structures.values()), how), strict=True))
    calculator = CHGNetCalculator(load(), use_device="cpu", on_isolated_atoms="error")
    for name, structure in structures.items():
        # the filter of ForceFieldRelaxMaker; its optimiser, FIRE, ends in the same place after three times as many steps
        relaxer = AseRelaxer(calculator, optimizer="BFGS")
        one = relaxer.relax(
            structure, fmax=0.01, steps=500, filter_kwargs={"mask": IN_PLANE}, final_atoms_object_file=None
        )
        ours = together[name]
        assert one.converged
        assert ours.converged
        assert ours.structure is not None
        assert ours.steps > 2
        energy = calculator.get_potential_energy(one.final_mol_or_struct.to_ase_atoms()) / len(structure)
        assert ours.energy_per_atom == pytest.approx(energy, abs=2e-3), name
        assert rmsd(one.final_mol_or_struct, ours.structure) < 0.01, name
        assert np.allclose(one.final_mol_or_struct.lattice.abc, ours.structure.lattice.abc, atol=0.01), name
        assert np.array_equal(ours.structure.lattice.matrix[2], structure.lattice.matrix[2])  # c held to the bit


def test_one_bad_structure_stops_none_of_the_others() -> None:
    good = layers()["1H-MoS2"]
    lonely = Structure(Lattice.from_parameters(30, 30, 30, 90, 90, 120), ["Ne"], [[0, 0, 0.5]])  # no neighbour within 6
    alone = relax_together([good], RelaxSettings(0.02, 100, force_field=CHGNET))[0]
    first, bad, last = relax_together([good, lonely, good], RelaxSettings(0.02, 100, force_field=CHGNET))
    (short,) = relax_together([good], RelaxSettings(1e-6, 2, force_field=CHGNET))
    assert bad.structure is None
    assert bad.error is not None
    assert "isolated" in bad.error
    assert first.energy_per_atom == pytest.approx(alone.energy_per_atom, abs=1e-5)
    assert last.energy_per_atom == pytest.approx(alone.energy_per_atom, abs=1e-5)
    assert (short.converged, short.steps) == (False, 2)


def test_jobs_take_what_was_relaxed_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = ForceFieldEngine(ForceFieldEngineConfig(force_field=CHGNET, fmax_ev_per_angstrom=0.05))
    structures = list(layers().values())
    store = memory_database().job_store

    def run(structure: Structure, maker: Any, spent: float = 0.0) -> Any:
        with hushed():
            run_job(maker.make(structure), store, spent=spent)
        return store.docs_store.query_one({}, sort={"metadata.completed_at": -1})

    asked: list[int] = []
    model = force_field(CHGNET)
    real = model.evaluate
    monkeypatch.setattr(model, "evaluate", lambda given: asked.append(len(given)) or real(given))
    ahead = {}
    for one in engine.relax_ahead(structures):
        before = len(asked)
        ahead[one.index] = run(structures[one.index], one.maker, one.seconds)
        assert len(asked) == before  # nothing is computed for the job
    assert max(asked) == len(structures)  # they shared batches
    assert sorted(ahead) == list(range(len(structures)))
    alone = run(structures[0], engine.relax_maker())
    assert asked[-1] == 1
    one, other = alone["output"]["output"], ahead[0]["output"]["output"]
    assert other["energy_per_atom"] == pytest.approx(one["energy_per_atom"], abs=1e-5)
    assert other["n_steps"] == one["n_steps"] > 2
    # the time of the batches is shared out among the jobs, and counts as theirs
    shares = [document["output"]["output"]["elapsed_time"] for document in ahead.values()]
    assert min(shares) > 0
    assert all(d["metadata"]["seconds"] >= share for d, share in zip(ahead.values(), shares, strict=True))


def test_symmetry_is_kept_where_it_is_asked_for() -> None:
    layer = layers()["1T-HfS2"]
    assert detect_layer_group(layer, 1e-4) == 72
    layer.perturb(0.002)
    kept, free = (
        relax_together([layer], RelaxSettings(0.02, 100, fix_symmetry=fix, force_field=CHGNET))[0]
        for fix in (True, False)
    )
    assert kept.structure is not None
    assert free.structure is not None
    # at a tolerance far below the displacement: one is exact, the other has kept some of its disorder
    assert detect_layer_group(kept.structure, 1e-5) == 72
    assert detect_layer_group(free.structure, 1e-5) < 72
    assert kept.energy_per_atom == pytest.approx(free.energy_per_atom, abs=1e-3)
    assert np.array_equal(kept.structure.lattice.matrix[2], layer.lattice.matrix[2])


def test_an_element_that_the_force_field_lacks_fails_alone() -> None:
    good, odd = layers()["1H-MoS2"], layers()["1H-MoS2"]
    odd.replace_species({"Mo": "Rf"})  # CHGNet ends at plutonium
    bad, fine = relax_together([odd, good], RelaxSettings(0.1, 50, force_field=CHGNET))
    assert fine.converged
    assert bad.error is not None


@settings(max_examples=60)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_cheaper_steps_are_those_of_ase(n: int, seed: int, convex: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    eigenvalues = rng.uniform(0.5, 100, n) * (1 if convex else rng.choice([-1, 1], n))
    hessian = vectors @ np.diag(eigenvalues) @ vectors.T
    gradient = rng.normal(size=n)
    ours = CholeskyBFGS(Atoms("H"), logfile=None)
    ours.H0 = hessian
    ours.update(None, None, None, None)
    expected = BFGSMethod(hessian).compute_step(gradient)
    assert np.allclose(ours.state.compute_step(gradient), expected, rtol=1e-8, atol=1e-10)
