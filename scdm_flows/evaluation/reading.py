"""Files of samples: those of ``scdm generate`` and those of other programs, as samples of named models.

Formats are those of ``scdm_models.datasets.readers``, and zip archives of such files. What cannot be read stays in the
list with its reason, because it counts against the model that made it.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdm_flows.config import ScdmGeneratorConfig
from scdm_flows.errors import DatasetError, GenerationError
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import Dropped
from scdm_models.datasets.structure_files import parse_json
from scdm_models.symmetry.encoding import LayerCrystal

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from scdm_models.datasets.structure_files import Item

COLUMNS = "samples.csv"  # beside the CIFs in a zip of ``scdm generate``
SUFFIXES = (".gz", ".zip", ".jsonl", ".json", ".extxyz", ".xyz", ".cif")
WISHES = (  # fields of the generator's configuration that say what a sample shall be, in its records' order
    "layer_group",
    "elements",
    "formula",
    "n_atoms",
    "max_predicted_e_hull",
    "gap",
    "magnetic",
    "unknown_formulas",
    "stability",
)


@dataclass(frozen=True)
class Sample:
    """One sample of a generator.

    Parameters
    ----------
    id
        Its name in its file.
    structure
        As given; None where it could not be read or made.
    reason
        Why there is no structure.
    crystal
        The asymmetric unit it was made of, where its file says so.
    record
        What else its file says: ``draw``, ``mended``, ``layer_group_requested``, ``model_id``, ``seed``, ``steps``,
        ``asked``.
    """

    id: str
    structure: Structure | None
    reason: str | None = None
    crystal: LayerCrystal | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def draw(self) -> int | None:
        """Its number among all draws of its stream; None where its file does not say."""
        return _whole(self.record.get("draw"))


@dataclass(frozen=True)
class SampleSet:
    """The samples of one model, from one file or several.

    Parameters
    ----------
    label
        The model's name in tables.
    samples
        In the order of their files.
    files
        They, with the sha256 of their content; none where the samples were made here.
    draws
        Raw draws behind the samples. A file that does not say is taken to hold every draw; None where several streams
        were joined in one file, so that it cannot be known.
    draws_said
        Whether the files say it.
    model_id, steps, seeds
        As the samples' records say.
    kind
        ``model`` (the one that is judged), ``peer`` or ``baseline``.
    seconds_per_sample
        What making a sample took; None where it is not known.
    asked
        What all samples were asked for, where it is not what the generator asks for by itself: a field of its
        configuration -> wish. Empty where the records do not say it.
    """

    label: str
    samples: tuple[Sample, ...]
    files: dict[str, str] = field(default_factory=dict)
    draws: int | None = None
    draws_said: bool = False
    model_id: str | None = None
    steps: int | None = None
    seeds: tuple[int, ...] = ()
    kind: str = "model"
    seconds_per_sample: float | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def passes_over(self) -> bool:
        """Whether its generator passed over some of its draws."""
        return self.draws is not None and self.draws > len(self.samples)


def read_samples(path: Path) -> SampleSet:
    """The samples of a file or folder.

    Raises
    ------
    DatasetError
        If it cannot be read at all or holds no readable sample.
    """
    with tempfile.TemporaryDirectory() as folder:
        items = list(_items(path, Path(folder)))
        columns = _columns(Path(folder) / COLUMNS)
    samples = [_sample(item, columns.get(item.id, {})) for item in items]
    if not any(sample.structure is not None for sample in samples):
        first = next((f": {s.reason}" for s in samples if s.reason), "")
        raise DatasetError(f"{path} holds no sample that can be read{first}; give a file of structures")
    record: dict[str, Any] = next((s.record for s in samples if s.record.get("model_id")), {})
    draws, said = _draws(samples)
    return SampleSet(
        label=str(record.get("model_id") or _stem(path)),
        samples=tuple(samples),
        files={str(path): _digest(path)},
        draws=draws,
        draws_said=said,
        model_id=record.get("model_id"),
        steps=_whole(record.get("steps")),
        seeds=() if (seed := _whole(record.get("seed"))) is None else (seed,),
        asked=_asked(samples),
    )


def read_models(paths: Sequence[Path]) -> list[SampleSet]:
    """The samples of all files, those of one model, number of steps and request pooled; the first is the judged one.

    Raises
    ------
    DatasetError
        If a file cannot be read, or two files hold one model's samples of one seed.
    """
    read = [read_samples(path) for path in paths]
    steps, requests = defaultdict(set), defaultdict(set)
    for one in read:
        steps[one.label].add(one.steps)
        requests[one.label].add(asked_words(one.asked))
    by_label: dict[str, list[SampleSet]] = defaultdict(list)
    for path, one in zip(paths, read, strict=True):
        label = one.label
        if one.model_id is None:  # of whom they are is not said, so every file is a model of its own
            label = str(path) if sum(other.label == label for other in read) > 1 else label
        else:
            label += f", {one.steps} steps" if len(steps[one.label]) > 1 else ""
            label += f", {asked_words(one.asked)}" if len(requests[one.label]) > 1 else ""
        by_label[label].append(one)
    return [_pooled(label, parts, "peer" if k else "model") for k, (label, parts) in enumerate(by_label.items())]


def _pooled(label: str, parts: list[SampleSet], kind: str) -> SampleSet:
    seeds = tuple(seed for part in parts for seed in part.seeds)
    files = [file for part in parts for file in part.files.items()]
    if len(set(seeds)) < len(seeds) or len({digest for _, digest in files}) < len(files):
        raise DatasetError(
            f"two files hold the same samples of {label}, or samples of the same seed "
            f"({', '.join(map(str, seeds)) or 'none is said'}); they are not independent: give one file for each seed"
        )
    known = [part.draws for part in parts if part.draws is not None]
    return SampleSet(
        label=label,
        samples=tuple(sample for part in parts for sample in part.samples),
        files=dict(files),
        draws=sum(known) if len(known) == len(parts) else None,
        draws_said=all(part.draws_said for part in parts),
        model_id=parts[0].model_id,
        steps=parts[0].steps,
        seeds=seeds,
        kind=kind,
        asked=parts[0].asked,
    )


def _items(path: Path, folder: Path) -> Iterator[Item]:
    """What the readers find in a file or folder; a zip archive is unpacked into ``folder`` first."""
    if path.is_file() and path.suffix.lower() == ".zip" and not path.name.endswith(".json.zip"):
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: with a password
            raise DatasetError(f"{path} is no readable zip archive ({error}); make it again") from None
        path = folder
    yield from read_any(path)


def _sample(item: Item, columns: dict[str, Any]) -> Sample:
    if isinstance(item, Dropped):
        return Sample(item.id, None, item.reason, record=columns)
    record = {**item.properties, **columns}
    crystal, said = None, record.pop("crystal", None)
    if said is not None:
        try:
            crystal = LayerCrystal.from_dict(said)
        except (KeyError, TypeError, ValueError):  # another program's key of the same name
            crystal = None
    return Sample(item.id, item.structure, crystal=crystal, record=record)


def _columns(path: Path) -> dict[str, dict[str, Any]]:
    """File -> what ``samples.csv`` says of it; nothing where there is no such table, or one of another program."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error):
        return {}
    return {row.pop("file"): _typed(row) for row in rows if "file" in row}


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``samples.csv``: what is empty left out, whole numbers and truth values as such.

    A row that is longer than the table's head has a list under no name, which is left out.
    """
    truth = {"True": True, "False": False}
    return {
        name: int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else truth.get(text, text)
        for name, text in row.items()
        if isinstance(text, str) and text
    }


def _asked(samples: Sequence[Sample]) -> dict[str, Any]:
    """What all samples were asked for and the generator does not ask for by itself."""
    said = [wishes for sample in samples if (wishes := _wishes(sample.record.get("asked")))]
    if not said or len(said) < sum(sample.structure is not None for sample in samples):
        return {}
    by_itself = {name: field.default for name, field in ScdmGeneratorConfig.model_fields.items()}
    return {
        name: wish
        for name, wish in said[0].items()
        if wish != by_itself.get(name) and all(name in one and one[name] == wish for one in said)
    }


def _wishes(request: Any) -> dict[str, Any]:
    """The wishes of a record's request, as the generator writes them: one of ``WISHES`` -> value.

    A wish that the generator does not know, such as another program's under the same key, is left out, and so is one
    that it would refuse.
    """
    if isinstance(request, str):  # in tables of CIFs and in extxyz
        try:
            request = parse_json(request)
        except ValueError:
            return {}
    if not isinstance(request, dict):
        return {}
    found = {}
    for name in WISHES:
        if name in request:
            with contextlib.suppress(ValueError, GenerationError):
                found[name] = _wish(name, request[name])
    return found


def _wish(name: str, said: Any) -> Any:
    """A wish as the generator writes it; ``ValueError`` or ``GenerationError`` where the generator would refuse it."""
    from pymatgen.core import Composition

    from scdm_models.sampling.composition import CompositionRequest

    config = ScdmGeneratorConfig.model_validate({name: said})
    CompositionRequest.parse(config.elements, config.formula, config.n_atoms)
    if config.elements is not None:
        return sorted(config.elements.replace(",", " ").split())
    if config.formula is not None:
        return Composition(config.formula).reduced_formula
    wish = getattr(config, name)
    return list(wish) if isinstance(wish, tuple) else wish


def asked_words(asked: Mapping[str, Any]) -> str:
    """A request in words, for labels."""
    return "asked for " + ", ".join(words(*wish) for wish in asked.items()) if asked else "not asked"


def words(name: str, wish: Any) -> str:
    """A wish as tables and labels say it."""
    if name == "gap":
        return "metals" if wish[1] == 0 else f"gap {wish[0]:g} to {wish[1]:g} eV"
    if name == "magnetic":
        return "magnetic" if wish else "not magnetic"
    if name == "stability":
        return "any E_hull" if wish is None else f"E_hull ≤ {wish:g} eV/atom"
    said = {
        "max_predicted_e_hull": "predicted E_hull ≤ {} eV/atom",
        "n_atoms": "{} atoms",
        "layer_group": "layer group {}",
        "unknown_formulas": "formulas of no known layer",
    }
    return said.get(name, "{}").format(", ".join(wish) if name == "elements" else wish)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _draws(samples: Sequence[Sample]) -> tuple[int | None, bool]:
    """Raw draws behind the samples, and whether their file says so."""
    draws = [sample.draw for sample in samples]
    said = [draw for draw in draws if draw is not None]
    if not said:
        return len(samples), False
    if all(first < second for first, second in itertools.pairwise([-1, *said])):  # one call, not several joined
        return said[-1] + 1, True
    return None, False


def _stem(path: Path) -> str:
    name = path.name or str(path)
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name


def _digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files."""
    sha = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        sha.update(str(file.relative_to(path)).encode() if path.is_dir() else b"")
        sha.update(file.read_bytes())
    return sha.hexdigest()
