"""The results of the packaged models: which of their samples are judged how, and the numbers as tables.

Every part is made of files that ``scdm`` commands write into one folder. A file that is there is not made again, so a
run that was stopped goes on; the verdict on every sample of the protocol stays in the folder's ``protocol.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scdm_flows.errors import DatasetError
from scdm_flows.evaluation.reconstruction import ASSEMBLED, DEFINITIONS, boxes, medians

PROTOCOL, PHONONS = "2d-1", 100
SEEDS, STEPS = (0, 1, 2), (4, 8, 12, 25, 100, 1000)
MODELS = {"scdm": "SCDM", "unscdm": "UnSCDM"}
RECONSTRUCTED = 80  # held-out layers
PICTURES = "pictures"  # of the folder

Part = dict[str, Any]


@dataclass(frozen=True)
class Making:
    """What the parts of the results are made from.

    Parameters
    ----------
    data
        Curated set, of which the held-out layers are taken.
    work
        Folder of samples and judgements.
    n
        Samples of each model and seed.
    peers
        Files of other generators' samples.
    scdm
        Carries out an ``scdm`` command, given its words.
    """

    data: Path
    work: Path
    n: int
    peers: Sequence[Path]
    scdm: Callable[[Sequence[str]], None]

    def made(self, name: str, *words: object) -> Path:
        """A file of the folder, made by a command unless it is there."""
        path = self.work / name
        if not path.exists():
            self.scdm([*map(str, words), "-o", str(path)])
        return path

    def samples(self, name: str, n: int, seed: int, *options: object) -> Path:
        """A file of ``n`` samples of a seed.

        Raises
        ------
        DatasetError
            If the folder's file of this name holds another number of samples.
        """
        path = self.made(f"{name}.jsonl", "generate", *options, "-n", n, "--seed", seed)
        with path.open() as handle:
            held = sum(1 for _ in handle)
        if held != n:
            raise DatasetError(f"{path} holds {held} samples, {n} are asked for; give another folder by --work")
        return path

    def judged(self, name: str, files: Sequence[Path], *options: object) -> Part:
        """The quick judgement of the files of one model, without energies."""
        found: Part = json.loads(self.made(name, "evaluate", *files, *options).read_text())["models"][0]
        _without_folders(found)
        return {k: v for k, v in found.items() if k not in ("populations", "groups", "unreadable")}


def _without_folders(model: Part) -> None:
    """Names its files without where they lay, which is nobody's business."""
    if "files" in model:
        model["files"] = {Path(file).name: digest for file, digest in model["files"].items()}


def protocol(making: Making) -> Part:
    """SCDM, three seeds, beside baselines and peers."""
    files = [making.samples(f"scdm-{seed}", making.n, seed) for seed in SEEDS]
    options = ("--protocol", PROTOCOL, "--phonons", PHONONS, "--pictures", making.work / PICTURES)
    whole = json.loads(making.made("protocol.json", "evaluate", *files, *making.peers, *options).read_text())
    for model in whole["models"]:
        del model["samples"]
        _without_folders(model)
    commands = [
        f"scdm generate -n {making.n} --seed S -o scdm-S.jsonl",
        f"scdm evaluate scdm-*.jsonl PEERS --protocol {PROTOCOL} --phonons {PHONONS} -o protocol.json",
    ]
    return {"protocol": whole | {"commands": commands}}


def quick(making: Making) -> Part:
    """Both models without energies, beside held-out layers."""
    found = {}
    for model, name in MODELS.items():
        files = [making.samples(f"{model}-{seed}", making.n, seed, "--model", model) for seed in SEEDS]
        found[name] = making.judged(f"quick-{model}.json", files, "--held-out", making.data)
    return {"quick": found}


def any_stability(making: Making) -> Part:
    """Without asking for stability; energy-free."""
    files = [making.samples(f"any-stability-{seed}", 300, seed, "--stability", "any") for seed in SEEDS]
    return {"any_stability": making.judged("any-stability.json", files)}


