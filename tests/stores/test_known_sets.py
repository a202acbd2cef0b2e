"""The user's own known layers: sets of files and of providers, and the compositions of known bulk compounds.

Providers are a server on loopback that answers as real ones do on good and bad days, and once the project's own.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from support.documents import CampaignDocuments
from support.layers import mx2, rock_salt
from support.memory import memory_database

from scdm_flows.cli.data import data
from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import DatasetError, OutputError, ReferenceDataError
from scdm_flows.stores import known_sets as known
from scdm_flows.stores.known_sets import add_known, known_layers, known_sets, remove_known, set_name
from scdm_flows.thermo import bulk_compounds as compositions
from scdm_flows.thermo.build import build_compositions
from scdm_flows.thermo.bulk_compounds import bulk_compound_known
from scdm_models.datasets import optimade
from scdm_models.datasets.known import KnownLayers
from scdm_models.datasets.optimade import read_optimade
from scdm_models.datasets.readers import read_any
from scdm_models.datasets.records import Dropped, LayerRecord

WSE2 = Structure(Lattice.hexagonal(3.32, 20.0), ["W", "Se", "Se"], mx2("1H", half=1.68).frac_coords)
GRAPHENE = Structure(Lattice.hexagonal(2.46, 20.0), ["C", "C"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
SALT = rock_salt("Na", "Cl", 5.64)
Answer = tuple[int, str, bytes] | dict[str, Any]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScdmSettings:
    """A folder of its own, 1T-MoS2 as the only packaged layer, and requests that are not tried again."""
    packaged, _ = KnownLayers.build([LayerRecord("MoS2-1T", "C2DB", mx2("1T"))])
    load = KnownLayers.load
    monkeypatch.setattr(KnownLayers, "load", lambda path=None: packaged if path is None else load(path))
    monkeypatch.setattr(optimade, "TRIES_AGAIN", 0)
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("SCDM_KNOWN_DIR", raising=False)
    return ScdmSettings(data_dir=tmp_path / "data")


def scdm(*arguments: object, code: int = 0) -> Any:
    """What `scdm data known` says; its JSON where that is asked for."""
    result = CliRunner().invoke(data, ["known", *map(str, arguments)])
    if code:
        assert isinstance(result.exception, DatasetError) or result.exit_code == code, result.output
        return str(result.exception if isinstance(result.exception, DatasetError) else result.output)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def compact(structure: Structure, identifier: str, **more: Any) -> str:
    """A line of compact JSON."""
    fields = {"lattice": structure.lattice.matrix.tolist(), "frac_coords": structure.frac_coords.tolist()}
    return json.dumps({"id": identifier, "species": [s.specie.symbol for s in structure], **fields, **more})


def reasons(file: Path) -> dict[str, str]:
    """Id -> reason of a file of what was left out."""
    return {row["id"]: row["reason"] for row in map(json.loads, file.read_text().splitlines())}


# sets of files


def test_an_added_layer_is_known_at_once_and_unknown_when_its_set_is_gone(tmp_path: Path, place: ScdmSettings) -> None:
    assert not known_layers().lookup(mx2("1H"))
    assert known_layers().lookup(mx2("1T"))  # packaged
    (tmp_path / "ours.jsonl").write_text(compact(mx2("1H"), "a", e_above_hull=0.02))
    scdm("add", tmp_path / "ours.jsonl")
    (match,) = known_layers().lookup(mx2("1H", a=3.2))
    assert (match.id, match.source, match.properties) == ("a", "ours", {"e_above_hull": 0.02})
    assert known_layers() is known_layers(place)  # nothing is read again
    scdm("remove", "ours")
    assert not known_layers().lookup(mx2("1H"))
    assert not (place.data_dir / "known" / "ours.dropped.jsonl").exists()


def test_a_replaced_set_is_read_again(place: ScdmSettings) -> None:
    add_known("x", [LayerRecord("a", "file", mx2("1H"))], "first")
    assert known_layers().lookup(mx2("1H"))
    add_known("x", [LayerRecord("a", "file", GRAPHENE)], "second", force=True)
    assert not known_layers().lookup(mx2("1H"))
    assert known_layers().lookup(GRAPHENE)
    (found,) = known_sets()
    assert found.source == "second"


def test_bad_entries_are_named_and_counted_and_the_others_go_on(tmp_path: Path, place: ScdmSettings) -> None:
    lines = [
        compact(mx2("1H"), "good"),
        compact(SALT, "rock salt"),
        json.dumps({"id": "empty", "formula": "MoS2"}),
        "{not json",
        compact(GRAPHENE, "good"),
        compact(WSE2, "also good"),
    ]
    (tmp_path / "ours.jsonl").write_text("\n".join(lines))
    found = scdm("add", tmp_path / "ours.jsonl", "--name", "mine", "--json")
    assert (found["read"], found["layers"], found["source"]) == (6, 2, str(tmp_path / "ours.jsonl"))
    assert found["left_out"] == {"unreadable": 2, "not a layer": 1, "duplicate id": 1}
    said = reasons(place.data_dir / "known" / "mine.dropped.jsonl")
    assert found["reasons"] == str(place.data_dir / "known" / "mine.dropped.jsonl")
    assert "bulk crystal" in said["rock salt"]
    assert "it holds no structure" in said["empty"]
    assert "came before in this set" in said["good"]
    assert "line 4 is not JSON" in said["ours.jsonl:4"]
    assert not known_layers().lookup(GRAPHENE)  # its id was another layer's
    shown = scdm("add", tmp_path / "ours.jsonl", "--name", "again")
    assert "added again: 2 layers of 6 entries" in shown
    assert "left out: 1 not a layer" in shown
    assert "again.dropped.jsonl" in shown


def test_every_kind_of_source_is_a_set(tmp_path: Path, mos2: Structure) -> None:
    from ase.db import connect
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    folder = tmp_path / "MC2D files"
    folder.mkdir()
    mos2.to(filename=str(folder / "a.cif"))
    WSE2.to(filename=str(folder / "POSCAR"), fmt="poscar")
    entry = ComputedStructureEntry(WSE2, -20.0, data={"mat_id": "agm1", "e_above_hull": 0.1}).as_dict()
    (tmp_path / "alexandria_2d_000.json.gz").write_bytes(gzip.compress(json.dumps({"entries": [entry]}).encode()))
    connect(str(tmp_path / "c2db.db")).write(mos2.to_ase_atoms(), uid="MoS2-b3b4685fb6e1", ehull=0.0)
    for source in ("MC2D files", "alexandria_2d_000.json.gz", "c2db.db"):
        scdm("add", tmp_path / source)
    assert {one.name: one.layers for one in known_sets()} == {"MC2D-files": 2, "alexandria-2d-000": 1, "c2db": 1}
    found = {m.source: m for m in known_layers().lookup(WSE2)}
    assert found.keys() == {"MC2D-files", "alexandria-2d-000"}
    assert (found["alexandria-2d-000"].id, found["alexandria-2d-000"].properties) == ("agm1", {"e_above_hull": 0.1})


def test_the_list_names_everything_packaged_and_added(tmp_path: Path, place: ScdmSettings) -> None:
    add_known("mine", [LayerRecord("a", "file", mx2("1H"))], "some/file")
    folder = place.data_dir / "known"
    known_layers().save(folder / "by-hand.npz")  # a file of `build` put there is a set, too
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 no more")
    (folder / ".half.npz").write_bytes(b"of a killed process")
    found = scdm("list", "--json")
    assert found["packaged"]["layers"] == {"C2DB": 1}
    broken, hand, mine = found["sets"]
    assert (hand["name"], hand["layers"], hand["source"], hand["added"]) == ("by-hand", 2, None, None)
    assert (broken["name"], broken["layers"]) == ("broken", 0)
    assert "holds no known layers" in broken["trouble"]
    assert (mine["layers"], mine["source"], mine["trouble"]) == (1, "some/file", None)
    assert mine["version"] == KnownLayers.load(folder / "mine.npz").version
    assert "some/file" in scdm("list")
    # what a damaged set holds would count as new, so nobody goes on without it
    with pytest.raises(DatasetError, match=r"broken\.npz .*or remove it with `scdm data known remove broken`"):
        known_layers()
    scdm("remove", "broken")
    assert len(known_layers()) == 1 + 1 + 2


@pytest.mark.parametrize("name", ["../x", ".x", "", "a b", "a/b", "x" * 65])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="is no name for a set; give at most 64 letters"):
        add_known(name, iter(()), "x")
    with pytest.raises(DatasetError, match="is no name for a set"):
        remove_known(name)


def test_a_name_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    def unread() -> Iterator[LayerRecord]:
        raise AssertionError("nobody may read this")
        yield

    add_known("x", [LayerRecord("a", "file", GRAPHENE)], "first")
    with pytest.raises(DatasetError, match="a set x exists in .*--force"):
        add_known("x", unread(), "second")
    with pytest.raises(DatasetError, match=r"C2DB is a source of the packaged layers \(C2DB\); give another --name"):
        add_known("C2DB", unread(), "second")
    with pytest.raises(DatasetError, match="there is no set y in .*; sets there: x"):
        remove_known("y")


def test_a_source_without_layers_leaves_no_set(tmp_path: Path, place: ScdmSettings) -> None:
    with pytest.raises(
        DatasetError, match=r"no layer is left of 1 entries of here \(1 not a layer\); the first: .*bulk"
    ):
        add_known("x", [LayerRecord("a", "file", SALT)], "here")
    with pytest.raises(DatasetError, match=r"no layer is left of 0 entries"):
        add_known("x", [], "here")
    with pytest.raises(DatasetError, match="does not exist"):
        add_known("x", read_any(tmp_path / "gone.json"), "here")
    assert not list((place.data_dir).rglob("*.npz"))


def test_the_folder_can_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_KNOWN_DIR", str(tmp_path / "shared"))
    add_known("x", [LayerRecord("a", "file", GRAPHENE)], "first")
    assert (tmp_path / "shared" / "x.npz").is_file()
    monkeypatch.setenv("SCDM_DATA_DIR", str(tmp_path / "elsewhere"))  # as a worker in another folder
    assert known_layers().lookup(GRAPHENE)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCDM_KNOWN_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set SCDM_KNOWN_DIR to another folder"):
        add_known("x", [LayerRecord("a", "file", GRAPHENE)], "first")


def test_a_set_that_goes_while_it_is_read_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    add_known("x", [LayerRecord("a", "file", GRAPHENE)], "first")
    load = KnownLayers.load

    def gone(path: Path | None = None) -> KnownLayers:
        if path is not None:
            path.unlink(missing_ok=True)
        return load(path)

    monkeypatch.setattr(KnownLayers, "load", gone)
    assert len(known_layers()) == 1


def test_nothing_half_written_when_killed(tmp_path: Path, place: ScdmSettings) -> None:
    # the process kills itself where the file is written and has not got its name yet
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from pymatgen.core import Lattice, Structure\n"
        "from scdm_flows.stores import known_sets as known\n"
        "from scdm_models.datasets.records import LayerRecord\n"
        "known.write_dropped = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "none, _ = known.KnownLayers.build([])\n"
        "known.KnownLayers.load = lambda path=None: none\n"
        "s = Structure(Lattice.hexagonal(2.46, 20.0), ['C', 'C'], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])\n"
        "known.add_known('x', [LayerRecord('a', 'f', s)], 'here', force=True)\n"
    )
    add_known("x", [LayerRecord("a", "file", mx2("1H"))], "before")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [one.source for one in known_sets()] == ["before"]
    assert known_layers().lookup(mx2("1H"))


def test_build_makes_a_file_such_as_the_packaged_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([compact(GRAPHENE, "g", source="C2DB"), compact(SALT, "s")]))
    WSE2.to(filename=str(tmp_path / "w.cif"))
    out = tmp_path / "known.npz"
    made = scdm("build", tmp_path / "a.jsonl", tmp_path / "w.cif", "-o", out, "--json")
    assert made["layers"] == {"C2DB": 1, "file": 1}
    assert made["left_out"] == {"not a layer": 1}
    assert "bulk crystal" in reasons(Path(f"{out}.dropped.jsonl"))["s"]
    assert KnownLayers.load(out).version == made["version"]
    assert KnownLayers.load(out).lookup(WSE2)
    assert "wrote" in scdm("build", tmp_path / "a.jsonl", "-o", out, "--force")


# providers


class Provider:
    """A server on loopback. ``answer`` maps the path with its query to what is said; ``asked`` is what came."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[str], Answer] = lambda path: (404, "text/html", b"<html>no</html>")
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                answer = provider.answer(self.path)
                if isinstance(answer, dict):
                    answer = (200, "application/vnd.api+json", json.dumps(answer).encode())
                status, kind, body = answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/optimade"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that knows no address yet."""
    made = Provider()
    yield made
    made.close()


