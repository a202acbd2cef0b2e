"""Running a campaign in this process, and the folder with which workers run it: for the commands that do either."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scdm_flows.cli.launchpad import initialise, launchpad_dir
from scdm_flows.cli.progress import progress_bar
from scdm_flows.errors import CampaignError

HOURS = click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Nothing begins that is not expected to end within these; the same command goes on later.",
)

if TYPE_CHECKING:
    from scdm_flows.config import CampaignConfig
    from scdm_flows.documents import CampaignDoc
    from scdm_flows.execution.local.runner import RunResult
    from scdm_flows.stores.database import Database


def run_and_build(
    config: CampaignConfig,
    connected: Database,
    *,
    processes: int | None = None,
    retry_failed: bool = False,
    deadline: float | None = None,
) -> tuple[RunResult, CampaignDoc]:
    """Run a campaign in this process, then the builders; the run's counts and the campaign's document.

    deadline: ``time.time()`` beyond which no candidate begins that is not expected to end before it.

    Raises
    ------
    CampaignError
        As ``run_campaign``, or if another process or workers run it.
    """
    from scdm_flows.builders import build_all
    from scdm_flows.campaigns.removal import who_computes
    from scdm_flows.campaigns.under_way import running
    from scdm_flows.config.settings import get_settings
    from scdm_flows.execution.jobs import quiet
    from scdm_flows.execution.local.runner import run_campaign
    from scdm_flows.query import CandidateDB

    quiet()
    with progress_bar() as report, running(connected, config.name):
        busy = who_computes(connected.mongo, config.name)
        if busy is not None:
            raise CampaignError(f"campaign {config.name!r} would be computed twice: {busy}")
        result = run_campaign(
            config,
            connected,
            processes=processes or get_settings().processes,
            retry_failed=retry_failed,
            progress=report,
            deadline=deadline,
        )
        report("novelty, hulls and ranking", 0, 1)
        written = build_all(connected, config.name)
        report("novelty, hulls and ranking", 1, 1)
    click.echo(
        f"{result.accepted} candidates passed the screen: {result.computed} computed now, "
        f"{result.already_done} were done, {result.failed} failed; {sum(written.values())} documents updated",
        err=True,
    )
    if result.left_out:
        budget = "are left out by the campaign's budget; raise it in the file to go on"
        late = "have not begun, as they would not end in time or the budget leaves them out; the same command goes on"
        click.echo(f"{result.left_out} candidates {budget if deadline is None else late}", err=True)
    return result, CandidateDB(connected).campaign(config.name)


def deadline_of(hours: float | None) -> float | None:
    """``time.time()`` so many hours from now; None without."""
    return None if hours is None else time.time() + 3600 * hours


def worker_config(connected: Database) -> Path:
    """A FireWorks folder for this database: the packaged one where it fits, else one written to the data
    folder.
    """
    import yaml

    from scdm_flows.config.settings import get_settings
    from scdm_flows.execution.fireworks import write_worker_config

    packaged = launchpad_dir()
    if yaml.safe_load((packaged / "my_launchpad.yaml").read_text()).get("host") == connected.uri:
        return packaged
    settings = get_settings()
    folder = settings.data_dir.absolute() / "launchpad"
    if (folder / "env.sh").is_file():  # what was edited there stays
        write_worker_config(connected, folder)
    else:
        assert connected.uri is not None
        initialise(folder, connected.uri, settings, force=True)
    return folder
