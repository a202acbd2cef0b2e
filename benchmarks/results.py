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

from scdm_flows.report.reconstruction import boxes_of

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "models" / "cards"
MODELS, SEEDS, STEPS = ("scdm", "unscdm"), (0, 1, 2), (4, 8, 12, 25, 100, 1000)


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


def judged(path: Path, files: list[Path], *options: object) -> dict[str, Any]:
    """The judgement of the files of one model."""
    found: dict[str, Any] = json.loads(made(path, "evaluate", *files, *options).read_text())["models"][0]
    return found


def energies(data: Path, work: Path, n: int) -> dict[str, Any]:
    """Both models, three seeds, relaxed."""
    files = [
        made(work / f"{model}-{seed}.jsonl", "generate", "--model", model, "-n", n, "--seed", seed)
        for model in MODELS
        for seed in SEEDS
    ]
    options = ("--relax", "--phonons", 20, "--held-out", data, "--pictures", work / "pictures")
    whole = json.loads(made(work / "results.json", "evaluate", *files, *options).read_text())
    return {
        "commands": {
            "samples": f"scdm generate -n {n} --seed S",
            "judged": "scdm evaluate FILES --relax --phonons 20 --held-out DATA",
        },
        "energies": whole["energies"] | {"energy_model": whole["energies"]["energy_model"]["id"]},
        "smact": whole["smact"],
        "models": whole["models"],
        "distances_to_held_out": {Path(f["file"]).stem: f["distances_to_held_out"] for f in whole["files"]},
    }


def draws(data: Path, work: Path, n: int) -> dict[str, Any]:
    """What both models make when nothing is passed over, relaxed."""
    files = [
        made(work / f"draws-{model}-{s}.jsonl", "generate", "--model", model, "--no-guidance", "-n", n, "--seed", s)
        for model in MODELS
        for s in SEEDS
    ]
    found = json.loads(made(work / "draws.json", "evaluate", *files, "--relax").read_text())["models"]
    return {"draws": dict(zip((f"all draws, {m}" for m in ("SCDM", "UnSCDM")), found, strict=True))}


def known_templates(data: Path, work: Path, n: int) -> dict[str, Any]:
    """Without the warmth that makes new Wyckoff templates, relaxed; then freed from symmetry before relaxing."""
    files = [
        made(work / f"known-templates-{s}.jsonl", "generate", "--letter-temperature", 1, "-n", n, "--seed", s)
        for s in SEEDS
    ]
    free = ("--relax", "--displace", 0.1)
    return {
        "known_templates": {
            "letters at temperature 1": judged(work / "known-templates.json", files, "--relax"),
            "the same, displaced by 0.1 Å before relaxing": judged(work / "displaced.json", files, *free),
        }
    }


def any_stability(data: Path, work: Path, n: int) -> dict[str, Any]:
    """Without asking for stability; energy-free."""
    files = [
        made(work / f"any-stability-{s}.jsonl", "generate", "--stability", "any", "-n", 300, "--seed", s) for s in SEEDS
    ]
    return {"any_stability": judged(work / "any-stability.json", files)}


def thousand(data: Path, work: Path, n: int) -> dict[str, Any]:
    """Both models, three seeds of 1,000 samples; energy-free."""
    found = {}
    for model, name in zip(MODELS, ("SCDM", "UnSCDM"), strict=True):
        files = [
            made(work / f"thousand-{model}-{s}.jsonl", "generate", "--model", model, "-n", 1000, "--seed", s)
            for s in SEEDS
        ]
        found[f"1,000 samples, {name}"] = judged(work / f"thousand-{model}.json", files)
    return {"thousand": found}


def paper(data: Path, work: Path, n: int) -> dict[str, Any]:
    """UnSCDM decoded as in the paper; energy-free."""
    files = [made(work / f"paper-{s}.jsonl", "generate", "--model", "paper", "-n", 300, "--seed", s) for s in SEEDS]
    return {"paper": judged(work / "paper.json", files)}


def steps(data: Path, work: Path, n: int) -> dict[str, Any]:
    """Quality against the number of denoising steps, relaxed; the share of draws that is kept tells of the others."""
    found = {}
    for count in STEPS:
        file = made(work / f"steps-{count}.jsonl", "generate", "--steps", count, "-n", n, "--seed", 9)
        found[str(count)] = judged(work / f"steps-{count}.json", [file], "--relax")
    return {"steps": found}


