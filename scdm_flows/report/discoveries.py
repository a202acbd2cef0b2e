"""A list of discoveries: new layers that DFT finds stable, each with its page and files, and why others are none.

Pure but for ``gather``, which reads a connected database: considered layers in, names of files and their texts out.
What is written can be read again (``read``), so layers of several databases come into one list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scdm_flows.analysis.discovery import BELOW_EV, Demand, demands, fell, is_discovery
from scdm_flows.analysis.fidelity import MEASURED
from scdm_flows.documents import BandsDoc, CandidateDoc, CandidateState, PhononDoc
from scdm_flows.documents.migrations import migrate
from scdm_flows.documents.novelty import NEW_AGAINST, KnownAs
from scdm_flows.query import CandidateDB
from scdm_flows.query.candidate_files import as_text, structure_of
from scdm_flows.query.words import above_hull, number
from scdm_flows.report import bands
from scdm_flows.report.compounds import group_of
from scdm_flows.report.content import candidate_warnings, competing_phases, gap_words, magnetic_words
from scdm_flows.report.crate.private import Private
from scdm_flows.report.crystals import layer_picture
from scdm_flows.report.figures import published
from scdm_flows.report.markdown import formula, picture, table
from scdm_flows.report.results_figures import name as generator_name

if TYPE_CHECKING:
    from datetime import datetime

    from scdm_flows.stores.database import Database

INDEX = "README.md"
OTHERS = "others.jsonl"
PRIVATE = Private()


@dataclass(frozen=True)
class Considered:
    """A layer that may be a discovery.

    candidate: as DFT left it; phonon, bands: of DFT, None where they were not computed; before: whom it was promoted
    from, and so on to the sample; campaigns: name -> configuration of all of these.
    """

    candidate: CandidateDoc
    phonon: PhononDoc | None = None
    bands: BandsDoc | None = None
    before: list[CandidateDoc] = field(default_factory=list)
    campaigns: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its files: the formula and the last part of the id."""
        return f"{self.candidate.formula}-{self.candidate.candidate_id.rpartition('-')[2]}"

    def dumped(self) -> dict[str, Any]:
        """For JSON that everybody may read: of paths the names of their files are left, and no passwords."""
        found: dict[str, Any] = PRIVATE(
            {
                "candidate": self.candidate.model_dump(mode="json"),
                "phonon": None if self.phonon is None else self.phonon.model_dump(mode="json"),
                "bands": None if self.bands is None else self.bands.model_dump(mode="json"),
                "before": [one.model_dump(mode="json") for one in self.before],
                "campaigns": self.campaigns,
            }
        )
        return found

    @classmethod
    def loaded(cls, data: Mapping[str, Any], origin: str) -> Considered:
        """From JSON, of this version or an earlier one. origin: for messages."""

        def candidate(found: Mapping[str, Any]) -> CandidateDoc:
            return CandidateDoc.model_validate(migrate(CandidateDoc, dict(found), origin))

        phonon, electrons = data.get("phonon"), data.get("bands")
        return cls(
            candidate(data["candidate"]),
            None if phonon is None else PhononDoc.model_validate(migrate(PhononDoc, dict(phonon), origin)),
            None if electrons is None else BandsDoc.model_validate(migrate(BandsDoc, dict(electrons), origin)),
            [candidate(one) for one in data.get("before", [])],
            dict(data.get("campaigns", {})),
        )


def gather(database: Database, names: Sequence[str]) -> list[Considered]:
    """All candidates of some campaigns in a connected database; ``CampaignError`` where there is no such campaign."""
    query = CandidateDB(database)
    found = []
    for name in names:
        query.campaign(name)
        for candidate in query.stream(sort="candidate_id", campaign=name):
            before: list[CandidateDoc] = []
            parent = candidate.promoted_from
            while parent is not None and (older := query.find(candidate_id=parent)):
                before += older
                parent = older[0].promoted_from
            campaigns = {c: query.campaign(c).config for c in {one.campaign for one in (candidate, *before)}}
            one = candidate.candidate_id
            found.append(Considered(candidate, query.phonon(one), query.bands(one), before, campaigns))
    return found