def page(*entries: Any, following: Any = None, **meta: Any) -> dict[str, Any]:
    """A page of OPTIMADE."""
    return {"data": list(entries), "links": {"next": following}, "meta": {"more_data_available": False, **meta}}


def entry(structure: Structure, identifier: str, **more: Any) -> dict[str, Any]:
    """An entry of OPTIMADE with what makes a structure."""
    elements = sorted({s.specie.symbol for s in structure})
    attributes = {
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements],
        "species_at_sites": [s.specie.symbol for s in structure],
        **more,
    }
    return {"id": identifier, "type": "structures", "attributes": attributes}


def numbered(first: int, n: int) -> list[dict[str, Any]]:
    """Layers whose ids are numbers; each with a lattice of its own."""
    return [entry(mx2("1H", a=3 + k / 100), str(k)) for k in range(first, first + n)]


def page_number(path: str) -> int:
    return int(parse_qs(urlsplit(path).query).get("page", ["1"])[0])


def test_a_provider_is_read_to_its_last_page(provider: Provider, place: ScdmSettings) -> None:
    def answer(path: str) -> Answer:
        number = page_number(path)
        # the standard allows a string or an object with href; some providers give it without the host
        links = {1: {"href": f"{provider.url}/v1/structures?page=2"}, 2: "/optimade/v1/structures?page=3", 3: None}
        return page(*numbered(10 * number, 2), following=links[number])

    provider.answer = answer
    found = scdm("add", provider.url, "--filter", 'elements HAS "Mo" AND nsites<9', "--name", "p", "--json")
    assert (found["read"], found["layers"], found["left_out"], found["trouble"]) == (6, 6, {}, None)
    assert found["source"] == f'{provider.url}, filter elements HAS "Mo" AND nsites<9'
    first = urlsplit(provider.asked[0])
    assert first.path == "/optimade/v1/structures"
    assert parse_qs(first.query) == {"page_limit": ["100"], "filter": ['elements HAS "Mo" AND nsites<9']}
    assert len(provider.asked) == 3
    assert {m.source for m in known_layers().lookup(mx2("1H"))} == {"p"}


