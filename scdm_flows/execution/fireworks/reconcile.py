"""``scdm campaign resume``: brings what the LaunchPad says in step with what happened, whatever was killed on the way.

Safe at any time and several times at once: each repair is one conditional write, or is looked at again under the
workflow's lock. A job that was finished is never computed again, because its firework only looks for the output.
Large objects that belong to no document are left to ``scdm db check``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from fireworks import LaunchPad
from fireworks.fw_config import RESERVATION_EXPIRATION_SECS

from scdm_flows.campaigns.controls import cancelled_campaigns
from scdm_flows.campaigns.node_hours import add_lost
from scdm_flows.config import stored_config
from scdm_flows.config.settings import get_settings
from scdm_flows.documents import DYNAMIC_STAGES, utc_now
from scdm_flows.errors import CampaignError, ScdmError
from scdm_flows.execution.fireworks import repair
from scdm_flows.execution.fireworks.delivery import Outcome, deliver
from scdm_flows.execution.fireworks.findings import Item, Kind
from scdm_flows.execution.fireworks.keeping import keeps
from scdm_flows.execution.fireworks.launchpad import launchpad_of
from scdm_flows.execution.fireworks.liveness import LOST_AFTER_SECONDS, Watch, clock, two_heartbeats
from scdm_flows.execution.fireworks.progress import SPEC, failures_by_firework, item_in, span, stage_in
from scdm_flows.execution.fireworks.retries import (
    FIELDS,
    PARDON,
    QUARANTINED,
    forgiven,
    judge,
    last_sign,
    lost_action,
    running_seconds,
    utc,
)
from scdm_flows.execution.fireworks.submission import begin_phonons, missing_work, submit
from scdm_flows.execution.fireworks.workflows import AT_ONCE
from scdm_flows.execution.jobs import complete_among
from scdm_flows.stores.database import Database
from scdm_flows.stores.driver_errors import store_errors

logger = logging.getLogger(__name__)
_ACTIVE = ("RUNNING", "RESERVED")
STARTS_IN = timedelta(seconds=10)  # a claim is seldom older when its job starts
_DELIVERED = {Outcome.STORED: Kind.DELIVERED, Outcome.WAITS: Kind.KEPT, Outcome.ASIDE: Kind.ASIDE}


@dataclass
class _Board:
    """What the LaunchPad says: workflows by ``_id``, fireworks by id, the workflow of a firework."""

    workflows: dict[Any, dict[str, Any]]
    fireworks: dict[int, dict[str, Any]]
    home: dict[int, Any] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # fireworks that are called running, but whose launches have failed

    def by_workflow(self, nodes: Iterable[int]) -> dict[Any, list[int]]:
        found: dict[Any, list[int]] = {}
        for node in nodes:
            found.setdefault(self.home[node], []).append(node)
        return found

    def name(self, node: int) -> str:
        return str(self.fireworks[node].get("name", node))


def resume(
    database: Database,
    campaign: str | None = None,
    *,
    lost_after: float = LOST_AFTER_SECONDS,
    retry_failed: bool = False,
    dry_run: bool = False,
    launchpad: LaunchPad | None = None,
) -> list[Item]:
    """Repair what killed workers, a database that went away and cut submissions left behind; returns what was found.

    Parameters
    ----------
    database
        Connected, on a server.
    campaign
        Only this one; all when None. A submission that was cut before its first workflow is completed only by name.
    lost_after
        Seconds without a sign of life after which a worker counts as lost, at least two heartbeats; a worker of this
        machine is asked instead, and none is lost for the time in which the database was away.
    retry_failed
        Also try what has failed for good again, and forget earlier failures.
    dry_run
        Change nothing. What follows from a repair (a lost run is tried again) does not show.

    Raises
    ------
    CampaignError
        If there is no such campaign.
    StoreError
        If the database cannot be reached, or is in memory.
    """
    if campaign is not None and database.campaign(campaign) is None:
        raise CampaignError(f"there is no campaign {campaign!r}; `scdm campaign list` shows what there is")
    launchpad = launchpad or launchpad_of(database)
    with store_errors(database.uri):
        work = _Reconciliation(database, launchpad, campaign, timedelta(seconds=lost_after), dry_run)
        return work.run(retry_failed=retry_failed)


class _Reconciliation:
    """One pass. Later steps build on earlier ones: claims and launches, then workflows, then failed jobs."""

    def __init__(
        self, database: Database, launchpad: LaunchPad, campaign: str | None, lost_after: timedelta, dry_run: bool
    ) -> None:
        self.database, self.launchpad, self.campaign, self.dry_run = database, launchpad, campaign, dry_run
        self.lost_after, self.cutoff = lost_after, utc_now() - lost_after
        self.cancelled = cancelled_campaigns(database)  # nothing is submitted or tried again there
        self.items: list[Item] = []
        self.watch = Watch(launchpad, reached=not dry_run)

    def run(self, *, retry_failed: bool) -> list[Item]:
        self._deliver()
        self._complete_submissions()
        board = self._read()
        self._mark_lost(board)
        self._free_claims(board)
        busy = self._free_locks(board)
        self._bring_in_step(board, busy)
        self._mend_outputs(board, busy)
        self._retry(board, busy, everything=retry_failed)
        self._begin_phonons(board)
        return self.items

    def _add(self, kind: Kind, fw_id: int | None, name: str, detail: str = "") -> None:
        self.items.append(Item(kind, fw_id, name, detail))
        logger.info("%s: %s %s %s", kind, fw_id or "", name, detail)

    # outputs that workers could not store

    def _deliver(self) -> None:
        folders = {keeps(), *self.watch.folders}
        for one in deliver(self.launchpad, self.database.job_store, folders, dry_run=self.dry_run):
            self._add(_DELIVERED[one.outcome], one.fw_id, one.name, one.detail)

    # submissions

    def _complete_submissions(self) -> None:
        queued = self.launchpad.workflows.distinct("metadata.campaign") if self.campaign is None else [self.campaign]
        for name in sorted(n for n in queued if n is not None and n not in self.cancelled):
            document = self.database.campaign(name)
            if document is None:
                continue
            try:
                config = stored_config(document.config)
                missing = missing_work(config, self.database, self.launchpad)
                if (missing.shards or missing.candidates) and not self.dry_run:
                    submit(config, self.database, self.launchpad)
            except (ScdmError, ValueError) as error:
                self._add(Kind.TROUBLE, None, name, str(error))
                continue
            for shard in missing.shards:
                self._add(Kind.SUBMITTED, None, f"{name} shard {shard}")
            for candidate in (c for found in missing.candidates.values() for c in found):
                self._add(Kind.SUBMITTED, None, candidate)

    # what there is

    def _read(self) -> _Board:
        query = {"metadata.campaign": {"$exists": True} if self.campaign is None else self.campaign}
        fields = dict.fromkeys(("nodes", "fw_states", "parent_links", "locked", "updated_on", "name"), 1)
        workflows = {d["_id"]: d for d in self.launchpad.workflows.find(query, fields)}
        home = {node: key for key, d in workflows.items() for node in d["nodes"]}
        wanted = dict.fromkeys(("fw_id", "state", "name", "updated_on", "launches", *(f"spec.{k}" for k in SPEC)), 1)
        found = self.launchpad.fireworks.find(span(home), wanted) if home else ()
        fireworks = {d["fw_id"]: d for d in found if d["fw_id"] in home}
        # one that lacks fireworks is completed by its submission, or by the screen that was inserting it
        whole = {key: d for key, d in workflows.items() if all(node in fireworks for node in d["nodes"])}
        return _Board(whole, fireworks, {node: key for node, key in home.items() if key in whole})

    def _launches(self, nodes: Collection[int], **query: Any) -> Iterator[dict[str, Any]]:
        if nodes:
            wanted, fields = set(nodes), {**FIELDS, "state": 1, "host": 1}
            for launch in self.launchpad.launches.find({**span(wanted), **query}, fields):
                if launch["fw_id"] in wanted:
                    yield launch

    # claims, launches and locks

    def _free_claims(self, board: _Board) -> None:
        """Give back fireworks that were reserved by a worker or queue which did not start them."""
        reserved = [n for n in board.home if board.fireworks[n]["state"] == "RESERVED"]
        alive = set()
        for launch in self._launches(reserved, state={"$in": list(_ACTIVE)}):
            node = launch["fw_id"]
            if launch["launch_id"] not in board.fireworks[node]["launches"]:
                continue
            expires = timedelta(seconds=RESERVATION_EXPIRATION_SECS) if launch["state"] == "RESERVED" else None
            if expires is None or last_sign(launch) > utc_now() - expires:
                alive.add(node)
        for node in reserved:
            firework = board.fireworks[node]
            if node in alive:
                continue
            claimed = utc(firework["updated_on"])
            if claimed > self.cutoff:
                if claimed < utc_now() - STARTS_IN:
                    when = f"counts as left behind from {clock(claimed + self.lost_after)} on"
                    self._add(Kind.CLAIMED, node, board.name(node), when)
                continue
            if not self.dry_run:
                query = {"fw_id": node, "state": "RESERVED", "updated_on": firework["updated_on"]}
                change = {"$set": {"state": "READY", "launches": []}}
                if not self.launchpad.fireworks.update_one(query, change).modified_count:
                    continue
            firework["state"], firework["launches"] = "READY", []
            self._add(Kind.CLAIM, node, board.name(node))

    def _mark_lost(self, board: _Board) -> None:
        """End launches whose worker is lost; whoever does it first has done it."""
        running = list(self._launches(board.home, state="RUNNING"))
        for launch in running:
            node, standing = launch["fw_id"], self.watch.standing(launch, self.lost_after)
            if not standing.lost:
                missed = self.watch.now - standing.sign > two_heartbeats()
                if standing.due is not None and missed:
                    words = standing.reason.removeprefix("lost: ")
                    self._add(
                        Kind.SILENT, node, board.name(node), f"counts as lost from {clock(standing.due)} on; {words}"
                    )
                continue
            if not self.dry_run:
                now = utc_now()
                lost = {"state": "FIZZLED", "created_on": now.isoformat(), repair.FOUND_BY: "resume"}
                query = {
                    "launch_id": launch["launch_id"],
                    "state": "RUNNING",
                    "state_history.updated_on": launch["state_history"][-1]["updated_on"],  # no ping since we looked
                }
                change = {
                    "$set": {"state": "FIZZLED", "time_end": now.isoformat(), "action": lost_action(standing.reason)},
                    "$push": {"state_history": lost},
                }
                if not self.launchpad.launches.update_one(query, change).modified_count:
                    continue
                add_lost(self.launchpad.db, board.fireworks[node]["spec"].get("campaign"), running_seconds(launch))
            self._add(Kind.LOST, node, board.name(node), standing.reason)
        if not self.dry_run and self.campaign is None:
            self.watch.forget(self.launchpad, {launch["launch_id"] for launch in running})

    def _free_locks(self, board: _Board) -> set[Any]:
        """Free locks that were left behind; returns the workflows that others are changing."""
        held = [d for d in board.workflows.values() if d.get("locked")]
        if not held:
            return set()
        moves = repair.last_moves(self.launchpad, held, self.watch.gone())
        nobody = [d for d in held if (move := moves[d["_id"]]) is None or move <= self.cutoff]
        freed = [d["_id"] for d in nobody]
        if nobody and not self.dry_run:
            freed = repair.free(self.launchpad, nobody, min(repair.WATCH_SECONDS, self.lost_after.total_seconds()))
        for key in freed:
            self._add(Kind.LOCK, None, board.workflows[key]["name"])
        busy = {d["_id"] for d in held} - set(freed)
        for key in busy:
            move = moves[key]
            left = "" if move is None else f"the lock counts as left behind from {clock(move + self.lost_after)} on"
            self._add(Kind.BUSY, None, board.workflows[key]["name"], left)
        return busy

    # workflows

    def _bring_in_step(self, board: _Board, busy: set[Any]) -> None:
        """Refresh workflows whose documents, fireworks and launches disagree."""
        odd = [node for node in self._out_of_step(board) if board.home[node] not in busy]
        for key, nodes in board.by_workflow(odd).items():
            if self.dry_run:
                for node in nodes:
                    self._add(Kind.STATE, node, board.name(node))
                continue
            try:
                mended = repair.refresh(self.launchpad, key, nodes)
            except repair.WorkflowBusyError:
                busy.add(key)
                self._add(Kind.BUSY, None, board.workflows[key]["name"])
                continue
            for node in sorted(mended.changed & board.home.keys()):
                self._add(Kind.STATE, node, board.name(node))
            for node in sorted(mended.adopted):
                self._add(Kind.CHILD, node, str(node))

    def _out_of_step(self, board: _Board) -> Iterator[int]:
        ended = [n for n in board.home if board.fireworks[n]["state"] in ("RUNNING", "FIZZLED")]
        states: dict[int, set[str]] = {}
        for launch in self._launches(ended):
            if launch["launch_id"] in board.fireworks[launch["fw_id"]]["launches"]:
                states.setdefault(launch["fw_id"], set()).add(launch["state"])
        for workflow in board.workflows.values():
            parents = {int(k): v for k, v in workflow["parent_links"].items()}
            for node in workflow["nodes"]:
                state, shown = board.fireworks[node]["state"], workflow["fw_states"].get(str(node))
                if state == "RESERVED":
                    continue
                ready = state == "WAITING" and all(
                    board.fireworks[p]["state"] == "COMPLETED" for p in parents.get(node, ())
                )
                # a run that has ended otherwise than the firework says; a failure without a launch has its own cause
                other = node in states and state not in states[node]
                dead = state == "RUNNING" and "RUNNING" not in states.get(node, ())
                if dead and states.get(node) == {"FIZZLED"}:
                    board.lost.add(node)
                elif state != shown or ready or other or dead:
                    yield node

    def _begin_phonons(self, board: _Board) -> None:
        """Choose candidates for phonons where a budget says how many, and nothing before them is open or waits."""
        waits = [i.fw_id for i in self.items if i.kind is Kind.WAITING and i.fw_id is not None]
        waiting = {board.fireworks[node]["spec"].get("campaign") for node in waits}
        names = {str(name) for f in board.fireworks.values() if (name := f["spec"].get("campaign")) is not None}
        for name in sorted(names - waiting - set(self.cancelled)):
            document = self.database.campaign(name)
            if document is None or self.dry_run:
                continue
            try:
                new = begin_phonons(stored_config(document.config), self.database, self.launchpad)
            except (ScdmError, ValueError) as error:
                self._add(Kind.TROUBLE, None, name, str(error))
                continue
            for candidate in new:
                self._add(Kind.CHOSEN, None, candidate)

    # failed jobs

    def _mend_outputs(self, board: _Board, busy: set[Any]) -> None:
        """Run finished jobs again that have no output, or whose output a failed job could not read."""
        job = {n: board.fireworks[n]["spec"].get("job_uuid") for n in board.home}
        states = self._states(("COMPLETED", "FIZZLED"), board)
        finished = [n for n, state in states.items() if state == "COMPLETED" and job[n]]
        outputs = self.database.job_store.docs_store
        query = {"metadata.campaign": {"$exists": True} if self.campaign is None else self.campaign}
        stored = {d["uuid"] for d in outputs.query(query, properties=["uuid"])}
        # jobs that replace others do not name their campaign
        lacking = {n for n in finished if job[n] not in stored and outputs.count({"uuid": job[n]}) == 0}
        inputs = {
            int(parent)
            for node, state in states.items()
            if state == "FIZZLED"
            for parent in board.workflows[board.home[node]]["parent_links"].get(str(node), ())
            if states.get(int(parent)) == "COMPLETED"
        }
        whole = complete_among(self.database.job_store, [job[n] for n in inputs if job[n]]) if inputs else set()
        lacking |= {n for n in inputs if job[n] and job[n] not in whole}
        self._run_again(board, dict.fromkeys(lacking, (Kind.OUTPUT, "")), "COMPLETED", busy)

    def _states(self, wanted: Sequence[str], board: _Board) -> dict[int, str]:
        """The state now of the fireworks that are in one of these states."""
        found = self.launchpad.fireworks.find({"state": {"$in": list(wanted)}}, {"fw_id": 1, "state": 1})
        return {d["fw_id"]: d["state"] for d in found if d["fw_id"] in board.home}

    def _retry(self, board: _Board, busy: set[Any], *, everything: bool) -> None:
        """Try failed jobs again that are due."""
        settings, now = get_settings(), utc_now()
        nodes = sorted({*self._states(("FIZZLED",), board), *board.lost})
        specs = {n: board.fireworks[n]["spec"] for n in nodes}
        stored = complete_among(self.database.job_store, [s["job_uuid"] for s in specs.values() if "job_uuid" in s])
        again: dict[int, tuple[Kind, str]] = {}
        for node, failures in failures_by_firework(self.launchpad, specs).items():
            spec = specs[node]
            verdict = judge(failures, stage_in(spec), settings)
            detail = f"{verdict.error_type}: {verdict.message}"
            if spec.get("job_uuid") in stored and spec.get("stage") not in DYNAMIC_STAGES:
                again[node] = (Kind.STORED, "")
            elif spec.get("campaign") in self.cancelled:
                self._add(Kind.FAILED, node, board.name(node), f"the campaign is cancelled; {detail}")
            elif everything:
                last = max((f.launch_id for f in failures), default=forgiven(spec))
                if not self.dry_run:
                    self.launchpad.fireworks.update_one(
                        {"fw_id": node, "state": "FIZZLED"}, {"$set": {f"spec.{PARDON}": last}}
                    )
                again[node] = (Kind.RETRIED, detail)
            elif verdict.due is None:
                kind = Kind.QUARANTINED if verdict.error_type == QUARANTINED else Kind.FAILED
                self._add(kind, node, board.name(node), detail)
            elif verdict.due > now:
                self._add(Kind.WAITING, node, board.name(node), f"until {verdict.due:%Y-%m-%d %H:%M:%S} UTC; {detail}")
            else:
                again[node] = (Kind.RETRIED, detail)
        begun = {
            int(parent)
            for key in {board.home[n] for n in again}
            for child, parents in board.workflows[key]["parent_links"].items()
            if board.fireworks[int(child)]["state"] != "WAITING"
            for parent in parents
        }
        if not self.dry_run:
            self._forget([specs[node] for node, (kind, _) in again.items() if kind is Kind.RETRIED])
        self._settle(board, {n: why for n, why in again.items() if n not in begun}, "READY", busy)
        self._settle(board, dict.fromkeys(board.lost - again.keys()), "FIZZLED", busy)
        self._run_again(board, {n: why for n, why in again.items() if n in begun}, "FIZZLED", busy)

    def _forget(self, specs: Sequence[dict[str, Any]]) -> None:
        """Forget the failures of jobs that are tried again: they have not failed until they fail anew."""
        keys = [f"{item_in(spec)}:{stage_in(spec)}" for spec in specs]
        for start in range(0, len(keys), AT_ONCE):
            self.database.failures.remove_docs({"failure_id": {"$in": keys[start : start + AT_ONCE]}})

    def _settle(self, board: _Board, nodes: Mapping[int, tuple[Kind, str] | None], state: str, busy: set[Any]) -> None:
        wanted = {n: (board.home[n], board.fireworks[n]["launches"]) for n in nodes if board.home[n] not in busy}
        for node in sorted(wanted if self.dry_run else repair.settle(self.launchpad, wanted, state)):
            why = nodes[node]
            if why is not None:
                self._add(why[0], node, board.name(node), why[1])

    def _run_again(self, board: _Board, nodes: dict[int, tuple[Kind, str]], state: str, busy: set[Any]) -> None:
        for key, some in board.by_workflow(n for n in nodes if board.home[n] not in busy).items():
            try:
                done = set(some) if self.dry_run else repair.rerun(self.launchpad, some, state)
            except repair.WorkflowBusyError:
                busy.add(key)
                self._add(Kind.BUSY, None, board.workflows[key]["name"])
                continue
            for node in sorted(done):
                self._add(nodes[node][0], node, board.name(node), nodes[node][1])
