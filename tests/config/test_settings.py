"""Settings: precedence, secrets, and mistakes that must not pass in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from scdm_flows.config.settings import DEFAULT_PORT, ScdmSettings, get_settings, masked
from scdm_flows.documents.provenance import git_commit, versions
from scdm_flows.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("SCDM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_and_that_they_are_read_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = get_settings()
    assert (settings.mongo_uri, settings.database, settings.port) == (None, "scdm", DEFAULT_PORT)
    assert settings.explicit_port is None  # nobody asked for that port, so another may be taken
    monkeypatch.setenv("SCDM_PORT", str(DEFAULT_PORT))
    assert get_settings().explicit_port == DEFAULT_PORT


def test_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("database: from_file\nprocesses: 7\n")
    monkeypatch.setenv("SCDM_CONFIG_FILE", "s.yaml")
    monkeypatch.setenv("SCDM_DATABASE", "from_env")
    settings = get_settings()
    assert (settings.database, settings.processes, settings.port) == ("from_env", 7, DEFAULT_PORT)


def test_dotenv_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SCDM_DATABASE=sneaky\n")
    assert get_settings().database == "scdm"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_MONGO_URI", "")  # what compose files pass for a variable that is not set
    assert get_settings().mongo_uri is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("database: [", "is not YAML"),
        ("- a\n- b\n", "must hold a mapping"),
        ("databse: x\n", "did you mean 'database'"),
        ("port: abc\n", "SCDM_PORT='abc'"),
    ],
)
def test_a_broken_file_stops_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "s.yaml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("SCDM_CONFIG_FILE", str(path))
    with pytest.raises(ConfigError, match=r"settings file|SCDM_PORT") as caught:
        get_settings()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SCDM_PORT", "70000", "SCDM_PORT='70000'"),
        ("SCDM_PROCESSES", "0", "greater than or equal to 1"),
        ("SCDM_DATABASE", "a b", "must not hold a space"),
        ("SCDM_MONGO_URI", "http://u:secret@h", "must begin with mongodb://"),
        ("SCDM_MONGO_URL", "mongodb://h", "did you mean SCDM_MONGO_URI?"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        get_settings()
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert "secret" not in str(caught.value)


def test_foreign_variables_with_our_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_SHARED_DATA", "/data")
    assert get_settings().database == "scdm"


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:secret@host/db",
        "mongodb+srv://user:secret@cluster.example.org/?w=1",
        "mongodb://user:secret@h1:1,h2:2/db",
        "mongodb://user:se/cret@host/db",  # not escaped as it should be: must not show all the same
        "mongodb://user:secret@2@host/db",
    ],
)
def test_passwords_do_not_show(uri: str) -> None:
    settings = ScdmSettings(mongo_uri=uri)
    for text in (repr(settings), str(settings), masked(uri)):
        assert "cret" not in text
        assert "user:***@" in text
    assert settings.mongo_uri == uri


def test_masking_leaves_other_uris_alone() -> None:
    assert masked("mongodb://127.0.0.1:27017/scdm?w=majority") == "mongodb://127.0.0.1:27017/scdm?w=majority"


def test_provenance_names_what_shapes_results() -> None:
    assert {"pymatgen", "jobflow", "maggma"} <= set(versions())
    commit = git_commit()
    assert commit is None or len(commit) == 40  # a sha-1 where there is a source tree