@pytest.mark.parametrize("tail", ["/", "/v1", "/v1/structures", "/v1.1.0/structures/"])
def test_the_address_may_be_given_with_the_version(provider: Provider, tail: str) -> None:
    provider.answer = lambda path: page(entry(GRAPHENE, "a"))
    assert len(list(read_optimade(provider.url + tail))) == 1
    assert urlsplit(provider.asked[0]).path == "/optimade/v1/structures"


def test_a_limit_ends_the_reading(provider: Provider) -> None:
    provider.answer = lambda path: page(
        *numbered(10 * page_number(path), 3),
        following=f"{provider.url}/v1/structures?page={page_number(path) + 1}",
    )
    found = scdm("add", provider.url, "--limit", 4, "--name", "p", "--json")
    assert (found["read"], found["layers"], found["trouble"]) == (4, 4, None)
    assert found["source"].endswith("at most 4 entries")
    assert len(provider.asked) == 2
    assert "--filter and --limit are for web addresses" in scdm("add", "here.cif", "--limit", 4, code=2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, "text/html", b"<html>Internal Server Error</html>"), "HTTP 500: Internal Server Error"),
        ((404, "text/plain", b""), "HTTP 404: Not Found"),
        ((400, "application/json", b'{"errors": [{"title": "Bad", "detail": "no field nelement"}]}'), "HTTP 400: no field nelement"),
        ((200, "text/html; charset=utf-8", b"<html>welcome</html>"), "answers with text/html; charset=utf-8, which is no page of OPTIMADE; give the base URL"),
        ((200, "application/json", b'{"data": {"id": 1}}'), "JSON without a list 'data'"),
        ((200, "application/json", b'[1, 2]'), "JSON without a list 'data'"),
        ((200, "application/json", b'{"data": [{"id": '), "no page of OPTIMADE"),
        ((200, "application/json", b'{"data": [], "errors": [{"title": "Too busy"}]}'), "HTTP 200: Too busy"),
        ((200, "application/json", b'{"data": []}'), "no layer is left of 0 entries"),
    ],
)  # fmt: skip
def test_a_provider_that_gives_nothing_is_one_error(
    provider: Provider, place: ScdmSettings, answer: Answer, says: str
) -> None:
    provider.answer = lambda path: answer
    assert says in scdm("add", provider.url, code=2)
    assert not known_sets()


