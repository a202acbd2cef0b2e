"""Every force field keeps the contract: derivatives of its own energy, batches that change nothing, words for failures."""

from __future__ import annotations

import difflib
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from support.layers import mx2
from support.places import unavailable

from scdm_flows.config import ForceFieldEngineConfig, parse_config
from scdm_flows.config import engines as configs
from scdm_flows.engines.forcefield import potentials as forcefields
from scdm_flows.engines.forcefield.potentials import Answer, ForceField, force_field, missing, scheme_of
from scdm_flows.engines.forcefield.potentials import base as contract
from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together
from scdm_flows.errors import CheckpointError, ConfigError, EngineError
from scdm_models.training.forcefield import network

LJ = "ase.calculators.lj:LennardJones"
LJ_OPTIONS = {"sigma": 2.1, "epsilon": 0.5, "rc": 6.0, "smooth": True}  # smooth: continuous forces at the cut-off
# name -> options, force (eV/angstrom) and stress (eV/angstrom^3) that central differences leave open
FORCE_FIELDS: dict[str, tuple[dict[str, Any], float, float]] = {
    "CHGNet": ({}, 0.02, 2e-4),
    "SevenNet-0": ({}, 0.02, 2e-4),
    "SevenNet-MF-0": ({}, 0.02, 2e-4),
    LJ: (LJ_OPTIONS, 2e-5, 1e-6),
    "ase.calculators.emt:EMT": ({}, 2e-5, 1e-6),
}
WITH_FEATURES = {"CHGNet": 64, "SevenNet-0": 128, "SevenNet-l3i5": 128}


@cache
def named(name: str) -> ForceField:
    options = FORCE_FIELDS.get(name, ({}, 0, 0))[0]
    problem = missing(name, options)
    if problem is not None:
        unavailable(problem)
    return force_field(name, options)


@pytest.fixture(params=FORCE_FIELDS)
def model(request: pytest.FixtureRequest) -> ForceField:
    """Each force field that is here."""
    return named(request.param)


def layers(model: ForceField) -> list[Structure]:
    """Three layers away from their minima; ASE's EMT knows metals and a few light elements alone."""
    if "emt" in model.name:
        names = [["Cu", "Al"], ["Ni", "Au"], ["Ag", "Pt"]]
        found = [Structure(Lattice.hexagonal(4.4, 18), e, [[0, 0, 0.5], [1 / 3, 2 / 3, 0.56]]) for e in names]
    else:
        buckled = [[1 / 3, 2 / 3, 0.51], [2 / 3, 1 / 3, 0.49]]
        found = [mx2("1H"), mx2("1T"), Structure(Lattice.hexagonal(3.2, 20.0), ["Ga", "As"], buckled)]
    rng = np.random.default_rng(0)
    for structure in found:
        moved = structure.cart_coords + rng.normal(0, 0.08, (len(structure), 3))
        for k, xyz in enumerate(moved):
            structure.replace(k, structure[k].specie, xyz, coords_are_cartesian=True)
    return found


def energy(model: ForceField, structures: list[Structure]) -> np.ndarray:
    return np.array([cast(Answer, answer)[0] for answer in model.evaluate(structures)])


def one(model: ForceField, structure: Structure) -> Answer:
    (answer,) = model.evaluate([structure])
    assert not isinstance(answer, str), answer
    return answer


def test_forces_and_stress_are_derivatives_of_the_energy(model: ForceField) -> None:
    _, force_error, stress_error = FORCE_FIELDS[model.name]
    layer = layers(model)[0]
    _, forces, stress = one(model, layer)
    step = 1e-3 if force_error < 1e-3 else 1e-2  # angstrom; in single precision a smaller one drowns in rounding
    moved = []
    for axis in range(3):
        for sign in (1, -1):
            cell = layer.copy()
            cell.translate_sites([1], sign * step * np.eye(3)[axis], frac_coords=False)
            moved.append(cell)
    e = energy(model, moved)
    assert forces.shape == (len(layer), 3)
    assert forces[1] == pytest.approx(-(e[::2] - e[1::2]) / (2 * step), abs=force_error)
    assert np.abs(forces[1]).max() > 5 * force_error  # something is compared
    # stress = dE/d(strain) / volume, as ASE has it: positive where the cell wants to shrink
    strained, small = [], 1e-3 if force_error < 1e-3 else 4e-3
    directions = [(0, 0), (1, 1), (0, 1)]
    for i, j in directions:
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * small / 2
            strain[j, i] += sign * small / 2
            lattice = Lattice(layer.lattice.matrix @ (np.eye(3) + strain))
            strained.append(Structure(lattice, layer.species, layer.frac_coords))
    e = energy(model, strained)
    slopes = (e[::2] - e[1::2]) / (2 * small) / layer.volume
    assert [stress[i, j] for i, j in directions] == pytest.approx(slopes.tolist(), abs=stress_error)
    assert np.abs(slopes).max() > 5 * stress_error
    assert stress == pytest.approx(stress.T, abs=stress_error)


