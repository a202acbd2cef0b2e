"""Faults of the embedded server, SecantusDB, and what works around each. MongoDB has none of them.

``tests/stores/test_embedded_faults.py`` shows them on a running server: where one fails the fault is gone, and what
works around it can go too.

counter     ``find_one_and_update`` answers with the document as it was before another client's change, where it should
            be as it was before this one's: two clients get the same number. ``stores/library_faults.py``
whole       A query, sorted or not, reads all that matches before it answers, also where only the first documents are
            asked for: an index that only sorts is of no use there, and is not made. ``stores/embedded_faults.py``,
            ``stores/library_faults.py``
conditions  A range beside another condition reads the whole collection, whatever indexes there are, and so does
            ``$or``. ``builders/novelty.py``, ``builders/hulls.py``
list        ``$in`` finds documents by an index, then compares each with every value of the list: the time grows with
            the square of its length.
            ``builders/novelty.py``, ``execution/jobs.py``, ``execution/fireworks/progress.py``
index       Making an index writes each entry to the disk by itself, some milliseconds each; a server that is killed
            meanwhile keeps the index without the others, and does not find their documents.
            ``stores/embedded_faults.py``
garbage     Python's collector goes through all documents of an answer again and again while they are read, which takes
            more than half of the time. ``stores/embedded.py``
kill        Without ``--sync-on-commit`` acknowledged writes are lost when it is killed. ``stores/embedded.py``
settings    It takes settings from a file ``secantusd.toml`` that lies in its working folder. ``stores/embedded.py``
full disk   Its answer is an internal error without a word about the disk. From then on it reads and writes nothing,
            with space again too, until it is started anew. ``stores/driver_errors.py``, ``stores/embedded.py``
"""

from __future__ import annotations

from typing import Any

VERSION = "0.7.0b3"  # of secantusdb, in which they were seen
CODES_OF_A_FULL_DISK = frozenset({1, 8})  # InternalError, UnknownError
# runs it as ``python -m secantus`` does, but collects garbage far more seldom
START = "import gc, runpy; gc.set_threshold(500_000, 20, 100); runpy.run_module('secantus', None, '__main__', True)"
LARGEST_TO_INDEX = 2000  # documents; a missing index of a larger collection is not made in passing


def is_embedded(mongo: Any) -> bool:
    """Whether a database of pymongo's is on the embedded server; asks the server."""
    return "secantusVersion" in mongo.client.server_info()


def sorts_by_index(mongo: Any) -> bool:
    """Whether an index that only sorts saves reading anything."""
    return not is_embedded(mongo)


def slow_to_index(mongo: Any, collection: str) -> bool:
    """Whether making an index of a collection takes so long, during which the server must not be stopped, that it is
    only made where somebody asks for it.
    """
    return is_embedded(mongo) and mongo[collection].estimated_document_count() > LARGEST_TO_INDEX
