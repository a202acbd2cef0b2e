"""``scdm serve``, for real: a server process on loopback, over the embedded database."""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from support.layers import mx2
from support.memory import memory_database
from support.optimade_words import WORDS

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.documents import CampaignDoc, CandidateDoc
from scdm_flows.stores import Database, EmbeddedServer, connect
from scdm_flows.stores.process import free_port

pytest.importorskip("secantus", reason="the embedded database is an optional extra")
pytest.importorskip("optimade.server", reason="the server is an optional extra")

from scdm_flows.builders.optimade import optimade_of

ROOT = Path(__file__).resolve().parents[2]
N = 60
METALS, OTHERS = ["Mo", "W", "Ti", "Nb", "Sn", "Ga"], ["S", "Se", "Te", "Cl"]
# their formulas have parentheses: Ca(HO2)2, TiGa2(SeBr2)2
WITH_PARENTHESES = [["Ca", *["H", "O", "O"] * 2], ["Ti", "Ga", "Ga", *["Se", "Br", "Br"] * 2]]


def layers(n: int = N) -> list[CandidateDoc]:
    """Layers of three and six atoms; two of three are relaxed and ranked."""
    draw, found = random.Random(0), []
    for number in range(n):
        layer = mx2(draw.choice(["1H", "1T"]), a=3 + draw.random() / 2)
        species = [draw.choice(METALS), draw.choice(OTHERS), draw.choice(OTHERS)]
        structure = Structure(layer.lattice, species, layer.frac_coords)
        if number % 7 == 0:
            structure.make_supercell((2, 1, 1))
        if number >= n - len(WITH_PARENTHESES):
            atoms = WITH_PARENTHESES[n - number - 1]
            structure = Structure(layer.lattice, atoms, [[0, 0, i / 10] for i in range(len(atoms))])
        elements = sorted({str(e) for e in structure.composition})
        known: dict[str, Any] = {}
        if number % 3:
            known = {
                "relaxed_structure": structure.copy().scale_lattice(structure.volume * 1.1).as_dict(),
                "state": "completed",
                "surrogate": True,
                "energy_scheme": "c2db-pbe",
                "energy_model": "sevennet-l3i5+chgnet-1a2b3c4d",
                "extrapolated": number % 4 == 0,
                "e_above_hull": draw.random() / 2,
                "rank": number,
                "score": 1 - number / n,
            }
        found.append(
            CandidateDoc(
                candidate_id=f"demo-{number:012x}",
                campaign="demo",
                generator="scdm" if number % 5 else "files",
                formula=structure.composition.reduced_formula,
                chemsys="-".join(elements),
                elements=elements,
                nelements=len(elements),
                nsites=len(structure),
                layer_group=78,
                structure=structure.as_dict(),
                **known,
            )
        )
    return found


def store(database: Database, documents: list[CandidateDoc]) -> None:
    campaign = CampaignDoc(name="demo", config={}, config_hash="0" * 64)
    database.upsert(database.campaigns, [campaign.model_dump()])
    for document in documents:
        document.optimade = optimade_of(document)  # as the candidate builder does
    database.upsert(database.candidates, [d.model_dump() for d in documents])


@contextmanager
def serving(folder: Path, database_port: int, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server process, and the process."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models"), os.environ.get("PYTHONPATH", "")]),
        "SCDM_DATA_DIR": str(folder),
        "SCDM_PORT": str(database_port),
    }
    log = (folder / "serve.log").open("w")
    command = [sys.executable, "-c", "from scdm_flows.cli import main; main()", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "serving http://" in line, (folder / "serve.log").read_text()
        yield line.split()[1].rstrip("/"), process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(15) == 0
        finally:
            process.kill()
            log.close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path_factory.mktemp("serve"), free_port())
    with connect(ScdmSettings(data_dir=server.data_dir, port=server.port)) as database:
        store(database, layers())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def address(embedded: EmbeddedServer) -> Iterator[str]:
    assert embedded.port is not None
    with serving(embedded.data_dir, embedded.port) as (url, _):
        yield url


@pytest.fixture(scope="module")
def structures(address: str) -> str:
    return f"{address}/optimade/v1/structures"


def _ids(answer: requests.Response) -> list[str]:
    return [entry["id"] for entry in answer.json()["data"]]


def _said(answer: requests.Response) -> str:
    return str(answer.json()["errors"][0]["detail"])