def test_a_provider_that_is_not_there() -> None:
    gone = Provider()
    gone.close()
    with pytest.raises(DatasetError, match=r"cannot be reached \(ConnectionError\); check address and network"):
        list(read_optimade(gone.url))


def test_entries_without_a_structure_are_left_out(provider: Provider, place: ScdmSettings) -> None:
    bad = [
        {"id": "no attributes", "type": "structures"},
        entry(GRAPHENE, "null", lattice_vectors=None),
        entry(GRAPHENE, "short", cartesian_site_positions=[[0, 0, 0]]),
        entry(GRAPHENE, "half", species=[{"name": "C", "chemical_symbols": ["C", "N"], "concentration": [0.5, 0.5]}]),
        "text",
        entry(SALT, "rock salt"),
        entry(GRAPHENE, "good"),
    ]
    provider.answer = lambda path: page(*bad, entry(GRAPHENE, "good"))
    found = scdm("add", provider.url, "--name", "p", "--json")
    assert (found["read"], found["layers"]) == (8, 1)
    assert found["left_out"] == {"unreadable": 5, "not a layer": 1, "duplicate id": 1}
    said = reasons(Path(found["reasons"]))
    assert set(said) == {"no attributes", "null", "short", "half", "127.0.0.1:5", "rock salt", "good"}
    assert "it holds no structure" in said["null"]


