"""Judges a set of generated samples without any energy: structures and crystals in, numbers out.

Owns the intervals that every table prints, the judgement of one sample, uniqueness, new Wyckoff templates and distances
between distributions. Reads no file, draws nothing, knows no model. The rules are those of the product:
``scdm_models.symmetry.validity`` and ``matching``; whether a layer is known says ``datasets.known``.

A sample that cannot be judged never stops the others: it is reported with its reason and counts as not valid; shares
of unique and of novel samples are of those that could be compared, whose number they carry.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.errors import ScdmError
from scdm_models.symmetry.lattice import is_one_layer, orient_slab, slab_thickness
from scdm_models.symmetry.validity import check_distances

if TYPE_CHECKING:
    from scdm_models.symmetry.encoding import LayerCrystal

Array = NDArray[np.float64]
CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 2000
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
NO_LAYER_GROUP = 0  # stands for "none was found" among layer groups 1 to 80


# --- intervals ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval.

    value, low, high: in the unit of what was estimated (shares: 0 to 1); n: number of trials or values.
    """

    value: float
    low: float
    high: float
    n: int


def share_interval(successes: int, n: int) -> Interval:
    """The share ``successes / n`` with Wilson's score interval.

    It stays within [0, 1] and holds its level at shares near 0 and 1, where mean +- 1.96 sigma does not.

    Parameters
    ----------
    successes, n
        Counts of independent trials, 0 <= successes <= n and n >= 1.

    Raises
    ------
    ScdmError
        If the counts are out of range.

    References
    ----------
    Wilson, J. Am. Stat. Assoc. 22, 209 (1927), doi:10.1080/01621459.1927.10502953; recommended by Brown, Cai and
    DasGupta, Stat. Sci. 16, 101 (2001), doi:10.1214/ss/1009213286.

    Examples
    --------
    >>> found = share_interval(81, 263)
    >>> round(found.low, 4), round(found.high, 4)
    (0.2553, 0.3662)
    """
    if n < 1:
        raise ScdmError(f"n={n} must be >= 1; a share needs at least one trial")
    if not 0 <= successes <= n:
        raise ScdmError(f"successes={successes} must be 0 to n={n}; count successes among the trials")
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    value = successes / n
    # rounding can put an end at 0 or 1 on the wrong side of the share by 1e-17
    return Interval(value, min(float(found.low), value), max(float(found.high), value), n)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of independent values with a bootstrap interval (bias corrected and accelerated), in their unit.

    Parameters
    ----------
    values
        (n,) finite numbers, n >= 2; the interval needs about ten to be worth its level.
    seed
        Of the 2,000 resamples, >= 0; the same seed gives the same interval.

    Raises
    ------
    ScdmError
        If there are fewer than two values or one is not finite.

    References
    ----------
    Efron, J. Am. Stat. Assoc. 82, 171 (1987), doi:10.1080/01621459.1987.10478410.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2:
        raise ScdmError(f"values of shape {sample.shape} must be (n,) with n >= 2; one value has no interval")
    if not np.isfinite(sample).all():
        at = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise ScdmError(f"values[{at}]={sample[at]} must be a finite number; leave out what failed and say how many")
    from scipy import stats

    n, mean = len(sample), float(sample.mean())
    if np.ptp(sample) == 0:  # no spread: the resamples are all the same
        return Interval(mean, mean, mean, n)
    found = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), n)


# --- one sample --------------------------------------------------------------------------------------------------


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
        The first thing wrong with its geometry, in the order of the product's screen, or else why the composition was
        not judged; None where there is neither.
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


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ScdmError) else f"{type(error).__name__}: {error}"


def _area_per_atom(slab: Structure) -> float:
    """In-plane area over the number of atoms of an oriented slab, angstrom^2."""
    return abs(float(np.linalg.det(slab.lattice.matrix[:2, :2]))) / len(slab)


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
        composition_reason: str | None = f"composition not judged: {_said(error)}"
    else:
        composition_reason = None
    slab, thickness, area = structure, None, None
    try:
        slab = orient_slab(structure)
        thickness, area = slab_thickness(slab), _area_per_atom(slab)
    except Exception as error:
        reasons.append(f"not a layer: {_said(error)}")
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
        reasons.append(f"distances not judged: {_said(error)}")
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


