"""The crate of a campaign: what Workflow Run Crate asks for, the way from DFT back to the sample, nothing private.

The profile's own validator (roc-validator) wants rich < 14, where this project has rich 15, and fetches RO-Crate's
context from the network. So what it requires is looked at here rule by rule; ``make test-crate`` runs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Structure
from support.commands import commands
from support.crates import Crate, store_campaigns
from support.memory import memory_database

from scdm_flows.cli.files import output_folder
from scdm_flows.config import load_config
from scdm_flows.documents import CandidateDoc
from scdm_flows.errors import CampaignError, ConfigError, OutputError
from scdm_flows.generators import GENERATORS
from scdm_flows.query import CandidateDB
from scdm_flows.report.crate.export import METADATA, Counts, write_crate
from scdm_flows.report.crate.private import Private
from scdm_flows.report.crate.rights import license_of, person
from scdm_flows.server.optimade_file import OptimadeFile
from scdm_flows.stores.database import Database

ADA = person("Ada Lovelace <https://orcid.org/0000-0002-1825-0097>")
RUN = "https://w3id.org/ro/wfrun/workflow/0.5"


@pytest.fixture(scope="module")
def database() -> Database:
    found = memory_database()
    store_campaigns(found)
    return found


def export(database: Database, name: str, root: Path) -> Counts:
    root.mkdir()
    return write_crate(database, name, root, OptimadeFile(), license=license_of("CC-BY-4.0"), authors=[ADA])


@pytest.fixture(scope="module")
def promoted(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Crate:
    root = tmp_path_factory.mktemp("crates") / "demo-gpaw"
    counts = export(database, "demo-gpaw", root)
    assert (counts.candidates, counts.relaxed, counts.promoted_from, counts.failures) == (3, 3, 2, 1)
    assert "1 of the candidates that these were promoted from are no longer stored" in counts.missing[0]
    return Crate(root)


@pytest.fixture(scope="module")
def surrogate(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Crate:
    root = tmp_path_factory.mktemp("crates") / "demo"
    counts = export(database, "demo", root)
    assert (counts.candidates, counts.relaxed, counts.phonons, counts.entries) == (6, 3, 0, 4)
    return Crate(root)


@pytest.fixture(params=["surrogate", "promoted"])
def crate(request: pytest.FixtureRequest) -> Crate:
    found: Crate = request.getfixturevalue(request.param)
    return found


# --- what https://w3id.org/ro/crate/1.1 and https://w3id.org/ro/wfrun/workflow/0.5 say a crate MUST have ------------


def test_descriptor_and_root_say_what_the_crate_is(crate: Crate) -> None:
    profiles = {"https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}
    assert set(crate.refs(METADATA, "conformsTo")) == profiles
    assert crate.refs(METADATA, "about") == ["./"]
    root = crate.entities["./"]
    assert root.keys() >= {"name", "description", "datePublished"}
    assert crate.refs("./", "license") == ["https://spdx.org/licenses/CC-BY-4.0"]
    assert crate.refs("./", "author") == [ADA.id]
    assert RUN in crate.refs("./", "conformsTo")
    for profile in crate.refs("./", "conformsTo"):
        assert "CreativeWork" in crate.types(profile)


def test_the_main_workflow_is_a_campaign_file_that_was_run(crate: Crate) -> None:
    (main,) = crate.refs("./", "mainEntity")
    assert crate.types(main) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    (language,) = crate.refs(main, "programmingLanguage")
    assert crate.types(language) == {"ComputerLanguage"}
    runs = [key for key in crate.entities if crate.refs(key, "instrument") == [main]]
    assert [crate.types(run) for run in runs] == [{"CreateAction"}]
    for way in ("input", "output"):
        assert crate.refs(main, way)
        for parameter in crate.refs(main, way):
            assert crate.types(parameter) == {"FormalParameter"}
            (example,) = crate.refs(parameter, "workExample")
            assert crate.refs(example, "exampleOfWork") == [parameter]
            assert crate.entities[parameter]["additionalType"] in crate.types(example)
            used = "object" if way == "input" else "result"
            assert example in crate.refs(runs[0], used)


def test_every_action_has_a_program_objects_results_and_times(crate: Crate) -> None:
    actions = [key for key in crate.entities if "CreateAction" in crate.types(key)]
    assert set(crate.refs("./", "mentions")) == set(actions)
    data = {"File", "Dataset", "CreativeWork"}
    for action in actions:
        (instrument,) = crate.refs(action, "instrument")
        assert crate.types(instrument) & {"SoftwareApplication", "ComputationalWorkflow"}
        assert crate.refs(action, "agent") == [ADA.id]
        assert crate.entities[action]["endTime"].endswith(".000+00:00")
        for way in ("object", "result"):
            assert crate.refs(action, way)
            assert all(crate.types(key) & data for key in crate.refs(action, way))


def test_every_file_is_there_and_listed_with_its_checksum(crate: Crate) -> None:
    there = {path.relative_to(crate.root).as_posix() for path in crate.root.rglob("*") if path.is_file()} - {METADATA}
    listed = {key for key in crate.entities if "File" in crate.types(key)}
    assert listed == there
    for name in listed:
        entity = crate.entities[name]
        assert (entity["contentSize"], entity["sha256"]) == crate.digest(name)
    parts = set(crate.refs("./", "hasPart"))
    for folder in [key for key in parts if "Dataset" in crate.types(key)]:
        parts |= set(crate.refs(folder, "hasPart"))
    assert listed <= parts


def test_the_graph_is_flat_and_every_reference_leads_somewhere(crate: Crate) -> None:
    assert crate.metadata["@context"] == [
        "https://w3id.org/ro/crate/1.1/context",
        {"sha256": "http://schema.org/sha256"},
    ]
    assert len(crate.metadata["@graph"]) == len(crate.entities)
    outside = {"https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}
    for key, entity in crate.entities.items():
        assert not re.search(r"""[\s<>"{}|\\^`]""", key)  # RFC 3987: what an IRI must not hold
        for name, value in entity.items():
            assert not (isinstance(value, list) and len(value) == 1), (key, name)
            for one in value if isinstance(value, list) else [value]:
                assert not isinstance(one, dict) or one.keys() == {"@id"}
            for found in crate.refs(key, name):
                known = found in crate.entities or found in outside or found.startswith("https://bioschemas.org/")
                assert known, (key, name, found)


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_from_dft_back_to_the_sample_through_the_promotion(promoted: Crate) -> None:
    dft = "structures/demo-gpaw-000000000000.cif"
    way = []
    name = dft
    while True:
        action = next(key for key in promoted.made(name) if key.startswith("#computing-"))
        (instrument,) = promoted.refs(action, "instrument")
        sample = promoted.refs(action, "object")[0]
        way.append((promoted.entities[instrument]["name"], sample))
        based_on = promoted.refs(sample, "isBasedOn")
        if not based_on:
            break
        (name,) = based_on
    assert way == [
        ("GPAW", "samples/demo-gpaw-000000000000.cif"),
        ("CHGNet of chgnet", "samples/demo-000000000000.cif"),
    ]
    assert promoted.made(sample) == ["#sampling-demo"]

    # the sample of the promoted one is the relaxed structure of its parent, and no longer what was given
    def volume(file: str) -> float:
        return float(Structure.from_file(promoted.root / file).volume)

    assert volume("samples/demo-gpaw-000000000000.cif") == pytest.approx(volume("structures/demo-000000000000.cif"))
    assert volume("structures/demo-000000000000.cif") == pytest.approx(1.01 * volume(sample))


