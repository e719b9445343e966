"""Opens a request: out of its envelope, checked, and without the directives in its texts. Data plane."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gateway.body import SMALL, Body
from gateway.directives import MARK, Directives, are_allowed, merge, strip_body, take_directives
from gateway.exchange import Exchange
from gateway.inner import InnerCalls
from gateway.output_stage import CheckedOutput
from gateway.shaping import clamp_limit
from gateway.stages import AnswerStage
from gateway.stripped_answers import WithoutThoughts
from providers.adapters.base import Operation

DIRECTED: Final = frozenset(
    {
        Operation.OPENAI_CHAT,
        Operation.OPENAI_COMPLETIONS,
        Operation.ANTHROPIC_MESSAGES,
        Operation.ANTHROPIC_COUNT_TOKENS,
        Operation.TOKENHUB_CHAT,
    }
)
"""The operations in whose texts directives may stand."""

_TURN: Final = 1024 * 1024
"""Bytes that are searched between two turns of the loop, in about half a millisecond."""


_WITHOUT_THOUGHTS: Final = WithoutThoughts()


async def open_request(exchange: Exchange, inner: InnerCalls) -> None:
    """Checks the body, and sets `exchange.body` to what may go on and `exchange.directives` to what was asked.

    Raises InvalidRequest with the JSON path.
    """
    body, wire = exchange.body, exchange.wire
    marked = body.raw.find(MARK) >= 0 if len(body.raw) <= SMALL else await _holds_mark(body.raw)
    if wire.wraps:
        _open_envelope(exchange, marked=marked)
    else:
        wire.check(body.data)
        await _take_directives(exchange, marked=marked)
    directives = exchange.directives
    if directives is None or wire.operation is Operation.ANTHROPIC_COUNT_TOKENS:
        return
    stages: list[AnswerStage] = [_WITHOUT_THOUGHTS] if directives.strip_think else []
    if asks_for_output(directives) and wire.operation is not Operation.OPENAI_COMPLETIONS:
        stages.append(CheckedOutput(inner, directives.output_schema))
    exchange.stages = tuple(stages)


async def _take_directives(exchange: Exchange, *, marked: bool) -> None:
    body, wire = exchange.body, exchange.wire
    if marked and wire.operation in DIRECTED and are_allowed(exchange.snapshot, exchange.key):
        if len(body.raw) <= SMALL:
            directives, body = strip_body(body, wire.operation)
        else:
            directives, body = await asyncio.to_thread(strip_body, body, wire.operation)
        exchange.directives = directives
        exchange.body = _shaped(body, wire.operation, directives) if directives is not None else body


async def _holds_mark(raw: bytes | bytearray) -> bool:
    for start in range(0, len(raw), _TURN):
        if raw.find(MARK, start, start + _TURN + len(MARK) - 1) >= 0:
            return True
        await asyncio.sleep(0)
    return False


def asks_for_output(directives: Directives) -> bool:
    """Whether the answer has to be JSON, of a schema or of any kind."""
    return directives.output_schema is not None or directives.output == "json"


def _shaped(body: Body, operation: Operation, directives: Directives) -> Body:
    """The body with its bound on tokens lowered to the directive's, or set, and with the output that is asked for, where it asks
    for none itself."""
    changes: dict[str, Any] = {}
    if directives.max_tokens:
        changes |= clamp_limit(body.data, operation, directives.max_tokens)
    if operation is Operation.OPENAI_CHAT and "response_format" not in body.data:
        changes |= _response_format(directives) | _say_json(body, directives)
    if operation is Operation.ANTHROPIC_MESSAGES and directives.output == "json":
        changes |= _say_json_to_anthropic(body, directives)
    if operation is Operation.ANTHROPIC_MESSAGES and directives.output_schema is not None:
        config = body.data.get("output_config")
        if "output_format" not in body.data and not (isinstance(config, dict) and "format" in config):
            wanted = {"type": "json_schema", "schema": directives.output_schema}
            changes["output_config"] = {**(config if isinstance(config, dict) else {}), "format": wanted}
    return Body(body.edited(changes), {**body.data, **changes}) if changes else body


def _open_envelope(exchange: Exchange, *, marked: bool) -> None:
    """An envelope is never forwarded itself, so that its members alone are edited."""
    wire = exchange.wire
    data, directives = wire.unwrap(exchange.body.data)
    wire.check(data)
    if marked and are_allowed(exchange.snapshot, exchange.key):
        in_band, _ = take_directives(data, Operation.OPENAI_CHAT, "request.")
        if in_band is not None:
            directives = merge(directives, in_band)
    if directives.max_tokens:
        data.update(clamp_limit(data, Operation.OPENAI_CHAT, directives.max_tokens))
    if "response_format" not in data:
        data.update(_response_format(directives))
        data.update(_say_json(Body(exchange.body.raw, data), directives))
    exchange.directives = directives
    exchange.body = Body(exchange.body.raw, data)


JSON_ALONE: Final = "Answer with one JSON document and nothing else."
"""Without a schema a model has to be told; OpenAI refuses `json_object` for messages in which the word does not stand."""


def _say_json(body: Body, directives: Directives) -> dict[str, Any]:
    if directives.output_schema is not None or directives.output != "json" or b"json" in body.raw.lower():
        return {}
    return {"messages": [{"role": "system", "content": JSON_ALONE}, *body.data["messages"]]}


def _say_json_to_anthropic(body: Body, directives: Directives) -> dict[str, Any]:
    """It has no member for JSON without a schema."""
    if directives.output_schema is not None:
        return {}
    system = body.data.get("system")
    if isinstance(system, list):
        return {"system": [*system, {"type": "text", "text": JSON_ALONE}]}
    return {"system": f"{system}\n\n{JSON_ALONE}" if isinstance(system, str) and system else JSON_ALONE}


def _response_format(directives: Directives) -> dict[str, Any]:
    """OpenAI's member for the output that was asked; none for prose."""
    if directives.output_schema is not None:
        schema = {"name": "output", "schema": directives.output_schema}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": "json_object"}} if directives.output == "json" else {}