@pytest.mark.slow
def test_optimades_validator_finds_nothing(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    from optimade.validator import ImplementationValidator

    random.seed(0)  # it draws the entry that it asks about
    validator = ImplementationValidator(base_url=f"{address}/optimade", respond_json=True)
    validator.validate_implementation()
    results = validator.results
    assert validator.valid, results.failure_messages
    assert not results.optional_failure_messages
    assert not results.internal_failure_messages
    # 59 and 15 with optimade 1.5: fewer would mean that it found less to ask about
    assert results.success_count >= 59
    assert results.optional_success_count >= 15
    assert capsys.readouterr().out


def test_pymatgens_client_finds_candidates(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pymatgen.ext.optimade import OptimadeRester

    url = f"{address}/optimade/"
    rester = OptimadeRester(url)
    for asked in ({"elements": ["Ca"]}, {"nelements": 4}):
        assert len(rester.get_structures(**asked)[url]) == 1, asked  # Ca(HO2)2, or TiGa2(SeBr2)2
    found = rester.get_structures(elements=["Mo"])[url]
    expected = {d.candidate_id: d for d in layers() if "Mo" in d.elements}
    assert found.keys() == expected.keys()
    for name, structure in found.items():
        stored = Structure.from_dict(expected[name].relaxed_structure or expected[name].structure)
        assert structure.composition == stored.composition
        assert structure.lattice.matrix == pytest.approx(stored.lattice.matrix)
        assert structure.cart_coords == pytest.approx(stored.cart_coords)
    assert capsys


def _formula(document: CandidateDoc) -> str:
    """OPTIMADE's reduced formula: elements in alphabetical order."""
    counts = Counter(site["species"][0]["element"] for site in document.structure["sites"])
    divisor = math.gcd(*counts.values())
    return "".join(f"{e}{n // divisor if n > divisor else ''}" for e, n in sorted(counts.items()))


# a filter, and the same said of a document
ASKED: dict[str, Callable[[CandidateDoc], bool | None]] = {
    "_scdm_e_above_hull<0.25": lambda d: d.e_above_hull is not None and d.e_above_hull < 0.25,
    "NOT _scdm_e_above_hull<0.25": lambda d: d.e_above_hull is not None and d.e_above_hull >= 0.25,
    "_scdm_e_above_hull IS UNKNOWN": lambda d: d.e_above_hull is None,
    "_scdm_surrogate=TRUE": lambda d: d.surrogate,
    "_scdm_extrapolated=FALSE": lambda d: d.extrapolated is False,
    "_scdm_rank<=10 AND nsites=3": lambda d: d.rank is not None and d.rank <= 10 and d.nsites == 3,
    '_scdm_state="pending" OR _scdm_rank=7': lambda d: d.state == "pending" or d.rank == 7,
    'elements HAS "Ca"': lambda d: "Ca" in d.elements,
    'elements HAS "Br"': lambda d: "Br" in d.elements,
    'elements HAS ALL "Mo","S"': lambda d: {"Mo", "S"} <= set(d.elements),
    'elements HAS ANY "Mo","Ca"': lambda d: bool({"Mo", "Ca"} & set(d.elements)),
    'elements HAS ONLY "Ti","Ga","Se","Br"': lambda d: set(d.elements) <= {"Ti", "Ga", "Se", "Br"},
    'NOT elements HAS ANY "Cl","Te"': lambda d: not {"Cl", "Te"} & set(d.elements),
    "elements LENGTH 3": lambda d: len(d.elements) == 3,
    "elements LENGTH >= 4": lambda d: len(d.elements) >= 4,
    'chemical_formula_reduced="CaH2O4"': lambda d: _formula(d) == "CaH2O4",
    'chemical_formula_reduced STARTS WITH "Br"': lambda d: _formula(d).startswith("Br"),
    'chemical_formula_descriptive="Ca(HO2)2"': lambda d: d.formula == "Ca(HO2)2",
    'chemical_formula_descriptive CONTAINS "(SeBr2)"': lambda d: "(SeBr2)" in d.formula,
    'references.id HAS "chgnet" AND nsites>3': lambda d: "chgnet" in (d.energy_model or "") and d.nsites > 3,
}


def test_optimades_client_finds_candidates(address: str) -> None:
    from optimade.client import OptimadeClient

    base = f"{address}/optimade"
    client = OptimadeClient(base_urls=[base], silent=True, max_results_per_provider=-1)
    for asked, holds in ASKED.items():
        found = client.get(asked)["structures"][asked][base]["data"]
        expected = {d.candidate_id for d in layers() if holds(d)}
        assert {entry["id"] for entry in found} == expected, asked
        assert expected, asked
    assert len(ASKED) == 20


def test_pages_hold_every_candidate_once(structures: str) -> None:
    everything = [d.candidate_id for d in layers()]
    for start, params in (
        (structures, {"page_limit": "7"}),
        (structures, {"page_limit": "7", "page_offset": "0", "sort": "id"}),
        (structures, {"page_limit": "7", "page_number": "1"}),
    ):
        answer, found = requests.get(start, params=params), []
        for _ in range(20):
            found += _ids(answer)
            assert answer.json()["meta"]["data_returned"] == N
            following = answer.json()["links"]["next"]
            if following is None:
                break
            answer = requests.get(following)
        assert found == everything


def test_sorting_puts_what_is_not_known_last(structures: str) -> None:
    known = sorted((d for d in layers() if d.e_above_hull is not None), key=lambda d: d.e_above_hull or 0)
    fields = {"page_limit": "100", "response_fields": "_scdm_e_above_hull,_scdm_rank"}
    for sign, expected in (("", known), ("-", known[::-1])):
        answer = requests.get(structures, params={"sort": f"{sign}_scdm_e_above_hull", **fields})
        assert _ids(answer)[: len(known)] == [d.candidate_id for d in expected]
        assert answer.json()["data"][-1]["attributes"] == {"_scdm_e_above_hull": None, "_scdm_rank": None}
        assert answer.json()["data"][0]["attributes"]["_scdm_rank"] == expected[0].rank
        for filtered in ({}, {"filter": "nsites>0"}):
            found: list[str] = []
            for offset in range(0, N, 13):  # pages that end, and begin, among what is not known
                page = {"sort": f"{sign}_scdm_e_above_hull", "page_limit": "13", "page_offset": str(offset), **filtered}
                answer = requests.get(structures, params=page)
                found += _ids(answer)
                assert answer.json()["meta"]["data_returned"] == N
            assert found[: len(known)] == [d.candidate_id for d in expected]
            assert found[len(known) :] == [d.candidate_id for d in layers() if d.e_above_hull is None]


def test_a_candidate_by_its_id(structures: str) -> None:
    document = next(d for d in layers() if d.rank == 7)
    answer = requests.get(f"{structures}/{document.candidate_id}").json()
    attributes = answer["data"]["attributes"]
    assert attributes["_scdm_e_above_hull"] == pytest.approx(document.e_above_hull)
    assert attributes["_scdm_surrogate"] is True
    assert (attributes["dimension_types"], attributes["nperiodic_dimensions"]) == ([1, 1, 0], 2)
    assert attributes["species_at_sites"] == [s.specie.symbol for s in Structure.from_dict(document.structure)]
    assert {entry["id"] for entry in answer["included"]} == {"scdm", "chgnet", "sevennet"}
    assert attributes["_scdm_extrapolated"] is False
    assert answer["meta"]["query"]["representation"].startswith(f"/structures/{document.candidate_id}")


def test_what_there_is_to_ask_for(address: str) -> None:
    properties = requests.get(f"{address}/optimade/v1/info/structures").json()["data"]["properties"]
    assert properties["_scdm_e_above_hull_error"]["unit"] == "eV/atom"
    assert properties["_scdm_layer_group"]["type"] == "integer"
    assert properties["_scdm_rank"]["sortable"]
    assert not properties["lattice_vectors"]["sortable"]
    versions = requests.get(f"{address}/optimade/v1/info").json()["data"]["attributes"]["available_api_versions"]
    assert versions[0]["url"] == f"{address}/optimade/v1"  # as the client addresses it


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?filter=_scdm_e_above_hul<1", 400, "did you mean _scdm_e_above_hull?"),
        ("?filter=nsites=", 400, "cannot be read"),
        ("?filter=nsites>4+AND+$where=1", 400, "cannot be read"),
        ('?filter=id={"$gt":""}', 400, "cannot be read"),
        ("?page_limit=501", 403, "500"),
        ("?page_limit=-1", 400, "page_limit"),
        ("?page_limit=0", 400, "asks for no entries"),
        ("?page_offset=" + "9" * 30, 400, "does not exist"),
        ("?page_limit=many", 400, "page_limit"),
        ("?sort=lattice_vectors", 400, "cannot be sorted by"),
        ("?sort=nothing", 400, "nothing"),
        ("?response_fields=nothing", 400, "nothing"),
        ("?response_format=xml", 400, "xml"),
        ("?include=nothing", 400, "nothing"),
        ("?unknown=1", 400, "unknown"),
        ("?filter", 400, "equal sign"),
        ("?page_above=demo&sort=nsites", 400, "page_offset"),
        ("/demo-00000000000", 404, "did you mean demo-0000000000"),
        ("/demo%0A", 400, "cannot be printed"),
        ('/x"%20OR%20nsites>0%20OR%20id="x', 404, "no entry with the id"),
        ("/", 404, "no entry"),
        ("?filter=" + "x" * 20_000, 414, "longer than"),
        ("?filter=" + "(" * 2000, 400, "cannot be read"),
        ("?filter=" + "nsites=1+OR+" * 400 + "nsites=1", 400, "4000"),
    ],
)
def test_bad_input_is_refused_in_words(structures: str, query: str, status: int, words: str) -> None:
    answer = requests.get(structures + query)
    assert (answer.status_code, words in _said(answer)) == (status, True), answer.text[:500]