def thousand(making: Making) -> Part:
    """Both models, three seeds of 1,000 samples; energy-free."""
    found = {}
    for model, name in MODELS.items():
        files = [making.samples(f"thousand-{model}-{seed}", 1000, seed, "--model", model) for seed in SEEDS]
        found[f"1,000 samples, {name}"] = making.judged(f"thousand-{model}.json", files)
    return {"thousand": found}


def paper(making: Making) -> Part:
    """UnSCDM decoded as in the paper; energy-free."""
    files = [making.samples(f"paper-{seed}", 300, seed, "--model", "paper") for seed in SEEDS]
    return {"paper": making.judged("paper.json", files)}


def steps(making: Making) -> Part:
    """Quality against the number of denoising steps; the share of draws that is kept tells of the others."""
    found = {}
    for count in STEPS:
        file = making.samples(f"steps-{count}", making.n, 9, "--steps", count)
        found[str(count)] = making.judged(f"steps-{count}.json", [file])
    return {"steps": found}


def large(making: Making) -> Part:
    """10,000 samples of one seed: uniqueness, groups by two tools, held-out layers found."""
    file = making.samples("large", 10000, 11)
    return {"large": making.judged("large.json", [file], "--held-out", making.data)}


def reconstruction(making: Making) -> Part:
    """The six distances of Fig. 4."""
    options = ("--data", making.data, "-n", RECONSTRUCTED, "--picture", making.work / PICTURES / "reconstruct.svg")
    found = json.loads(making.made("reconstruct.json", "reconstruct", *options, "--force").read_text())
    distances, about = found["distances"], {key: found[key] for key in ("n", "models")}
    return {"reconstruction": {**about, **medians(distances), "boxes": boxes(distances)}}


def assembly(making: Making) -> Part:
    """Held-out layers from their skeletons alone."""
    found = json.loads(making.made("assembly.json", "assemble", "--data", making.data).read_text())
    return {"assembly": {k: v for k, v in found.items() if k != "ids"}}


PARTS: dict[str, Callable[[Making], Part]] = {
    f.__name__: f for f in (protocol, assembly, quick, any_stability, thousand, paper, steps, large, reconstruction)
}


