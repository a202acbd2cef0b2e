"""ASE's BFGS with cheaper steps, and its calculator for results that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase._4.optimize.bfgs import BFGSMethod  # ase is pinned, as this is not part of its public interface
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Array = NDArray[np.float64]


class _Method(BFGSMethod):
    def compute_step(self, gradient: Array) -> Array:
        """The step of ``BFGSMethod``: by Cholesky's factors while the Hessian has no negative eigenvalue.

        Then dividing by eigenvalues' magnitudes is dividing by the Hessian, and needs no eigenvectors.
        """
        try:
            factors = cho_factor(self.hessian, lower=True, check_finite=False)
        except LinAlgError:
            step: Array = super().compute_step(gradient)
            return step
        return -np.asarray(cho_solve(factors, gradient, check_finite=False), dtype=float)


class Given(SinglePointCalculator):
    """Results of the atoms as they are, which whoever moves them gives anew: they are not compared with each other.

    That comparison, four times a step, was a third of the time that a step takes beside the force field.
    """

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """Nothing has changed."""
        return []


class CholeskyBFGS(BFGS):
    """The same steps as ASE's ``BFGS``, which diagonalises its Hessian in each.

    Measured in a campaign of layers of up to 26 atoms, that was a quarter of the time of their relaxation.
    """

    def update(self, pos: Array, forces: Array, pos0: Any, forces0: Any) -> None:
        """As in ``BFGS``."""
        method: Any = self.state
        if method is None:
            method = _Method(self.H0)
            self.state = method
            return
        method.update(pos, -forces, pos0, -forces0)