def read(files: Mapping[str, str]) -> list[Considered]:
    """The layers of an earlier list; files: name -> text.

    ``OTHERS`` once held candidates alone: such a layer lacks its documents, and is no discovery until it has them.
    """
    found = [Considered.loaded(json.loads(text), name) for name, text in files.items() if name.endswith(".json")]
    others = [json.loads(line) for line in files.get(OTHERS, "").splitlines() if line.strip()]
    return found + [Considered.loaded(one if "candidate" in one else {"candidate": one}, OTHERS) for one in others]


def together(earlier: Sequence[Considered], now: Sequence[Considered]) -> list[Considered]:
    """Both, later ones in the place of earlier ones of the same id."""
    found = {one.candidate.candidate_id: one for one in (*earlier, *now)}
    return [found[key] for key in sorted(found)]


def render(
    considered: Sequence[Considered],
    known: Mapping[str, Sequence[KnownAs]],
    command: str,
    below: float = BELOW_EV,
    present: tuple[str, Mapping[str, int]] | None = None,
) -> dict[str, str]:
    """The files of a list: name -> text.

    known: reduced formula -> known layers that have it; command: what made the list; below: largest E_hull of a
    discovery, eV/atom; present: version of the known layers there are now, and data set -> number of its layers, with
    which those of an earlier list may not have been compared; None where that is not asked.
    """
    asked = _asked(considered, below, present)
    found, others = list[Considered](), list[Considered]()
    for one in considered:
        (found if is_discovery(asked[one.candidate.candidate_id]) else others).append(one)
    found.sort(key=lambda one: one.candidate.e_above_hull or 0.0)
    files: dict[str, str] = {}
    polymorphs = {one.name: _polymorphs(one, known.get(one.candidate.formula, ()), considered) for one in found}
    for one in found:
        files |= _files(one, asked[one.candidate.candidate_id], polymorphs[one.name])
    lines = (json.dumps(one.dumped()) + "\n" for one in others)
    files = {INDEX: _index(found, others, asked, polymorphs, command), **files, OTHERS: "".join(lines)}
    return {name: PRIVATE.text(text) if name.endswith(".md") else text for name, text in files.items()}


def _asked(
    considered: Sequence[Considered], below: float, present: tuple[str, Mapping[str, int]] | None
) -> dict[str, list[Demand]]:
    """candidate_id -> what is asked of each: of the candidate, of its documents, and beside the others of the list."""
    asked = {}
    for one in considered:
        c = one.candidate
        own, unjudged = demands(c, below), _unjudged(c, present)
        if unjudged:
            own = [replace(d, met=None, said=unjudged) if d.asked.startswith("new: ") else d for d in own]
        whole = one.phonon is not None and c.campaign in one.campaigns
        said = "yes" if whole else f"an earlier list kept none; naming campaign {c.campaign} brings them in"
        asked[c.candidate_id] = [*own, Demand("its phonons and its campaign's settings are in this list", whole, said)]
    layers = _layers(considered)
    firsts: dict[int, str] = {}
    for name in sorted(layers, key=lambda name: layers[name][1:]):
        if is_discovery(asked[name]):
            firsts.setdefault(layers[name][0], name)
    for name, (layer, *_) in layers.items():
        first = firsts.get(layer, name)
        said = "yes" if first == name else f"the same layer as {first}"
        asked[name].append(Demand("the first of its kind among the discoveries", first == name, said))
    return asked


def _layers(considered: Sequence[Considered]) -> dict[str, tuple[int, datetime, str]]:
    """candidate_id -> number of its layer, which equal candidates of all campaigns share, when it came, and itself."""
    groups: list[set[str]] = []
    for one in considered:
        c = one.candidate
        ids = {c.candidate_id, *(same.id for same in c.known_as if same.of_campaign is not None)}
        ids = ids.union(*(group for group in groups if group & ids))
        groups = [*(group for group in groups if not group & ids), ids]
    found = {}
    for c in (one.candidate for one in considered):
        layer = next(i for i, group in enumerate(groups) if c.candidate_id in group)
        times = [stage.completed_at for stage in c.stages.values() if stage.completed_at is not None]
        found[c.candidate_id] = (layer, min(times, default=c.last_updated), c.candidate_id)
    return found