def results(making: Making, parts: Sequence[str], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen parts, made; of ``kept`` results the others, as they are."""
    found = dict(kept)
    for name in parts:
        found |= PARTS[name](making)
    return {name: found[name] for name in PARTS if name in found}


def markdown(results: Mapping[str, Any], packaged: str | None = None) -> str:
    """The tables of ``results``; a part that is missing has none. packaged: id of the model that is packaged now."""
    lines = ["# Results of the packaged models", ""]
    if "protocol" in results:
        judged = results["protocol"]["models"][0]["label"]
        if packaged is not None and judged != packaged:
            now = f"packaged now is `{packaged}`"
            lines += [f"**The protocol's tables are of `{judged}`, an earlier model; {now}.**", ""]
        lines += _by_protocol(results["protocol"])
    else:
        lines += ["Made by `make results`; every number is in `results.json`."]
    if "assembly" in results:
        lines += _assembly(results["assembly"])
    lines += _without_energies(results)
    if "reconstruction" in results:
        lines += _reconstruction(results["reconstruction"])
    return "\n".join(lines) + "\n"


def _by_protocol(whole: Mapping[str, Any]) -> Iterator[str]:
    from scdm_flows.evaluation.shares import LENGTHS, MEASURES

    models, energies = whole["models"], whole["energies"]
    field = energies["force_field"]
    known = ", ".join(f"{n:,} of {source}" for source, n in whole["known_layers"].items() if source != "version")
    yield f"Made by `make results`; every number is in `results.json`. Protocol `{whole['protocol']['name']}` of"
    yield "`docs/evaluation.md`: uniqueness, novelty and stability are judged after relaxation. Energies are surrogate"
    yield f"ones, of layers relaxed with {field}, predicted by the energy model"
    yield f"`{energies['energy_model']}` on the hull of C2DB's scale; phonons are {field}'s. New means"
    yield f"equal to none of the known layers: {known}. In brackets the 95 % interval."
    yield ""
    yield from _table("of all samples", [f"{m['label']}, n = {m['n']}" for m in models])
    for name, text in MEASURES.items():
        if any(name in m["measures"] for m in models):
            yield _row(text, [_cell(m["measures"].get(name), name in LENGTHS) for m in models])
    yield from ("", "Per 1,000 raw draws:", "")
    yield from _table("", [m["label"] for m in models])
    for name, text in MEASURES.items():
        if any(name in m["per_1000_draws"] for m in models):
            yield _row(text, [_count(m["per_1000_draws"].get(name)) for m in models])
    yield from ("", f"![The protocol's measures side by side]({PROTOCOL}.svg)")


def _without_energies(results: Mapping[str, Any]) -> Iterator[str]:
    rows = list(results.get("quick", {}).items())
    rows += [("without asking for stability", results["any_stability"])] if "any_stability" in results else []
    rows += list(results.get("thousand", {}).items())
    rows += [("paper decoding", results["paper"])] if "paper" in results else []
    rows += [(f"{count} steps", model) for count, model in results.get("steps", {}).items()]
    rows += [("10,000 samples", results["large"])] if "large" in results else []
    if not rows:
        return
    from scdm_flows.evaluation.quick import MEASURES

    shown = [name for name in MEASURES if any(name in model["measures"] for _, model in rows)]
    yield from ("", "## Without energies", "", "As sampled, nothing relaxed (`scdm evaluate FILES`).", "")
    yield from _table("", ["model", "n", *(MEASURES[name] for name in shown)])
    for text, model in rows:
        cells = [_cell(model["measures"].get(name)) for name in shown]
        yield _row(text, [f"`{model['model_id']}`", str(model["n"]), *cells])
    if "steps" in results:
        yield from ("", "![Share of draws that are bonded layers, by denoising steps](steps.svg)")
    found = results.get("large", {}).get("rediscovered")
    if found:
        times = "" if found["ratio"] is None else f", {_times(found['ratio'])} times that"
        yield ""
        yield f"Of {found['held_out']} held-out layers, by formula and layer group, {found['found']} are among them;"
        yield f"{found['by_chance']:.1f} with the samples' groups shuffled among their formulas{times}."


def _assembly(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {found['n']} held-out layers from their skeletons alone", "")
    given = "Given are group, elements and positions (`scdm assemble`); by atoms of the primitive cell."
    yield f"{given} {_by(found)}".rstrip()
    for what, text in ASSEMBLED.items():
        kinds = found[what]
        yield ""
        yield from _table(text, list(next(iter(kinds.values()))))
        for kind, sizes in kinds.items():
            yield _row(kind, [_cell(share) for share in sizes.values()])


def _reconstruction(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## Reconstruction of {found['n']} held-out layers (medians)", "")
    if by := _by(found):
        yield from (by, "")
    for definition in DEFINITIONS:
        kinds = found[definition]
        yield from _table(definition, list(next(iter(kinds.values()))))
        for kind, values in kinds.items():
            yield _row(kind, ["" if value is None else f"{value:.3f}" for value in values.values()])
        yield ""


def _by(found: Mapping[str, Any]) -> str:
    """Which models did it, where the part says so."""
    models = found.get("models", ())
    return f"Made by {', '.join(f'`{model}`' for model in models)}." if models else ""


def _table(corner: str, columns: Sequence[str]) -> Iterator[str]:
    yield _row(corner, columns) if corner else f"| | {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * len(columns)


def _row(text: str, cells: Sequence[str]) -> str:
    return f"| {text} | {' | '.join(cells)} |"


def _cell(m: Mapping[str, Any] | None, length: bool = False) -> str:
    if m is None:
        return ""
    if length:
        return f"{m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f})"
    return f"{100 * m['value']:.1f} % ({100 * m['low']:.1f}-{100 * m['high']:.1f})"


def _times(m: Mapping[str, Any]) -> str:
    return f"{m['value']:.2f} ({m['low']:.2f}-{m['high']:.2f})"


def _count(m: Mapping[str, Any] | None) -> str:
    return "" if m is None else f"{m['value']:.0f} ({m['low']:.0f}-{m['high']:.0f})"
