"""Functions of libraries that are replaced while the program runs: which, in which version, why, and until when.

No other module replaces a part of a library. Two more rely on what libraries do not promise, and replace nothing:
``Database`` gives the stores of maggma 0.77 one connection instead of one each (``_coll``), and
``scdm_flows.engines.forcefield.bfgs`` extends a class of ASE 3.29.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from scdm_flows.errors import StoreError

_LOOKED_AT: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # client -> collections of files


def look_for_file_indexes_once() -> None:
    """Let ``gridfs`` see to the indexes of a collection of files with the first file alone; a second call changes
    nothing.

    pymongo 4.16 asks for any document of ``files`` and of ``chunks`` with every file that it writes, to make indexes
    where there is none. SecantusDB 0.7 reads the whole collection to answer (fault ``whole`` of
    ``scdm_flows.stores.embedded_faults``): after 2,600 relaxations a worker waited for the server a fifth of its time,
    and the more the longer. To go with that fault.
    """
    from gridfs.synchronous.grid_file import GridIn

    ensure: Any = GridIn._ensure_indexes
    if hasattr(ensure, "each"):
        return

    def once(self: Any) -> None:
        known = _LOOKED_AT.setdefault(self._coll.database.client, set())
        if self._coll.full_name not in known:
            ensure(self)
            known.add(self._coll.full_name)

    once.each = ensure  # type: ignore[attr-defined]
    GridIn._ensure_indexes = once  # type: ignore[method-assign]


def number_after_the_change(launchpad_class: Any) -> None:
    """Let ``fireworks.LaunchPad`` take the ids of fireworks and launches from its counter after it was raised.

    FireWorks 2.1 takes the counter as it was before. Under load SecantusDB 0.7 gives that document as it was before
    another client raised it (of 1000 ids taken by four processes 239 were given twice), so that a launch or a child
    takes the place of another. The document after the change is right, there and in MongoDB. To go with the fault
    ``counter`` of ``scdm_flows.stores.embedded_faults``.

    A stock worker imports ``scdm_flows.execution.fireworks``, which calls this, with the first firework that it claims:
    before it takes an id for the launch.
    """
    launchpad_class.get_new_fw_id = _new_fw_id
    launchpad_class.get_new_launch_id = _new_launch_id


def _new_fw_id(self: Any, quantity: int = 1) -> int:
    return _first_of(self, "next_fw_id", quantity)


def _new_launch_id(self: Any) -> int:
    return _first_of(self, "next_launch_id", 1)


def _first_of(launchpad: Any, counter: str, quantity: int) -> int:
    """The first of some ids that nobody else gets."""
    from pymongo import ReturnDocument

    raised = launchpad.fw_id_assigner.find_one_and_update(
        {}, {"$inc": {counter: quantity}}, return_document=ReturnDocument.AFTER
    )
    if raised is None:
        raise StoreError(
            f"the LaunchPad of database {launchpad.name!r} is not set up; submit a campaign to it first, or check "
            "name and host in my_launchpad.yaml"
        )
    return int(raised[counter]) - quantity


def remember_schemas() -> None:
    """Answer jobflow's check of ``job.output.x`` from memory the second time; a second call changes nothing.

    jobflow 0.4 makes the JSON schema of a job's whole output model anew for every attribute that is taken of an output.
    Of a candidate's VASP flows with ten jobs that is 0.2 of 0.26 s, and two thousand of them would take ten minutes to
    build. The answer depends on the model and the name alone, so each is worked out once in a process. A misspelt name
    is refused as before. To go when ``jobflow.core.reference.validate_schema_access`` keeps what it has worked out.
    """
    from jobflow.core import reference

    if not hasattr(reference.validate_schema_access, "cache_clear"):
        reference.validate_schema_access = cache(reference.validate_schema_access)
