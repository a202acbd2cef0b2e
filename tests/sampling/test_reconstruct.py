"""Reconstruction keeps the skeleton and forgets the crystal as t* grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scdm_models.errors import GenerationError
from scdm_models.metrics.csp_converged import superpose_distance
from scdm_models.model.checkpoint import load_checkpoint
from scdm_models.model.prototypes import Prototypes
from scdm_models.sampling.geometries import Geometry, geometries
from scdm_models.sampling.reconstruct import from_skeletons, reconstruct, represented
from scdm_models.symmetry.encoding import LayerCrystal, Site, decode

THIRD = (1 / 3, 2 / 3)
KNOWN = [
    LayerCrystal(78, (3.18, 3.18, 120.0), (Site(42, "a", (0, 0, 0)), Site(16, "e", (*THIRD, 1.56)))),
    LayerCrystal(72, (3.55, 3.55, 120.0), (Site(72, "a", (0, 0, 0)), Site(16, "c", (*THIRD, 1.44)))),
    LayerCrystal(78, (3.75, 3.75, 120.0), (Site(31, "d", (0, 0, 1.23)), Site(34, "e", (*THIRD, 2.39)))),
] * 4


@pytest.mark.parametrize("model", ["scdm", "unscdm"])
def test_little_noise_is_undone_and_the_skeleton_is_kept(model: str) -> None:
    checkpoint = load_checkpoint(packaged=model)
    originals = [represented(crystal, checkpoint) for crystal in KNOWN]
    moved = {}
    for time in (0.1, 1.0):
        found = reconstruct(checkpoint, KNOWN, time, seed=1)
        assert [c.template for c in found] == [c.template for c in originals]
        assert [[s.element for s in c.sites] for c in found] == [[s.element for s in c.sites] for c in originals]
        moved[time] = np.median(
            [superpose_distance(decode(o), decode(f)) for o, f in zip(originals, found, strict=True)]
        )
    assert moved[0.1] < 0.3  # angstrom; at t* = 0.1 heights are off by some 0.06 angstrom
    assert moved[0.1] < moved[1.0]


def test_times_out_of_range_are_refused() -> None:
    for time in (0.0, 1.1):
        with pytest.raises(GenerationError, match="must be in"):
            reconstruct(load_checkpoint(), KNOWN[:1], time)


def test_a_skeleton_alone_becomes_what_the_nearest_crystal_says_or_what_noise_gives() -> None:
    mos2, hfs2, gase, *_ = KNOWN
    checkpoint = replace(load_checkpoint(), prototypes=Prototypes.of([mos2, hfs2]))
    blank = [replace(c, lattice=(9.0, 9.0, 120.0)) for c in (mos2, hfs2, gase)]  # their own geometry is not looked at
    copies = from_skeletons(checkpoint, blank, "copy")
    assert copies[2] is None  # of its letters there is no crystal
    for copy, crystal in zip(copies, (mos2, hfs2), strict=False):
        assert copy is not None
        assert copy.bonded
        assert copy.from_prototype
        assert copy.crystal.lattice == pytest.approx(crystal.lattice, abs=1e-4)  # stored in single precision
        assert [s.xyz for s in copy.crystal.sites] == [pytest.approx(s.xyz, abs=1e-4) for s in crystal.sites]
    begun = [g is not None and g.from_prototype for g in from_skeletons(checkpoint, blank, "prototype")]
    assert begun == [True, True, False]
    assert not any(g is not None and g.from_prototype for g in from_skeletons(checkpoint, blank, "noise"))
    assert from_skeletons(checkpoint, blank, "noise", 1) == from_skeletons(checkpoint, blank, "noise", 1)


def test_further_attempts_leave_bonded_layers_as_they_are_and_find_more() -> None:
    checkpoint = load_checkpoint()
    skeletons = [KNOWN[2]] * 24

    def made(attempts: int) -> list[Geometry]:
        rngs = [np.random.default_rng(i) for i in range(len(skeletons))]
        return geometries(checkpoint, skeletons, rngs, 8, 1.0, prototypes=False, attempts=attempts)

    once, again = made(1), made(3)
    assert 0 < sum(g.bonded for g in once) < sum(g.bonded for g in again)
    # where no attempt gives a bonded layer, the first one counts
    assert all(b == a for a, b in zip(once, again, strict=True) if a.bonded or not b.bonded)
