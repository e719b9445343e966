"""Whether an answer fits a JSON Schema, and what to say to a model whose answer does not. Data plane; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import msgspec

from gateway.schema_cost import SchemaUnfit, TooCostly, measure_alone, measure_with

MOST_ERRORS: Final = 20
MOST_SCHEMA_BYTES: Final = 64 * 1024
_LONGEST_TOLD = 300
_BACKTRACKING = 100_000


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
        measure_alone(self._schema)
        try:
            self._validator = jsonschema_rs.validator_for(
                self._schema,
                offline=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKING),
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise SchemaUnfit(_tell(error)) from error

    def check(self, text: str) -> tuple[SchemaFault, ...]:
        """What is wrong with a JSON text, at most MOST_ERRORS faults; empty: nothing. What would take too long to tell is wrong."""
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            return (SchemaFault("", f"it is not valid JSON: {error}"),)
        try:
            measure_with(self._schema, value)
        except TooCostly as error:
            return (SchemaFault("", str(error)),)
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
