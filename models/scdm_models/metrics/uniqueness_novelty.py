"""How many different layers are among generated samples, and which samples have a Wyckoff template of no known layer.

What is the same layer says ``scdm_models.datasets.matching``; whether a layer is a known one says ``datasets.known``.
Shares are of the samples that could be compared, whose number they carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymatgen.core import Structure

from scdm_models.datasets.matching import LayerMatcher
from scdm_models.errors import ScdmError, reason_of
from scdm_models.metrics.intervals import Interval, share_interval

if TYPE_CHECKING:
    from scdm_models.symmetry.encoding import LayerCrystal


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
        What calls layers equal; ``LayerMatcher()`` when absent.

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
            failures[i] = reason_of(error)
    if not layers:
        raise ScdmError(f"none of {len(structures)} samples can be compared; give at least one layer")
    members = list(layers)
    found = matcher.group([layers[i] for i in members])
    representative: list[int | None] = [None] * len(structures)
    for group in found:
        for k in group:
            representative[members[k]] = members[group[0]]
    return Uniqueness(len(members), len(found), len(found) / len(members), tuple(representative), failures)


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

    Templates are group number and letters, the same for every choice of origin and axes (``LayerCrystal.template``);
    every crystal in p1 has one that its number of atoms fixes.

    Parameters
    ----------
    crystals
        (n,) samples as drawn, n >= 1.
    known_templates
        Those of known layers, such as ``KnownLayers.templates``; empty ones are ignored.

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
