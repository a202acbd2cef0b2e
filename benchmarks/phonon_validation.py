"""Dynamic stability from a force field's phonons beside C2DB's verdict on the same layers.

    python benchmarks/phonon_validation.py --c2db c2db.jsonl.gz --work DIR

Takes as many layers that C2DB calls stable ("high") as it calls unstable ("low"), all of chemical systems of which no
force field of this project has learned anything (``scdm_models.training.forcefield.labels.held_out``), relaxes them,
computes phonons, and judges them in three ways:

- bands: as the campaigns do, path and mesh from a supercell of 12 angstrom;
- c2db: C2DB's own criterion, no eigenvalue of the Hessian below -0.01 eV/angstrom^2 at the points of a 2 x 2 supercell
  (M. Gjerding et al., 2D Mater. 8, 044002 (2021), doi:10.1088/2053-1583/ac1059);
- c2db, its geometry: the same at the structure as C2DB relaxed it with PBE, which tells the force field's curvature
  from its geometry.

Thresholds are the project's and C2DB's. Beside them, a threshold is chosen on one half of the layers and its accuracy
reported on the other half. Writes models/cards/phonons.json and phonons.md; layers that DIR/phonons-NAME.jsonl already
holds are not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from scdm_flows.config import DEFAULT_FORCE_FIELD
from scdm_flows.thermo.energy_fit import CORRELATED

warnings.filterwarnings("ignore")
CARDS = Path(__file__).resolve().parents[1] / "models" / "cards"
LARGEST_CELL = 8
PART = 4  # layers a process takes at a time
C2DB_POINTS = np.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0]])
C2DB_THRESHOLD = 0.01  # eV/angstrom^2; the labels of the file split there
FAILED = -1e3  # score of a layer without a verdict: counts as unstable
# name -> (key of the record, threshold, unit, what it is)
WAYS = {
    "bands": ("bands_thz", 0.2, "THz", "path and mesh, supercell of 12 Å, after own relaxation: as in campaigns"),
    "c2db": ("hessian_ev", C2DB_THRESHOLD, "eV/Å²", "C2DB's criterion at the points of 2 × 2, after own relaxation"),
    "c2db, its geometry": ("hessian_given_ev", C2DB_THRESHOLD, "eV/Å²", "the same at C2DB's own (PBE) geometry"),
}


def choose(path: Path, n: int, seed: int) -> list[Any]:
    """``n`` layers of each label, or as many of each as there are, in random order."""
    from scdm_models.datasets.readers import read_any
    from scdm_models.datasets.records import LayerRecord
    from scdm_models.training.forcefield.labels import held_out

    found = [r for r in read_any(path) if isinstance(r, LayerRecord) and len(r.structure) <= LARGEST_CELL]
    found = [r for r in found if held_out(r.structure.composition.chemical_system)]
    rng = np.random.default_rng(seed)
    chosen = []
    labelled = {label: [r for r in found if r.properties.get("dyn_stab_phonons") == label] for label in ("high", "low")}
    n = min(n, *map(len, labelled.values()))
    for same in labelled.values():
        chosen += [same[i] for i in rng.permutation(len(same))[:n]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def softest(phonon: Any) -> float:
    """Lowest eigenvalue of the Hessian (not weighted by mass) at C2DB's points, eV/angstrom^2, without translations."""
    roots = np.sqrt(np.repeat(phonon.primitive.masses, 3))
    lowest = []
    for q in C2DB_POINTS:
        values = np.linalg.eigvalsh(phonon.get_dynamical_matrix_at_q(q) * np.outer(roots, roots))
        if not q.any():
            values = np.delete(values, np.argsort(np.abs(values))[:3])
        lowest += values.tolist()
    return float(min(lowest))


