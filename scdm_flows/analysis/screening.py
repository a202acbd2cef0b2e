"""The screen: which generated structures are worth computing. Pure: records in, verdicts out.

Order as in the paper: validity (shortest distance), then one connected layer, duplicates, novelty. A structure that
cannot even be looked at is rejected with the reason; it never stops the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pymatgen.core import Structure

from scdm_flows.config import CampaignConfig
from scdm_flows.documents.stages import ScreenedCandidate
from scdm_models.datasets.fingerprints import FingerprintIndex
from scdm_models.errors import ScdmError
from scdm_models.lattice import is_one_layer, orient_slab, slab_thickness
from scdm_models.matching import LayerMatcher
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group
from scdm_models.validity import RADII_FACTOR, shortest_distances

SYMPREC = 1e-3


def candidate_id(config: CampaignConfig, index: int) -> str:
    """The deterministic id of sample ``index`` of a campaign."""
    digest = hashlib.sha256(f"{config.name}:{config.config_hash}:{index}".encode()).hexdigest()[:12]
    return f"{config.name}-{digest}"


def screen(config: CampaignConfig, records: Sequence[dict[str, Any]], known: FingerprintIndex) -> list[ScreenedCandidate]:
    """A verdict for each record.

    Parameters
    ----------
    config
        The campaign; its ``screen`` rules decide.
    records
        Generated records (``index``, ``structure`` as pymatgen's dict or None with ``error``, and what made them).
    known
        Fingerprints of known layers.
    """
    verdicts, structures = [], []
    for record in records:
        verdict, structure = _examine(config, record, known)
        verdicts.append(verdict)
        structures.append(structure)
    alive = [i for i, v in enumerate(verdicts) if v.accepted]
    slabs = [s for i in alive if (s := structures[i]) is not None]
    groups = LayerMatcher().group(slabs, [verdicts[i].layer_group_generated for i in alive])
    for group in groups:
        first, *others = [alive[k] for k in group]
        for i in others:
            verdicts[i].duplicate_of = verdicts[first].candidate_id
            verdicts[i].accepted = False
            verdicts[i].reason = f"duplicate: the same layer as {verdicts[first].candidate_id}"
    if config.screen.require_novel:
        for i in alive:
            if verdicts[i].accepted and verdicts[i].novel is False:
                verdicts[i].accepted = False
                verdicts[i].reason = f"known: equals {', '.join(verdicts[i].known_as[:3])} of the training data"
    return verdicts


def _examine(
    config: CampaignConfig, record: dict[str, Any], known: FingerprintIndex
) -> tuple[ScreenedCandidate, Structure | None]:
    index = int(record["index"])
    verdict = ScreenedCandidate(
        candidate_id=candidate_id(config, index),
        index=index,
        generator=config.generator.kind,
        model_id=record.get("model_id"),
        seed=record.get("seed"),
        source_id=record.get("source_id"),
        structure=record.get("structure"),
        layer_group_requested=record.get("layer_group_requested"),
        accepted=False,
    )
    if verdict.structure is None:
        verdict.reason = f"unreadable: {record.get('error', 'no structure')}"
        return verdict, None
    try:
        slab = orient_slab(Structure.from_dict(verdict.structure))
        verdict.formula = slab.composition.reduced_formula
        verdict.structure = slab.as_dict()
        rules = config.screen
        if len(slab) > rules.max_atoms:
            verdict.reason = f"too large: {len(slab)} atoms, at most {rules.max_atoms} are allowed"
            return verdict, slab
        distances = shortest_distances(slab)
        verdict.min_distance_angstrom = round(distances.min_distance, 4)
        verdict.thickness_angstrom = round(slab_thickness(slab), 4)
        verdict.valid_distance = distances.min_distance >= rules.min_distance_angstrom
        verdict.valid_radii = distances.min_ratio >= RADII_FACTOR
        verdict.layer_group_generated = detect_layer_group(slab, SYMPREC)
        verdict.space_group_generated = detect_space_group(slab, SYMPREC)
        verdict.one_layer = is_one_layer(slab)
        matches = known.lookup(slab)
        verdict.known_as, verdict.novel = [m.id for m in matches[:5]], not matches
    except ScdmError as error:
        verdict.reason = f"not usable: {error}"
        return verdict, None
    except Exception as error:  # a structure can break a library in ways nobody lists; the batch goes on
        verdict.reason = f"not usable: {type(error).__name__}: {error}"
        return verdict, None
    if not verdict.valid_distance:
        verdict.reason = (
            f"atoms too close: {distances.min_distance:.3f} angstrom, at least {rules.min_distance_angstrom:g} is required"
        )
    elif rules.require_radii and not verdict.valid_radii:
        verdict.reason = (
            f"atoms too close for their radii: {distances.min_ratio:.2f} of the sum of covalent radii, "
            f"at least {RADII_FACTOR:g} is required"
        )
    elif rules.require_one_layer and not verdict.one_layer:
        verdict.reason = "not one connected layer"
    else:
        verdict.accepted = True
    return verdict, slab