def _unjudged(c: CandidateDoc, present: tuple[str, Mapping[str, int]] | None) -> str | None:
    """What of the present known layers a candidate that is called new was not compared with, in words; else None."""
    version, against = ("", {}) if c.novelty is None else (c.novelty.version, c.novelty.against)
    if present is None or not c.novel or version == present[0]:
        return None
    sets = [name for name, n in present[1].items() if against.get(name) != n]
    if against == present[1]:  # as many layers, but not the same
        sets = list(against)
    words = f"not judged against {' and '.join(sets)} as they are now; naming campaign {c.campaign} judges it again"
    return words if sets else None


def _index(
    found: Sequence[Considered],
    others: Sequence[Considered],
    asked: Mapping[str, Sequence[Demand]],
    polymorphs: Mapping[str, Sequence[Polymorph]],
    command: str,
) -> str:
    of_one: Sequence[Demand] = next(iter(asked.values()), [])
    ended = sum(_ended(one.candidate) for one in (*found, *others))
    made = (
        f"Made by `{command}` from what is stored; nothing here is typed in. Considered are the campaigns that it "
        f"names, with {len(found) + len(others)} layers, not all that DFT has computed. Of the {ended} whose "
        f"computations have ended **{len(found)} are discoveries**: each of these holds."
    )
    fidelity = (
        f"New means equal, after relaxation by DFT, to no layer of {NEW_AGAINST} and of the sets that were added; "
        "another layer of the same formula may be known and is named. Everything is PBE's, at zero temperature, "
        "without zero-point energies, without substrate; how the energies come about, and how far they are from "
        "C2DB's, says [energies](../energies.md)."
    )
    presets = sorted({_preset(one) or "" for one in found})
    rules = "\n".join(f"- {demand.asked}" for demand in of_one) or "No layer has been considered yet."
    text = ["# Discoveries", made, rules, fidelity, *filter(None, map(_sureness, presets))]
    if found:
        head = ["layer", "layer group", "E_hull by DFT, eV/atom", "by the surrogate", "gap, eV", "magnetism"]
        head += ["known layers of its formula", "made by", "files"]
        text += [table(head, [_row(c, polymorphs[c.name]) for c in found], left=2)]
    if others:
        rows = [
            [
                formula(c.candidate.formula),
                group_of(c.candidate),
                number(c.candidate.e_above_hull),
                f"{lacking.asked}: {lacking.said}" if (lacking := fell(asked[c.candidate.candidate_id])) else "–",
                f"`{c.candidate.candidate_id}`",
            ]
            for c in sorted(others, key=lambda c: (c.candidate.e_above_hull is None, c.candidate.e_above_hull or 0.0))
        ]
        head = ["layer", "layer group", "E_hull by DFT, eV/atom", "the first demand that it does not meet", "id"]
        text += ["## How the others fell", table(head, rows, left=2), f"[{OTHERS}]({OTHERS}) holds them."]
    return "\n\n".join(text) + "\n"


def _ended(candidate: CandidateDoc) -> bool:
    """Whether DFT has done with a candidate: it has an energy, or failed, and nothing is to come."""
    computed = candidate.e_above_hull is not None and candidate.surrogate is False
    return candidate.state is not CandidateState.PENDING and (computed or candidate.state is CandidateState.FAILED)


def _preset(one: Considered) -> str | None:
    """The preset of the engine that computed a layer."""
    engine = one.campaigns.get(one.candidate.campaign, {}).get("engine", {})
    return str(engine["preset"]) if engine.get("kind") == "gpaw" and "preset" in engine else None


def _sureness(preset: str) -> str | None:
    """How far the energies of a preset are from C2DB's, in words; None where that has not been measured."""
    measured = MEASURED.get(preset)
    if measured is None:
        return None
    return (
        f"Preset `{preset}`: formation energies of {measured.n} layers of C2DB lie {-measured.bias:.3f} eV/atom below "
        f"C2DB's own in the mean, at most {measured.largest:.3f} away ([how](../results-dft.md)), and the hull's are "
        f"converted. So energies above hull are rather too low, and what lies within {measured.largest:.2f} eV/atom of "
        "the hull may be on it or not."
    )


@dataclass(frozen=True)
class Polymorph:
    """A known layer of a discovery's formula. computed: E_hull of it by DFT here, eV/atom, None where it was not."""

    known: KnownAs
    computed: float | None

    @property
    def words(self) -> str:
        """For a cell of the index."""
        said = self.known.e_above_hull
        if self.computed is not None:
            return f"`{self.known.id}` ({self.computed:.3f} here)"
        return f"`{self.known.id}`" + (f" ({said:.3f} there)" if said is not None else "")


