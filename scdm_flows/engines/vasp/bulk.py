"""Bulk crystals by VASP with the settings of the layers, so that their energies belong to one scheme.

Two relaxations of atoms and cell, the second on a basis for the changed cell, and a single point. All tags are those
of a layer's runs but for what holds c; k-points are as dense along c as in the plane, and there is no dipole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.io.vasp.inputs import Kpoints
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from scdm_flows.config import VaspEngineConfig
from scdm_flows.engines.base import StageCost
from scdm_flows.engines.spin import BULK, with_spin
from scdm_flows.engines.vasp.cost import FIRST_STEPS, FLOPS_PER_CORE, IONIC_STEPS, NEXT_STEPS, electronic_step
from scdm_flows.engines.vasp.inputs import SlabSetGenerator, input_set

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

STAGES = ("relax_1", "relax_2", "static")
OF_LAYERS = ("LATTICE_CONSTRAINTS", "LVHAR")  # what holds c; the potential, whose vacuum levels are of interest


def bulk_mesh(structure: Structure, spacing: float) -> Kpoints:
    """Gamma-centred k-points at most ``spacing`` (1/angstrom, 2 pi included) apart."""
    counts = [max(1, int(np.ceil(length / spacing - 1e-6))) for length in structure.lattice.reciprocal_lattice.abc]
    return Kpoints(comment=f"at most {spacing:g} 1/angstrom apart", num_kpts=0, kpts=((*counts,),))


@dataclass
class BulkSetGenerator(SlabSetGenerator):
    """Input of one stage of a bulk crystal; see ``SlabSetGenerator``."""

    @property
    def kpoints_updates(self) -> Any:
        """Along all three axes."""
        return bulk_mesh(self._layer(), self.spacing or 0.2)


def bulk_input_set(config: VaspEngineConfig, stage: str) -> BulkSetGenerator:
    """The generator of a stage: one of ``STAGES``."""
    layers = input_set(config, stage)
    tags = {name: value for name, value in layers.config_dict["INCAR"].items() if name not in OF_LAYERS}
    made = {f.name: getattr(layers, f.name) for f in fields(layers) if f.init}
    made["dipole"], made["spin"] = "off", _spin(config)
    made["config_dict"] = {**layers.config_dict, "INCAR": {**tags, "LCHARG": False}}
    return BulkSetGenerator(**made)


def _spin(config: VaspEngineConfig) -> str:
    return BULK if config.spin == "auto" else config.spin


def bulk_cost(structure: Structure, config: VaspEngineConfig) -> list[StageCost]:
    """Each stage's cost, by the model of ``cost``."""
    spins = 2 if with_spin(_spin(config), structure) else 1
    cell = electronic_step(structure, config)
    counts = bulk_mesh(structure, config.kpoint_spacing_per_angstrom).kpts[0]
    bare = structure.copy()
    for name in list(bare.site_properties):
        bare.remove_site_property(name)
    mesh = (int(counts[0]), int(counts[1]), int(counts[2]))
    k_points = len(SpacegroupAnalyzer(bare, symprec=1e-3).get_ir_reciprocal_mesh(mesh))
    found = []
    for stage in STAGES:
        steps = FIRST_STEPS + NEXT_STEPS * (IONIC_STEPS.get(stage, 1) - 1)
        hours = cell.flops * k_points * spins * steps / FLOPS_PER_CORE / 3600
        found.append(StageCost(stage, 1, len(structure), k_points, cell.bands, float(f"{hours:.2g}")))
    return found


def computed_entry(task: Any, name: str) -> dict[str, Any]:
    """A single point as a computed entry of a reference file, with its structure; task: atomate2's document."""
    run = task.calcs_reversed[0].input
    hubbards = {str(e): float(u) for e, u in (run.hubbards or {}).items() if u}
    specs = [{"titel": spec.titel, "hash": spec.hash} for spec in task.orig_inputs.potcar_spec or []]
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedEntry",
        "entry_id": name,
        "composition": task.structure.composition.as_dict(),
        "energy": float(task.output.energy),
        "correction": 0.0,
        "parameters": {
            "run_type": "GGA+U" if hubbards else "GGA",
            "is_hubbard": bool(hubbards),
            "hubbards": hubbards,
            "potcar_spec": specs,
            "encut": float(run.incar["ENCUT"]),
            "engine_version": task.calcs_reversed[0].vasp_version,
        },
        "structure": task.structure.as_dict(),
    }
