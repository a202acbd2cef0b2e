"""An energy model that learns: nothing from nothing, a point where there is one, as a fit from the start would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.made_up_layers import ELEMENTS, MADE_UP, fitted, hull, made_up_layers

from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_fit import fit
from scdm_flows.thermo.energy_model import EnergyModel
from scdm_flows.thermo.learning import Finding, learn


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    return fitted(200)


def findings(n: int, seed: int) -> list[Finding]:
    new = made_up_layers(n, seed)
    return [
        Finding(
            new.ids[k],
            new.compositions[k],
            {MADE_UP: new.seen[0][k]},
            float(new.formation[k]),
            stable=bool(new.stable[k]),
            nonmetal=bool(new.band_gap[k] > 0),
            magnetic=bool(new.magnetic[k]),
            band_gap=float(new.band_gap[k]),
        )
        for k in range(n)
    ]


def predict(model: EnergyModel, of: list[Finding]) -> list:
    return model.predict([f.composition for f in of], [[f.seen[MADE_UP] for f in of]])


def test_without_findings_it_is_the_same(model: EnergyModel) -> None:
    assert learn(model, []) is model
    uranium = replace(findings(1, 5)[0], composition={"U": 1.0})
    assert learn(model, [uranium]) is model  # an element that it knows nothing of


def test_what_it_has_learned_it_says(model: EnergyModel) -> None:
    """A finding far from all others: prior 0, so the posterior is within the noise of what was found."""
    one = findings(1, 5)[0]
    far = replace(one, seen={MADE_UP: replace(one.seen[MADE_UP], features=np.array([6.0, -6.0, 6.0, 6.0]))})
    wrong = predict(model, [far])[0]
    told = replace(far, formation_energy_per_atom=wrong.formation_energy_per_atom + 0.5)
    learned = learn(model, [told])
    right = predict(learned, [told])[0]
    assert right.formation_energy_per_atom == pytest.approx(told.formation_energy_per_atom, abs=0.05)
    assert right.distance == 0.0
    assert right.error < wrong.error
    assert learned.id.startswith(f"{model.id}+1-")
    assert learned.header["learned"] == {"n": 1, "from": model.id}


def test_it_is_the_fit_of_all_layers() -> None:
    """The same layers at once and one half after the other: the same Gaussian process, but for the mean and scaling of
    the inputs, which stay as they were fitted."""
    half, new = fitted(200), findings(100, 7)
    probe = findings(50, 8)
    said, truth = predict(half, probe), np.array([f.formation_energy_per_atom for f in probe])
    better = predict(learn(half, new), probe)

    def off(of: list) -> float:
        return float(np.abs(np.array([p.formation_energy_per_atom for p in of]) - truth).mean())

    joined = join(made_up_layers(200, 0), made_up_layers(100, 7))
    at_once = fit(
        joined,
        None,
        hull_left_out={i: hull(c) for i, c in zip(joined.ids, joined.compositions, strict=True)},
        hull=hull,
        elemental=[dict.fromkeys(ELEMENTS, 0.0)],
        header={"force_field": MADE_UP, "features": [MADE_UP]},
    )
    assert off(better) < off(said)
    assert off(better) == pytest.approx(off(predict(at_once, probe)), rel=0.2)


def join(a, b):  # type: ignore[no-untyped-def]
    """Two sets of layers as one, with ids of their own."""
    merged = {}
    for name in vars(a):
        left, right = getattr(a, name), getattr(b, name)
        if name in ("seen", "given"):
            merged[name] = [left[0] + right[0]]
        elif name == "left_out":
            merged[name] = {}
        elif name == "ids":
            merged[name] = [*left, *(f"{i}-b" for i in right)]
        else:
            merged[name] = np.concatenate([left, right]) if isinstance(left, np.ndarray) else left + right
    return type(a)(**merged)


def test_properties_are_learned_too(model: EnergyModel) -> None:
    new, probe = findings(200, 11), findings(100, 12)
    before, after = predict(model, probe), predict(learn(model, new), probe)
    for name, truth in (("nonmetal_probability", "nonmetal"), ("magnetic_probability", "magnetic")):

        def brier(of: list, name: str = name, truth: str = truth) -> float:
            said = np.array([getattr(p.properties, name) for p in of])
            return float(((said - np.array([float(getattr(f, truth)) for f in probe])) ** 2).mean())

        assert brier(after) < brier(before), name
    with_gap = [k for k, f in enumerate(probe) if f.band_gap and before[k].properties.band_gap]

    def gaps(of: list) -> float:
        return float(np.mean([abs(of[k].properties.band_gap - float(probe[k].band_gap or 0)) for k in with_gap]))

    assert gaps(after) < gaps(before)


def test_its_file_keeps_what_it_needs_and_one_of_before_says_so(model: EnergyModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.npz")
    again = EnergyModel.load(tmp_path / "m.npz", "m")
    new = findings(20, 3)
    assert learn(again, new).id == learn(model, new).id
    probe = findings(10, 4)
    one, other = (predict(learn(m, new), probe) for m in (model, again))
    for a, b in zip(one, other, strict=True):
        # rows are kept in single precision
        assert a.formation_energy_per_atom == pytest.approx(b.formation_energy_per_atom, abs=1e-3)
    with pytest.raises(ReferenceDataError, match="kept no noise of its data, so it cannot learn; make it again with"):
        learn(replace(model, noise=None), new)
