"""FireWorks: puts a campaign on a LaunchPad and tells how it fares. The only package that imports fireworks.

The LaunchPad lives in the campaign's own database, beside the job store. ``ScdmJobFiretask`` is stored in fireworks by
the name it has here.
"""

from scdm_flows.execution.fireworks.again import run_again
from scdm_flows.execution.fireworks.cancel import cancel, undo, would_cancel, would_undo
from scdm_flows.execution.fireworks.findings import DONE, Item, Kind
from scdm_flows.execution.fireworks.firetask import ScdmJobFiretask, job_store_on
from scdm_flows.execution.fireworks.launchpad import launchpad_of, write_worker_config
from scdm_flows.execution.fireworks.liveness import LOST_AFTER_SECONDS
from scdm_flows.execution.fireworks.progress import collect_failures, status
from scdm_flows.execution.fireworks.reconcile import resume
from scdm_flows.execution.fireworks.slots import jobs_in_words, release
from scdm_flows.execution.fireworks.submission import submit

__all__ = [
    "DONE",
    "LOST_AFTER_SECONDS",
    "Item",
    "Kind",
    "ScdmJobFiretask",
    "cancel",
    "collect_failures",
    "job_store_on",
    "jobs_in_words",
    "launchpad_of",
    "release",
    "resume",
    "run_again",
    "status",
    "submit",
    "undo",
    "would_cancel",
    "would_undo",
    "write_worker_config",
]
