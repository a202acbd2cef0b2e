"""The LaunchPad in a campaign's database, and the configuration that points workers to it."""

from __future__ import annotations

from pathlib import Path

import yaml
from fireworks import LaunchPad

from scdm_flows.errors import StoreError
from scdm_flows.stores.database import Database
from scdm_flows.stores.library_faults import number_after_the_change
from scdm_flows.stores.names import CONTROLS, TIMEOUT_MS
from scdm_flows.stores.uri import database_name

VERSION = 1  # of what campaigns put on a LaunchPad, besides FireWorks' own documents
INDEXED_SPEC = ["spec.campaign", "spec.candidate_id", "spec.job_uuid", "spec.added_by"]


number_after_the_change(LaunchPad)


def launchpad_of(database: Database) -> LaunchPad:
    """The LaunchPad in a database, set up if it is new; nothing that exists is touched.

    Raises
    ------
    StoreError
        If the database is in memory, where no worker could reach it, or holds another program's fireworks or those of
        a later scdm-flows.
    """
    if database.uri is None:
        raise StoreError("FireWorks needs a database server, this database is in memory; set SCDM_MONGO_URI")
    name = database_name(database.uri)
    launchpad = LaunchPad(
        host=database.uri,
        name=name,
        uri_mode=True,
        strm_lvl="WARNING",
        user_indices=INDEXED_SPEC,
        wf_user_indices=["metadata.campaign"],
        mongoclient_kwargs={"serverSelectionTimeoutMS": TIMEOUT_MS, "w": "majority", "journal": True},
    )
    check_ours(launchpad)
    # what `lpad reset` does to an empty database, but without deleting anything
    launchpad.fw_id_assigner.find_one_and_update(
        {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
    )
    launchpad.tuneup()
    return launchpad


def check_ours(launchpad: LaunchPad) -> None:
    """Raise ``StoreError`` where the LaunchPad is another program's or a later version's; mark a new one as ours."""
    controls, key = launchpad.db[CONTROLS], {"_id": ":launchpad"}  # no campaign has such a name
    mark = controls.find_one(key)
    if mark is None:
        ours = launchpad.fireworks.find_one({"spec.campaign": {"$exists": True}}, {"_id": 1})
        if ours is None and launchpad.fireworks.find_one({}, {"_id": 1}) is not None:
            raise StoreError(
                f"database {launchpad.name!r} holds a LaunchPad with fireworks of another program; use a database of "
                "its own for campaigns (SCDM_DATABASE)"
            )
        controls.update_one(key, {"$setOnInsert": {"version": VERSION}}, upsert=True)
    elif mark["version"] > VERSION:
        raise StoreError(
            f"database {launchpad.name!r} holds a LaunchPad of version {mark['version']}, this scdm-flows knows "
            f"version {VERSION}; upgrade scdm-flows, or use another database (SCDM_DATABASE)"
        )


def write_worker_config(database: Database, folder: Path) -> Path:
    """Write ``my_launchpad.yaml`` of this database into a folder, for ``rlaunch -c FOLDER``.

    For a database that ``launchpad/my_launchpad.yaml`` does not name: another port, a URI with a password.
    Only its owner can read the file.
    """
    name = launchpad_of(database).name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my_launchpad.yaml"
    content = {
        "host": database.uri,
        "name": name,
        "uri_mode": True,
        "user_indices": INDEXED_SPEC,
        "strm_lvl": "WARNING",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
