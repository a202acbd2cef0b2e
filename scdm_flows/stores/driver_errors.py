"""Turns what the database driver raises into ``StoreError``: what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scdm_flows.config.settings import masked
from scdm_flows.errors import StoreError
from scdm_flows.stores.embedded_faults import CODES_OF_A_FULL_DISK

READ_ONLY, _DISK_FULL, _LOGIN = {13, 10058, 10107, 13435}, {14031}, {18}


@contextmanager
def store_errors(uri: str | None) -> Iterator[None]:
    """Raise ``StoreError`` for every error of the driver; uri: of the database, None in memory."""
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError as error:
        raise StoreError(f"database {masked(uri) if uri else 'in memory'} {explain(error)}") from None


def explain(error: Exception) -> str:
    """Reason and remedy of a driver's error, to follow 'database <uri> '."""
    from pymongo import errors

    details = getattr(error, "details", None)
    message = details.get("errmsg") if isinstance(details, dict) else None
    text = next(iter(str(message or error).splitlines()), type(error).__name__)[:300]
    code = getattr(error, "code", None)
    if isinstance(error, errors.ConfigurationError):  # before the network ones: InvalidURI and bad options
        return f"has a URI that cannot be used: {text}; mend SCDM_MONGO_URI"
    if code in _LOGIN:
        return f"refuses the login: {text}; check user, password and authSource in SCDM_MONGO_URI"
    if code in READ_ONLY or isinstance(error, errors.NotPrimaryError):
        return f"cannot be written: {text}; use a user with the role readWrite, on the primary server"
    if code in _DISK_FULL or "no space left" in text.lower():
        return f"has a full disk: {text}; free some space, what is stored is kept"
    if isinstance(error, errors.DuplicateKeyError):
        return f"holds two documents of one key: {text}; remove one, or use another database (SCDM_DATABASE)"
    if isinstance(error, errors.ConnectionFailure):
        return (
            f"does not answer: {text}; check that the server runs (`scdm db status` for the embedded one) "
            "and that SCDM_MONGO_URI is right"
        )
    if code in CODES_OF_A_FULL_DISK:
        return (
            f"failed: {text}; the usual cause is a full disk, or a folder of the database that was removed or moved "
            "while it ran: free some space or put the folder back, then start it anew; what is stored is kept"
        )
    return f"cannot be used: {text}; see the server's log"
