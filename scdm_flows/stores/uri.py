"""MongoDB URIs, read by pymongo's parser: which database they name, and the same URI with another one.

``scdm_flows.config.settings.masked`` hides the password of a URI in messages. It is not here because the settings need
it, and it asks no parser because a URI that no parser can read must not show its password either.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

from scdm_flows.config.settings import masked
from scdm_flows.errors import StoreError

_SRV = "mongodb+srv://"
SAFE_WRITES = {"w": "majority", "journal": "true"}


def read_uri(uri: str) -> dict[str, Any]:
    """User, database, options and so on, as ``pymongo.uri_parser.parse_uri`` gives them.

    Of a ``mongodb+srv://`` URI the host is not looked up in the network: it stands as it is written.

    Raises
    ------
    StoreError
        If the driver cannot read the URI. The driver's own message may show the password.
    """
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri, split_options

    address, _, query = uri.partition("?")
    try:
        if "@" in address.partition("://")[2].partition("/")[2]:
            raise ValueError("the password holds a / that is not encoded")  # pymongo takes what follows for a database
        if not uri.startswith(_SRV):
            return parse_uri(uri, warn=False)
        found = parse_uri(address.replace(_SRV, "mongodb://", 1))
        return found | {"options": split_options(query) if query else {}}
    except (PyMongoError, ValueError) as error:
        why = "" if "@" in uri else f" ({error})"
        raise StoreError(
            f"{masked(uri)} is not a MongoDB URI{why}; write mongodb://user:password@host:port/ with the "
            "special characters of user and password percent-encoded, in SCDM_MONGO_URI"
        ) from None


def database_name(uri: str) -> str:
    """The database in the path of a URI, empty where there is none; raises what ``read_uri`` does."""
    found = read_uri(uri)
    return ".".join(part for part in (found["database"], found["collection"]) if part)


def with_database(uri: str, name: str) -> str:
    """The URI with this database in its path, and with writes that wait until they are on disk.

    A user logs in where the URI said before: in ``authSource``, else in the database of its path, else in ``admin``.
    Raises what ``read_uri`` does.
    """
    found = read_uri(uri)
    given = {option.lower() for option in found["options"]}
    address, _, query = uri.partition("?")
    scheme, _, rest = address.partition("://")
    options = [option for option in query.split("&") if option]
    if found["username"] is not None and not given & {"authsource", "authmechanism"}:
        options.append(f"authSource={quote_plus(database_name(uri) or 'admin')}")
    options += [f"{option}={value}" for option, value in SAFE_WRITES.items() if option not in given]
    return f"{scheme}://{rest.partition('/')[0]}/{quote_plus(name)}?{'&'.join(options)}"
