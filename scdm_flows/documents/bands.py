"""Electronic bands, density of states and moments of a candidate. Collection ``bands``, key ``candidate_id``.

Energies are in eV relative to ``energy_zero``. The raw band structure and density of states stay where atomate2
writes them, in the job store's large objects; ``job_uuids`` of the provenance names the jobs.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.base import ScdmDocument


class GapKind(StrEnum):
    """What lies between the occupied and the empty bands."""

    DIRECT = "direct"  # both edges at the same k-point
    INDIRECT = "indirect"
    METAL = "metal"


class BandMass(BaseModel):
    """Curvature of a band edge along one direction of the path; electrons and holes are both positive."""

    model_config = ConfigDict(extra="forbid")

    carrier: str = Field(description="electron (conduction band) or hole (valence band)")
    spin: str = Field(description="up or down; up where the run was not spin-polarised")
    direction: str = Field(description="from the edge towards a labelled point, such as K→Γ")
    mass: float | None = Field(description="effective mass in electron masses; null where the band is not parabolic")
    fit_range_ev: float | None = Field(None, description="energies up to this far from the edge were fitted, eV")
    r_squared: float | None = Field(None, description="quality of the parabola, 1 is perfect")
    reason: str | None = Field(None, description="why there is no mass")


class BandEdge(BaseModel):
    """The highest occupied or lowest empty state on the path."""

    model_config = ConfigDict(extra="forbid")

    energy_ev: float = Field(description="eV, relative to energy_zero")
    k_point: list[float] = Field(description="(3,) fractional coordinates")
    label: str | None = Field(None, description="name of the k-point where it has one")
    spin: str = Field(description="up or down")


class DosData(BaseModel):
    """Total density of states, states/eV per cell."""

    model_config = ConfigDict(extra="forbid")

    energies_ev: list[float] = Field(description="(n,) eV, relative to energy_zero")
    densities: dict[str, list[float]] = Field(description="spin (up, down) -> (n,) states/eV and cell")


class BandsDoc(ScdmDocument):
    """Bands on the in-plane path, with what follows from them."""

    candidate_id: str = Field(description="whose bands these are")
    campaign: str = Field(description="name of the campaign")
    energy_scheme: str = Field(description="functional and code, such as vasp-pbe")
    engine_version: str | None = Field(None, description="version the program printed; a test's stand-in says so")
    k_points: list[list[float]] = Field(description="(n_k, 3) fractional coordinates of the path; none along c")
    distances: list[float] = Field(description="(n_k,) distance along the path, 1/angstrom, without 2 pi")
    labels: list[tuple[float, str]] = Field(description="(distance, label) of the high-symmetry points")
    energies_ev: dict[str, list[list[float]]] = Field(
        description="spin (up, down) -> (n_k, n_bands) eV, relative to energy_zero"
    )
    energy_zero: str = Field(description="what zero is: 'valence band maximum' or 'Fermi level'")
    energy_zero_ev: float = Field(description="that energy as the program gave it, eV")
    efermi_ev: float = Field(description="Fermi level as the program gave it (of the uniform run), eV")
    band_gap_ev: float = Field(description="band gap, eV; 0 for a metal")
    direct_gap_ev: float = Field(description="smallest gap at one k-point of the path, eV; 0 for a metal")
    gap_kind: GapKind = Field(description="direct, indirect or metal")
    vbm: BandEdge | None = Field(None, description="valence band maximum; null for a metal")
    cbm: BandEdge | None = Field(None, description="conduction band minimum; null for a metal")
    masses: list[BandMass] = Field(default_factory=list, description="effective masses at the edges, by direction")
    dos: DosData | None = Field(None, description="of the uniform run")
    spin_polarised: bool = Field(description="the run had two spins")
    spin_orbit: bool = Field(
        False, description="with spin-orbit coupling: each band holds one electron, and all of them stand under up"
    )
    hse_gap_ev: float | None = Field(
        None, description="HSE06 gap at PBE's geometry, k-points and band edges, eV; null where it was not computed"
    )
    hse_note: str | None = Field(None, description="why it was asked for and is not there")
    magnetic: bool = Field(description="some atom's moment is above 0.1 Bohr magnetons")
    total_magnetization: float | None = Field(None, description="Bohr magnetons per cell; null without spin")
    atom_magnetizations: list[float] | None = Field(None, description="(n_atoms,) Bohr magnetons, projected")
