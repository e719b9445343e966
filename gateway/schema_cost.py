"""How long a check by a JSON Schema may take, before it is made: the library holds the interpreter's lock all the while.

A few references can double the work with every level, of the schema or, where it refers to itself, of the value. Both are counted
in steps (one schema asked about one value) without taking them: each pair is looked at once. Data plane; pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

MOST_STEPS_A_VALUE: Final = 1000
MOST_STEPS: Final = 2_000_000
"""For a whole answer: well under a second."""

MOST_PAIRS: Final = 200_000
DEEPEST: Final = 250

_IN_PLACE: Final = (
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_DATA: Final = frozenset({"const", "enum", "default", "examples", "example"})
"""Members that hold values, not schemas."""
_OF_MEMBERS: Final = ("additionalProperties", "unevaluatedProperties")
_OF_ITEMS: Final = ("items", "additionalItems", "unevaluatedItems", "contains")


class SchemaUnfit(ValueError):
    """A schema by which nothing can be checked: it is no JSON Schema, too large, or refers to what is not in it."""


class TooCostly(ValueError):
    """A value whose check would take too long."""


def measure_alone(schema: Mapping[str, Any]) -> None:
    """Raises SchemaUnfit where a single value would take more than MOST_STEPS_A_VALUE, or the schema is nested too deeply."""
    counted: dict[int, int] = {}

    def count(node: Any, depth: int) -> int:
        if not isinstance(node, Mapping):
            return 0
        if id(node) in counted:
            return counted[id(node)]
        if depth > DEEPEST:
            raise SchemaUnfit("the schema is nested too deeply")
        counted[id(node)] = total = 1
        for child in _list_in_place(schema, node):
            total += count(child, depth + 1)
        if total > MOST_STEPS_A_VALUE:
            raise SchemaUnfit(f"the schema needs over {MOST_STEPS_A_VALUE} steps for a single value")
        counted[id(node)] = total
        return total

    left: list[tuple[Any, int]] = [(schema, 0)]
    while left:
        node, depth = left.pop()
        if depth > DEEPEST:
            raise SchemaUnfit("the schema is nested too deeply")
        if isinstance(node, Mapping):
            _refuse_names(node, root=node is schema)
        count(node, 0)
        if isinstance(node, Mapping):
            children = [child for name, child in node.items() if name not in _DATA]
        else:
            children = node if isinstance(node, list) else []
        left += [(child, depth + 1) for child in children]


def measure_with(schema: Mapping[str, Any], value: Any) -> None:
    """Raises TooCostly where the value would take more than MOST_STEPS, or is nested too deeply."""
    counted: dict[tuple[int, int], int] = {}

    def count(node: Any, item: Any, depth: int) -> int:
        if not isinstance(node, Mapping):
            return 1
        pair = (id(node), id(item))
        if pair in counted:
            return counted[pair]
        if depth > DEEPEST:
            raise TooCostly("it is nested too deeply to be checked")
        if len(counted) > MOST_PAIRS:
            raise TooCostly("it is too large to be checked")
        counted[pair] = total = 1
        for child in _list_in_place(schema, node):
            total += count(child, item, depth + 1)
        for child, inner in _list_within(node, item):
            total += count(child, inner, depth + 1)
        if total > MOST_STEPS:
            raise TooCostly("it takes too long to be checked by this schema")
        counted[pair] = total
        return total

    count(schema, value, 0)


def _list_in_place(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas that are asked about the very value that this one is asked about."""
    for name in _IN_PLACE:
        child = node.get(name)
        if isinstance(child, list):
            yield from child
        elif isinstance(child, Mapping):
            if name.startswith("depend"):
                yield from child.values()
            else:
                yield child
    for name in _REFERENCES:
        reference = node.get(name)
        if isinstance(reference, str):
            yield _follow(schema, reference)


def _list_within(node: Mapping[str, Any], item: Any) -> Iterator[tuple[Any, Any]]:
    """The schemas that may be asked about a value's members or items, each with that one."""
    if isinstance(item, dict):
        named, patterns = node.get("properties"), node.get("patternProperties")
        always = [node[name] for name in _OF_MEMBERS if name in node]
        always += patterns.values() if isinstance(patterns, Mapping) else ()
        for name, inner in item.items():
            if isinstance(named, Mapping) and name in named:
                yield named[name], inner
            for child in always:
                yield child, inner
    elif isinstance(item, list):
        for name in (*_OF_ITEMS, "prefixItems"):
            child = node.get(name)
            for number, inner in enumerate(item if child is not None else ()):
                if not isinstance(child, list):
                    yield child, inner
                elif number < len(child):
                    yield child[number], inner


def _follow(schema: Mapping[str, Any], reference: str) -> Any:
    """What a reference leads to, None where it leads nowhere. `measure_alone` has refused all that are no pointers."""
    found: Any = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _refuse_names(node: Mapping[str, Any], *, root: bool) -> None:
    """What is referred to by a name, or relative to one, can't be followed here, and so not be counted."""
    for name in _REFERENCES:
        reference = node.get(name)
        if (
            isinstance(reference, str)
            and reference != "#"
            and (not reference.startswith("#/") or "%" in reference)
        ):
            raise SchemaUnfit(
                f"{name} {reference[:100]!r}: only pointers into the schema itself are taken (#/…)"
            )
    if not root and isinstance(node.get("$id"), str):
        raise SchemaUnfit("$id is taken at the schema's top only")
