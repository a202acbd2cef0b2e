"""Phonons of a candidate: bands, density of states, thermal quantities, the soft mode. Collection ``phonons``.

Since the first release with them, ``sum_rules``, ``mesh``, ``dos``, ``thermal``, ``soft_mode`` and
``flexural_exponent`` were added; all of them have a default, so documents written before are still valid.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PhononDos(_Part):
    """Density of states on ``PhononDoc.mesh``; imaginary modes are at negative frequencies."""

    frequencies_thz: list[float] = Field(description="(n,) equally spaced, THz")
    density_per_thz: list[float] = Field(description="(n,) modes per THz and cell; the integral is 3 n_atoms")
    smearing_thz: float = Field(description="standard deviation of the Gaussian each mode counts as, THz")


class ThermalQuantities(_Part):
    """Harmonic vibrations at given temperatures, per atom; real modes of ``PhononDoc.mesh`` only."""

    temperatures_k: list[float] = Field(description="(n,) K; 0 gives the zero-point energy")
    free_energy_ev_per_atom: list[float] = Field(
        description="(n,) Helmholtz free energy with zero-point energy, eV/atom"
    )
    entropy_kb_per_atom: list[float] = Field(description="(n,) Boltzmann constants per atom")
    heat_capacity_kb_per_atom: list[float] = Field(
        description="(n,) at constant cell, Boltzmann constants per atom; 3 in the limit of high temperature"
    )


class SoftMode(_Part):
    """The imaginary mode along which a layer distorts.

    Atom k in the cell at fractional position f moves along the real part of
    (eigenvector_real + i eigenvector_imag)[k] / sqrt(mass_k) exp(2 pi i q.f).
    """

    q: tuple[float, float, float] = Field(description="fractional coordinates in the reciprocal lattice")
    frequency_thz: float = Field(description="negative: imaginary, THz")
    eigenvector_real: list[tuple[float, float, float]] = Field(
        description="(n_atoms, 3) Cartesian real part of the eigenvector of the dynamical matrix, dimensionless; "
        "norm 1 with the other"
    )
    eigenvector_imag: list[tuple[float, float, float]] = Field(
        description="(n_atoms, 3) its imaginary part, dimensionless"
    )
    supercell: list[list[int]] = Field(
        description="3x3; rows are the vectors, in those of the cell, of the smallest cell that the mode fits in"
    )
    exact: bool = Field(description="q fits in the supercell of the calculation, so that nothing was interpolated")


class PhononDoc(ScdmDocument):
    """Phonons of a candidate in the plane. Collection ``phonons``, key ``candidate_id``."""

    candidate_id: str
    campaign: str
    energy_scheme: str
    surrogate: bool
    supercell: list[list[int]] = Field(description="3x3 supercell matrix")
    displacement_angstrom: float = Field(description="how far an atom was moved, angstrom")
    n_displacements: int = Field(description="number of supercells whose forces were computed")
    sum_rules: list[str] = Field(default_factory=list, description="what the force constants were made to obey")
    sum_rule_change: float | None = Field(
        None, description="norm of the change that took, over the norm of the force constants, dimensionless"
    )
    q_points: list[list[float]] = Field(description="(n_q, 3) fractional coordinates of the path")
    distances: list[float] = Field(description="(n_q,) distance along the path, 1/angstrom")
    labels: list[tuple[float, str]] = Field(description="(distance, label) of the high-symmetry points")
    frequencies_thz: list[list[float]] = Field(description="(n_q, n_modes); imaginary modes are negative, THz")
    mesh: tuple[int, int, int] | None = Field(
        None, description="q mesh through Gamma that was looked at too, (n, m, 1)"
    )
    min_frequency_thz: float = Field(description="lowest on path and mesh; imaginary is negative, THz")
    threshold_thz: float = Field(description="a mode below minus this counts as imaginary, THz")
    gamma_threshold_thz: float | None = Field(
        None, description="the same within 0.1 of Gamma in units of the reciprocal lattice vectors, THz; null: 0.5"
    )
    residual_force_ev_per_angstrom: float | None = Field(
        None,
        description="largest force in the undisplaced supercell, whose forces were taken off from all others, "
        "eV/angstrom; null where they were not computed",
    )
    dynamically_stable: bool
    criterion: str | None = Field(None, description="what the verdict follows from; null: modes on path and mesh")
    min_hessian_ev_per_angstrom2: float | None = Field(
        None, description="smallest eigenvalue of the supercell's Hessian, where the verdict follows from it"
    )
    stiffness_n_per_m: list[list[float]] | None = Field(
        None, description="(3, 3) in-plane stiffness tensor in Voigt order xx, yy, xy with relaxed atoms, N/m"
    )
    stiffness_note: str | None = Field(
        None, description="why there is no stiffness tensor though it was computed for; the modes alone then decide"
    )
    reason: str | None = Field(None, description="why it is unstable")
    soft_mode: SoftMode | None = Field(None, description="where a mode is imaginary at a q that fits in some supercell")
    flexural_exponent: float | None = Field(
        None,
        description="p of omega = c q^p of the flexural (ZA) branch near Gamma, dimensionless; 2 for a layer without "
        "stress",
    )
    dos: PhononDos | None = Field(None, description="density of states on the mesh")
    thermal: ThermalQuantities | None = Field(None, description="where stable")