def test_ancestors_of_several_campaigns_are_there_with_their_campaigns(tmp_path: Path) -> None:
    """As a round of a loop chooses from all rounds before."""
    database = memory_database()
    store_campaigns(database)
    database.mongo["candidates"].update_one({"candidate_id": "demo-000000000002"}, {"$set": {"campaign": "earlier"}})
    campaign = database.campaign("demo")
    assert campaign is not None
    earlier = campaign.model_copy(update={"name": "earlier", "config": {**campaign.config, "name": "earlier"}})
    database.upsert(database.campaigns, [earlier.model_dump()])
    chosen = ["demo-000000000000", "demo-000000000002"]
    database.mongo["campaigns"].update_one({"name": "demo-gpaw"}, {"$set": {"config.generator.candidates": chosen}})
    export(database, "demo-gpaw", tmp_path / "crate")
    crate = Crate(tmp_path / "crate")
    for number in (0, 1):
        (parent,) = crate.refs(f"samples/demo-gpaw-{number:012x}.cif", "isBasedOn")
        assert parent == f"structures/{chosen[number]}.cif"
        assert "no longer stored" not in crate.entities[parent]["description"]
    assert (tmp_path / "crate" / "campaigns" / "earlier.yaml").is_file()


def test_a_parent_that_is_gone_is_remembered_and_a_failure_is_one(promoted: Crate) -> None:
    (parent,) = promoted.refs("samples/demo-gpaw-000000000002.cif", "isBasedOn")
    assert promoted.types(parent) == {"CreativeWork"}
    assert "E_hull 0.050 ± 0.100 eV/atom (c2db-pbe, surrogate)" in promoted.entities[parent]["description"]
    action = promoted.entities["#computing-demo-gpaw-000000000002"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "phonon: …/gpaw.txt is not converged"


def test_documents_come_back_as_they_are_stored(database: Database, promoted: Crate) -> None:
    lines = (promoted.root / "candidates.jsonl").read_text().splitlines()
    read = [CandidateDoc.model_validate_json(line) for line in lines]
    stored = CandidateDB(database).find(campaign="demo-gpaw", sort="rank")
    assert read[:2] == stored[:2]  # the reason of the third named a folder
    assert [one.candidate_id for one in read] == [one.candidate_id for one in stored]


def test_the_campaign_file_runs_on_the_structures_of_the_crate(
    database: Database, surrogate: Crate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(surrogate.root)
    config = load_config("campaign.yaml")
    given = dict(GENERATORS["files"].given(config.generator))
    stored = CandidateDB(database).find(campaign="demo", sort="candidate_id")
    assert given == {one.source_id: Structure.from_dict(one.structure) for one in stored}
    assert list(given) == [f"layer-{k}.cif" for k in range(6)]  # in their order


def test_the_same_campaign_gives_the_same_bytes(database: Database, promoted: Crate, tmp_path: Path) -> None:
    export(database, "demo-gpaw", tmp_path / "again")
    files = {path.relative_to(promoted.root): path.read_bytes() for path in promoted.root.rglob("*") if path.is_file()}
    assert {
        p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()
    } == files


def test_nothing_private_is_in_it(crate: Crate) -> None:
    for path in crate.root.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        for word in ("/home", "ada/", "se/cr", "et@", "example.org", str(Path.home()) + "/"):
            assert word not in text, (path, word)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cannot read /scratch/ada/run 3/OUTCAR", "cannot read …/run 3/OUTCAR"),
        ("node07:/scratch/ada/OUTCAR", "node07:…/OUTCAR"),
        ("file:///data/x/y.json, ~ada/x/y.json, /home/ada", "…/y.json, …/y.json, /~"),
        ("https://ada:pw@host.org/x/y", "https://***@host.org/x/y"),
        ("mongodb+srv://ada:p/w@x@h/db?w=1 (no)", "mongodb://… (no)"),
        # what looks like a path and is none
        ("E_hull 0.1 eV/atom, p4/nmm, 1/angstrom; https://doi.org/10.1/x/y", None),
        ("Mo/S/Se and/or 3/4/5", None),
    ],
)
def test_passwords_and_folders_are_taken_out(text: str, said: str | None) -> None:
    assert Private().text(text) == (text if said is None else said)


