"""What of a configuration is science, and so identifies a campaign, and what only says how and where it is computed.

No science are the objective, the budget, and the engine's fields that are marked ``EXECUTION`` (wall time, version and
limits of a program). Of a file that the engine is given its content is, wherever it lies. Files of structures and of
a generator's model go by their path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from scdm_flows.config.base import EXECUTION, FILE, Frozen, marked

NO_SCIENCE = frozenset({"objective", "budget", "registered"})
# (part, kind, field, default): fields that are younger than campaigns whose hash, of all that was in them, still holds
ADDED_LATER: tuple[tuple[str, str, str, Any], ...] = (
    ("engine", "forcefield", "fix_symmetry", False),
    ("engine", "forcefield", "force_field_options", {}),
    ("engine", "forcefield", "energy_model", None),
    ("engine", "forcefield", "references", None),
    *(
        ("generator", kind, field, default)
        for kind in ("scdm", "unscdm")
        for field, default in (
            ("unknown_formulas", False),
            ("max_predicted_e_hull", None),
            ("gap", None),
            ("magnetic", None),
        )
    ),
    ("generator", "promoted", "candidates", None),
    ("engine", "vasp", "metal_sigma_ev", 0.1),
    ("engine", "vasp", "magnetism", {"orderings": ["fm"], "max_orderings": 3}),
    ("engine", "vasp", "hubbard_u_ev", "none"),
    ("engine", "vasp", "spin_orbit", "off"),
    ("engine", "vasp", "hse_gap", False),
    ("engine", "vasp", "incar", {}),
    ("engine", "vasp", "strain", 0.01),
)


class Registered(Frozen):
    """What the registration of a campaign has fixed, so that it stays who it is whatever becomes of files and code."""

    config_hash: str = Field(pattern="^[0-9a-f]{64}$", description="in every id and uuid of the campaign")
    contents: dict[str, str] = Field(
        default_factory=dict, description="field of the engine that names a file -> sha256 of its content"
    )


def science(config: Any) -> dict[str, Any]:
    """What a ``CampaignConfig`` computes: of execution nothing, of the engine's files what is in them.

    A file that cannot be read here, and whose content no registration has noted, goes by its path.
    """
    found: dict[str, Any] = config.model_dump(mode="json", exclude=set(NO_SCIENCE))
    engine = found["engine"]
    for name in marked(config.engine, EXECUTION):
        engine.pop(name)
    noted = {} if config.registered is None else config.registered.contents
    for name, content in {**contents(config.engine), **noted}.items():
        engine[name] = f"sha256 {content}"
    return found


def science_hash(config: Any) -> str:
    """sha256 of the canonical JSON form of ``science``, 64 hex digits."""
    return _hash(_without_added(science(config)))


def hash_of_all(config: Any, stored: Mapping[str, Any]) -> str:
    """The hash of a campaign from before registrations were noted: of all that was stored of it, execution and paths.

    stored: its configuration as it was stored, which lacks what is younger.
    """
    found = _among(config.model_dump(mode="json", exclude=set(NO_SCIENCE)), stored)
    return _hash(_without_added(found))


def contents(engine: Frozen) -> dict[str, str]:
    """Field of an engine that names a file -> sha256 of its content; without files that cannot be read here."""
    paths = {name: getattr(engine, name) for name in marked(engine, FILE)}
    found = {name: _content(path) for name, path in paths.items() if path is not None}
    return {name: content for name, content in found.items() if content is not None}


def _content(path: str) -> str | None:
    try:
        about = Path(path).stat()
        return _content_of(path, about.st_mtime_ns, about.st_size)
    except OSError:
        return None


@lru_cache(maxsize=32)
def _content_of(path: str, changed: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _among(value: Any, stored: Any) -> Any:
    """The part of a value whose keys are stored."""
    if isinstance(value, dict) and isinstance(stored, Mapping):
        return {key: _among(part, stored[key]) for key, part in value.items() if key in stored}
    if isinstance(value, list) and isinstance(stored, list | tuple) and len(value) == len(stored):
        return [_among(part, one) for part, one in zip(value, stored, strict=True)]
    return value


def _without_added(found: dict[str, Any]) -> dict[str, Any]:
    for part, kind, field, default in ADDED_LATER:
        whole = found.get(part, {})
        for one in (whole, *whole.get("generators", ())):
            if one.get("kind") == kind and field in one and one[field] == default:
                one.pop(field)
    return found


def _hash(found: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
