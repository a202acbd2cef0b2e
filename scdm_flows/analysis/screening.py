"""The screen: which generated structures are worth computing. Pure: records in, verdicts out.

Order as in the paper: validity (shortest distance), then one connected layer, duplicates, novelty. A
structure that cannot be analysed is rejected with the reason; it never stops the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from pymatgen.core.structure import Structure

from scdm_flows.analysis.duplicates import equal_samples
from scdm_flows.config import CampaignConfig
from scdm_flows.documents.stages import ScreenedCandidate
from scdm_models.datasets.known import KnownLayers
from scdm_models.errors import ScdmError, SymmetryError
from scdm_models.symmetry.detect import detect_layer_group, detect_space_group
from scdm_models.symmetry.encoding import symmetrize
from scdm_models.symmetry.lattice import DEFAULT_VACUUM_ANGSTROM, is_one_layer, prepare_slab, slab_thickness
from scdm_models.symmetry.validity import check_distances

logger = logging.getLogger(__name__)
SYMPREC = 1e-3
MOST_KNOWN = 5  # ids of equal known layers that are kept


def candidate_id(config: CampaignConfig, index: int) -> str:
    """The deterministic id of sample ``index`` of a campaign."""
    digest = hashlib.sha256(f"{config.name}:{config.config_hash}:{index}".encode()).hexdigest()[:12]
    return f"{config.name}-{digest}"


def id_of_layer(config: CampaignConfig, structure: Structure) -> str:
    """The deterministic id of a layer that is no sample of the campaign's generator, by its cell and sites."""
    layer = structure.as_dict(verbosity=0)
    text = json.dumps([layer["lattice"]["matrix"], layer["sites"]], sort_keys=True)
    digest = hashlib.sha256(f"{config.name}:{config.config_hash}:{text}".encode()).hexdigest()[:12]
    return f"{config.name}-{digest}"


def prepared(config: CampaignConfig, structure: Structure) -> Structure:
    """A layer as the screen hands it on, with the vacuum that the campaign's engine asks for.

    Raises
    ------
    ScdmError
        If it is no layer.
    """
    asked = float(getattr(config.engine, "min_vacuum_angstrom", 0.0))
    return prepare_slab(structure, max(asked, DEFAULT_VACUUM_ANGSTROM))


def screen(config: CampaignConfig, records: Sequence[dict[str, Any]], known: KnownLayers) -> list[ScreenedCandidate]:
    """A verdict for each record, in order.

    Parameters
    ----------
    config
        The campaign; its ``screen`` rules decide.
    records
        Generated records (``index``, ``structure`` or None with ``error``, and what made them).
    known
        Known layers.
    """
    verdicts = [_examine(config, record, known) for record in records]
    for first, *others in equal_samples([v for v in verdicts if v.accepted]):
        for verdict in others:
            verdict.duplicate_of = first.candidate_id
            verdict.accepted = False
            verdict.reason = f"duplicate: the same layer as {first.candidate_id}"
    if config.screen.require_novel:
        for verdict in verdicts:
            if verdict.accepted and verdict.novel is False:
                verdict.accepted = False
                verdict.reason = f"known: the same layer as {', '.join(verdict.known_as[:3])}"
    return verdicts


def _examine(config: CampaignConfig, record: dict[str, Any], known: KnownLayers) -> ScreenedCandidate:
    """The verdict on one record by itself."""
    index = int(record["index"])
    verdict = ScreenedCandidate(
        candidate_id=candidate_id(config, index),
        index=index,
        generator=record.get("generator", config.generator.kind),
        model_id=record.get("model_id"),
        seed=record.get("seed"),
        source_id=record.get("source_id"),
        promoted_from=record.get("promoted_from"),
        parent=record.get("parent"),
        structure=record.get("structure"),
        layer_group_requested=record.get("layer_group_requested"),
        accepted=False,
    )
    if verdict.structure is None:
        given = "pymatgen cannot read it" if record.get("structure") else record.get("error", "no structure")
        verdict.reason = f"unreadable: {given}"
        return verdict
    try:
        verdict.reason = _reason_to_reject(verdict, verdict.structure, config, known)
        verdict.accepted = verdict.reason is None
    except ScdmError as error:
        verdict.reason = f"not usable: {error}"
    except Exception as error:  # a structure can break a library in ways nobody lists
        verdict.reason = f"not usable: {type(error).__name__}: {error}"
    return verdict


def _reason_to_reject(
    verdict: ScreenedCandidate, given: Structure, config: CampaignConfig, known: KnownLayers
) -> str | None:
    """Fills the verdict's fields; returns why the layer is not accepted, None where it is."""
    rules, verdict.formula = config.screen, given.composition.reduced_formula
    if len(given) > rules.max_atoms:
        return f"too large: {len(given)} atoms, at most {rules.max_atoms} are allowed"
    slab = prepared(config, given)
    verdict.structure = slab
    distances = check_distances(slab, threshold=rules.min_distance_angstrom)
    verdict.min_distance_angstrom = round(distances.min_distance_angstrom, 4)
    verdict.thickness_angstrom = round(slab_thickness(slab), 4)
    verdict.valid_distance, verdict.valid_radii = distances.valid_distance, distances.valid_radii
    try:
        verdict.layer_group_generated = detect_layer_group(slab, SYMPREC)
        verdict.space_group_generated = detect_space_group(slab, SYMPREC)
    except SymmetryError:
        pass  # overlapping atoms have none
    if not verdict.valid_distance or (rules.require_radii and not verdict.valid_radii):
        return f"atoms too close: {distances.reason}"
    verdict.one_layer = is_one_layer(slab)
    if rules.require_one_layer and not verdict.one_layer:
        return "not one connected layer"
    matches = known.lookup(slab)
    verdict.known_as, verdict.novel = [match.id for match in matches[:MOST_KNOWN]], not matches
    try:
        crystal = symmetrize(slab, SYMPREC).crystal
        verdict.template, verdict.new_template = crystal.template, not known.knows_template(crystal)
        verdict.prototype_distance = round(known.prototype_distance(crystal), 4)
    except ScdmError:
        pass  # without symmetry there is no template; the layer is judged all the same
    return None