def _polymorphs(one: Considered, known: Sequence[KnownAs], considered: Sequence[Considered]) -> list[Polymorph]:
    """Known layers of a discovery's formula; with an energy where a layer considered is one of them, by one scheme."""
    computed: dict[str, float] = {}
    for other in (layer.candidate for layer in considered if _ended(layer.candidate)):
        energy = other.e_above_hull
        if energy is not None and other.energy_scheme == one.candidate.energy_scheme:
            computed |= {same.id: min(energy, computed.get(same.id, energy)) for same in other.known_as}
    return [Polymorph(match, computed.get(match.id)) for match in known]


def _row(one: Considered, polymorphs: Sequence[Polymorph]) -> list[str]:
    c, name = one.candidate, one.name
    links = [f"[{suffix.upper()}]({name}.{suffix})" for suffix in ("cif", "json")]
    return [
        f"[{formula(c.formula)}]({name}.md)",
        group_of(c),
        number(c.e_above_hull),
        _surrogate(c),
        gap_words(c.band_gap, c.gap_kind),
        magnetic_words(c) or "–",
        ", ".join(polymorph.words for polymorph in polymorphs) or "none",
        _generator(one),
        ", ".join([*links, f"[rerun]({name}.yaml)"]),
    ]


def _generator(one: Considered) -> str:
    """Who made the sample that a discovery goes back to."""
    first = one.before[-1] if one.before else one.candidate
    named = generator_name(first.generator)
    return f"{named}: `{first.source_id}`" if first.model_id is None and first.source_id else named


def _surrogate(c: CandidateDoc) -> str:
    before = c.parent
    if before is None or not before.surrogate:
        return "–"
    return above_hull(before)


def _files(one: Considered, asked: Sequence[Demand], polymorphs: Sequence[Polymorph]) -> dict[str, str]:
    name, c = one.name, one.candidate
    files = {
        f"{name}.cif": as_text(c, "cif"),
        f"{name}.json": json.dumps(one.dumped()) + "\n",
        f"{name}.yaml": _rerun(one),
        f"{name}-layer.svg": published(layer_picture(structure_of(c))),
    }
    if one.phonon is not None and one.phonon.frequencies_thz:
        files[f"{name}-phonons.svg"] = published(bands.draw(bands.phonon_plot(one.phonon, "phonons"), 4.6, 3.0))
    if one.bands is not None:
        files[f"{name}-bands.svg"] = published(bands.draw(bands.electronic_plot(one.bands, "bands"), 4.6, 3.0))
    return {f"{name}.md": "\n\n".join(_page(one, asked, polymorphs, files)) + "\n", **files}


