"""Whether one sample is valid, without any energy: its composition by SMACT, its distances, one connected layer.

The rules for the geometry are those by which generated layers are screened (``scdm_models.symmetry``). A sample that
cannot be judged is reported with its reason, counts as not valid and never stops the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from pymatgen.core import Structure

from scdm_models.errors import ScdmError, reason_of
from scdm_models.symmetry.lattice import area_per_atom, is_one_layer, orient_slab, slab_thickness
from scdm_models.symmetry.validity import check_distances

# The release whose verdicts the tests hold; `smact_provenance` names the one that is installed.
SMACT_VERSION = "4.0.2"
# All are the defaults of smact.screening.smact_validity in that release, written out so that a release with other
# defaults changes no number in silence. Pure elements and alloys (metals only) are valid, no metallicity test;
# oxidation states of the ICSD (2024) reported at least three times, each element in one state; the anions must be
# more electronegative than the cations (Pauling). An element without a state in that list makes a compound invalid.
SMACT_SETTINGS: Mapping[str, bool | str | int | None] = {
    "use_pauling_test": True,
    "include_alloys": True,
    "check_metallicity": False,
    "mixed_valence": False,
    "oxidation_states_set": None,
    "icsd24_include_zero": False,
    "icsd24_consensus": 3,
    "icsd24_commonality": "low",
}
# SMACT tries every combination of oxidation states: 0.03 s a formula of eight elements, 0.4 s of nine, and
# minutes beyond (measured on random formulas). Known layers have at most five elements.
MOST_SMACT_ELEMENTS = 8


@lru_cache(maxsize=1)
def _smact() -> Any:
    """``formula -> bool`` with the settings of ``SMACT_SETTINGS``."""
    try:
        from smact.screening import ICSD24FilterConfig, smact_validity
    except ImportError as error:
        raise ScdmError(
            f"composition validity needs the package smact, which cannot be imported ({error}); "
            f"install it with `pip install smact=={SMACT_VERSION}`"
        ) from None
    prefix = "icsd24_"
    options: dict[str, Any] = {k: v for k, v in SMACT_SETTINGS.items() if not k.startswith(prefix)}
    states: dict[str, Any] = {k.removeprefix(prefix): v for k, v in SMACT_SETTINGS.items() if k.startswith(prefix)}
    states_filter = ICSD24FilterConfig(**states)
    return lambda formula: bool(smact_validity(formula, icsd_filter=states_filter, **options))


def smact_provenance() -> dict[str, bool | str | int | None]:
    """The installed SMACT's version and the settings, to be printed beside every share of valid compositions."""
    _smact()
    return {"smact": version("smact"), **SMACT_SETTINGS}


@lru_cache(maxsize=100_000)
def composition_valid(formula: str) -> bool:
    """Whether a formula is chemically plausible by SMACT: neutral in known oxidation states, anions the more
    electronegative.

    Parameters
    ----------
    formula
        Such as ``MoS2``; at most eight elements.

    Raises
    ------
    ScdmError
        If the package smact is missing, the formula cannot be read or has more than eight elements.

    References
    ----------
    Davies et al., Chem 1, 617 (2016), doi:10.1016/j.chempr.2016.09.010; the software: Davies et al., J. Open Source
    Softw. 4, 1361 (2019), doi:10.21105/joss.01361. Settings: ``SMACT_SETTINGS``. Shares in papers that follow CDVAE
    (arXiv 2110.06197) use SMACT's oxidation states of 2014 and cannot be compared with these.
    """
    from pymatgen.core import Composition

    valid = _smact()
    try:
        composition = Composition(formula)
    except ValueError as error:
        raise ScdmError(f"formula {formula!r} cannot be read ({error}); write it like MoS2") from None
    if len(composition) > MOST_SMACT_ELEMENTS:
        raise ScdmError(
            f"{formula} has {len(composition)} elements, SMACT judges at most {MOST_SMACT_ELEMENTS} in reasonable "
            "time; count it as not judged"
        )
    return bool(valid(formula))


@dataclass(frozen=True)
class SampleJudgement:
    """What one sample is by itself.

    Parameters
    ----------
    formula
        Reduced; None where the sample cannot be read.
    elements
        Symbols in alphabetical order.
    n_atoms
        In the cell as given.
    valid_distance, valid_radii
        No two atoms closer than 0.5 angstrom; none closer than 0.7 times the sum of their covalent radii
        (``validity.check_distances``). False where it cannot be judged.
    one_layer
        Whether all atoms are one bonded component that extends in two dimensions.
    min_distance_angstrom
        Shortest interatomic distance with periodic images.
    thickness_angstrom
        Distance of the outermost atoms along the layer's normal; None where it is no layer.
    area_per_atom_angstrom2
        In-plane cell area over ``n_atoms``; None where it is no layer.
    composition_valid
        ``composition_valid`` of the formula; None where it was not judged.
    reason
        The first thing wrong with its geometry (no layer, atoms too close, not connected), or else why the composition
        was not judged; None where there is neither.
    """

    formula: str | None
    elements: tuple[str, ...]
    n_atoms: int
    valid_distance: bool
    valid_radii: bool
    one_layer: bool
    min_distance_angstrom: float | None
    thickness_angstrom: float | None
    area_per_atom_angstrom2: float | None
    composition_valid: bool | None
    reason: str | None


def judge_sample(structure: Structure | None) -> SampleJudgement:
    """The judgement of one sample; a bad structure gets a reason and never raises.

    Parameters
    ----------
    structure
        A generated layer, in any orientation, or None for a sample that could not be read.

    Raises
    ------
    ScdmError
        If the package smact is missing: no sample could be judged then.
    """
    _smact()
    if structure is None or len(structure) == 0:
        what = "no structure" if structure is None else "the structure has no atoms"
        return SampleJudgement(None, (), 0, False, False, False, None, None, None, None, f"unreadable: {what}")
    reasons: list[str] = []
    formula, elements, plausible = None, tuple[str, ...](), None
    try:
        formula = structure.composition.reduced_formula
        elements = tuple(sorted(e.symbol for e in structure.composition.elements))
        plausible = composition_valid(formula)
    except Exception as error:  # a sample can break a library in ways nobody lists
        composition_reason: str | None = f"composition not judged: {reason_of(error)}"
    else:
        composition_reason = None
    slab, thickness, area = structure, None, None
    try:
        slab = orient_slab(structure)
        thickness, area = slab_thickness(slab), area_per_atom(slab)
    except Exception as error:
        reasons.append(f"not a layer: {reason_of(error)}")
    shortest, apart, apart_by_radii, connected = None, False, False, False
    try:
        distances = check_distances(slab)
        shortest, apart, apart_by_radii = (
            distances.min_distance_angstrom,
            distances.valid_distance,
            distances.valid_radii,
        )
        if distances.reason is not None:
            reasons.append(f"atoms too close: {distances.reason}")
        connected = is_one_layer(slab)
        if not connected:
            reasons.append("not one connected layer")
    except Exception as error:
        reasons.append(f"distances not judged: {reason_of(error)}")
    return SampleJudgement(
        formula,
        elements,
        len(structure),
        apart,
        apart_by_radii,
        connected,
        shortest,
        thickness,
        area,
        plausible,
        next(iter(reasons), composition_reason),
    )
