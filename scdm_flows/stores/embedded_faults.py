"""Faults of the embedded server, SecantusDB, and what works around each. MongoDB has none of them.

``tests/stores/test_embedded_faults.py`` shows them on a running server: where one fails the fault is gone, and what
works around it can go too.

counter     ``find_one_and_update`` answers with the document as it was before another client's change, where it should
            be as it was before this one's: two clients get the same number. ``stores/library_faults.py``
whole       A query, sorted or not, reads all that matches before it answers, also where only the first documents are
            asked for. ``stores/scan.py``, ``stores/catalogue.py``, ``builders/novelty.py``
conditions  A range beside another condition reads the whole collection, whatever indexes there are, and so does
            ``$or``. ``stores/scan.py``, ``builders/novelty.py``, ``builders/hulls.py``
list        ``$in`` finds documents by an index, then compares each with every value of the list: the time grows with
            the square of its length.
            ``builders/novelty.py``, ``execution/jobs.py``, ``execution/fireworks/progress.py``
index       Making an index writes each entry to the disk by itself, some milliseconds each; a server that is killed
            meanwhile keeps the index without the others, and does not find their documents. ``stores/indexes.py``
kill        Without ``--sync-on-commit`` acknowledged writes are lost when it is killed. ``stores/embedded.py``
settings    It takes settings from a file ``secantusd.toml`` that lies in its working folder. ``stores/embedded.py``
full disk   Its answer is an internal error without a word about the disk. ``stores/driver_errors.py``
"""

from __future__ import annotations

VERSION = "0.7.0b3"  # of secantusdb, in which they were seen
CODES_OF_A_FULL_DISK = frozenset({1, 8})  # InternalError, UnknownError; seen by filling a disk, which no test does
LARGEST_TO_INDEX = 2000  # documents; a missing index of a larger collection is not made in passing