def _page(
    one: Considered, asked: Sequence[Demand], polymorphs: Sequence[Polymorph], files: Mapping[str, str]
) -> Iterator[str]:
    c, name = one.candidate, one.name
    yield f"# {formula(c.formula)}, layer group {group_of(c)}"
    links = {"all discoveries": INDEX, "CIF": f"{name}.cif", "everything known": f"{name}.json"}
    links["rerun"] = f"{name}.yaml"
    yield " · ".join(f"[{words}]({file})" for words, file in links.items())
    yield table(["asked", "", ""], [[d.asked, "yes" if d.met else "no", d.said] for d in asked], left=3)
    for kind, title in (("layer", "from above and from the side"), ("phonons", "phonons"), ("bands", "bands")):
        if f"{name}-{kind}.svg" in files:
            yield picture(f"{c.formula}, {title}", f"{name}-{kind}.svg", 360)
    layer = structure_of(c)
    a, b, _ = layer.lattice.abc
    cell = f"a = {number(a)} Å, b = {number(b)} Å, γ = {number(layer.lattice.gamma, 1)}°, {len(layer)} atoms"
    facts = [
        ["cell", cell],
        ["thickness", f"{number(c.thickness_angstrom, 2)} Å"],
        ["formation energy", f"{number(c.formation_energy_per_atom)} eV/atom ({c.energy_scheme})"],
        ["energy above hull", f"{number(c.e_above_hull)} eV/atom"],
        ["competing phases", "; ".join(f"{100 * s:.0f} % {n} ({w})" for n, s, w in competing_phases(c)) or "–"],
        ["magnetism", magnetic_words(c) or "–"],
        ["band gap, eV", gap_words(c.band_gap, c.gap_kind)],
    ]
    if one.phonon is not None:
        hessian, stiffness = one.phonon.min_hessian_ev_per_angstrom2, one.phonon.stiffness_n_per_m
        facts.append(["stable by", one.phonon.criterion or "modes on path and mesh"])
        if hessian is not None:
            facts.append(["smallest eigenvalue of the Hessian", f"{number(hessian)} eV/Å²"])
        if stiffness is not None:
            tensor = "; ".join(", ".join(number(v, 1) for v in row) for row in stiffness)
            facts.append(["stiffness, rows of xx, yy, xy", f"{tensor} N/m"])
    yield table(["by DFT", ""], facts, left=2)
    doubts = candidate_warnings(c, one.phonon)
    lower = [
        p for p in polymorphs if p.computed is not None and c.e_above_hull is not None and p.computed < c.e_above_hull
    ]
    doubts += [
        f"A known layer of its formula, `{p.known.id}`, lies lower: {number(p.computed)} eV/atom." for p in lower
    ]
    if sure := _sureness(_preset(one) or ""):
        doubts.append(sure)
    if doubts:
        yield "Look twice:\n\n" + "\n".join(f"- {words}" for words in doubts)
    yield "## Known layers of its formula"
    yield from _known(polymorphs)
    yield "## Where it comes from"
    rows = [[f"`{d.candidate_id}`", *_origin(d, one.campaigns)] for d in (c, *one.before)]
    if not one.before and c.parent is not None:
        rows.append([f"`{c.parent.candidate_id}`", f"promoted from there, {c.parent.energy_scheme}", "–", "–"])
    yield table(["candidate", "made by", "computed by", "E_hull, eV/atom"], rows, left=3)
    yield (
        f"`scdm campaign run {name}.yaml` in this folder computes it again from its relaxed structure, by the same "
        "engine with the same settings."
    )


def _known(polymorphs: Sequence[Polymorph]) -> Iterator[str]:
    if not polymorphs:
        yield f"None, in {NEW_AGAINST} and the sets that were added."
        return
    stable = {True: "yes", False: "no", None: "–"}
    rows = [
        [
            f"`{one.known.id}`",
            one.known.source,
            str(one.known.layer_group or "–"),
            number(one.known.e_above_hull),
            stable[one.known.dynamically_stable],
            number(one.computed),
        ]
        for one in polymorphs
    ]
    head = ["layer", "source", "layer group", "E_hull there, eV/atom", "dynamically stable there"]
    yield table([*head, "E_hull here, eV/atom"], rows, left=2)
    yield "Here: by DFT in the same scheme, where a layer considered is this one. The discovery is another polymorph."


def _origin(document: CandidateDoc, campaigns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    config = campaigns.get(document.campaign, {})
    engine: Any = config.get("engine", {})
    if document.promoted_from is not None:
        made = f"promoted from `{document.promoted_from}`"
    elif document.model_id is not None:
        of = f"model `{document.model_id}`, seed {document.seed}, sample {document.index}"
        made = f"{generator_name(document.generator)}, {of}"
    else:
        made = f"{generator_name(document.generator)} `{document.source_id or ''}`"
    words = [str(engine.get("kind", "–")), *filter(None, [engine.get("preset"), document.engine_version])]
    surrogate = " (surrogate)" if document.surrogate else ""
    return [made, ", ".join(words), number(document.e_above_hull) + surrogate]


def _rerun(one: Considered) -> str:
    """A campaign file that computes the layer again."""
    import yaml

    config = one.campaigns.get(one.candidate.campaign, {})
    again = {
        "name": "again-" + one.name.replace("(", "").replace(")", ""),
        "description": f"{one.candidate.candidate_id}, computed again from its relaxed structure",
        "generator": {"kind": "files", "paths": [f"{one.name}.cif"]},
        "screen": {"require_novel": False},
        "engine": config.get("engine", {}),
        "gate": config.get("gate", {}),
    }
    return str(yaml.safe_dump(PRIVATE(again), sort_keys=False, allow_unicode=True))
