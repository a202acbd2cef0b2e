"""What the static run of a candidate says, whatever engine made it; part of ``GateDoc``."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from scdm_flows.documents.bands import GapKind


class MagneticOrder(StrEnum):
    """How moments stand to each other, by C2DB's names."""

    NM = "NM"  # no moments
    FM = "FM"  # they add up
    AFM = "AFM"  # they cancel


class VacuumLevels(BaseModel):
    """The electrostatic potential of an electron in the vacuum on both sides of a layer, and its states beside it.

    All are on the scale of the program, so only differences say something. The levels differ where the layer has a
    dipole.
    """

    model_config = ConfigDict(extra="forbid")

    below_ev: float = Field(description="vacuum level below the layer (towards -c), eV")
    above_ev: float = Field(description="vacuum level above the layer (towards +c), eV")
    spread_ev: float = Field(description="largest change of the potential where it was averaged, eV")
    fermi_level_ev: float = Field(description="Fermi level, eV; somewhere in the gap where there is one")
    valence_maximum_ev: float | None = Field(None, description="highest occupied state, eV; null for a metal")
    conduction_minimum_ev: float | None = Field(None, description="lowest empty state, eV; null for a metal")

    @property
    def mean_ev(self) -> float:
        """The level that a layer's one number refers to, as C2DB's: the mean of both sides, eV."""
        return (self.below_ev + self.above_ev) / 2


class StaticSummary(BaseModel):
    """Energy, forces, gap and moments of a single point; what an engine does not know is null."""

    model_config = ConfigDict(extra="forbid")

    energy_per_atom: float = Field(
        description="total energy, eV/atom; of the antiferromagnetic order where that was found to be lower"
    )
    max_force_ev_per_angstrom: float | None = Field(None, description="largest force on an atom, eV/angstrom")
    band_gap_ev: float | None = Field(None, description="band gap on the k-points of the run, eV; 0 for a metal")
    gap_kind: GapKind | None = Field(None, description="direct, indirect or metal")
    spin_polarised: bool | None = Field(None, description="the run had two spins")
    magnetic: bool | None = Field(None, description="some atom's moment is above 0.1 Bohr magnetons")
    total_magnetization: float | None = Field(None, description="Bohr magnetons per cell; null without spin")
    atom_magnetizations: list[float] | None = Field(None, description="(n_atoms,) Bohr magnetons, projected")
    magnetic_order: MagneticOrder | None = Field(
        None, description="the lowest order that was tried; null where only the one that the run began with was"
    )
    antiferromagnetic_ev_per_atom: float | None = Field(
        None, description="energy of the lowest antiferromagnetic order above the ferromagnetic one, eV/atom"
    )
    magnetic_note: str | None = Field(
        None, description="why orders that were tried have no energy; null where all have"
    )
    engine_version: str | None = Field(None, description="version the program printed; a test's stand-in says so")
    potentials: dict[str, str] | None = Field(
        None, description="element -> TITEL of its PAW potential; null for engines without, and in older outputs"
    )
    vacuum: VacuumLevels | None = Field(
        None, description="vacuum levels, and the states of the run's k-points beside them; null where unknown"
    )
    vacuum_note: str | None = Field(None, description="why they are not there, where the potential was looked at")
    folder: str | None = Field(None, description="where the run's files lie, host:path")