def test_the_examples_of_the_documentation(address: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [line for line in (ROOT / "docs" / "serving.md").read_text().splitlines() if line.startswith("curl ")]
    assert len(lines) >= 5
    for line in lines:
        command = shlex.split(line.replace("http://127.0.0.1:8765", address), comments=True)
        answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
        assert answer["data"], line  # it is an example of something that finds something
        assert "errors" not in answer


def test_nothing_can_be_written(address: str, structures: str, embedded: EmbeddedServer) -> None:
    for path in ("/", "/optimade/v1/structures", "/optimade/v1/structures/demo-000000000000", "/_dash-update-componen"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "MKCOL"):
            answer = requests.request(method, address + path, json={"id": "x"})
            assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert requests.get(structures).json()["meta"]["data_available"] == N
    head, whole = requests.head(structures), requests.get(structures)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(whole.content)))
    assert requests.options(structures).headers["Allow"] == "GET, HEAD, OPTIONS"


def test_headers_trust_nobody(address: str) -> None:
    for path in ("/", "/optimade/v1/info", "/optimade/v1/nothing", "/nothing"):
        headers = requests.get(address + path).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers
        assert "Access-Control-Allow-Origin" not in headers  # pages of other sites must not read from loopback
    policy = requests.get(f"{address}/optimade/v1/info").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_only_names_of_this_machine_are_answered(address: str) -> None:
    # a page elsewhere could point a name of its own at 127.0.0.1 and read what is served there
    answer = requests.get(f"{address}/optimade/v1/info", headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert "--host" in answer.text
    assert "--name" in answer.text
    port = address.rpartition(":")[2]
    for name in ("localhost", f"localhost:{port}", "[::1]:1"):
        assert requests.get(f"{address}/optimade/v1/info", headers={"Host": name}).status_code == 200


def test_a_proxy_on_this_machine_is_answered_by_its_name(embedded: EmbeddedServer) -> None:
    # links must lead to the proxy, and clients in browsers may read through it; directly, on loopback, still not
    assert embedded.port is not None
    forwarded = {"Host": "Materials.example.org", "X-Forwarded-Proto": "https", "Origin": "https://other.example"}
    with serving(embedded.data_dir, embedded.port, "--name", "materials.example.org") as (address, _):
        url = f"{address}/optimade/v1/structures?page_limit=2"
        answer = requests.get(url, headers=forwarded)
        assert answer.status_code == 200
        assert (
            answer.json()["links"]["next"].lower().startswith("https://materials.example.org/optimade/v1/structures?")
        )
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert (
            "Access-Control-Allow-Origin" not in requests.get(url, headers={"Origin": "https://other.example"}).headers
        )
        assert requests.get(url, headers={"Host": "evil.example"}).status_code == 421
    assert "everybody who reaches materials.example.org" in (embedded.data_dir / "serve.log").read_text()


@pytest.mark.parametrize("name", ["https://materials.example.org", "materials.example.org:443", "a b", ""])
def test_what_is_no_name_of_a_host_is_told(name: str) -> None:
    from click.testing import CliRunner

    from scdm_flows.cli.serve import serve

    result = CliRunner().invoke(serve, ["--name", name])
    assert result.exit_code == 2
    assert "write it like materials.example.org" in result.output


def test_a_kept_connection_is_quick(address: str, session: requests.Session) -> None:
    # without TCP_NODELAY every answer waits 40 ms for an acknowledgement
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        session.get(f"{address}/optimade/v1/info")
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.03


def test_versions(address: str) -> None:
    for path in ("/optimade", "/optimade/"):
        assert requests.get(address + path).url == f"{address}/optimade/v1/info"
    assert requests.get(f"{address}/optimade/v1/info").json()["meta"]["time_stamp"].endswith("Z")  # RFC 3339
    assert requests.get(f"{address}/optimade/v1/nothing").json()["meta"]["time_stamp"].endswith("Z")
    for version in ("v2", "v1.99", "v0"):
        answer = requests.get(f"{address}/optimade/{version}/info")
        assert answer.status_code == 553  # as OPTIMADE wants it
        assert "not served here" in _said(answer)
    assert requests.get(f"{address}/optimade/versions").text == "version\n1"
    assert requests.get(f"{address}/optimade/v1/versions").status_code == 404
    assert requests.get(f"{address}/optimade/structures?api_hint=v1").status_code == 200
    assert requests.get(f"{address}/optimade/structures?api_hint=v2").status_code == 553


def test_warnings_belong_to_their_own_answer(structures: str) -> None:
    for _ in range(2):  # Python shows a warning once, unless told otherwise
        meta = requests.get(structures, params={"filter": "_nobody_x=1"}).json()["meta"]
        assert ["_nobody_x" in warning["detail"] for warning in meta["warnings"]] == [True]
        assert "warnings" not in requests.get(structures).json()["meta"]


_TOKENS = st.sampled_from(
    [
        *WORDS,
        '"Mo"',
        '"2024-01-01T00:00:00Z"',
        '""',
        "1",
        "-2.5e300",
        "99999999999999999999999",
        "nsites",
        "elements",
        "elements_ratios",
        "species.name",
        "id",
        "last_modified",
        "_scdm_rank",
        "_scdm_surrogate",
        "_exmpl_a",
        "references.id",
        "structure_features",
        "$where",
        "{}",
        "%00",
        "é",
    ]
)
_FUZZED = st.one_of(st.lists(_TOKENS, max_size=12).map(" ".join), st.text(max_size=60))


@given(text=_FUZZED, as_id=st.booleans())
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
def test_fuzzed_filters_and_ids_are_answered_in_words(structures: str, session: Any, text: str, as_id: bool) -> None:
    encoded = requests.utils.quote(text, safe="")
    answer = session.get(f"{structures}/{encoded}" if as_id else f"{structures}?filter={encoded}&page_limit=1")
    assert answer.status_code in (200, 400, 404, 501), (text, answer.status_code, answer.text[:300])
    if answer.status_code != 200 and "/optimade/" in answer.url:  # ".." in an address is resolved by the client
        assert _said(answer)
    assert "Traceback" not in answer.text


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as found:
        yield found


@pytest.mark.slow
def test_an_empty_database_and_one_that_goes_away(tmp_path: Path) -> None:
    database = EmbeddedServer(tmp_path, free_port())
    assert database.port is not None
    connect(ScdmSettings(data_dir=tmp_path, port=database.port)).close()
    try:
        with serving(tmp_path, database.port) as (address, process):
            url = f"{address}/optimade/v1/structures"
            empty = requests.get(url, params={"filter": 'elements HAS "Mo"', "sort": "nsites"})
            assert (empty.status_code, empty.json()["data"], empty.json()["meta"]["data_available"]) == (200, [], 0)
            database.stop()
            gone = requests.get(url, timeout=120)
            assert gone.status_code == 503
            assert "does not answer" in _said(gone)
            assert gone.headers["Retry-After"]
            assert "Traceback" not in gone.text
            assert "mongodb" not in gone.text
            assert "mongodb://127.0.0.1" in (tmp_path / "serve.log").read_text()  # the log says which
            started = time.monotonic()
            assert requests.get(url, timeout=120).status_code == 503
            assert time.monotonic() - started < 2  # whoever asks next does not wait for the database again
            database.start()
            with connect(ScdmSettings(data_dir=tmp_path, port=database.port)) as connected:
                store(connected, layers(2))
            deadline = time.monotonic() + 60
            while (answer := requests.get(url, timeout=120)).status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.5)
            assert len(answer.json()["data"]) == 2
            assert process.poll() is None
        assert "Traceback" not in (tmp_path / "serve.log").read_text()
    finally:
        database.stop()


