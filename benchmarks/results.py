"""The results table of the packaged models: samples of three seeds, judged and relaxed; `make results` runs it.

    python benchmarks/results.py --data curated.jsonl.gz --work DIR -n 100

Writes models/cards/results.json (every number with its 95 % interval), results.md (the same as tables) and the pictures
beside them. Files that DIR already holds are not made again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "models" / "cards"
MODELS, SEEDS, STEPS = ("scdm", "unscdm", "paper"), (0, 1, 2), (20, 50, 100, 250, 1000)


def scdm(*arguments: object) -> None:
    """Runs one ``scdm`` command; its words go to the terminal."""
    command = [str(Path(sys.executable).with_name("scdm")), *map(str, arguments)]
    print("$ scdm", *arguments, flush=True)
    subprocess.run(command, check=True)


def made(path: Path, *arguments: object) -> Path:
    """The file, made by an ``scdm`` command unless it is there."""
    if not path.exists():
        scdm(*arguments, "-o", path)
    return path


def run(data: Path, work: Path, n: int) -> dict[str, Any]:
    """All samples and judgements; returns the numbers for the table."""
    relaxed = [
        made(work / f"{model}-{seed}.jsonl", "generate", "--model", model, "-n", n, "--seed", seed)
        for model in MODELS[:2]
        for seed in SEEDS
    ]
    pictures = ("--held-out", data, "--pictures", work / "pictures")
    energies = made(work / "results.json", "evaluate", *relaxed, "--relax", *pictures)
    plain = {
        "unguided": [("--no-guidance",), 300],
        "without asking for stability": [("--stability", "any"), 300],
        "paper decoding": [("--model", "paper"), 300],
    }
    variants = {}
    for name, (options, count) in plain.items():
        files = [
            made(work / f"{name.replace(' ', '-')}-{seed}.jsonl", "generate", *options, "-n", count, "--seed", seed)
            for seed in SEEDS
        ]
        variants[name] = made(work / f"{name.replace(' ', '-')}.json", "evaluate", *files)
    steps = {}
    for count in STEPS:
        file = made(work / f"steps-{count}.jsonl", "generate", "--steps", count, "-n", 200, "--seed", 9)
        steps[count] = made(work / f"steps-{count}.json", "evaluate", file)
    large = made(work / "large.jsonl", "generate", "-n", 10000, "--seed", 11)
    many = made(work / "large.json", "evaluate", large)
    rebuilt = work / "reconstruct.json"
    if not rebuilt.exists():
        scdm("reconstruct", "--data", data, "-n", 30, "--picture", work / "pictures" / "reconstruct.svg", "-o", rebuilt)

    def models(path: Path) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(path.read_text())["models"]
        return found

    whole = json.loads(energies.read_text())
    return {
        "commands": {
            "samples": f"scdm generate -n {n} --seed S",
            "judged": "scdm evaluate FILES --relax --held-out DATA",
        },
        "energies": {k: v for k, v in whole["energies"].items() if k != "calibration"},
        "smact": whole["smact"],
        "models": whole["models"],
        "distances_to_held_out": {Path(f["file"]).stem: f["distances_to_held_out"] for f in whole["files"]},
        "variants": {name: models(path) for name, path in variants.items()},
        "steps": {str(count): models(path)[0] for count, path in steps.items()},
        "large": models(many)[0],
        "reconstruction": _medians(json.loads(rebuilt.read_text())),
    }


def _medians(found: dict[str, Any]) -> dict[str, Any]:
    from statistics import median

    names = ("energy", "sinkhorn", "superpose", "crystalnn", "xrd", "ofm")
    table: dict[str, Any] = {"n": found["n"]}
    for definition in ("published", "periodic"):
        table[definition] = {
            kind: {
                name: median(values)
                if (values := [r[definition][name] for r in rows if r[definition][name] is not None])
                else None
                for name in names
            }
            for kind, rows in found["distances"].items()
        }
    return table


def _cell(name: str, m: dict[str, Any] | None) -> str:
    if m is None:
        return ""
    if name == "rmsd_angstrom":
        return f"{m['value']:.3f} Å ({m['low']:.3f}-{m['high']:.3f})"
    return f"{100 * m['value']:.1f} % ({100 * m['low']:.1f}-{100 * m['high']:.1f})"


def markdown(results: dict[str, Any]) -> str:
    """The tables of ``results``."""
    from scdm_flows.cli.evaluate import MEASURES

    first = results["models"]
    lines = [
        "# Results of the packaged models",
        "",
        "Made by `make results`; every number is in `results.json`. Energies are CHGNet's, a surrogate, relaxed to",
        f"{results['energies']['fmax_ev_per_angstrom']} eV/Å in at most {results['energies']['max_steps']} steps;",
        "calibrated means corrected towards C2DB's PBE (see the README). Shares are of all samples; in brackets the",
        "95 % interval over three seeds. The model is asked for at most 0.2 eV/atom above hull: labels of the",
        "training data are C2DB's DFT values where there are, else the same calibrated surrogate that judges here.",
        "",
        "| of all samples | " + " | ".join(f"{m['model_id']}, n = {m['n']}" for m in first) + " |",
        "| --- |" + " --- |" * len(first),
    ]
    lines += [
        f"| {text} | " + " | ".join(_cell(name, m["measures"].get(name)) for m in first) + " |"
        for name, text in MEASURES.items()
    ]
    shown = (
        "valid_distance",
        "valid_radii",
        "one_layer",
        "composition_valid",
        "group_exact",
        "novel",
        "novel_templates",
        "unique",
    )
    lines += [
        "",
        "## Variants",
        "",
        "| | n | " + " | ".join(MEASURES[s] for s in shown) + " |",
        "| --- |" + " --- |" * (len(shown) + 1),
    ]
    rows = [*((name, m) for name, ms in results["variants"].items() for m in ms)]
    rows += [(f"{count} steps", m) for count, m in results["steps"].items()] + [("10,000 samples", results["large"])]
    lines += [
        f"| {name} | {m['n']} | " + " | ".join(_cell(s, m["measures"].get(s)) for s in shown) + " |" for name, m in rows
    ]
    lines += ["", "## Reconstruction of held-out layers (medians)", ""]
    for definition in ("published", "periodic"):
        kinds = results["reconstruction"][definition]
        names = list(next(iter(kinds.values())))
        lines += [f"| {definition} | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
        lines += [
            f"| {kind} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values.values()) + " |"
            for kind, values in kinds.items()
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="curated set (scdm data curate)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "scdm-data" / "results", help="folder of samples and judgements"
    )
    parser.add_argument("-n", type=int, default=100, help="samples of each model and seed that are relaxed")
    arguments = parser.parse_args()
    (arguments.work / "pictures").mkdir(parents=True, exist_ok=True)
    results = run(arguments.data, arguments.work, arguments.n)
    (CARDS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (CARDS / "results.md").write_text(markdown(results) + "\n")
    for picture in (arguments.work / "pictures").glob("*.svg"):
        shutil.copy(picture, CARDS / picture.name)
    print(f"wrote {CARDS / 'results.md'}")


if __name__ == "__main__":
    main()
