"""YAML files that people write, read with limits: no file, however odd, takes long or fills the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 1 << 20
DEEPEST = 40  # levels of lists and mappings in each other; a database takes 100
MOST_VALUES = 100_000  # with every alias written out


class YamlRuleError(Exception):
    """A file that is YAML, but larger, deeper or more ambiguous than allowed; its text tells no value of the file."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    """Refuses deep nesting while it reads, which would otherwise end in Python's own limit."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        try:
            if self.depth > DEEPEST:
                line = self.peek_event().start_mark.line + 1
                raise YamlRuleError(f"line {line}: more than {DEEPEST} levels of nesting; write it flatter")
            found: yaml.Node | None = super().compose_node(parent, index)
            return found
        finally:
            self.depth -= 1


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; None where it is empty.

    Raises
    ------
    OSError
        If it cannot be read.
    yaml.YAMLError
        If it is no YAML.
    YamlRuleError
        If it breaks a limit, gives a key of a mapping twice, or holds a number or date that does not exist.
    """
    with path.open("rb") as handle:
        data = handle.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise YamlRuleError(f"larger than {LARGEST_BYTES >> 20} MiB; it is hardly the file that was meant")
    try:
        return parse_yaml(data.decode())
    except UnicodeDecodeError as error:
        raise YamlRuleError(f"byte {error.start} is no UTF-8; save it as UTF-8") from None


def parse_yaml(text: str) -> Any:
    """The content of a YAML text; see ``read_yaml``."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        twice: list[str] = []
        _measure(node, {}, twice)
        if twice:
            raise YamlRuleError("; ".join(twice[:20]))
        return loader.construct_document(node)
    except ValueError:  # of Python: a date that does not exist, a number of thousands of digits
        raise YamlRuleError("a number or date in it cannot be read; put it in quotes if it is text") from None
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None], twice: list[str]) -> tuple[int, int]:
    """(values, levels) of a node with every alias written out; keys that are given twice are appended to ``twice``.

    known: what was found of nodes before, None of those around this one. Aliases point back, so each node is visited
    once.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise YamlRuleError(f"line {node.start_mark.line + 1}: it holds itself; write out what is meant")
        return found
    known[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        twice += _keys_given_twice(node)
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
    values, levels = 1, 0
    for part in parts:
        more, deeper = _measure(part, known, twice)
        values, levels = values + more, max(levels, deeper)
    if values > MOST_VALUES or levels >= DEEPEST:
        line = node.start_mark.line + 1
        raise YamlRuleError(
            f"line {line}: with its aliases written out it has more than {MOST_VALUES} values or {DEEPEST} levels; "
            "write out what is meant"
        )
    known[id(node)] = values, levels + 1
    return values, levels + 1


def _keys_given_twice(node: yaml.MappingNode) -> list[str]:
    lines: dict[tuple[str, str], int] = {}
    found = []
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            found.append(f"key {key.value[:100]!r} is given twice, in lines {lines[name]} and {line}; remove one")
        lines.setdefault(name, line)
    return found
