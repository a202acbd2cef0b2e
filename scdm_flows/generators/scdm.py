"""Candidates from the symmetry-constrained diffusion model, or from its control without symmetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from scdm_flows.config import ScdmGeneratorConfig
from scdm_flows.errors import GenerationError
from scdm_models.errors import reason_of

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from scdm_models.sampling.composition import CompositionRequest
    from scdm_models.sampling.sampler import SamplerOptions

WISHES = ("layer_group", "elements", "formula", "n_atoms", "max_predicted_e_hull", "gap", "magnetic")


def composition_request(config: ScdmGeneratorConfig) -> CompositionRequest | None:
    """What is asked of the composition, None where nothing is; ``GenerationError`` where it contradicts itself."""
    from scdm_models.sampling.composition import CompositionRequest

    request = CompositionRequest.parse(config.elements, config.formula, config.n_atoms)
    _refuse_unguided(config, request)
    if config.unknown_formulas and config.formula is not None:
        from pymatgen.core import Composition

        from scdm_models.datasets.known import KnownLayers

        if Composition(config.formula).reduced_formula in KnownLayers.load().formulas:
            raise GenerationError(
                f"formula={config.formula!r} is that of a known layer, and unknown_formulas leaves those out; give "
                "one of them"
            )
    return request


def _refuse_unguided(config: ScdmGeneratorConfig, request: CompositionRequest | None) -> None:
    """``GenerationError`` where properties are asked of elements of which the guide can say nothing."""
    from pymatgen.core import Element

    from scdm_flows.generators.guide import PropertyGuide, guided_elements

    if request is None or not PropertyGuide(config.max_predicted_e_hull, config.gap, config.magnetic).asks:
        return
    wanted = request.elements if request.formula is None else [z for z, _ in request.formula]
    strange = sorted({Element.from_Z(z).symbol for z in wanted or ()} - guided_elements())
    if strange:
        asked = f"formula={config.formula!r}" if request.formula is not None else f"elements={config.elements!r}"
        raise GenerationError(
            f"{asked} has {', '.join(strange)}, of which no layer was there to learn energies, gaps and magnetism "
            f"from; leave out {', '.join(strange)}, or max_predicted_e_hull, gap and magnetic"
        )


def wishes(config: ScdmGeneratorConfig) -> dict[str, Any]:
    """What is asked of every sample, as its record says it: name of the field -> value, without what is not asked.

    Stability is always there, null where it is not asked: the generator asks by itself. Elements are a list of symbols
    in alphabetical order, a formula is reduced as pymatgen writes it.
    """
    from pymatgen.core import Composition

    asked = {name: value for name in WISHES if (value := getattr(config, name)) is not None}
    if config.elements is not None:
        asked["elements"] = sorted(config.elements.replace(",", " ").split())
    if config.formula is not None:
        asked["formula"] = Composition(config.formula).reduced_formula
    if config.gap is not None:
        asked["gap"] = list(config.gap)
    if config.unknown_formulas:
        asked["unknown_formulas"] = True
    return asked | {"stability": config.stability}


def sampler_options(config: ScdmGeneratorConfig) -> SamplerOptions:
    """How the sampler is run for a configuration; ``GenerationError`` where what it asks for contradicts itself."""
    from scdm_flows.generators.guide import PropertyGuide
    from scdm_models.datasets.known import KnownLayers
    from scdm_models.sampling.sampler import DEFAULT_STEPS, SamplerOptions
    from scdm_models.sampling.skeletons import SkeletonRules

    guide = PropertyGuide(config.max_predicted_e_hull, config.gap, config.magnetic)
    return SamplerOptions(
        steps=DEFAULT_STEPS if config.steps is None else config.steps,
        guidance=config.guidance,
        skeletons=SkeletonRules(
            e_above_hull=config.stability,
            weight=config.weight,
            letter_temperature=config.letter_temperature,
            composition=composition_request(config),
        ),
        known_formulas=KnownLayers.load().formulas if config.unknown_formulas else frozenset(),
        accept=guide if guide.asks else None,
        asked=wishes(config),
    )


class ScdmGenerator:
    """Samples of a packaged or a given checkpoint.

    Parameters
    ----------
    packaged
        Which packaged model where the configuration names no file: ``scdm`` or ``unscdm``.
    """

    def __init__(self, packaged: str) -> None:
        self.packaged = packaged

    def count(self, config: ScdmGeneratorConfig) -> int:
        """``config.n``."""
        return config.n

    def check(self, config: ScdmGeneratorConfig) -> list[str]:
        """A checkpoint that cannot be used, and a composition or layer group that no sample of it can have."""
        from scdm_models.model.checkpoint import load_checkpoint
        from scdm_models.sampling.skeletons import skeleton_prior

        found, checkpoint, request = [], None, None
        try:
            request = composition_request(config)
        except GenerationError as error:
            found.append(str(error))
        try:
            checkpoint = load_checkpoint(config.checkpoint, packaged=self.packaged)
        except Exception as error:  # a foreign file fails in many ways
            found.append(reason_of(error))
        if checkpoint is not None and not found:
            try:
                skeleton_prior(checkpoint, config.layer_group, request)
            except GenerationError as error:
                found.append(str(error))
        return found

    def given(self, config: ScdmGeneratorConfig) -> Iterator[tuple[str, Structure]]:
        """Nothing: samples are made later."""
        return iter(())

    def elements(self, config: ScdmGeneratorConfig) -> list[str]:
        """What the configuration allows, where it says so; nothing where what it says is refused by ``check``."""
        from pymatgen.core import Element

        try:
            request = composition_request(config)
        except GenerationError:
            return []
        if request is None:
            return []
        allowed = request.elements or () if request.formula is None else [z for z, _ in request.formula]
        return sorted(Element.from_Z(z).symbol for z in allowed)

    def generate(
        self,
        config: ScdmGeneratorConfig,
        start: int,
        stop: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Samples ``start`` to ``stop - 1`` of the seed."""
        from scdm_models.model.checkpoint import load_checkpoint
        from scdm_models.sampling.sampler import generate

        samples = generate(
            stop - start,
            config.seed,
            checkpoint=load_checkpoint(config.checkpoint, packaged=self.packaged),
            layer_group=config.layer_group,
            options=sampler_options(config),
            start=start,
            progress=progress,
        )
        return [sample.to_dict() | {"structure": sample.structure} for sample in samples]
