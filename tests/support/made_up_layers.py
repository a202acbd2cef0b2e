"""Made-up layers of which an energy model is fitted in a moment, and of which is known what can be learned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scdm_flows.thermo.energy_fit import fit
from scdm_flows.thermo.energy_model import EnergyModel, Seen
from scdm_flows.thermo.training_layers import Measured

ELEMENTS = ("Mo", "W", "S", "Se", "Ti", "Cl")
MADE_UP = "made-up"  # the force field that sees them


def made_up_layers(n: int, seed: int, noise: float = 0.01, spread: float = 1.0) -> Measured:
    """Made-up layers: DFT's energy is the force field's plus 0.5 eV for each S atom's share, a smooth function of the
    first feature, and noise; its phonons are stable with a probability of 1 / (1 + exp(-3 x)), x the second feature, it
    is magnetic where the third is above 1, one in six, and a gap of 1 + y / 2 eV opens where y, the fourth, is above
    0; it is direct where the second is above 0.5, which of half of these layers is known."""
    rng = np.random.default_rng(seed)
    compositions, systems, seen, truth, stable, magnetic, gap = [], [], [], [], [], [], []
    for _ in range(n):
        a, b = sorted(rng.choice(len(ELEMENTS), 2, replace=False))
        x = float(rng.choice([1 / 3, 1 / 2, 2 / 3]))
        fractions = {ELEMENTS[a]: x, ELEMENTS[b]: 1 - x}
        features = rng.normal(0, spread, 4)
        energy = float(rng.normal(-5, 0.3))
        compositions.append(fractions)
        systems.append("-".join(sorted(fractions)) + str(rng.integers(12)))
        seen.append(Seen(energy, features))
        truth.append(energy + 0.5 * fractions.get("S", 0.0) + 0.2 * np.sin(features[0]) + rng.normal(0, noise))
        stable.append(float(rng.random() < 1 / (1 + np.exp(-3 * features[1]))))
        magnetic.append(float(features[2] > 1))
        gap.append(1 + features[3] / 2 if features[3] > 0 else 0.0)
    formation = np.array(truth)
    above = formation - [hull(c) for c in compositions]
    ids = [f"l{k}" for k in range(n)]
    kept = np.ones(n, dtype=bool)
    direct = np.array([float(s.features[1] > 0.5) for s in seen])
    direct[(np.array(gap) == 0) | (np.arange(n) % 2 == 0)] = np.nan
    said = (np.array(stable), np.array(gap), np.array(magnetic), direct)
    return Measured(ids, compositions, systems, [seen], [seen], np.zeros(n), kept, formation, above, *said, {})


def hull(fractions: Mapping[str, float]) -> float:
    """Hull energy, eV/atom."""
    return -1.0 - 0.5 * fractions.get("S", 0.0)


def fitted(n: int = 400, noise: float = 0.01) -> EnergyModel:
    """A model of made-up layers; the elements lie at 0."""
    known = made_up_layers(n, 0, noise)
    return fit(
        known,
        made_up_layers(120, 1, noise, spread=1.5),
        hull_left_out={i: hull(c) for i, c in zip(known.ids, known.compositions, strict=True)},
        hull=hull,
        elemental=[dict.fromkeys(ELEMENTS, 0.0)],
        header={"force_field": MADE_UP, "features": [MADE_UP]},
    )
