"""What must not leave the house: passwords, where databases are, in whose folders files lay. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN, FOLDER = "***", "/~"  # in place of a password, and of a folder whose name is known
_SECRET = re.compile(r"passw|secret|token|api_?key|credential", re.IGNORECASE)  # names of what has such values
_DATABASE = re.compile(r"mongodb(\+srv)?://[^\s'\",;)]*", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^\s/]*@")  # also where a password holds an @
_HOME = re.compile(r"/(?:home|Users)/[^\s/'\",;:()]+")
# folders of an absolute path of two parts and more; "eV/atom", "p4/nmm" and addresses are none
_FOLDERS = re.compile(r"(?<![\w./*°)\]…-])(?:~[\w.-]*)?/(?!/)(?:[^\s/'\",;:()<>\[\]{}|]+/)+")


class Private:
    """Takes passwords and folders out of texts; of a path the name of the file is left.

    Parameters
    ----------
    places
        Path as it was on the machine that read it -> what takes its place, which stays.

    >>> Private({"/data/ada/MoS2.cif": "inputs/MoS2.cif"}).text("/data/ada/MoS2.cif: no atoms; see /tmp/x/run.log")
    'inputs/MoS2.cif: no atoms; see …/run.log'
    >>> Private().text("mongodb://ada:secret@db.example.org/scdm refused the login; E_hull is 0.1 eV/atom")
    'mongodb://… refused the login; E_hull is 0.1 eV/atom'
    """

    def __init__(self, places: Mapping[str, str] | None = None) -> None:
        # the longest first: a file before the folder that it lies in; a home may have a space in its name
        self._places = dict(sorted((places or {}).items(), key=lambda item: -len(item[0])))
        home = str(Path.home())
        if home.count("/") > 1:
            self._places.setdefault(home, FOLDER)

    def text(self, text: str) -> str:
        """The text without them."""
        if "/" not in text:
            return text
        for path, place in self._places.items():
            text = text.replace(path, place)
        text = _DATABASE.sub("mongodb://…", text.replace("file://", ""))
        text = _HOME.sub(FOLDER, _LOGIN.sub(f"{HIDDEN}@", text))
        return _FOLDERS.sub("…/", text)

    def __call__(self, value: Any) -> Any:
        """A value of JSON without them, in whatever it holds."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: HIDDEN if _is_secret(key, part) else self(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self(part) for part in value]
        return value


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and _SECRET.search(str(key)) is not None
