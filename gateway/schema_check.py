"""Whether an answer fits a JSON Schema, and what to say to a model whose answer does not. Data plane; pure.

In a file of its own, since the library takes memory that a worker which checks nothing need not spend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import msgspec

MOST_ERRORS: Final = 20
MOST_SCHEMA_BYTES: Final = 64 * 1024
MOST_SCHEMA_STEPS: Final = 1000
_LONGEST_TOLD = 300
_BACKTRACKING = 100_000
_IN_PLACE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaUnfit(ValueError):
    """A schema by which nothing can be checked: it is no JSON Schema, too large, or refers to what is not in it."""


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """One thing in an answer that the schema refuses: its JSON path ("" = the whole) and why."""

    path: str
    message: str


class SchemaCheck:
    """A compiled JSON Schema: drafts 4 to 2020-12 by its `$schema`, 2020-12 where it has none. Fetches nothing.

    Raises SchemaUnfit. Patterns are ECMA's, with a bounded number of steps back.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = dict(schema)
        size = len(msgspec.json.encode(self._schema))
        if size > MOST_SCHEMA_BYTES:
            raise SchemaUnfit(f"the schema has {size} bytes, and at most {MOST_SCHEMA_BYTES} are taken")
        _refuse_explosions(self._schema)
        try:
            self._validator = jsonschema_rs.validator_for(
                self._schema,
                offline=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKING),
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise SchemaUnfit(_tell(error)) from error

    def check(self, text: str) -> tuple[SchemaFault, ...]:
        """What is wrong with a JSON text, at most MOST_ERRORS faults; empty: nothing."""
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            return (SchemaFault("", f"it is not valid JSON: {error}"),)
        faults = []
        for fault in self._validator.iter_errors(value):
            faults.append(SchemaFault(_write_place(fault.instance_path), _tell(fault)))
            if len(faults) == MOST_ERRORS:
                break
        return tuple(faults)


def _tell(error: Exception) -> str:
    message = str(getattr(error, "message", "") or error)
    return message if len(message) <= _LONGEST_TOLD else message[:_LONGEST_TOLD] + "…"


def _write_place(path: Sequence[str | int]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _refuse_explosions(schema: Mapping[str, Any]) -> None:
    """Raises SchemaUnfit where one value would be looked at more than MOST_SCHEMA_STEPS times: references double cheaply."""
    counted: dict[int, int] = {}

    def count(node: Any, depth: int) -> int:
        if not isinstance(node, Mapping):
            return 0
        if id(node) in counted:
            return counted[id(node)]
        if depth > MOST_SCHEMA_STEPS // 4:
            raise SchemaUnfit("the schema is nested too deeply")
        counted[id(node)] = total = 1
        for child in _list_in_place(schema, node):
            total += count(child, depth + 1)
        if total > MOST_SCHEMA_STEPS:
            raise SchemaUnfit(f"the schema needs over {MOST_SCHEMA_STEPS} steps for a single value")
        counted[id(node)] = total
        return total

    level: list[tuple[Any, int]] = [(schema, 0)]
    while level:
        node, depth = level.pop()
        if depth > MOST_SCHEMA_STEPS // 4:
            raise SchemaUnfit("the schema is nested too deeply")
        count(node, 0)
        children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
        level += [(child, depth + 1) for child in children]


def _list_in_place(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas that are asked about the very value that this one is asked about."""
    for name in _IN_PLACE:
        child = node.get(name)
        if isinstance(child, list):
            yield from child
        elif name == "dependentSchemas" and isinstance(child, Mapping):
            yield from child.values()
        elif isinstance(child, Mapping):
            yield child
    for name in _REFERENCES:
        reference = node.get(name)
        if isinstance(reference, str) and reference.startswith("#"):
            yield _follow(schema, reference)


def _follow(schema: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the document leads to; nothing where it is an anchor, which the library resolves."""
    found: Any = schema
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def make_repair(
    answer: str, faults: Sequence[SchemaFault], schema: Mapping[str, Any]
) -> list[dict[str, str]]:
    """The messages to append for the one repair attempt, in OpenAI's shape: the answer, and what is wrong with it."""
    told = "\n".join(f"- {fault.path or 'the whole'}: {fault.message}" for fault in faults)
    wish = (
        "Your answer does not fit the JSON Schema that it must fit:\n"
        f"{told}\n\nThe schema:\n{msgspec.json.encode(dict(schema)).decode()}\n\n"
        "Answer again with the corrected JSON alone: no prose, no code fence."
    )
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": wish}]