# a provider's second page on a bad day -> what is said of it
@pytest.mark.parametrize(
    ("second", "says"),
    [
        ((500, "text/html", b"<html>"), "page 2: .*HTTP 500"),
        ((200, "text/html", b"<html>"), "page 2: .*answers with text/html"),
        ("first", "page 2: the page holds nothing new"),
        ({"data": [], "links": {"next": "/v1/structures?page=9"}}, "page 2: the page holds nothing new"),
        ("cycle", "page 2: it names a page as the following one that was read already"),
        ({"data": [], "links": {"next": "file:///etc/passwd"}, "x": 1}, "page 2: the page holds nothing new"),
        ("foreign", r"page 3: .*cannot be reached \(InvalidSchema\)"),
        ("no link", "page 2: it says that there is more and names no page that follows"),
    ],
)
def test_a_provider_that_breaks_off_keeps_what_came_and_says_so(provider: Provider, second: Any, says: str) -> None:
    following = f"{provider.url}/v1/structures?page=2"

    def answer(path: str) -> Answer:
        number = page_number(path)
        if number == 1:
            return page(*numbered(1, 2), following=following)
        if second == "first":
            return page(*numbered(1, 2), following=f"{provider.url}/v1/structures?page=3")
        if second == "cycle":
            return page(*numbered(3, 2), following=following)
        if second == "foreign":
            return page(*numbered(3, 2), following="file:///etc/passwd")
        if second == "no link":
            return page(*numbered(3, 2), more_data_available=True)
        return second  # type: ignore[no-any-return]

    provider.answer = answer
    found = scdm("add", provider.url, "--name", "p", "--json")
    assert found["layers"] == found["read"] == (4 if second in ("cycle", "foreign", "no link") else 2)
    assert found["left_out"] == {}
    assert re.search(says, found["trouble"])
    assert "what came before is kept" in found["trouble"]
    assert list(reasons(Path(found["reasons"]))) == [f"127.0.0.1:{says[:6]}"]
    (one,) = known_sets()
    assert one.trouble == found["trouble"]  # the list says it as long as the set is there
    assert "not all of it: page" in scdm("add", provider.url, "--name", "p", "--force")


def test_pages_without_end_end(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimade, "MAX_PAGES", 7)
    provider.answer = lambda path: page(
        *numbered(2 * page_number(path), 2),
        following=f"{provider.url}/v1/structures?page={page_number(path) + 1}",
    )
    *layers, last = read_optimade(provider.url)
    assert (len(provider.asked), len(layers)) == (7, 14)
    assert isinstance(last, Dropped)
    assert "page 7: no more pages are read" in last.reason


def test_a_busy_provider_is_asked_again(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimade, "TRIES_AGAIN", 1)
    answers: list[Answer] = [(503, "text/html", b""), page(entry(GRAPHENE, "a"))]
    provider.answer = lambda path: answers.pop(0)
    (item,) = read_optimade(provider.url)
    assert isinstance(item, LayerRecord)


