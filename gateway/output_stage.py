"""The stage that holds an answer to the output that was asked for: JSON, or JSON that fits a schema. Data plane.

An answer that does not fit is repaired once, by asking its model again with what is wrong; what does not fit then either is
refused. A stream is held back until it is checked: half of a JSON document is of no use to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.body import SMALL
from gateway.exchange import Exchange
from gateway.inner import InnerCalls
from gateway.json_places import find_places, splice
from gateway.relay import Side
from gateway.schema_check import SchemaCheck, SchemaFault, make_repair
from gateway.schema_cost import SchemaUnfit
from gateway.settle import Account
from gateway.shaping import find_json
from gateway.stripped_answers import list_texts
from providers.adapters.base import Operation
from tokenhub.core.chat import ChatEvent, Finished, PartDelta, PartStarted, PartStopped, Started, UsageSeen
from tokenhub.core.errors import InvalidRequest, OutputInvalid
from tokenhub.core.sse import Event, EventReader
from tokenhub.core.usage import NOTHING_USED

PURPOSE: Final = "repair"
MOST_HELD_BYTES: Final = 4 * 1024 * 1024
"""The longest stream that is held back for its check."""

_HEADER: Final = b"x-tokenhub-output"
_SCHEMAS_KEPT = 64


@lru_cache(_SCHEMAS_KEPT)
def _compile(schema: bytes) -> SchemaCheck:
    return SchemaCheck(msgspec.json.decode(schema))


class CheckedOutput:
    """The stage of one request: JSON of the schema, or any JSON. Raises InvalidRequest for a schema that is none."""

    def __init__(self, inner: InnerCalls, schema: Mapping[str, Any] | None) -> None:
        self._inner = inner
        self._schema = schema
        self._check: SchemaCheck | None = None
        if schema is not None:
            try:
                self._check = _compile(msgspec.json.encode(schema))
            except SchemaUnfit as error:
                raise InvalidRequest(f"output_schema: {error}", param="output_schema") from error

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The answer with its JSON alone in its texts, as the model wrote it or repaired it. Raises OutputInvalid."""
        fitted, text, faults = await _aside(len(answer), self._fit, exchange.wire.bare.operation, answer)
        if not faults:
            exchange.told.append((_HEADER, b"valid"))
            return bytes(fitted)
        repaired = await self._repair(exchange, text, faults)
        exchange.told.append((_HEADER, b"repaired"))
        return repaired

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The stream, held back until it is checked."""
        return _HeldSide(self, exchange, side)

    async def whole_text(self, exchange: Exchange, text: str) -> str:
        """A stream's text, as it is to be told. Raises OutputInvalid."""
        found, faults = await _aside(len(text), self._find, text)
        if not faults:
            exchange.told.append((_HEADER, b"valid"))
            return str(found)
        repaired = await self._repair(exchange, text, faults)
        exchange.told.append((_HEADER, b"repaired"))
        [(_, left)] = list_texts(exchange.wire.bare.operation, msgspec.json.decode(repaired))
        return left

    def _find(self, text: str) -> tuple[str, tuple[SchemaFault, ...]]:
        """The JSON in a text, and what is wrong with it."""
        found = find_json(text)
        if found is None:
            return text, (SchemaFault("", "it is not valid JSON"),)
        return found, self._check.check(found) if self._check is not None else ()

    def _fit(self, operation: Operation, answer: bytes) -> tuple[bytes, str, tuple[SchemaFault, ...]]:
        """The answer with its JSON alone; or the text that does not fit, and why. One that calls tools says nothing yet."""
        changes = {}
        for path, text in list_texts(operation, msgspec.json.decode(answer)):
            if not text:
                continue
            found, faults = self._find(text)
            if faults:
                return answer, text, faults
            if found != text:
                changes[path] = msgspec.json.encode(found)
        if not changes:
            return answer, "", ()
        places = find_places(answer, changes).items()
        return splice(answer, [(*span, changes[path]) for path, span in places]), "", ()

    async def _repair(self, exchange: Exchange, text: str, faults: tuple[SchemaFault, ...]) -> bytes:
        body = exchange.body.data
        more = make_repair(text, faults, self._schema or {"type": ["object", "array"]})
        asked = {**body, "messages": [*body["messages"], *more], "stream": False}
        asked.pop("stream_options", None)
        answer = await self._inner.ask(exchange, asked, PURPOSE)
        fitted, _, faults = await _aside(len(answer), self._fit, exchange.wire.bare.operation, answer)
        if faults:
            raise OutputInvalid(
                "the model's answer does not fit the output that was asked for, nor does its repair",
                hint="ask a stronger model (min_weight), or for a simpler schema",
                details={"faults": [{"path": fault.path, "message": fault.message} for fault in faults]},
            )
        return bytes(fitted)