def test_no_password_in_an_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from pymongo.errors import AutoReconnect
    from starlette.testclient import TestClient

    from scdm_flows.server.app import make_app

    database = memory_database()
    database.uri = "mongodb://reader:geheim@db.example/scdm"

    def refuse(*_: Any, **__: Any) -> Any:
        raise AutoReconnect("db.example:27017: connection refused")

    app = make_app(database)
    monkeypatch.setattr(type(database.mongo["candidates"]), "find", refuse)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        for path in ("/optimade/v1/structures", "/optimade/v1/structures/demo-1", "/optimade/v1/info/structures"):
            answer = client.get(path)
            assert "geheim" not in answer.text
            assert (answer.status_code == 503) == ("info" not in path)
            assert "db.example" not in answer.text
    assert "geheim" not in caplog.text
    assert "reader:***@db.example" in caplog.text


def test_what_cannot_be_read_is_left_out_with_a_warning() -> None:
    from starlette.testclient import TestClient

    from scdm_flows.server.app import make_app

    database, documents = memory_database(), layers(4)
    documents[1].structure, documents[1].relaxed_structure = {}, None  # OPTIMADE cannot describe it: not served
    store(database, documents)
    broken = {"$set": {"optimade.lattice_vectors": "none"}}
    database.mongo["candidates"].update_one({"candidate_id": documents[3].candidate_id}, broken)
    with TestClient(make_app(database), base_url="http://localhost") as client:
        answer = client.get("/optimade/v1/structures").json()
        assert [entry["id"] for entry in answer["data"]] == [documents[0].candidate_id, documents[2].candidate_id]
        assert "1 of this page" in answer["meta"]["warnings"][0]["detail"]
        for left_out in documents[1::2]:
            assert client.get(f"/optimade/v1/structures/{left_out.candidate_id}").status_code == 404
        database.candidates.remove_docs({"candidate_id": documents[0].candidate_id})
        assert [e["id"] for e in client.get("/optimade/v1/structures").json()["data"]] == [documents[2].candidate_id]
        pages, url = 0, "/optimade/v1/structures?page_limit=1"
        while url is not None:  # a page of which all is left out leads to the next one
            pages, url = pages + 1, client.get(url).json()["links"]["next"]
        assert pages == 2