def test_passwords_of_an_address_are_not_kept(provider: Provider) -> None:
    provider.answer = lambda path: page(entry(GRAPHENE, "a"))
    url = provider.url.replace("http://", "http://user:secret@")
    found = scdm("add", url, "--name", "p", "--json")
    assert "secret" not in json.dumps(found)
    assert "secret" not in Path(found["reasons"]).with_name("p.npz").read_bytes().decode("latin-1")
    provider.answer = lambda path: (401, "text/plain", b"")
    with pytest.raises(DatasetError, match="HTTP 401") as caught:
        list(read_optimade(url))
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_our_own_server_is_a_provider(campaign_documents: CampaignDocuments) -> None:
    # its routers and schemas are those of optimade-python-tools, whoever wrote the reader
    pytest.importorskip("optimade.server", reason="the server is an optional extra")
    from support.pages_server import serving

    from scdm_flows.builders.optimade import optimade_of

    database = memory_database()
    for document in campaign_documents.candidates:
        document.optimade = optimade_of(document)  # as the candidate builder does
    campaign_documents.store(database)
    expected = {d.candidate_id: Structure.from_dict(d.structure) for d in campaign_documents.candidates}
    with serving(database) as address:
        items = list(read_optimade(f"{address}/optimade"))
        some = list(read_optimade(f"{address}/optimade", 'id="demo-000000000000"'))
    assert {item.id for item in items} == set(expected)
    for item in items:
        assert isinstance(item, LayerRecord)
        np.testing.assert_allclose(item.structure.distance_matrix, expected[item.id].distance_matrix, atol=1e-6)
    assert [item.id for item in some] == ["demo-000000000000"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://aiida.materialscloud.org/mc2d/optimade", "aiida.materialscloud.org-mc2d"),
        ("https://optimade.materialsproject.org/", "optimade.materialsproject.org"),
        ("data/alexandria_2d_000.json.bz2", "alexandria-2d-000"),
        ("/tmp/our layers/", "our-layers"),
        ("jarvis", "jarvis"),
    ],
)
def test_names_made_from_sources(source: str, name: str) -> None:
    assert set_name(source) == name


def test_the_folder_of_the_sets_is_one_of_the_settings(tmp_path: Path) -> None:
    assert known.known_folder(ScdmSettings(data_dir=tmp_path)) == tmp_path / "known"
    assert known.known_folder(ScdmSettings(known_dir="~/k")) == Path.home() / "k"


# compositions of known bulk compounds


@pytest.mark.parametrize("formula", ["MoS2", "S2Mo", "Mo2S4", "NaCl", "Mg(OH)2", "Na2O2", "NaO", "C", "N2"])
def test_bulk_compounds_that_everybody_knows(formula: str) -> None:
    # molybdenite, halite, brucite, sodium peroxide; elements are known by themselves
    assert bulk_compound_known(formula)


@pytest.mark.parametrize("formula", ["MoSi2N4", "AuHe"])
def test_compositions_without_a_bulk_crystal(formula: str) -> None:
    # MoSi2N4 was made as a layer without a bulk parent (Hong et al., Science 369, 670 (2020)); helium bonds to no metal
    assert not bulk_compound_known(formula)


@pytest.mark.parametrize("formula", ["", "Xx", "Fe0.5O", "hello", "7"])
def test_what_is_no_formula_is_an_error(formula: str) -> None:
    with pytest.raises(ReferenceDataError, match="is no chemical formula with whole numbers; write one such as MoS2"):
        bulk_compound_known(formula)


def test_the_packaged_compositions_are_the_whole_table(shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(shared_data / "mp_compositions_ef_ed.csv.gz", "rt") as handle:
        formulas = [row["formula"] for row in csv.DictReader(handle)]
    assert len(formulas) == len(compositions.known_compositions()) == 85014  # Bartel et al. 2020
    assert all(bulk_compound_known(formula) for formula in formulas[::50])


def test_compositions_are_packed(tmp_path: Path) -> None:
    rows = "formula,formation_energy_ev_per_atom,decomposition_energy_ev_per_atom\nAg2Au2,-0.1,0.5\nMo1S2,-1,-0.5\n"
    (tmp_path / "mp_compositions_ef_ed.csv.gz").write_bytes(gzip.compress(rows.encode()))
    header = build_compositions(tmp_path, tmp_path / "out.txt.gz")
    head, *lines = gzip.decompress((tmp_path / "out.txt.gz").read_bytes()).decode().splitlines()
    assert json.loads(head.removeprefix("# ")) == header
    assert (lines, header["compositions"]) == (["AgAu", "MoS2"], 2)
    with pytest.raises(ReferenceDataError, match="does not exist; give the folder"):
        build_compositions(tmp_path / "nowhere", tmp_path / "out.txt.gz")
