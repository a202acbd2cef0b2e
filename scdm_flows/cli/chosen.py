"""Which candidates a command is about: the filters that ``scdm candidates`` commands share, and names of candidates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scdm_flows.errors import CampaignError, ConfigError

if TYPE_CHECKING:
    from scdm_flows.documents import CandidateDoc
    from scdm_flows.query import CandidateDB

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--campaign", help="Only of this campaign."),
    click.option("--formula", help="Reduced formula, such as MoS2."),
    click.option("--elements", help="Holds all of these, separated by commas."),
    click.option("--layer-group", type=click.IntRange(1, 80), help="Layer group."),
    click.option("--max-e-above-hull", type=float, help="Largest energy above hull, eV/atom."),
    click.option(
        "--stable/--unstable", "dynamically_stable", default=None, help="Dynamically stable, or not, by its phonons."
    ),
    click.option("--state", type=click.Choice(["pending", "rejected", "failed", "completed"]), help="Where it stands."),
    click.option(
        "--where", multiple=True, metavar="FIELD=VALUE", help="Any field; min_FIELD and max_FIELD for ranges."
    ),
)
_END_OF_ID = re.compile("[0-9a-f]{4,12}")  # all of it, or as much as tells it from others
_MOST_NAMED = 3  # ids that a message lists


def filters(command: Command) -> Command:
    """Give a command the options that choose candidates; it takes them as keywords for ``conditions``."""
    return _with(command, _OPTIONS)


def filters_within(command: Command) -> Command:
    """The same for a command that is about one campaign."""
    return _with(command, _OPTIONS[1:])


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def given(asked: Mapping[str, Any]) -> bool:
    """Whether any filter was given."""
    return any(value not in (None, "", ()) for value in asked.values())


def conditions(query: CandidateDB, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The filters that were given, as ``CandidateDB.find`` takes them; a field given twice may have either value.

    Raises
    ------
    UsageError
        If a ``--where`` is no FIELD=VALUE, or says again what an option says.
    CampaignError
        If there is no campaign of the name, with the nearest.
    """
    found = {name: value for name, value in asked.items() if name != "where" and value not in (None, "")}
    by_option = set(found)
    for text in asked.get("where", ()):
        name, value = _condition(text)
        if name in by_option:
            option = "stable" if name == "dynamically_stable" else name.replace("_", "-")
            raise click.UsageError(f"--where {text} and --{option} are about the same field; give one of them")
        found[name] = [*_several(found[name]), value] if name in found else value
    for campaign in _several(found.get("campaign", [])):
        query.campaign(campaign)
    return found


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _condition(text: str) -> tuple[str, Any]:
    """Field and value of ``FIELD=VALUE``; true, false and numbers are what they look like."""
    field, sign, value = text.partition("=")
    if not sign or not field:
        raise click.UsageError(f"--where {text!r} must be FIELD=VALUE, such as --where max_nsites=6")
    try:
        parsed = json.loads(value)
    except ValueError:
        return field.strip(), value
    return field.strip(), parsed if isinstance(parsed, bool | int | float) else value


def chosen(query: CandidateDB, names: Sequence[str], asked: Mapping[str, Any]) -> list[CandidateDoc]:
    """The candidates of several names, each once; where there is no name, the best that the filters let through.

    Says on standard error where a formula or filters stand for several, of which the best is taken.

    Raises
    ------
    UsageError
        If there are neither names nor filters, or filters beside an id; and as ``conditions``.
    CampaignError
        If there is no such candidate, with the nearest id.
    """
    if not names and not given(asked):
        raise click.UsageError("give ids or formulas, or a filter such as --campaign NAME")
    found = conditions(query, asked)
    documents = [_named(query, name, found) for name in names] or [_best(query, found)]
    return list({d.candidate_id: d for d in documents}.values())


def _named(query: CandidateDB, name: str, found: Mapping[str, Any]) -> CandidateDoc:
    from scdm_flows.query.conditions import criteria_of

    if _END_OF_ID.fullmatch(name):
        among = query.stream(text=f"-{name}")
        hits = [d for d in among if d.candidate_id.rpartition("-")[2].startswith(name)]
        if len(hits) > 1:
            listed = ", ".join(d.candidate_id for d in hits[:_MOST_NAMED]) + ", ..." * (len(hits) > _MOST_NAMED)
            raise click.UsageError(f"{name} begins {len(hits)} ids: {listed}; give more of the one that is meant")
        if hits:
            return _alone(hits[0], found)
    try:
        criteria_of({"formula": name})
    except ConfigError:
        return _alone(query.get(name), found)
    if "formula" in found:
        raise click.UsageError(f"{name} and formula={found['formula']} are two formulas; give one of them")
    return _best(query, {"formula": name, **found})


def _alone(document: CandidateDoc, found: Mapping[str, Any]) -> CandidateDoc:
    if found:
        raise click.UsageError(
            f"{document.candidate_id} is one candidate; filters ({' '.join(written(found))}) go with a formula, or "
            "without a name"
        )
    return document


def _best(query: CandidateDB, found: Mapping[str, Any]) -> CandidateDoc:
    """The best by rank; where none has a rank, by energy above hull."""
    best = next(iter(query.find(sort="rank", limit=1, **found)), None)
    if best is None:
        matching = " ".join(written(found))
        raise CampaignError(f"no candidate matches {matching}; `scdm candidates list` shows what there is")
    by = "rank"
    if best.rank is None:
        best, by = query.find(sort="e_above_hull", limit=1, **found)[0], "energy above hull"
    others = query.count(**found) - 1
    if others:
        listed = " ".join(f"--where {text}" for text in written(found))
        click.echo(
            f"{best.candidate_id} is the best by {by} of {others + 1} candidates; the {others} "
            f"other{'s' * (others > 1)}: scdm candidates list {listed}",
            err=True,
        )
    return best


def written(found: Mapping[str, Any]) -> list[str]:
    """The filters as ``--where`` takes them."""
    return [
        f"{name}={json.dumps(one) if isinstance(one, bool) else one}"
        for name, value in found.items()
        for one in _several(value)
    ]
