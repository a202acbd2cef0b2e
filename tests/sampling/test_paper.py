"""The paper's decoding finds the symmetry a noisy sample is near, and invents none."""

from __future__ import annotations

import numpy as np
import pytest

from scdm_models.errors import GenerationError
from scdm_models.model.checkpoint import load_checkpoint
from scdm_models.sampling.paper import paper_decoding, snap_lattice
from scdm_models.sampling.sampler import SamplerOptions, generate
from scdm_models.symmetry.detect import detect_layer_group
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode, without_symmetry


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ((3.1, 3.2, 118.0), (3.1, 3.2, 120.0)),
        ((3.1, 3.2, 63.0), (3.1, 3.2, 60.0)),
        ((4.0, 4.1, 88.0), (4.0, 4.1, 90.0)),
        ((3.0, 5.0, 92.0), (3.0, 5.0, 90.0)),
        ((3.0, 5.0, 75.0), (3.0, 5.0, 75.0)),
    ],
)
def test_cells_snap_to_the_family_they_are_near(given: tuple, family: tuple) -> None:
    a, b, gamma = snap_lattice(*given)
    assert gamma == family[2]
    if abs(given[0] - given[1]) < 0.2:
        assert a == b
    # the density of the sample is kept
    assert a * b * np.sin(np.deg2rad(gamma)) == pytest.approx(given[0] * given[1] * np.sin(np.deg2rad(given[2])))


def test_a_noisy_prototype_is_brought_back_to_its_group() -> None:
    # 1H-MoS2 (p-6m2, layer group 78) as three free atoms, each off by up to 0.1 angstrom, in a cell off by 1 %
    sites = (Site(42, "a", (0, 0, 0)), Site(16, "e", (1 / 3, 2 / 3, 1.56)))
    free = without_symmetry(LayerCrystal(78, (3.18, 3.18, 120.0), sites))
    rng = np.random.default_rng(0)
    noisy = LayerCrystal(
        1,
        (3.18 * 1.01, 3.18, 119.0),
        tuple(Site(s.element, s.letter, tuple(np.array(s.xyz) + rng.uniform(-0.03, 0.03, 3))) for s in free.sites),
    )
    assert detect_layer_group(decode(noisy), 1e-3) == 1
    found = paper_decoding(noisy)
    assert found.layer_group == 78
    assert detect_layer_group(decode(found), 1e-3) == 78


def test_a_crystal_far_from_symmetry_stays_as_it_is() -> None:
    rng = np.random.default_rng(1)
    sites = tuple(Site(z, "a", (*rng.uniform(0, 1, 2), rng.uniform(-2, 2))) for z in (3, 8, 14, 22, 30))
    crystal = LayerCrystal(1, (5.0, 8.0, 77.0), sites)
    assert paper_decoding(crystal) == crystal


def test_samples_with_the_papers_decoding() -> None:
    unscdm = load_checkpoint(packaged="unscdm")
    samples = list(generate(12, seed=0, checkpoint=unscdm, options=SamplerOptions(paper=True)))
    assert {s.model_id for s in samples} == {unscdm.model_id + "-paper"}
    assert all(s.layer_group_requested == s.crystal.layer_group for s in samples)
    assert any(s.layer_group_requested > 1 for s in samples)
    with pytest.raises(GenerationError, match="UnSCDM"):
        generate(1, options=SamplerOptions(paper=True))
