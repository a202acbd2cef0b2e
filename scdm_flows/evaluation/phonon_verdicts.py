"""Dynamic stability from a force field's phonons beside C2DB's verdict on the same layers.

Taken are as many layers that C2DB calls stable ("high") as it calls unstable ("low"), all of chemical systems of which
no force field of this project has learned anything (``scdm_models.training.forcefield.labels.held_out``). They are
relaxed, their phonons computed, and judged in three ways:

- bands: as the campaigns do, path and mesh from a supercell of 12 angstrom;
- c2db: C2DB's own criterion, no eigenvalue of the Hessian below -0.01 eV/angstrom^2 at the points of a 2 x 2 supercell
  (M. Gjerding et al., 2D Mater. 8, 044002 (2021), doi:10.1088/2053-1583/ac1059);
- c2db, its geometry: the same at the structure as C2DB relaxed it with PBE, which tells the force field's curvature
  from its geometry.

Thresholds are the project's and C2DB's. Beside them, a threshold is chosen on one half of the layers and its accuracy
reported on the other half. ``measure`` takes the time; all else is pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scdm_flows import __version__
from scdm_flows.analysis.phonons import flexural_exponent, phonon_bands, phonon_mesh
from scdm_flows.analysis.stability import THRESHOLD_THZ, judge, thresholds
from scdm_flows.analysis.sum_rules import enforce, pairs_of
from scdm_flows.config import DEFAULT_FORCE_FIELD, ForceFieldEngineConfig
from scdm_flows.errors import DatasetError
from scdm_flows.evaluation.ledger import Key, Ledger, carry_out
from scdm_flows.thermo.property_fit import CORRELATED
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import LayerRecord
from scdm_models.errors import reason_of
from scdm_models.metrics.intervals import share_interval
from scdm_models.processes import pool
from scdm_models.training.forcefield.labels import held_out

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_flows.engines.forcefield.phonons import Vibrations

Row = dict[str, Any]

LARGEST_CELL = 8
PART = 4  # layers that a process takes at a time
LABELS = ("high", "low")  # C2DB's dyn_stab_phonons
C2DB_POINTS = np.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0]])
C2DB_THRESHOLD = 0.01  # eV/angstrom^2; the labels of C2DB split there
FAILED = -1e3  # score of a layer without a verdict: counts as unstable
TRIED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)  # thresholds beside each way's own, in its unit
# name -> (key of the row, threshold, unit, what it is)
WAYS = {
    "bands": ("bands_thz", 0.2, "THz", "path and mesh, supercell of 12 Å, after own relaxation: as in campaigns"),
    "c2db": ("hessian_ev", C2DB_THRESHOLD, "eV/Å²", "C2DB's criterion at the points of 2 × 2, after own relaxation"),
    "c2db, its geometry": ("hessian_given_ev", C2DB_THRESHOLD, "eV/Å²", "the same at C2DB's own (PBE) geometry"),
}
# groups of layers by C2DB's lowest eigenvalue of the Hessian, eV/angstrom^2
STRENGTHS = {"-0.2 to -0.01": (-0.2, -0.01), "-1 to -0.2": (-1, -0.2), "-5 to -1": (-5, -1), "below -5": (-1e9, -5)}


def choose(path: Path, n: int, seed: int) -> list[LayerRecord]:
    """``n`` layers of each label, or as many of each as there are, in random order.

    Raises
    ------
    DatasetError
        If the file holds no layer of one of the labels.
    """
    found = [r for r in read_any(path) if isinstance(r, LayerRecord) and len(r.structure) <= LARGEST_CELL]
    found = [r for r in found if held_out(r.structure.composition.chemical_system)]
    rng = np.random.default_rng(seed)
    labelled = {label: [r for r in found if r.properties.get("dyn_stab_phonons") == label] for label in LABELS}
    n = min(n, *map(len, labelled.values()))
    if not n:
        raise DatasetError(
            f"{path} holds no layers of at most {LARGEST_CELL} atoms that C2DB calls stable and others that it calls "
            f"unstable (dyn_stab_phonons, {' and '.join(LABELS)}) in chemical systems that are held out; give C2DB's "
            "layers with their labels"
        )
    chosen = [same[i] for same in labelled.values() for i in rng.permutation(len(same))[:n]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def header(path: Path, force_field: str) -> dict[str, Any]:
    """What the row of a layer depends on."""
    config = ForceFieldEngineConfig()
    return {
        "version": __version__,
        "c2db_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "force_field": force_field,
        "fmax_ev_per_angstrom": config.fmax_ev_per_angstrom,
        "max_relax_steps": config.max_relax_steps,
        "phonon_displacement_angstrom": config.phonon_displacement_angstrom,
        "phonon_min_length_angstrom": config.phonon_min_length_angstrom,
    }


def measure_all(
    records: Sequence[LayerRecord],
    force_field: str,
    ledger: Ledger,
    processes: int,
    progress: Callable[[int, int], None],
) -> list[Row]:
    """What ``measure`` says of each layer, in their order; layers that the ledger has are not computed again.

    progress: called with finished layers and all.
    """
    from scdm_flows.engines.forcefield.relaxation import one_thread

    missing: list[tuple[Key, LayerRecord]] = [((r.id,), r) for r in records if (r.id,) not in ledger]
    before = len(records) - len(missing)
    with pool(processes, one_thread) if processes > 1 else nullcontext() as workers:
        carry_out(
            measure,
            [missing[i : i + PART] for i in range(0, len(missing), PART)],
            ledger,
            force_field,
            workers=workers,
            progress=lambda done, _: progress(before + done, len(records)),
        )
    return [ledger[(r.id,)] for r in records]


def measure(records: Sequence[LayerRecord], force_field: str) -> list[Row]:
    """What a force field says about some layers; of one that fails, why."""
    from scdm_flows.engines.forcefield.phonons import vibrations
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together

    config = ForceFieldEngineConfig()
    step = config.phonon_displacement_angstrom
    given = [r.structure for r in records]
    settings = RelaxSettings(config.fmax_ev_per_angstrom, config.max_relax_steps, force_field=force_field)
    relaxed = relax_together(given, settings)
    layers = {k: r.structure for k, r in enumerate(relaxed) if r.structure is not None and r.converged}
    whole = list(layers.values())
    large = vibrations(whole, force_field, displacement=step, min_length=config.phonon_min_length_angstrom)
    bands = {k: band_score(made, layer) for (k, layer), made in zip(layers.items(), large, strict=True)}
    small = vibrations(whole, force_field, displacement=step, repeats=2)
    hessians = {k: softest(made) for k, made in zip(layers, small, strict=True)}
    found = []
    for k, (record, own) in enumerate(
        zip(records, vibrations(given, force_field, displacement=step, repeats=2), strict=True)
    ):
        row: Row = {
            "id": record.id,
            "stable_c2db": record.properties["dyn_stab_phonons"] == "high",
            "hessian_c2db_ev": record.properties["min_hessian_eig"],
            "n_atoms": len(record.structure),
            "magnetic": record.properties.get("magstate") != "NM",
            "correlated": bool(CORRELATED & {str(e) for e in record.structure.composition}),
            "hessian_ev": hessians.get(k, FAILED),
            "hessian_given_ev": softest(own),
            "energy_per_atom": relaxed[k].energy_per_atom,
            **bands.get(k, {"bands_thz": FAILED, "error": "not relaxed"}),
        }
        if k in layers:
            row["area_change"] = _area(layers[k]) / _area(record.structure) - 1
        found.append(row)
    return found


def softest(made: Vibrations | str) -> float:
    """Lowest eigenvalue of the Hessian (not weighted by mass) at C2DB's points, eV/angstrom^2, without translations;
    ``FAILED`` where there are no force constants.
    """
    if isinstance(made, str):
        return FAILED
    roots = np.sqrt(np.repeat(made.phonon.primitive.masses, 3))
    lowest: list[float] = []
    for q in C2DB_POINTS:
        values = np.linalg.eigvalsh(made.phonon.get_dynamical_matrix_at_q(q) * np.outer(roots, roots))
        if not q.any():
            values = np.delete(values, np.argsort(np.abs(values))[:3])
        lowest += values.tolist()
    return min(lowest)


def band_score(made: Vibrations | str, layer: Structure) -> Row:
    """The lowest frequency on path and mesh, THz, raised by what is allowed more near Gamma, and what the sum rules
    changed; ``FAILED`` and the ``error`` where there are no phonons.
    """
    if isinstance(made, str):
        return {"bands_thz": FAILED, "error": made}

    def score() -> tuple[float, bool]:
        samples = phonon_bands(made.phonon, layer), phonon_mesh(made.phonon)
        lowest = [s.frequencies.min(axis=1) + thresholds(s.q_points, surrogate=True) - THRESHOLD_THZ for s in samples]
        return float(np.concatenate(lowest).min()), judge(*samples, surrogate=True).stable

    try:
        without, stable_without = score()
        enforced = enforce(pairs_of(made.phonon), made.virial)
        made.phonon.force_constants = enforced.constants
        value, stable = score()
        exponent = flexural_exponent(made.phonon)
    except Exception as error:  # a layer can break a library in ways nobody lists
        return {"bands_thz": FAILED, "error": f"no bands: {reason_of(error)}"}
    return {
        "bands_thz": value,
        "stable": stable,
        "bands_without_rules_thz": without,
        "stable_without_rules": stable_without,
        "flexural_exponent": exponent,
        "sum_rule_change": enforced.relative_change,
    }


def _area(structure: Structure) -> float:
    matrix = np.array(structure.lattice.matrix)
    return float(np.linalg.norm(np.cross(matrix[0], matrix[1])))


def results(rows: Sequence[Row], force_field: str, n: int, seed: int) -> dict[str, Any]:
    """Everything as JSON; n, seed: what ``choose`` was asked for."""
    other = "" if force_field == DEFAULT_FORCE_FIELD else f" --force-field {force_field}"
    return {
        "command": f"scdm cards phonons --c2db FILE --work DIR -n {n} --seed {seed}{other}",
        "force_field": force_field,
        "n": len(rows),
        "seed": seed,
        "ways": ways(rows),
        "causes": causes(rows),
        "layers": list(rows),
    }


def judged(rows: Sequence[Row], scores: ArrayLike, threshold: float) -> dict[str, Any]:
    """Confusion matrix and accuracy of "stable where the score is at least minus the threshold"."""
    truth, said = _truth(rows), np.asarray(scores) >= -threshold
    accuracy = share_interval(int((truth == said).sum()), len(rows))
    return {
        "threshold": threshold,
        "stable_said_stable": int((truth & said).sum()),
        "stable_said_unstable": int((truth & ~said).sum()),
        "unstable_said_stable": int((~truth & said).sum()),
        "unstable_said_unstable": int((~truth & ~said).sum()),
        "f1_of_stable": float(2 * (truth & said).sum() / max(1, truth.sum() + said.sum())),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "n": len(rows),
    }


def _truth(rows: Sequence[Row]) -> NDArray[np.bool_]:
    return np.array([r["stable_c2db"] for r in rows])


def ways(rows: Sequence[Row]) -> dict[str, Any]:
    """All ways of judging: at their own threshold, at several, and at one chosen on the other half.

    rows: in random order, layers of both labels.
    """
    half, truth = np.arange(len(rows)) % 2 == 0, _truth(rows)
    found: dict[str, Any] = {}
    for name, (key, threshold, unit, text) in WAYS.items():
        scores = np.array([r[key] for r in rows])
        grid = np.geomspace(0.01, 5, 28)
        shares = np.array([((scores >= -t) == truth)[half].mean() for t in grid])
        chosen = float(np.median(grid[shares == shares.max()]))
        # the probability that a stable layer scores above an unstable one: what any threshold can make of the scores
        pairs = scores[truth][:, None] - scores[~truth][None]
        found[name] = {
            "text": text,
            "unit": unit,
            "all": judged(rows, scores, threshold),
            "by_threshold": [judged(rows, scores, t) for t in TRIED],
            "chosen_on_the_other_half": judged(
                [r for r, h in zip(rows, ~half, strict=True) if h], scores[~half], chosen
            ),
            "auc": float((pairs > 0).mean() + 0.5 * (pairs == 0).mean()),
        }
    return found


def causes(rows: Sequence[Row]) -> dict[str, Any]:
    """Where the errors lie."""

    def share(which: Callable[[Row], Any], right: Callable[[Row], bool]) -> dict[str, Any]:
        picked = [right(r) for r in rows if which(r)]
        if not picked:
            return {"n": 0}
        interval = share_interval(sum(picked), len(picked))
        return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}

    def right(r: Row) -> bool:
        return bool(r.get("stable", False) == r["stable_c2db"])

    def right_given(r: Row) -> bool:
        return bool((r["hessian_given_ev"] >= -C2DB_THRESHOLD) == r["stable_c2db"])

    def quadratic(r: Row) -> bool:
        return bool(abs((r["flexural_exponent"] or 0) - 2) < 0.15)

    def unstable(low: float, high: float) -> Callable[[Row], bool]:
        return lambda r: not r["stable_c2db"] and low <= r["hessian_c2db_ev"] < high

    changes = [abs(r["area_change"]) for r in rows if "area_change" in r]
    return {
        "with_V_Cr_Mn_Fe_Co_Ni_Cu": share(lambda r: r["correlated"], right),
        "without_these": share(lambda r: not r["correlated"], right),
        "not_magnetic": share(lambda r: not r["magnetic"], right),
        "magnetic": share(lambda r: r["magnetic"], right),
        "area_kept_within_3_percent": share(lambda r: abs(r.get("area_change", 1)) < 0.03, right),
        "area_changed_more": share(lambda r: abs(r.get("area_change", 1)) >= 0.03, right),
        "unstable_found_by_c2db_hessian": {
            name: {
                "bands": share(unstable(*ends), right),
                "c2db, its geometry": share(unstable(*ends), right_given),
            }
            for name, ends in STRENGTHS.items()
        },
        "median_abs_area_change": float(np.median(changes)) if changes else None,
        "false_imaginary_without_rules": sum(r.get("stable", False) and not r["stable_without_rules"] for r in rows),
        "quadratic_of_stable": share(lambda r: r.get("stable"), quadratic),
        "failed": sum("error" in r for r in rows),
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of ``results``."""
    ways, why = results["ways"], results["causes"]
    lines = [
        "# Dynamic stability beside C2DB",
        "",
        f"Made by `{results['command']}`; every number is in `phonons.json`.",
        f"{results['n']} layers of C2DB with at most {LARGEST_CELL} atoms, half of them stable by C2DB, of chemical",
        f"systems that no training here has seen, seed {results['seed']}. Phonons are {results['force_field']}'s,",
        "a surrogate for DFT. In brackets the 95 % interval.",
        "",
        "| judged by | threshold | stable: right / wrong | unstable: right / wrong | right | F1 | other half | AUC |",
        "| --- |" + " --- |" * 7,
    ]
    for way in ways.values():
        a, b, unit = way["all"], way["chosen_on_the_other_half"], way["unit"]
        cells = [
            f"{way['text']} | {a['threshold']:g} {unit}",
            f"{a['stable_said_stable']} / {a['stable_said_unstable']}",
            f"{a['unstable_said_unstable']} / {a['unstable_said_stable']}",
            percent(a, "accuracy"),
            f"{a['f1_of_stable']:.2f}",
            f"{percent(b, 'accuracy')}, {b['threshold']:.2g} {unit}",
            f"{way['auc']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    tried = [r["threshold"] for r in ways["bands"]["by_threshold"]]
    lines += ["", "Other half: the threshold was chosen on one half of the layers, the accuracy is the other half's."]
    lines += ["", "Accuracy by threshold:", "", "| | " + " | ".join(f"{t:g}" for t in tried) + " |"]
    lines.append("| --- |" + " --- |" * len(tried))
    for name, way in ways.items():
        shares = " | ".join(f"{100 * r['accuracy']:.0f} %" for r in way["by_threshold"])
        lines.append(f"| {name} ({way['unit']}) | {shares} |")
    lines += ["", "Where the errors lie (accuracy of the first row):", "", "| layers | accuracy | n |"]
    lines.append("| --- |" + " --- |" * 2)
    for name in (
        "with_V_Cr_Mn_Fe_Co_Ni_Cu",
        "without_these",
        "not_magnetic",
        "magnetic",
        "area_kept_within_3_percent",
        "area_changed_more",
    ):
        lines.append(f"| {name.replace('_', ' ')} | {percent(why[name])} | {why[name]['n']} |")
    for name, both in why["unstable_found_by_c2db_hessian"].items():
        lines.append(
            f"| unstable, C2DB's Hessian {name} eV/Å² | {percent(both['bands'])}; at C2DB's geometry "
            f"{percent(both['c2db, its geometry'])} | {both['bands']['n']} |"
        )
    change = why["median_abs_area_change"]
    lines += [
        "",
        f"- Relaxation changes the area of the cell by {'–' if change is None else f'{100 * change:.1f} %'} (median).",
        f"- Without the rotational sum rules {why['false_imaginary_without_rules']} of the layers that count as stable",
        "  would have an imaginary flexural mode.",
        f"- Flexural exponent within 0.15 of 2: {percent(why['quadratic_of_stable'])} of those layers.",
        f"- {why['failed']} layers have no phonons (not relaxed); they count as unstable.",
    ]
    return "\n".join(lines) + "\n"


def percent(share: Mapping[str, Any], name: str = "value") -> str:
    """A share with its interval."""
    return f"{100 * share[name]:.0f} % ({100 * share['low']:.0f}-{100 * share['high']:.0f})" if share["n"] else "–"
