"""Opens a request: out of its envelope, checked, and without the directives in its texts. Data plane."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from gateway.body import SMALL, Body
from gateway.directives import MARK, Directives, are_allowed, merge, strip_body, take_directives
from gateway.exchange import Exchange
from gateway.shaping import clamp_limit
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


async def open_request(exchange: Exchange) -> None:
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
    if exchange.directives is not None and exchange.directives.strip_think:
        exchange.stages = (_WITHOUT_THOUGHTS,)


async def _take_directives(exchange: Exchange, *, marked: bool) -> None:
    body, wire = exchange.body, exchange.wire
    if marked and wire.operation in DIRECTED and are_allowed(exchange.snapshot, exchange.key):
        if len(body.raw) <= SMALL:
            directives, body = strip_body(body, wire.operation)
        else:
            directives, body = await asyncio.to_thread(strip_body, body, wire.operation)
        exchange.directives = directives
        exchange.body = _clamped(body, wire.operation, directives) if directives is not None else body


async def _holds_mark(raw: bytes | bytearray) -> bool:
    for start in range(0, len(raw), _TURN):
        if raw.find(MARK, start, start + _TURN + len(MARK) - 1) >= 0:
            return True
        await asyncio.sleep(0)
    return False


def _clamped(body: Body, operation: Operation, directives: Directives) -> Body:
    """The body with its bound on tokens lowered to the directive's, or set."""
    changes = clamp_limit(body.data, operation, directives.max_tokens) if directives.max_tokens else {}
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
    data.update(_response_format(directives))
    exchange.directives = directives
    exchange.body = Body(exchange.body.raw, data)


def _response_format(directives: Directives) -> dict[str, Any]:
    """OpenAI's member for the output that was asked; none for prose."""
    if directives.output_schema is not None:
        schema = {"name": "output", "schema": directives.output_schema}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": "json_object"}} if directives.output == "json" else {}
