"""Energies of relaxed layers on C2DB's PBE scale: the energy model's force fields in memory, layers in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any

from scdm_flows.engines.forcefield.potentials import force_field
from scdm_flows.engines.forcefield.relaxation import one_thread
from scdm_flows.errors import ReferenceDataError
from scdm_flows.thermo.energy_model import EnergyModel, PredictedEnergy, Seen, energy_model_for
from scdm_models.processes import pool

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_flows.config import ForceFieldEngineConfig

PART = 16  # layers handed to a process at a time


def see(structures: Sequence[Structure], names: Sequence[str]) -> list[dict[str, Seen] | str]:
    """What the named force fields say of each layer, or why one of them cannot; in their order."""
    answers = {name: force_field(name).features(structures) for name in names}
    found: list[dict[str, Seen] | str] = []
    for k in range(len(structures)):
        own = {name: answer[k] for name, answer in answers.items()}
        failed = [f"{name}: {answer}" for name, answer in own.items() if isinstance(answer, str)]
        seen = {name: Seen(*answer) for name, answer in own.items() if not isinstance(answer, str)}
        found.append("; ".join(failed) if failed else seen)
    return found


def predict(structures: Sequence[Structure | None], config: ForceFieldEngineConfig) -> list[PredictedEnergy | str]:
    """The energy of each relaxed layer, or why it has none; in their order.

    Raises
    ------
    ReferenceDataError
        If the force field has no energy model.
    """
    model = energy_model_for(config.force_field, config.energy_model, config.force_field_options)
    if model is None:
        raise ReferenceDataError(
            f"the force field {config.force_field} has no energy model, its energies are on no hull's scale; make one "
            f"with `scdm refs fit --force-field {config.force_field}` (`engine.energy_model`), or give phases with its "
            "own energies (`engine.references`)"
        )
    layers = [structure for structure in structures if structure is not None]
    answers = iter(predict_by(model, layers))
    return ["not relaxed" if structure is None else next(answers) for structure in structures]


def predict_by(model: EnergyModel, layers: Sequence[Structure]) -> list[PredictedEnergy | str]:
    """The energy of each layer as it is, or why it has none; in their order."""
    seen = see(layers, model.force_fields)
    found: list[PredictedEnergy | str] = [one if isinstance(one, str) else "" for one in seen]
    able, answers = [], []
    for k, one in enumerate(seen):
        if not isinstance(one, str):
            able.append(k)
            answers.append(one)
    compositions = [layers[k].composition.fractional_composition for k in able]
    fractions = [{str(e): float(x) for e, x in one.items()} for one in compositions]

    def predicted(rows: Sequence[int]) -> list[PredictedEnergy]:
        given = [[answers[row][name] for row in rows] for name in model.force_fields]
        return model.predict([fractions[row] for row in rows], given)

    try:
        for k, energy in zip(able, predicted(range(len(able))) if able else [], strict=True):
            found[k] = energy
    except ReferenceDataError:  # one odd layer stops none of the others
        for row, k in enumerate(able):
            try:
                found[k] = predicted([row])[0]
            except ReferenceDataError as error:
                found[k] = str(error)
    return found


def see_together(structures: Sequence[Structure], names: Sequence[str], processes: int) -> list[dict[str, Seen] | str]:
    """``see`` in several processes."""
    return list(_side_by_side(see, structures, names, processes))


def predict_together(
    structures: Sequence[Structure | None], config: ForceFieldEngineConfig, processes: int
) -> Iterator[PredictedEnergy | str]:
    """``predict`` in several processes; each as soon as it is there, in their order."""
    return _side_by_side(predict, structures, config, processes)


def _side_by_side(
    what: Callable[..., list[Any]], structures: Sequence[Any], argument: Any, processes: int
) -> Iterator[Any]:
    parts = [structures[i : i + PART] for i in range(0, len(structures), PART)]
    with pool(processes, one_thread) if processes > 1 else nullcontext() as workers:
        for part in (map if workers is None else workers.map)(what, parts, repeat(argument)):
            yield from part