def test_a_batch_is_what_its_members_are_alone_and_a_bad_one_gets_its_reason(model: ForceField) -> None:
    good = layers(model)
    unknown = good[0].copy()
    unknown.replace(0, "Rf" if "lj" not in model.name else "Cu")
    broken = good[0].copy()
    broken.replace(0, broken[0].specie, [np.nan, 0, 0.5])
    first, nan, second, odd, third = model.evaluate([good[0], broken, good[1], unknown, good[2]])
    assert isinstance(nan, str)
    assert "not finite" in nan
    if "lj" not in model.name:  # Lennard-Jones does not look at elements
        assert isinstance(odd, str)
        assert ":" in odd
    for together, structure in zip((first, second, third), good, strict=True):
        for ours, alone in zip(cast(Answer, together), one(model, structure), strict=True):
            assert ours == pytest.approx(alone, abs=1e-4)
    assert model.evaluate([]) == []


def test_an_isolated_atom_fails_with_the_reason() -> None:
    lonely = Structure(Lattice.hexagonal(12.0, 20.0), ["C"], [[0, 0, 0.5]])
    for name in ("CHGNet", "SevenNet-0"):
        (answer,) = named(name).evaluate([lonely])
        assert isinstance(answer, str)
        assert "isolated atom" in answer


def test_permuted_atoms_have_permuted_forces(model: ForceField) -> None:
    layer = layers(model)[0]
    order = np.random.default_rng(1).permutation(len(layer))
    e, forces, stress = one(model, layer)
    other, permuted, same = one(model, Structure.from_sites([layer[k] for k in order]))
    assert other == pytest.approx(e, abs=1e-4)
    assert permuted == pytest.approx(forces[order], abs=1e-4)
    assert same == pytest.approx(stress, abs=1e-5)


@pytest.mark.parametrize(("name", "width"), WITH_FEATURES.items())
def test_features_belong_to_the_same_energy_and_do_not_depend_on_the_cell(name: str, width: int) -> None:
    model = named(name)
    layer = layers(model)[0]
    lonely = Structure(Lattice.hexagonal(12.0, 20.0), ["C"], [[0, 0, 0.5]])
    single, bad, double = model.features([layer, lonely, layer * (2, 1, 1)])
    assert isinstance(bad, str)
    assert not isinstance(single, str)
    assert not isinstance(double, str)
    assert single[1].shape == (width,)
    assert single[0] == pytest.approx(one(model, layer)[0] / len(layer), abs=1e-4)
    assert double[0] == pytest.approx(single[0], abs=1e-4)
    assert double[1] == pytest.approx(single[1], abs=1e-3)
    assert np.std(single[1]) > 0.01


def test_calculators_show_no_features() -> None:
    (answer,) = named(LJ).features([mx2("1H")])
    assert isinstance(answer, str)


def test_one_model_in_memory_and_one_for_each_set_of_options() -> None:
    assert force_field("CHGNet") is force_field("CHGNet", {})
    assert force_field(LJ, LJ_OPTIONS) is force_field(LJ, dict(reversed(LJ_OPTIONS.items())))
    assert force_field(LJ, LJ_OPTIONS) is not force_field(LJ, LJ_OPTIONS | {"epsilon": 1.0})


def test_schemes_name_what_changes_energies() -> None:
    assert scheme_of("CHGNet") == "chgnet-0.3.0"
    assert scheme_of("SevenNet-l3i5") == "sevennet-l3i5"
    plain, other = scheme_of(LJ), scheme_of(LJ, LJ_OPTIONS)
    assert plain.startswith("ase.calculators.lj.lennardjones-3.")
    assert other.startswith(plain + "-")
    assert other != scheme_of(LJ, LJ_OPTIONS | {"epsilon": 1.0})