def test_the_number_of_entries_is_that_of_those_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.errors import ExecutionTimeout
    from starlette.testclient import TestClient

    from scdm_flows.server.app import make_app

    database, documents = memory_database(), layers(3)
    store(database, documents)
    # as a database of an earlier version has them
    earlier = {"candidate_id": {"$in": [d.candidate_id for d in documents[1:]]}}
    database.mongo["candidates"].update_many(earlier, {"$unset": {"optimade": 1}})
    with TestClient(make_app(database), base_url="http://localhost") as client:
        answer = client.get("/optimade/v1/structures").json()
        assert len(answer["data"]) == 1
        assert (answer["meta"]["data_returned"], answer["meta"]["data_available"]) == (1, 1)

    def slow(_: Any, criteria: dict[str, Any]) -> int:
        if not criteria:  # mongomock's estimate
            return len(documents)
        raise ExecutionTimeout("operation exceeded time limit", 50)

    # too many to count: an answer all the same
    monkeypatch.setattr(type(database.mongo["candidates"]), "count_documents", slow)
    with TestClient(make_app(database), base_url="http://localhost") as client:
        assert client.get("/optimade/v1/structures").json()["meta"]["data_returned"] == 3


def test_a_new_candidate_is_served_at_once() -> None:
    from starlette.testclient import TestClient

    from scdm_flows.server.app import make_app

    database = memory_database()
    store(database, layers(3))
    with TestClient(make_app(database), base_url="http://localhost") as client:
        url = "/optimade/v1/structures?filter=last_modified>"
        before = client.get(url + '"2020-01-01T00:00:00Z"').json()["meta"]["data_returned"]
        store(database, layers(4)[3:])
        after = client.get(url + '"2020-01-01T00:00:00Z"').json()["meta"]["data_returned"]
        assert (before, after) == (3, 4)


def test_a_port_in_use_and_an_address_of_nobody(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from scdm_flows.cli.serve import serve
    from scdm_flows.errors import ConfigError, StoreError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(serve, ["--port", port])
        assert isinstance(result.exception, StoreError)
        assert "--port" in str(result.exception)
    result = CliRunner().invoke(serve, ["--host", "192.0.2.1", "--port", "0"])  # an address for documentation
    assert isinstance(result.exception, ConfigError)
    assert "127.0.0.1" in str(result.exception)