async def _aside(size: int, work: Any, *arguments: Any) -> Any:
    return work(*arguments) if size <= SMALL else await asyncio.to_thread(work, *arguments)


class _HeldSide(Side):
    """Holds a stream until its end, and gives it as it was where it fits, else written anew."""

    def __init__(self, stage: CheckedOutput, exchange: Exchange, inner: Side) -> None:
        self.reading = inner.reading
        self._stage = stage
        self._exchange = exchange
        self._inner = inner
        self._held = bytearray()

    def take(self, event: Event) -> tuple[int, bytes]:
        """What the event means; its bytes stay here. Raises OutputInvalid where they become too many."""
        signal, data = self._inner.take(event)
        self._held += data
        if len(self._held) > MOST_HELD_BYTES:
            raise OutputInvalid(f"the answer is over {MOST_HELD_BYTES} bytes, too long to be checked")
        return signal, b""

    def end(self) -> bytes:
        """What was held. `finish` is asked of a stream that is whole."""
        return bytes(self._held) + self._inner.end()

    async def finish(self) -> bytes:
        """The stream as it came, or its text alone where that is another one. Raises OutputInvalid."""
        end = await self._inner.finish()
        text, tools = _read_text(self._exchange.wire.bare.operation, bytes(self._held))
        if tools or not text:
            return bytes(self._held) + end
        fitting = await self._stage.whole_text(self._exchange, text)
        if fitting == text:
            return bytes(self._held) + end
        return self._write(fitting)

    def _write(self, text: str) -> bytes:
        """A stream of this text, in the caller's format."""
        exchange, reading = self._exchange, self.reading
        encoder = exchange.wire.stream_encoder(model=exchange.asked, call=exchange.get_call())
        events: list[ChatEvent] = [
            Started(exchange.request_id, reading.model or exchange.asked, int(exchange.snapshot.created_at)),
            PartStarted(0, "text"),
            PartDelta(0, text),
            PartStopped(0),
            Finished("stop"),
            UsageSeen(reading.usage or NOTHING_USED),
        ]
        return encoder.encode(events) + encoder.end()


def _read_text(operation: Operation, held: bytes) -> tuple[str, bool]:
    """The text of a stream in the caller's format (of its first answer), and whether it calls tools."""
    reader = EventReader()
    pieces: list[str] = []
    tools = False
    for event in (*reader.feed(held), *reader.finish()):
        try:
            told = msgspec.json.decode(event.data or b"null")
        except ValueError:
            continue
        if not isinstance(told, dict):
            continue
        if operation is Operation.ANTHROPIC_MESSAGES:
            pieces.append((told.get("delta") or {}).get("text") or "")
            tools = tools or (told.get("content_block") or {}).get("type") == "tool_use"
            continue
        for choice in told.get("choices") or ():
            delta = choice.get("delta") or {}
            if not choice.get("index"):
                pieces.append(delta.get("content") or "")
            tools = tools or bool(delta.get("tool_calls"))
    return "".join(pieces), tools
