"""FireWorks: puts a campaign on a LaunchPad and tells how it fares. The only package that imports fireworks.

The LaunchPad lives in the campaign's own database, beside the job store. ``ScdmJobFiretask`` is stored in fireworks by
the name it has here.
"""

from scdm_flows.launch.firetask import ScdmJobFiretask, job_store_on
from scdm_flows.launch.launchpad import launchpad_of, write_worker_config
from scdm_flows.launch.progress import collect_failures, status
from scdm_flows.launch.reconcile import DONE, LOST_AFTER_SECONDS, Item, Kind, resume
from scdm_flows.launch.submission import submit

__all__ = [
    "DONE",
    "LOST_AFTER_SECONDS",
    "Item",
    "Kind",
    "ScdmJobFiretask",
    "collect_failures",
    "job_store_on",
    "launchpad_of",
    "resume",
    "status",
    "submit",
    "write_worker_config",
]
