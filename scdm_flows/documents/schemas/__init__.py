"""JSON Schemas of all documents, kept beside this file so that no field changes unnoticed.

``python -m scdm_flows.documents.schemas`` writes them anew. It refuses a change that documents in a database would not
survive (a field removed, renamed, required, or of another type) until the class's ``schema_version`` is raised.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

FOLDER = Path(__file__).parent
COMMAND = "python -m scdm_flows.documents.schemas"
# values that read as before when these change
_WORDS = ("description", "title", "queryable", "indexed", "default", "examples")


def documents() -> dict[str, type[BaseModel]]:
    """Class name -> class, of every document of the package that is no part of another."""
    import scdm_flows.documents as package
    from scdm_flows.documents.base import ScdmDocument

    found: dict[str, type[BaseModel]] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.ispkg:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            is_model = inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__ == module.name
            if is_model and not name.startswith("_") and value is not ScdmDocument:
                found[name] = value
    parts = {part for model in found.values() for part in model.model_json_schema().get("$defs", {})}
    return {name: found[name] for name in sorted(found) if name not in parts}


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The class's JSON Schema (validation mode)."""
    return model.model_json_schema()


def stored(name: str) -> dict[str, Any] | None:
    """The snapshot of a class, None where there is none."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def version(of: Mapping[str, Any]) -> int:
    """The schema_version that a JSON Schema states; 1 where it states none."""
    return int(of.get("properties", {}).get("schema_version", {}).get("default", 1))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What changed between two schemas, in words: (what stored documents survive, what they do not)."""
    harmless: list[str] = []
    breaking: list[str] = []
    old, new = dict(_classes(before)), dict(_classes(after))
    for name in sorted(set(old) | set(new)):
        if name not in new or name not in old:
            continue  # the field that refers to it has changed as well
        for field in sorted(set(old[name]["properties"]) | set(new[name]["properties"])):
            one, other = old[name]["properties"].get(field), new[name]["properties"].get(field)
            required = field in new[name].get("required", ())
            if one is None:
                (breaking if required else harmless).append(f"{name}.{field} is new" + " and required" * required)
            elif other is None:
                breaking.append(f"{name}.{field} is gone")
            elif _plain(one) != _plain(other):
                (harmless if _wider(one, other) else breaking).append(f"{name}.{field} is of another type")
            elif required and field not in old[name].get("required", ()):
                breaking.append(f"{name}.{field} is required now")
            elif one != other:
                harmless.append(f"{name}.{field} is described in other words")
        if old[name].get("enum") != new[name].get("enum"):
            gone = set(old[name].get("enum", [])) - set(new[name].get("enum", []))
            (breaking if gone else harmless).append(f"{name} has other values")
    return harmless, breaking


def _classes(of: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in [(str(of.get("title")), of), *of.get("$defs", {}).items()]:
        yield name, {"properties": {}, **part}


def _plain(field: Any) -> Any:
    """A field's schema without its words."""
    if isinstance(field, Mapping):
        return {k: _plain(v) for k, v in field.items() if k not in _WORDS}
    return [_plain(v) for v in field] if isinstance(field, list) else field


def _wider(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether every value that was allowed still is: the old type is one of the new ones."""
    kinds = [_plain(kind) for kind in after.get("anyOf", [])]
    return all(_plain(kind) in kinds for kind in before.get("anyOf", [before]))


def what_to_do(name: str, harmless: list[str], breaking: list[str], *, raised: bool) -> str:
    """A failed test's message."""
    changes = "; ".join([*breaking, *harmless]) or "its schema differs"
    if breaking and not raised:
        return (
            f"{name}: {changes}. Documents in a database would not survive that: set its schema_version to "
            "versioned(N+1), add the step from N to scdm_flows/documents/migrations.py with a test, then run "
            f"`{COMMAND}` (with --accept, and no new version, only if no database holds such documents yet)"
        )
    return f"{name}: {changes}. Stored documents survive that: run `{COMMAND}` and commit the file"


def write(*, accept: bool = False) -> tuple[list[str], list[str]]:
    """Write the schemas anew; returns (classes written or removed, refused changes in words).

    accept: also changes that stored documents do not survive.
    """
    written, refused = [], []
    models = documents()
    for name, model in models.items():
        before, after = stored(name), schema(model)
        if before == after:
            continue
        harmless, breaking = differences(before or after, after)
        raised = before is not None and version(after) > version(before)
        if breaking and not raised and not accept:
            refused.append(what_to_do(name, harmless, breaking, raised=raised))
            continue
        (FOLDER / f"{name}.json").write_text(json.dumps(after, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        written.append(name)
    for path in FOLDER.glob("*.json"):
        if path.stem not in models:
            path.unlink()
            written.append(path.stem)
    return written, refused