def measure(records: list[Any], force_field: str) -> list[dict[str, Any]]:
    """What a force field says about some layers."""
    from scdm_flows.config import ForceFieldEngineConfig
    from scdm_flows.engines.forcefield.phonons import vibrations
    from scdm_flows.engines.forcefield.relaxation import RelaxSettings, relax_together

    config = ForceFieldEngineConfig()
    step = config.phonon_displacement_angstrom
    given = [r.structure for r in records]
    settings = RelaxSettings(config.fmax_ev_per_angstrom, config.max_relax_steps, force_field=force_field)
    relaxed = relax_together(given, settings)
    usable = [k for k, r in enumerate(relaxed) if r.structure is not None and r.converged]
    layers: list[Any] = [relaxed[k].structure for k in usable]
    large = vibrations(layers, force_field, displacement=step, min_length=config.phonon_min_length_angstrom)
    bands = {
        k: made if isinstance(made, str) else band_score(made, layer)
        for k, made, layer in zip(usable, large, layers, strict=True)
    }
    hessians = dict(zip(usable, vibrations(layers, force_field, displacement=step, repeats=2), strict=True))
    found = []
    for k, (record, own) in enumerate(
        zip(records, vibrations(given, force_field, displacement=step, repeats=2), strict=True)
    ):
        hessian, band = hessians.get(k, "not relaxed"), bands.get(k, "not relaxed")
        row: dict[str, Any] = {
            "id": record.id,
            "stable_c2db": record.properties["dyn_stab_phonons"] == "high",
            "hessian_c2db_ev": record.properties["min_hessian_eig"],
            "n_atoms": len(record.structure),
            "magnetic": record.properties.get("magstate") != "NM",
            "correlated": bool(CORRELATED & {str(e) for e in record.structure.composition}),
            "hessian_ev": FAILED if isinstance(hessian, str) else softest(hessian.phonon),
            "hessian_given_ev": FAILED if isinstance(own, str) else softest(own.phonon),
            "energy_per_atom": relaxed[k].energy_per_atom,
        }
        row |= {"bands_thz": FAILED, "error": band} if isinstance(band, str) else band
        if k in bands:
            row["area_change"] = _area(relaxed[k].structure) / _area(record.structure) - 1
        found.append(row)
    return found


def band_score(made: Any, layer: Any) -> dict[str, Any]:
    """The lowest frequency on path and mesh, THz, raised by what is allowed more near Gamma; what the rules changed."""
    from scdm_flows.analysis.phonons import flexural_exponent, phonon_bands, phonon_mesh
    from scdm_flows.analysis.stability import THRESHOLD_THZ, judge, thresholds
    from scdm_flows.analysis.sum_rules import enforce, pairs_of

    def score() -> tuple[float, bool]:
        samples = phonon_bands(made.phonon, layer), phonon_mesh(made.phonon)
        lowest = [s.frequencies.min(axis=1) + thresholds(s.q_points) - THRESHOLD_THZ for s in samples]
        return float(np.concatenate(lowest).min()), judge(*samples).stable

    without, stable_without = score()
    enforced = enforce(pairs_of(made.phonon), made.virial)
    made.phonon.force_constants = enforced.constants
    value, stable = score()
    return {
        "bands_thz": value,
        "stable": stable,
        "bands_without_rules_thz": without,
        "stable_without_rules": stable_without,
        "flexural_exponent": flexural_exponent(made.phonon),
        "sum_rule_change": enforced.relative_change,
    }


def _area(structure: Any) -> float:
    matrix = np.array(structure.lattice.matrix)
    return float(np.linalg.norm(np.cross(matrix[0], matrix[1])))


def judged(rows: list[dict[str, Any]], scores: Any, threshold: float) -> dict[str, Any]:
    """Confusion matrix and accuracy of "stable where the score is at least minus the threshold"."""
    from scdm_models.metrics.samples import share_interval

    truth, said = np.array([r["stable_c2db"] for r in rows]), np.asarray(scores) >= -threshold
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


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All ways of judging: at their own threshold, at several, and at one chosen on the other half."""
    half = np.arange(len(rows)) % 2 == 0  # the rows are in random order
    found: dict[str, Any] = {}
    for name, (key, threshold, unit, text) in WAYS.items():
        scores = np.array([r[key] for r in rows])
        truth = np.array([r["stable_c2db"] for r in rows])
        grid = np.geomspace(0.01, 5, 28)
        shares = np.array([((scores >= -t) == truth)[half].mean() for t in grid])
        chosen = float(np.median(grid[shares == shares.max()]))
        # the probability that a stable layer scores above an unstable one: what any threshold can make of the scores
        pairs = scores[truth][:, None] - scores[~truth][None]
        found[name] = {
            "text": text,
            "unit": unit,
            "all": judged(rows, scores, threshold),
            "by_threshold": [judged(rows, scores, float(t)) for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)],
            "chosen_on_the_other_half": judged(
                [r for r, h in zip(rows, ~half, strict=True) if h], scores[~half], chosen
            ),
            "auc": float((pairs > 0).mean() + 0.5 * (pairs == 0).mean()),
        }
    return found


def causes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Where the errors lie."""
    from scdm_models.metrics.samples import share_interval

    def share(which: Any, right: Any) -> dict[str, Any]:
        picked = [bool(right(r)) for r in rows if which(r)]
        if not picked:
            return {"n": 0}
        interval = share_interval(sum(picked), len(picked))
        return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}

    def right(r: dict[str, Any]) -> bool:
        return bool(r.get("stable", False) == r["stable_c2db"])

    def right_given(r: dict[str, Any]) -> bool:
        return bool((r["hessian_given_ev"] >= -C2DB_THRESHOLD) == r["stable_c2db"])

    strong = {"-0.2 to -0.01": (-0.2, -0.01), "-1 to -0.2": (-1, -0.2), "-5 to -1": (-5, -1), "below -5": (-1e9, -5)}
    return {
        "with_V_Cr_Mn_Fe_Co_Ni_Cu": share(lambda r: r["correlated"], right),
        "without_these": share(lambda r: not r["correlated"], right),
        "not_magnetic": share(lambda r: not r["magnetic"], right),
        "magnetic": share(lambda r: r["magnetic"], right),
        "area_kept_within_3_percent": share(lambda r: abs(r.get("area_change", 1)) < 0.03, right),
        "area_changed_more": share(lambda r: abs(r.get("area_change", 1)) >= 0.03, right),
        "unstable_found_by_c2db_hessian": {
            name: {
                "bands": share(lambda r, a=a, b=b: not r["stable_c2db"] and a <= r["hessian_c2db_ev"] < b, right),
                "c2db, its geometry": share(
                    lambda r, a=a, b=b: not r["stable_c2db"] and a <= r["hessian_c2db_ev"] < b, right_given
                ),
            }
            for name, (a, b) in strong.items()
        },
        "median_abs_area_change": float(np.median([abs(r["area_change"]) for r in rows if "area_change" in r])),
        "false_imaginary_without_rules": sum(r.get("stable", 0) and not r["stable_without_rules"] for r in rows),
        "quadratic_of_stable": share(
            lambda r: r.get("stable"), lambda r: abs((r["flexural_exponent"] or 0) - 2) < 0.15
        ),
        "failed": sum("error" in r for r in rows),
    }


