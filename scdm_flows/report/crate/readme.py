"""The page of a crate for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scdm_flows.documents import CampaignDoc

PAGE = """\
# Campaign {name}

{about}

{funnel}

| file | what is in it |
|---|---|
{rows}
| `campaign.yaml`, `campaign.json` | what was asked for, and how many passed each step |
| `schemas/` | every field of these files, with unit and meaning |
| `ro-crate-metadata.json` | all of it for programs: RO-Crate 1.1, Workflow Run Crate 0.5 |

Energies above hull are those of the method that `energy_scheme` names; where `surrogate` is true a force field and a
model of its errors gave them, and no DFT. Folders and addresses of the machines that computed this were taken out.

{missing}Licence: {licence}.

- {again}
- optimade-maker: `optimake serve .` answers OPTIMADE requests for the candidates.
- roc-validator: `rocrate-validator validate -p workflow-run-crate .` checks the crate.
"""


def readme(
    campaign: CampaignDoc,
    files: Sequence[tuple[str, str]],
    missing: Sequence[str],
    licence: str | None,
) -> str:
    """The page in Markdown. files: (name, what is in it); missing: words on what is not there; licence: its address."""
    funnel = campaign.funnel
    counts = {
        "samples": funnel.generated,
        "valid": funnel.valid,
        "relaxed": funnel.relaxed,
        "different layers": funnel.distinct,
        "of these new": funnel.novel,
        "within the window of energies above hull": funnel.in_window,
        "phonon-stable": funnel.dynamically_stable,
        "failed": funnel.failed,
    }
    promoted = (campaign.config.get("generator") or {}).get("kind") == "promoted"
    again = (
        "scdm-flows: all commands that take structures read `candidates.jsonl`."
        if promoted
        else "scdm-flows: `scdm campaign run campaign.yaml` does the same again, from this folder. Files that it "
        "names and that are not here, such as reference phases, belong beside it."
    )
    return PAGE.format(
        name=campaign.name,
        about=campaign.description or "Two-dimensional materials by scdm-flows.",
        funnel=", ".join(f"{count} {words}" for words, count in counts.items()) + ".",
        rows="\n".join(f"| `{name}` | {words} |" for name, words in files),
        missing="".join(f"Not in this crate: {words}.\n\n" for words in missing),
        licence=licence or "not stated; ask those who made this crate",
        again=again,
    )
