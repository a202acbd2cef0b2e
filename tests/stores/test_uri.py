"""MongoDB URIs: which database they name, the same with another one, and what no driver can read."""

from __future__ import annotations

import pytest

from scdm_flows.config.settings import ScdmSettings
from scdm_flows.errors import StoreError
from scdm_flows.stores.database import database_of, database_uri
from scdm_flows.stores.uri import database_name, read_uri, with_database


@pytest.mark.parametrize(
    ("uri", "fields", "expected"),
    [
        ("mongodb://h", {}, "mongodb://h/scdm?w=majority&journal=true"),
        ("mongodb://h/mine", {}, "mongodb://h/mine?w=majority&journal=true"),
        ("mongodb://h/mine", {"database": "other"}, "mongodb://h/other?w=majority&journal=true"),
        (
            "mongodb://h1:1,h2:2/?replicaSet=r&W=2",
            {},
            "mongodb://h1:1,h2:2/scdm?replicaSet=r&W=2&journal=true",
        ),
        # users live in the database of the path, else in admin: naming ours must not move them
        ("mongodb://u:p@h", {}, "mongodb://u:p@h/scdm?authSource=admin&w=majority&journal=true"),
        (
            "mongodb://u:p@h/users",
            {"database": "x"},
            "mongodb://u:p@h/x?authSource=users&w=majority&journal=true",
        ),
        ("mongodb://u:p@h/?authSource=a", {}, "mongodb://u:p@h/scdm?authSource=a&w=majority&journal=true"),
        (
            "mongodb+srv://u:p@h.org/",
            {},
            "mongodb+srv://u:p@h.org/scdm?authSource=admin&w=majority&journal=true",
        ),
    ],
)
def test_uri_of_the_settings(uri: str, fields: dict[str, str], expected: str) -> None:
    assert database_uri(ScdmSettings(mongo_uri=uri, **fields)) == expected


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("mongodb://h", ""),
        ("mongodb://h/?w=1", ""),
        ("mongodb://u:p%2Fw@h1:1,h2:2/mine?w=1", "mine"),
        ("mongodb+srv://u:p@h.org/mine", "mine"),
        ("mongodb://h/a%2Bb", "a+b"),  # percent-encoded, as the connection string format asks for
        ("mongodb://h/a.b", "a.b"),  # no name that MongoDB takes, so it says so; "a" would be another database
    ],
)
def test_the_database_that_a_uri_names(uri: str, name: str) -> None:
    assert database_name(uri) == name


@pytest.mark.parametrize("name", ["scdm", "a+b", "a@b", "50%", "größe"])
def test_any_name_of_a_database_comes_back(name: str) -> None:
    uri = with_database("mongodb://u:p@h/users", name)
    assert database_name(uri) == name
    found = read_uri(uri)
    assert (found["username"], found["password"]) == ("u", "p")
    assert found["options"] == {"authSource": "users", "w": "majority", "journal": True}
    assert with_database(uri, name) == uri  # nothing is added twice


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://u:sec/ret@h/",
        "mongodb://u:secret@h:port/",
        "mongodb://",
        "mongodb://u:12/secret@h/",  # a driver would take host u, port 12, and the rest for a database
        "mongodb+srv://u:sec/ret@h.org/",
        "mongodb+srv://u:sec@ret@h.org/",
    ],
)
def test_a_uri_that_is_none(uri: str) -> None:
    for use in (database_of, database_name, lambda given: with_database(given, "x")):
        with pytest.raises(StoreError, match="is not a MongoDB URI") as caught:
            use(uri)
        assert "sec" not in str(caught.value)
        assert "ret" not in str(caught.value)