def test_a_calculator_by_import_path_relaxes_layers() -> None:
    given = Structure(Lattice.hexagonal(2.9, 18.0), ["Cu"], [[0, 0, 0.5]])
    how = RelaxSettings(0.01, 100, force_field="ase.calculators.emt:EMT")
    (found,) = relax_together([given], how)
    assert found.converged
    assert found.structure is not None
    # EMT's hexagonal sheet of copper is denser than a (111) plane of the bulk, whose atoms are 2.55 angstrom apart
    assert 2.3 < found.structure.lattice.a < 2.55


def test_names_are_checked_without_loading_anything() -> None:
    from atomate2.forcefields import MLFF

    # those of the configuration are those of the registry, and those of atomate2
    assert set(configs.ATOMATE2) == {m.value for m in MLFF} - {"Forcefield", "CHGNet"} == set(forcefields.PROGRAMS)
    assert configs.CHGNETS == (configs.DEFAULT_FORCE_FIELD,)
    code = (
        "import sys; from scdm_flows.config import ForceFieldEngineConfig as C; C(force_field='MACE-MP-0'); "
        "C(force_field='a.b:C'); assert not {'torch', 'atomate2', 'sevenn', 'ase'} & set(sys.modules)"
    )
    folder = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


@pytest.mark.parametrize("name", ["CHGNet2D", "sevennet-l3i5", "Mace-mp-0"])
def test_a_wrong_name_gets_the_nearest(name: str) -> None:
    known = [*configs.CHGNETS, *configs.SEVENNETS, *configs.ATOMATE2]
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)[0]
    with pytest.raises(ConfigError, match="did you mean") as caught:
        parse_config({"name": "t", "engine": {"kind": "forcefield", "force_field": name}})
    assert next(k for k in known if k.lower() == near) in str(caught.value)
    with pytest.raises(EngineError, match="did you mean"):
        force_field(name)


def test_wrong_options_and_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="takes weights"):
        ForceFieldEngineConfig(force_field="CHGNet", force_field_options={"model": "large"})
    with pytest.raises(ValueError, match="no import path"):
        ForceFieldEngineConfig(force_field="ase.calculators.emt:")
    with pytest.raises(EngineError, match="has no attribute 'EMTT'"):
        force_field("ase.calculators.emt:EMTT")
    with pytest.raises(EngineError, match="which is not here; install it"):
        force_field("no_such_package.calculators:Good")
    if find_spec("mace") is None:
        with pytest.raises(EngineError, match="pip install mace-torch"):
            force_field("MACE-MP-0")


def test_weights_of_a_file_are_another_force_field(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {k: v.clone() for k, v in network.load().state_dict().items()}
    name = next(k for k in tensors if k.startswith("mlp") and k.endswith("bias"))
    tensors[name] += 0.1
    file = tmp_path / "other.safetensors"
    save_file(tensors, str(file))
    options = {"weights": str(file)}
    assert ForceFieldEngineConfig(force_field_options=options).force_field == "CHGNet"
    own, other = force_field("CHGNet"), force_field("CHGNet", options)
    assert own.scheme != other.scheme == scheme_of("CHGNet", options)
    assert abs(energy(own, [mx2("1H")]) - energy(other, [mx2("1H")])).max() > 1e-3


def test_missing_and_damaged_weights_are_said(tmp_path: Path) -> None:
    missing_file = str(tmp_path / "none.safetensors")
    assert "do not exist; give the path" in str(missing("CHGNet", {"weights": missing_file}))
    with pytest.raises(CheckpointError, match="none.safetensors"):
        network.load(missing_file)
    packaged = Path(network.__file__).parents[2] / "data"
    for file in ("known.npz", "scdm.safetensors"):  # no tensors; those of another network
        with pytest.raises(CheckpointError, match="damaged or another network's"):
            network.load(str(packaged / file))


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    def run(graphs: Any) -> list[Any]:
        if 3 in graphs:
            raise RuntimeError("three")
        return [(float(g), np.zeros(1)) for g in graphs]

    found = contract._safely([1, 2, 3, 4], run)
    assert [f if isinstance(f, str) else f[0] for f in found] == [1.0, 2.0, "RuntimeError: three", 4.0]