def large(data: Path, work: Path, n: int) -> dict[str, Any]:
    """10,000 samples of one seed: uniqueness, and groups by two tools."""
    file = made(work / "large.jsonl", "generate", "-n", 10000, "--seed", 11)
    return {"large": judged(work / "large.json", [file])}


def reconstruction(data: Path, work: Path, n: int) -> dict[str, Any]:
    """The six distances of Fig. 4."""
    picture = work / "pictures" / "reconstruct.svg"
    file = made(work / "reconstruct.json", "reconstruct", "--data", data, "-n", 80, "--picture", picture, "--force")
    found = json.loads(file.read_text())
    return {"reconstruction": {**_medians(found), "boxes": boxes_of(found["distances"])}}


PARTS = {
    f.__name__: f
    for f in (energies, draws, known_templates, any_stability, thousand, paper, steps, large, reconstruction)
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
        "Made by `make results`; every number is in `results.json`. Energies are surrogate ones, predicted by the",
        f"energy model `{results['energies']['energy_model']}` on C2DB's PBE scale (see the README), of layers relaxed",
        f"to {results['energies']['fmax_ev_per_angstrom']} eV/Å in at most {results['energies']['max_steps']} steps.",
        "Shares are of all samples; in brackets the 95 % interval over three seeds. The model is asked for at most",
        "0.2 eV/atom above hull: labels of the training data are C2DB's DFT values where there are, else surrogate",
        "ones.",
        "",
        "| of all samples | " + " | ".join(f"{m['model_id']}, n = {m['n']}" for m in first) + " |",
        "| --- |" + " --- |" * len(first),
    ]
    lines += [
        f"| {text} | " + " | ".join(_cell(name, m["measures"].get(name)) for m in first) + " |"
        for name, text in MEASURES.items()
        if any(name in m["measures"] for m in first)
    ]
    shown = (
        "kept_draws",
        "valid_distance",
        "valid_radii",
        "one_layer",
        "composition_valid",
        "group_exact",
        "novel",
        "novel_templates",
        "unique",
        "e_hull_0.6",
        "one_layer_relaxed",
        "group_kept",
        "rmsd_angstrom",
    )
    lines += [
        "",
        "## Variants",
        "",
        "| | n | " + " | ".join(MEASURES[s] for s in shown) + " |",
        "| --- |" + " --- |" * (len(shown) + 1),
    ]
    rows = list(results.get("draws", {}).items())
    rows += list(results.get("known_templates", {}).items())
    rows += [("without asking for stability", results["any_stability"])] if "any_stability" in results else []
    rows += list(results.get("thousand", {}).items())
    rows += [("paper decoding", results["paper"])] if "paper" in results else []
    rows += [(f"{count} steps", m) for count, m in results.get("steps", {}).items()]
    rows += [("10,000 samples", results["large"])] if "large" in results else []
    lines += [
        f"| {name} | {m['n']} | " + " | ".join(_cell(s, m["measures"].get(s)) for s in shown) + " |" for name, m in rows
    ]
    if "reconstruction" not in results:
        return "\n".join(lines)
    lines += ["", f"## Reconstruction of {results['reconstruction']['n']} held-out layers (medians)", ""]
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
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="the others stay as they are"
    )
    arguments = parser.parse_args()
    (arguments.work / "pictures").mkdir(parents=True, exist_ok=True)
    kept = CARDS / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for part in arguments.parts:
        results |= PARTS[part](arguments.data, arguments.work, arguments.n)
    (CARDS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (CARDS / "results.md").write_text(markdown(results) + "\n")
    if "steps" in results:
        from scdm_flows.report.evaluation import quality_against_steps
        from scdm_flows.report.figures import svg

        measured = {int(count): model["measures"] for count, model in results["steps"].items()}
        (CARDS / "steps.svg").write_text(svg(quality_against_steps(measured)))
    for picture in (arguments.work / "pictures").glob("*.svg"):
        shutil.copy(picture, CARDS / picture.name)
    print(f"wrote {CARDS / 'results.md'}")


if __name__ == "__main__":
    main()
