"""FireWorks: puts a campaign on a LaunchPad and tells how it fares. The only package that imports fireworks.

The LaunchPad lives in the campaign's own database, beside the job store. ``ScdmJobFiretask`` is stored in fireworks by
the name it has here.
"""

from scdm_flows.execution.fireworks.budget import in_words, release
from scdm_flows.execution.fireworks.cancel import cancel, cancelled_campaigns, refuse_cancelled, undo, would_cancel
from scdm_flows.execution.fireworks.duty import LOST_AFTER_SECONDS
from scdm_flows.execution.fireworks.firetask import ScdmJobFiretask, job_store_on
from scdm_flows.execution.fireworks.launchpad import launchpad_of, write_worker_config
from scdm_flows.execution.fireworks.progress import collect_failures, status
from scdm_flows.execution.fireworks.reconcile import DONE, Item, Kind, resume
from scdm_flows.execution.fireworks.submission import submit

__all__ = [
    "DONE",
    "LOST_AFTER_SECONDS",
    "Item",
    "Kind",
    "ScdmJobFiretask",
    "cancel",
    "cancelled_campaigns",
    "collect_failures",
    "in_words",
    "job_store_on",
    "launchpad_of",
    "refuse_cancelled",
    "release",
    "resume",
    "status",
    "submit",
    "undo",
    "would_cancel",
    "write_worker_config",
]
