"""Layers distorted along a soft mode as a campaign of their own: its configuration and its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core.structure import Structure

from scdm_flows.config import CampaignConfig, GateConfig, ScreenConfig, parse_config
from scdm_flows.errors import CampaignError

if TYPE_CHECKING:
    from scdm_flows.documents import CampaignDoc, PhononDoc

LONGEST_NAME = 63


def follow_campaign(origin: CampaignDoc, candidate_id: str, path: Path, n_atoms: int) -> CampaignConfig:
    """The campaign that relaxes the structures in ``path`` with the settings of ``origin``.

    Novelty is not asked for (whoever follows a mode wants to know where it leads), and limits on the number of atoms
    are raised to ``n_atoms`` where they are lower.
    """
    data: dict[str, Any] = {**origin.config, "registered": None}
    screen, gate = dict(data.get("screen", {})), dict(data.get("gate", {}))
    usual_screen, usual_gate = ScreenConfig(), GateConfig()
    screen |= {"require_novel": False, "max_atoms": max(n_atoms, screen.get("max_atoms", usual_screen.max_atoms))}
    gate["phonon_max_atoms"] = max(n_atoms, gate.get("phonon_max_atoms", usual_gate.phonon_max_atoms))
    data |= {
        "name": f"follow-{candidate_id}"[:LONGEST_NAME],
        "description": f"{candidate_id} of campaign {origin.name}, distorted along its soft mode",
        "generator": {"kind": "files", "paths": [str(path)]},
        "screen": screen,
        "gate": gate,
    }
    return parse_config(data, origin=f"the campaign of {candidate_id}")


def follow_records(
    candidate_id: str, phonon: PhononDoc, distorted: Sequence[Structure], amplitude: float
) -> list[dict[str, Any]]:
    """A record for each structure, as the ``files`` generator reads it; its id says where it comes from.

    amplitude: angstrom.
    """
    mode = phonon.soft_mode
    if mode is None:
        raise CampaignError(f"candidate {candidate_id} has no soft mode; only those with an imaginary mode have")
    return [
        {
            "id": f"{candidate_id} soft mode {sign}{amplitude:g} angstrom",
            "structure": structure.as_dict(),
            "followed_from": candidate_id,
            "q": list(mode.q),
            "frequency_thz": mode.frequency_thz,
            "energy_scheme": phonon.energy_scheme,
            "surrogate": phonon.surrogate,
        }
        for sign, structure in zip("+-", distorted, strict=False)
    ]