def percent(share: dict[str, Any], name: str = "value") -> str:
    """A share with its interval."""
    return f"{100 * share[name]:.0f} % ({100 * share['low']:.0f}-{100 * share['high']:.0f})" if share["n"] else "–"


def markdown(results: dict[str, Any]) -> str:
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
    thresholds = [r["threshold"] for r in ways["bands"]["by_threshold"]]
    lines += ["", "Other half: the threshold was chosen on one half of the layers, the accuracy is the other half's."]
    lines += ["", "Accuracy by threshold:", "", "| | " + " | ".join(f"{t:g}" for t in thresholds) + " |"]
    lines.append("| --- |" + " --- |" * len(thresholds))
    for name, way in ways.items():
        shares = " | ".join(f"{100 * r['accuracy']:.0f} %" for r in way["by_threshold"])
        lines.append(f"| {name} ({way['unit']}) | {shares} |")
    lines += [
        "",
        "Where the errors lie (accuracy of the first row):",
        "",
        "| layers | accuracy | n |",
        "| --- | --- | --- |",
    ]
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
    lines += [
        "",
        f"- Relaxation changes the area of the cell by {100 * why['median_abs_area_change']:.1f} % (median).",
        f"- Without the rotational sum rules {why['false_imaginary_without_rules']} of the layers that count as stable",
        "  would have an imaginary flexural mode.",
        f"- Flexural exponent within 0.15 of 2: {percent(why['quadratic_of_stable'])} of those layers.",
        f"- {why['failed']} layers have no phonons (not relaxed); they count as unstable.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c2db", type=Path, required=True, help="C2DB's layers with their stability labels")
    parser.add_argument(
        "--work", type=Path, default=CARDS.parents[1] / "scdm-data" / "phonons", help="folder of records"
    )
    parser.add_argument("--force-field", default=DEFAULT_FORCE_FIELD)
    parser.add_argument("-n", type=int, default=100, help="layers of each label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    from functools import partial

    from scdm_flows.engines.forcefield.relaxation import one_thread
    from scdm_models.processes import pool

    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = arguments.work / f"phonons-{arguments.force_field}.jsonl"
    done = {r["id"]: r for r in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    records = choose(arguments.c2db, arguments.n, arguments.seed)
    missing = [r for r in records if r.id not in done]
    parts = [missing[i : i + PART] for i in range(0, len(missing), PART)]
    with pool(arguments.processes, one_thread) as workers, kept.open("a") as handle:
        for rows in workers.map(partial(measure, force_field=arguments.force_field), parts):
            done |= {r["id"]: r for r in rows}
            handle.writelines(json.dumps(r) + "\n" for r in rows)
            handle.flush()
            print(f"{len(done)} layers", file=sys.stderr, flush=True)
    rows = [done[r.id] for r in records]
    results = {
        "command": f"python benchmarks/phonon_validation.py --c2db FILE -n {arguments.n} --seed {arguments.seed}",
        "force_field": arguments.force_field,
        "n": len(rows),
        "seed": arguments.seed,
        "ways": summary(rows),
        "causes": causes(rows),
        "layers": rows,
    }
    (CARDS / "phonons.json").write_text(json.dumps(results, indent=1) + "\n")
    (CARDS / "phonons.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
