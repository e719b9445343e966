"""A stream whose texts go through something on their way to the caller: contents, thoughts, tools' arguments. Data plane.

Each text has a feeder of its own, which may hold some of it back; what is held comes before the event that ends the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.relay import Side
from providers.adapters.base import Operation
from tokenhub.core.sse import Event, EventReader, format_event

_DELTAS: Final[Mapping[str, tuple[str, bool]]] = {
    "text_delta": ("text", False),
    "thinking_delta": ("thinking", False),
    "input_json_delta": ("partial_json", True),
}
"""Anthropic's deltas with texts: the member, and whether it is a piece of JSON."""

_CHAT_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")


class Feeder(Protocol):
    """What one text goes through."""

    def feed(self, text: str) -> str:
        """What can be passed on by now."""

    def finish(self) -> str:
        """What was held."""


Place = tuple[Any, ...]
"""Which text of a stream it is: of which choice or block, and what of it."""


class EditedSide(Side):
    """The inner side with its texts edited by feeders; meanings and usage are the inner side's."""

    def __init__(self, inner: Side, operation: Operation, make: Callable[[Place, bool], Feeder]) -> None:
        self.reading = inner.reading
        self._inner = inner
        self._editor = StreamEditor(operation, make)

    def take(self, event: Event) -> tuple[int, bytes]:
        """The inner side's, with its texts edited."""
        signal, data = self._inner.take(event)
        return signal, self._editor.edit(data) if data else data

    def end(self) -> bytes:
        """The inner side's end, after what is held of texts that nothing ended."""
        return self._end(self._inner.end())

    async def finish(self) -> bytes:
        """The same, once the inner side has finished."""
        return self._end(await self._inner.finish())

    def _end(self, given: bytes) -> bytes:
        if given.startswith((b"data: [DONE]", b"event: message_stop")):
            return self._editor.finish() + given
        edited = self._editor.edit(given)
        return edited + self._editor.finish()


class StreamEditor:
    """Edits the texts in the bytes of a stream in the caller's format. `make(place, within_json)` makes a text's feeder."""

    def __init__(self, operation: Operation, make: Callable[[Place, bool], Feeder]) -> None:
        self._reader = EventReader()
        self._edit = self._edit_message if operation is Operation.ANTHROPIC_MESSAGES else self._edit_chunk
        self._make = make
        self._feeders: dict[Place, Feeder] = {}
        self._last: dict[str, Any] = {}

    def finish(self) -> bytes:
        """What is held of texts that nothing ended."""
        return b"".join(self._flush(lambda place: True))

    def edit(self, data: bytes) -> bytes:
        """Whole events, edited."""
        out: list[bytes] = []
        for event in (*self._reader.feed(data), *self._reader.finish()):
            try:
                told = msgspec.json.decode(event.data) if event.data else None
            except (ValueError, RecursionError):
                told = None
            out += self._edit(event, told) if isinstance(told, dict) else (event.raw,)
        return b"".join(out)

    def _feed(self, place: Place, text: str, *, within_json: bool = False) -> str:
        feeder = self._feeders.get(place)
        if feeder is None:
            feeder = self._feeders[place] = self._make(place, within_json)
        return feeder.feed(text)

    def _flush(self, which: Callable[[Place], bool]) -> Iterator[bytes]:
        """What is held of some texts, as events of their own."""
        for place in [one for one in self._feeders if which(one)]:
            if left := self._feeders.pop(place).finish():
                yield self._write(place, left)

    def _write(self, place: Place, text: str) -> bytes:
        if place[0] == "block":
            _, index, kind = place
            delta = {"type": kind, _DELTAS[kind][0]: text}
            event = {"type": "content_block_delta", "index": index, "delta": delta}
            return format_event(msgspec.json.encode(event), "content_block_delta")
        _, index, name, *tool = place
        if tool:
            call = {"index": tool[0], "function": {"arguments": text}}
            row = {"index": index, "delta": {"tool_calls": [call]}, "finish_reason": None}
        elif name == "text":
            row = {"index": index, "text": text, "finish_reason": None}
        else:
            row = {"index": index, "delta": {name: text}, "finish_reason": None}
        return format_event(msgspec.json.encode({**self._last, "choices": [row]}))

    def _edit_chunk(self, event: Event, told: dict[str, Any]) -> Iterator[bytes]:
        """A chunk of OpenAI's chat or completions."""
        changed = False
        rows = told.get("choices")
        if isinstance(rows, list) and rows:
            self._last = {name: value for name, value in told.items() if name not in ("usage", "choices")}
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict):
                continue
            changed = self._edit_row(row) or changed
            if row.get("finish_reason") is not None:
                index = row.get("index")
                yield from self._flush(lambda place, index=index: place[:2] == ("choice", index))  # type: ignore[misc]
        yield format_event(msgspec.json.encode(told), event.name) if changed else event.raw

    def _edit_row(self, row: dict[str, Any]) -> bool:
        """Edits one choice of a chunk; whether it changed. Its tokens' probabilities go: they would spell the text out."""
        index, delta = row.get("index"), row.get("delta")
        holder = delta if isinstance(delta, dict) else row
        changed = row.get("logprobs") is not None
        if changed:
            row["logprobs"] = None
        for name in (*_CHAT_TEXTS, "text"):
            if isinstance(text := holder.get(name), str) and text:
                holder[name] = left = self._feed(("choice", index, name), text)
                changed = changed or left != text
        calls = holder.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                continue
            if isinstance(text := function.get("arguments"), str) and text:
                place = ("choice", index, "tool", call.get("index"))
                function["arguments"] = left = self._feed(place, text, within_json=True)
                changed = changed or left != text
        return changed

    def _edit_message(self, event: Event, told: dict[str, Any]) -> Iterator[bytes]:
        """An event of Anthropic's."""
        delta, index = told.get("delta"), told.get("index")
        kind = str(delta.get("type")) if isinstance(delta, dict) else ""
        if kind in _DELTAS and isinstance(delta, dict):
            name, within_json = _DELTAS[kind]
            text = delta.get(name)
            if isinstance(text, str) and text:
                left = self._feed(("block", index, kind), text, within_json=within_json)
                if left == text:
                    yield event.raw
                elif left:
                    yield self._write(("block", index, kind), left)
                return
        if told.get("type") == "content_block_stop" or kind == "signature_delta":
            yield from self._flush(lambda place: place[1] == index)
        yield event.raw
