"""Force fields by name: ``force_field`` gives one, in memory once for each process.

``base`` says what a force field is. To add a kind: a file here, its names in ``config``, a line in ``_make``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from scdm_flows.config.engines import CHGNETS, SEVENNETS, check_force_field
from scdm_flows.engines.forcefield.potentials.base import Answer, ForceField, Seen
from scdm_flows.errors import EngineError, ScdmError

__all__ = ["Answer", "ForceField", "Seen", "force_field", "missing", "scheme_of"]

CHGNET = "chgnet-0.3.0"  # what energies of the shipped weights are called
# names of atomate2 (``config.ATOMATE2``) -> the module and the distribution that have the force field
PROGRAMS = {
    "MACE": ("mace", "mace-torch"),
    "MACE-MP-0": ("mace", "mace-torch"),
    "MACE-MPA-0": ("mace", "mace-torch"),
    "MACE-MP-0b3": ("mace", "mace-torch"),
    "GAP": ("quippy", "quippy-ase"),
    "M3GNet": ("matgl", "matgl"),
    "NEP": ("calorine", "calorine"),
    "Nequip": ("nequip", "nequip"),
    "SevenNet": ("sevenn", "sevenn"),
    "MatPES-r2SCAN": ("matgl", "matgl"),
    "MatPES-PBE": ("matgl", "matgl"),
    "DeepMD": ("deepmd", "deepmd-kit"),
    "Allegro": ("nequip", "nequip"),
    "FAIRChem": ("fairchem", "fairchem-core"),
    "MatterSim": ("mattersim", "mattersim"),
    "UPET": ("upet", "upet"),
}
_LOADED: dict[str, ForceField] = {}


def force_field(name: str, options: Mapping[str, Any] | None = None) -> ForceField:
    """The force field of a name, loaded when it is asked for the first time.

    Parameters
    ----------
    name
        ``CHGNet``, ``SevenNet-0``, ``SevenNet-l3i5``, ``SevenNet-MF-0``, a name of atomate2's
        (``config.ATOMATE2``), or the import path of an ASE calculator such as ``ase.calculators.emt:EMT``.
    options
        Keyword arguments of the calculator, for the last two; of CHGNet: ``weights``.

    Raises
    ------
    EngineError
        If there is none of that name, or it cannot be loaded; ``CheckpointError`` where its weights are damaged.
    """
    key = json.dumps([name, dict(options or {})], sort_keys=True, default=repr)
    if key not in _LOADED:
        _LOADED[key] = _make(name, dict(options or {}))
    return _LOADED[key]


def _make(name: str, options: dict[str, Any]) -> ForceField:
    problem = missing(name, options)
    if problem is not None:
        raise EngineError(problem)
    scheme = scheme_of(name, options)
    try:
        if name in CHGNETS:
            from scdm_flows.engines.forcefield.potentials.chgnet import ChgnetForceField

            return ChgnetForceField(name, scheme, options.get("weights"))
        if name in SEVENNETS:
            from scdm_flows.engines.forcefield.potentials.sevennet import SevenNetForceField

            return SevenNetForceField(name, scheme)
        from scdm_flows.engines.forcefield.potentials.calculators import (
            CalculatorForceField,
            by_atomate2,
            by_import_path,
        )

        calculator = by_import_path(name, options) if ":" in name else by_atomate2(name, options)
        return CalculatorForceField(name, scheme, calculator)
    except ScdmError:
        raise
    except Exception as error:  # options that the calculator does not take, weights that it cannot download
        given = f" with {options}" if options else ""
        raise EngineError(
            f"the force field {name}{given} cannot be loaded ({type(error).__name__}: {error}); see engine.force_field "
            "and engine.force_field_options"
        ) from error


def scheme_of(name: str, options: Mapping[str, Any] | None = None) -> str:
    """What the energies of a force field are called, without loading it.

    Of atomate2's and of import paths: the lower-cased name with the package's version, and, as options change energies,
    eight digits of their hash where there are any.
    """
    weights = (options or {}).get("weights")
    if name in CHGNETS:
        if weights is None:
            return CHGNET
        content = Path(weights).read_bytes() if Path(weights).is_file() else str(weights).encode()
        return f"chgnet-{hashlib.sha256(content).hexdigest()[:8]}"
    if name in SEVENNETS:
        return name.lower()
    scheme = name.lower().replace(":", ".")
    version = _version(name)
    if version is not None:
        scheme += f"-{version}"
    if options:
        text = json.dumps(dict(options), sort_keys=True, default=repr)
        scheme += f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return scheme


def missing(name: str, options: Mapping[str, Any] | None = None) -> str | None:
    """Why a force field cannot be used here, with the remedy; None where nothing is missing. Loads nothing."""
    try:
        check_force_field(name, options)
    except ValueError as error:
        return str(error)
    if name in CHGNETS:
        from scdm_models.training.forcefield.network import weights_problem

        weights = (options or {}).get("weights")
        problem = None if weights is None else weights_problem(str(weights))
        return _not_installed(name, "chgnet", "chgnet==0.4.2") or problem
    if name in SEVENNETS:
        return _not_installed(name, "sevenn", "sevenn==0.13.0")
    if ":" not in name:
        return _not_installed(name, *PROGRAMS[name])
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except ImportError:  # of a package above it
        found = False
    if found:
        return None
    return f"the force field {name} needs the module {module}, which is not here; install it for every worker"


def _not_installed(name: str, module: str, distribution: str) -> str | None:
    if importlib.util.find_spec(module) is not None:
        return None
    return f"the force field {name} needs a package that is not installed; install it with pip install {distribution}"


def _version(name: str) -> str | None:
    """Version of the package that an atomate2 name or an import path belongs to; None where it has none."""
    names = [PROGRAMS[name][1]] if name in PROGRAMS else []
    if ":" in name:
        top = name.split(".")[0].split(":")[0]
        names = [top, *metadata.packages_distributions().get(top, [])]
    for distribution in names:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