# --- uniqueness --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uniqueness:
    """How many different layers are among the samples.

    Parameters
    ----------
    n
        Samples that could be compared.
    n_groups
        Different layers among them.
    share
        ``n_groups / n``. It falls with n, so compare shares at equal n only.
    representative
        For each sample the lowest index of its group; None where it could not be compared.
    failures
        Index -> why a sample could not be compared.
    """

    n: int
    n_groups: int
    share: float
    representative: tuple[int | None, ...]
    failures: dict[int, str]


def _same_length(name: str, values: Collection[Any], structures: Collection[Any]) -> None:
    if len(values) != len(structures):
        raise ScdmError(f"{len(values)} {name} for {len(structures)} structures must be as many; give one for each")


def uniqueness(structures: Sequence[Structure | None], *, matcher: LayerMatcher | None = None) -> Uniqueness:
    """The share of different layers among the samples.

    All samples of one reduced formula are compared by ``LayerMatcher``, whatever their layer groups are. Tolerances
    make equality no equivalence (a = b and b = c do not give a = c); a chain of equal pairs is one layer, so the result
    does not depend on the order of the samples.

    Parameters
    ----------
    structures
        (n,) layers, in any orientation; None for a sample that could not be read.
    matcher
        What calls layers equal; the product's when absent.

    Raises
    ------
    ScdmError
        If no sample can be compared.
    """
    matcher = matcher or LayerMatcher()
    failures: dict[int, str] = {}
    layers: dict[int, Structure] = {}
    for i, structure in enumerate(structures):
        try:
            if structure is None:
                raise ScdmError("unreadable: no structure")
            matcher.layer(structure)
            layers[i] = structure
        except Exception as error:  # a sample can break a library in ways nobody lists
            failures[i] = _said(error)
    if not layers:
        raise ScdmError(f"none of {len(structures)} samples can be compared; give at least one layer")
    members = list(layers)
    found = matcher.group([layers[i] for i in members])
    representative: list[int | None] = [None] * len(structures)
    for group in found:
        for k in group:
            representative[members[k]] = members[group[0]]
    return Uniqueness(len(members), len(found), len(found) / len(members), tuple(representative), failures)


# --- new templates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TemplateNovelty:
    """Which samples occupy Wyckoff positions as no known layer does.

    share: of the samples; novel: the verdict on each; templates: the different new templates with the number of
    samples of each, most frequent first.
    """

    share: Interval
    novel: tuple[bool, ...]
    templates: dict[str, int]


def novel_templates(crystals: Sequence[LayerCrystal], known_templates: Collection[str]) -> TemplateNovelty:
    """The share of samples whose Wyckoff template is not among the known ones.

    Templates are compared as written, group number and letters: a choice of origin that exchanges letters of one
    group counts as another template, and every crystal in p1 has one that its number of atoms fixes.

    Parameters
    ----------
    crystals
        (n,) samples as drawn, n >= 1.
    known_templates
        ``LayerCrystal.template`` of known layers, such as ``KnownLayers.templates``; empty ones are ignored.

    Raises
    ------
    ScdmError
        If there are no samples or no known templates.
    """
    known = {template for template in known_templates if template}
    if not known:
        raise ScdmError("there are no known templates, so every one would be new; give those of the training set")
    templates = [crystal.template for crystal in crystals]
    novel = tuple(template not in known for template in templates)
    counts = Counter(template for template, new in zip(templates, novel, strict=True) if new)
    return TemplateNovelty(share_interval(sum(novel), len(novel)), novel, dict(counts.most_common()))


# --- distributions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Population:
    """The distributions of a set of layers.

    Parameters
    ----------
    elements
        Symbol -> mean over the layers of its atomic fraction; every layer weighs the same, the sum is 1.
    layer_groups
        Number -> share of the layers; 0 where none was found.
    n_atoms
        (n,) atoms in the cell as given.
    area_per_atom
        (n,) in-plane area over number of atoms, angstrom^2.
    thickness
        (n,) distance of the outermost atoms along the normal, angstrom.
    failures
        Index -> why a structure is no layer; those are in none of the above.
    """

    elements: dict[str, float]
    layer_groups: dict[int, float]
    n_atoms: Array
    area_per_atom: Array
    thickness: Array
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.n_atoms)