def test_values_with_secret_names_are_taken_out() -> None:
    assert Private()({"api_key": "k", "tokens": [{"token": "t", "n": 1}], "a": None}) == {
        "api_key": "***",
        "tokens": [{"token": "***", "n": 1}],
        "a": None,
    }


def test_authors_and_licences() -> None:
    assert (person("Ada").id, person(" Émilie du Châtelet ").id) == ("#ada", "#émilie-du-châtelet")
    assert license_of("https://example.org/terms") == "https://example.org/terms"
    for wrong in ("<https://orcid.org/1>", "Ada <1815>"):
        with pytest.raises(ConfigError, match="give NAME"):
            person(wrong)
    with pytest.raises(ConfigError, match="SPDX"):
        license_of("all mine")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scdm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def connected(**options: bool) -> Database:
        assert options == {"create": False, "indexes": False}  # it only reads
        found = memory_database()
        store_campaigns(found)
        return found

    monkeypatch.setattr("scdm_flows.stores.database.connect", connected)
    monkeypatch.chdir(tmp_path)
    return commands(capsys)


def test_export_writes_once_and_again_with_force(
    scdm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("campaign", "export", "demo", "-o", "crate")
    assert scdm(*command, "--json")["relaxed"] == 3
    assert "not stated" in Crate(tmp_path / "crate").entities["./"]["license"]
    assert "--force" in scdm(*command, code=2)
    (tmp_path / "crate" / "stray.txt").write_text("from before")
    assert "wrote 6 candidates, 3 relaxed structures to crate" in scdm(*command, "--force", "--author", "Ada")
    assert not (tmp_path / "crate" / "stray.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    assert "holds no ro-crate-metadata.json" in scdm(*command[:-1], "mine", "--force", code=2)
    assert "did you mean 'demo'" in scdm("campaign", "export", "dmo", "-o", "new", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crate", "mine"]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert 'pip install "rocrate' in scdm(*command, code=2)


def test_an_export_that_breaks_off_leaves_what_was_there(database: Database, tmp_path: Path) -> None:
    class Breaks(OptimadeFile):
        def entry(self, document: CandidateDoc) -> None:
            raise KeyboardInterrupt

    export(database, "demo", tmp_path / "crate")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def broken_off(name: str) -> None:
        with output_folder(tmp_path / name, METADATA, force=True) as folder:
            try:
                write_crate(database, "demo", folder, Breaks())
            finally:
                assert not (folder / METADATA).exists()  # nor would a kill leave one

    for name in ("crate", "new"):
        with pytest.raises(KeyboardInterrupt):
            broken_off(name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_campaign_without_candidates_is_refused(tmp_path: Path) -> None:
    empty = memory_database()
    store_campaigns(empty)
    empty.mongo["candidates"].delete_many({})
    with pytest.raises(OutputError, match="has no candidates yet"):
        write_crate(empty, "demo", tmp_path, OptimadeFile())
    with pytest.raises(CampaignError, match="no campaign is called"):
        write_crate(empty, "nobody", tmp_path, OptimadeFile())


def test_json_lines_are_json(crate: Crate) -> None:
    for path in crate.root.glob("*.jsonl"):
        assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
