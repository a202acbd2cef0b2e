"""The results of the packaged models: samples of three seeds, judged by the protocol; `make results` runs it.

    python benchmarks/results.py --data curated.jsonl.gz --work DIR -n 100 --peers theirs.jsonl

Writes models/cards/results.json (every number with its 95 % interval), results.md (the same as tables) and the pictures
beside them. Files that DIR already holds are not made again, so a run that was stopped goes on. The verdict on every
sample stays in DIR/protocol.json.
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
PROTOCOL, SEEDS, STEPS = "2d-1", (0, 1, 2), (4, 8, 12, 25, 100, 1000)


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
    """The quick judgement of the files of one model, without energies."""
    found: dict[str, Any] = json.loads(made(path, "evaluate", *files, *options).read_text())["models"][0]
    return {k: v for k, v in found.items() if k not in ("populations", "groups", "unreadable")}


def protocol(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """SCDM, three seeds, beside baselines and peers."""
    files = [made(work / f"scdm-{seed}.jsonl", "generate", "-n", n, "--seed", seed) for seed in SEEDS]
    options = ("--protocol", PROTOCOL, "--phonons", 100, "--pictures", work / "pictures")
    whole = json.loads(made(work / "protocol.json", "evaluate", *files, *peers, *options).read_text())
    for model in whole["models"]:
        del model["samples"]
    return {
        "protocol": whole
        | {
            "commands": [
                f"scdm generate -n {n} --seed S -o scdm-S.jsonl",
                f"scdm evaluate scdm-*.jsonl PEERS --protocol {PROTOCOL} --phonons 100 -o protocol.json",
            ]
        }
    }


def quick(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """Both models without energies, beside held-out layers."""
    found = {}
    for model, name in (("scdm", "SCDM"), ("unscdm", "UnSCDM")):
        files = [made(work / f"{model}-{s}.jsonl", "generate", "--model", model, "-n", n, "--seed", s) for s in SEEDS]
        found[name] = judged(work / f"quick-{model}.json", files, "--held-out", data)
    return {"quick": found}


def any_stability(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """Without asking for stability; energy-free."""
    files = [
        made(work / f"any-stability-{s}.jsonl", "generate", "--stability", "any", "-n", 300, "--seed", s) for s in SEEDS
    ]
    return {"any_stability": judged(work / "any-stability.json", files)}


def thousand(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """Both models, three seeds of 1,000 samples; energy-free."""
    found = {}
    for model, name in (("scdm", "SCDM"), ("unscdm", "UnSCDM")):
        files = [
            made(work / f"thousand-{model}-{s}.jsonl", "generate", "--model", model, "-n", 1000, "--seed", s)
            for s in SEEDS
        ]
        found[f"1,000 samples, {name}"] = judged(work / f"thousand-{model}.json", files)
    return {"thousand": found}


def paper(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """UnSCDM decoded as in the paper; energy-free."""
    files = [made(work / f"paper-{s}.jsonl", "generate", "--model", "paper", "-n", 300, "--seed", s) for s in SEEDS]
    return {"paper": judged(work / "paper.json", files)}


def steps(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """Quality against the number of denoising steps; the share of draws that is kept tells of the others."""
    found = {}
    for count in STEPS:
        file = made(work / f"steps-{count}.jsonl", "generate", "--steps", count, "-n", n, "--seed", 9)
        found[str(count)] = judged(work / f"steps-{count}.json", [file])
    return {"steps": found}


def large(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """10,000 samples of one seed: uniqueness, and groups by two tools."""
    file = made(work / "large.jsonl", "generate", "-n", 10000, "--seed", 11)
    return {"large": judged(work / "large.json", [file])}


def reconstruction(data: Path, work: Path, n: int, peers: list[Path]) -> dict[str, Any]:
    """The six distances of Fig. 4."""
    picture = work / "pictures" / "reconstruct.svg"
    file = made(work / "reconstruct.json", "reconstruct", "--data", data, "-n", 80, "--picture", picture, "--force")
    found = json.loads(file.read_text())
    return {"reconstruction": {**_medians(found), "boxes": boxes_of(found["distances"])}}


PARTS = {f.__name__: f for f in (protocol, quick, any_stability, thousand, paper, steps, large, reconstruction)}


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


def _cell(m: dict[str, Any] | None, length: bool = False) -> str:
    if m is None:
        return ""
    if length:
        return f"{m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f})"
    return f"{100 * m['value']:.1f} % ({100 * m['low']:.1f}-{100 * m['high']:.1f})"


def markdown(results: dict[str, Any]) -> str:
    """The tables of ``results``."""
    from scdm_flows.evaluation import quick as quickly
    from scdm_flows.evaluation.shares import LENGTHS, MEASURES

    whole = results["protocol"]
    models, energies = whole["models"], whole["energies"]
    known = ", ".join(f"{n:,} of {source}" for source, n in whole["known_layers"].items() if source != "version")
    lines = [
        "# Results of the packaged models",
        "",
        f"Made by `make results`; every number is in `results.json`. Protocol `{whole['protocol']['name']}` of",
        "`docs/evaluation.md`: uniqueness, novelty and stability are judged after relaxation. Energies are surrogate",
        f"ones, of layers relaxed with {energies['force_field']}, predicted by the energy model",
        f"`{energies['energy_model']}` on the hull of C2DB's scale; phonons are {energies['force_field']}'s. New means",
        f"equal to none of the known layers: {known}. In brackets the 95 % interval.",
        "",
        "| of all samples | " + " | ".join(f"{m['label']}, n = {m['n']}" for m in models) + " |",
        "| --- |" + " --- |" * len(models),
    ]
    lines += [
        f"| {text} | " + " | ".join(_cell(m["measures"].get(name), name in LENGTHS) for m in models) + " |"
        for name, text in MEASURES.items()
        if any(name in m["measures"] for m in models)
    ]
    lines += ["", "Per 1,000 raw draws:", ""]
    lines += ["| | " + " | ".join(m["label"] for m in models) + " |", "| --- |" + " --- |" * len(models)]
    lines += [
        f"| {text} | "
        + " | ".join(
            "" if (c := m["per_1000_draws"].get(name)) is None else f"{c['value']:.0f} ({c['low']:.0f}-{c['high']:.0f})"
            for m in models
        )
        + " |"
        for name, text in MEASURES.items()
        if any(name in m["per_1000_draws"] for m in models)
    ]
    lines += ["", "![The protocol's measures side by side](2d-1.svg)"]
    rows = list(results.get("quick", {}).items())
    rows += [("without asking for stability", results["any_stability"])] if "any_stability" in results else []
    rows += list(results.get("thousand", {}).items())
    rows += [("paper decoding", results["paper"])] if "paper" in results else []
    rows += [(f"{count} steps", m) for count, m in results.get("steps", {}).items()]
    rows += [("10,000 samples", results["large"])] if "large" in results else []
    shown = [name for name in quickly.MEASURES if any(name in m["measures"] for _, m in rows)]
    if rows:
        lines += ["", "## Without energies", "", "As sampled, nothing relaxed (`scdm evaluate FILES`).", ""]
        lines += ["| | n | " + " | ".join(quickly.MEASURES[s] for s in shown) + " |"]
        lines += ["| --- |" + " --- |" * (len(shown) + 1)]
        lines += [
            f"| {name} | {m['n']} | " + " | ".join(_cell(m["measures"].get(s)) for s in shown) + " |"
            for name, m in rows
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
    parser.add_argument("-n", type=int, default=100, help="samples of each model and seed")
    parser.add_argument("--peers", type=Path, nargs="*", default=[], help="other generators' samples")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="the others stay as they are"
    )
    arguments = parser.parse_args()
    (arguments.work / "pictures").mkdir(parents=True, exist_ok=True)
    kept = CARDS / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    results = {name: results[name] for name in PARTS if name in results}
    for part in arguments.parts:
        results |= PARTS[part](arguments.data, arguments.work, arguments.n, arguments.peers)
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
