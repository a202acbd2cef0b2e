"""``scdm campaign rerun``: a candidate's stages again, from one of them on."""

from __future__ import annotations

import click

from scdm_flows.cli.common import DRY, JSON, database, echo_json

STAGES = ("relax", "static", "gate", "phonon", "bands")


@click.command()
@click.argument("name")
@click.option("--candidate", "candidate_id", required=True, metavar="ID", help="The candidate.")
@click.option("--from", "stage", required=True, type=click.Choice(STAGES), help="The first stage to do again.")
@DRY
@JSON
def rerun(name: str, candidate_id: str, stage: str, dry_run: bool, as_json: bool) -> None:
    """Do a candidate of campaign NAME again from a stage on, and all that was made of its result.

    For files that were purged (the bands need the static run's CHGCAR), or a run that you do not trust. Its stored
    outputs are set aside, in the collection outputs_set_aside, and not lost.
    """
    from scdm_flows.campaigns.again import outputs_from, set_aside
    from scdm_flows.documents import StageName
    from scdm_flows.execution import fireworks as launch
    from scdm_flows.stores.names import OUTPUTS

    wanted = StageName(stage)
    with database(create=False) as connected:
        if dry_run:
            query = outputs_from(connected, name, candidate_id, wanted)
            outputs, jobs = int(connected.mongo[OUTPUTS].count_documents(query)), 0
        else:
            outputs = set_aside(connected, name, candidate_id, wanted)
            jobs = launch.run_again(connected, name, candidate_id, wanted)
    if as_json:
        echo_json(
            {"campaign": name, "candidate_id": candidate_id, "outputs": outputs, "jobs": jobs, "dry_run": dry_run}
        )
    elif dry_run:
        click.echo(f"{outputs} outputs of {candidate_id} from {stage} on would be set aside; nothing was changed")
    else:
        there = f"; {jobs} jobs of the LaunchPad run again" if jobs else ""
        click.echo(f"{outputs} outputs of {candidate_id} from {stage} on are set aside{there}")
        click.echo(f"go on with: scdm campaign run {name} (here), or workers, where it was submitted")