def population(structures: Sequence[Structure | None], layer_groups: Sequence[int | None]) -> Population:
    """The distributions of a set of layers, to be compared by ``distribution_distances``.

    Parameters
    ----------
    structures
        (n,) layers, in any orientation, in cells of one kind (such as primitive) in all sets that are compared.
    layer_groups
        (n,) layer group of each, found at one tolerance in all sets that are compared; None where none was found.

    Raises
    ------
    ScdmError
        If the lengths differ or no structure is a layer.
    """
    _same_length("layer groups", layer_groups, structures)
    rows: list[tuple[int, float, float]] = []
    fractions: dict[str, float] = defaultdict(float)
    groups: Counter[int] = Counter()
    failures: dict[int, str] = {}
    for i, (structure, group) in enumerate(zip(structures, layer_groups, strict=True)):
        try:
            if structure is None:
                raise ScdmError("unreadable: no structure")
            slab = orient_slab(structure)
            own = {e.symbol: float(x) for e, x in slab.composition.fractional_composition.items()}
            row = (len(slab), _area_per_atom(slab), slab_thickness(slab))
        except Exception as error:  # a sample can break a library in ways nobody lists
            failures[i] = _said(error)
            continue
        rows.append(row)
        groups[group or NO_LAYER_GROUP] += 1
        for symbol, fraction in own.items():
            fractions[symbol] += fraction
    if not rows:
        raise ScdmError(f"none of {len(structures)} structures is a layer; a distribution needs at least one")
    n, (n_atoms, area, thickness) = len(rows), np.array(rows, dtype=float).T
    return Population(
        {symbol: fractions[symbol] / n for symbol in sorted(fractions)},
        {group: groups[group] / n for group in sorted(groups)},
        n_atoms,
        area,
        thickness,
        failures,
    )


@dataclass(frozen=True)
class DistributionDistances:
    """Distances of samples from held-out data, 0 for equal distributions.

    Parameters
    ----------
    elements_total_variation, layer_groups_total_variation
        Half the sum of |p - q|, 0 to 1.
    elements_jensen_shannon
        Square root of the Jensen-Shannon divergence in bits, 0 to 1.
    n_atoms_wasserstein
        Wasserstein-1 distance, atoms.
    area_per_atom_wasserstein_angstrom2, thickness_wasserstein_angstrom
        Wasserstein-1 distances, angstrom^2 and angstrom.
    n_samples, n_held_out
        Layers in each set. Finite sets of one distribution are not at distance 0; the distance of training from
        held-out data is the yardstick, best at as many layers.
    """

    elements_total_variation: float
    elements_jensen_shannon: float
    n_atoms_wasserstein: float
    area_per_atom_wasserstein_angstrom2: float
    thickness_wasserstein_angstrom: float
    layer_groups_total_variation: float
    n_samples: int
    n_held_out: int


def _aligned(first: Mapping[Any, float], second: Mapping[Any, float]) -> tuple[Array, Array]:
    """(m,) and (m,) probabilities over the union of the classes."""
    classes = sorted({*first, *second})
    return np.array([first.get(c, 0.0) for c in classes]), np.array([second.get(c, 0.0) for c in classes])


def total_variation(first: Mapping[Any, float], second: Mapping[Any, float]) -> float:
    """Total variation distance of two discrete distributions, half the sum of |p - q|, 0 to 1.

    first, second: class -> probability, each summing to 1; a class that is absent has probability 0.
    """
    p, q = _aligned(first, second)
    return float(np.abs(p - q).sum() / 2)


def distribution_distances(samples: Population, held_out: Population) -> DistributionDistances:
    """Distances of the samples' distributions from the held-out data's.

    Call it a second time with the training set in place of the samples: that is how far two sets of real layers are
    apart, the yardstick for the first.

    References
    ----------
    Jensen-Shannon distance: Endres and Schindelin, IEEE Trans. Inf. Theory 49, 1858 (2003),
    doi:10.1109/TIT.2003.813506. Wasserstein distance in one dimension: Ramdas et al., Entropy 19, 47 (2017),
    doi:10.3390/e19020047.
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    p, q = _aligned(samples.elements, held_out.elements)
    # rounding can make the divergence of equal distributions -1e-17, whose root is not a number
    divergence = float(np.nan_to_num(jensenshannon(p, q, base=2)))
    return DistributionDistances(
        total_variation(samples.elements, held_out.elements),
        min(divergence, 1.0),
        float(wasserstein_distance(samples.n_atoms, held_out.n_atoms)),
        float(wasserstein_distance(samples.area_per_atom, held_out.area_per_atom)),
        float(wasserstein_distance(samples.thickness, held_out.thickness)),
        total_variation(samples.layer_groups, held_out.layer_groups),
        len(samples),
        len(held_out),
    )
