"""Answers without the thoughts that a model wrote into their texts: whole ones and streams, in each caller's format. Data plane.

Where nothing is taken out, the bytes pass as they are. A whole answer is edited in place; an event of a stream that changes is
written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.body import SMALL
from gateway.exchange import Exchange
from gateway.json_places import Path, find_places, splice
from gateway.relay import Side
from gateway.settle import Account
from gateway.shaping import ThinkStripper, strip_thoughts
from providers.adapters.base import Operation
from tokenhub.core.sse import Event, EventReader, format_event


class WithoutThoughts:
    """The stage that strips thoughts."""

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The answer without the thoughts at the beginning of its texts."""
        if len(answer) <= SMALL:
            return strip_answer(exchange.wire.operation, answer)
        return await asyncio.to_thread(strip_answer, exchange.wire.operation, answer)

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The stream likewise."""
        return StrippedSide(side, exchange.wire.operation)


def strip_answer(operation: Operation, body: bytes) -> bytes:
    """A whole answer without the thoughts at the beginning of its texts."""
    try:
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return body
    changes = {}
    for path, text in list_texts(operation, answer):
        if (stripped := strip_thoughts(text)) != text:
            changes[path] = msgspec.json.encode(stripped)
    if not changes:
        return body
    return splice(body, [(*span, changes[path]) for path, span in find_places(body, changes).items()])


def list_texts(operation: Operation, answer: Any) -> Iterator[tuple[Path, str]]:
    """Where the texts of a whole answer stand, and what they are."""
    if not isinstance(answer, dict):
        return
    if operation is Operation.ANTHROPIC_MESSAGES:
        for number, block in _objects(answer.get("content")):
            if block.get("type") == "text" and isinstance(block.get("text"), str):
                yield ("content", number, "text"), block["text"]
        return
    for number, choice in _objects(answer.get("choices")):
        message = choice.get("message")
        if isinstance(choice.get("text"), str):
            yield ("choices", number, "text"), choice["text"]
        elif isinstance(message, dict) and isinstance(message.get("content"), str):
            yield ("choices", number, "message", "content"), message["content"]


def _objects(items: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield number, item


class StrippedSide(Side):
    """A side whose texts lose their thoughts on the way to the caller. Meanings and usage are the inner side's.

    What a stripper still holds when the provider's stream breaks off is at most a tag's beginning, and is not sent.
    """

    def __init__(self, inner: Side, operation: Operation) -> None:
        self.reading = inner.reading
        self._inner = inner
        self._reader = EventReader()
        self._edit = self._edit_message if operation is Operation.ANTHROPIC_MESSAGES else self._edit_chunk
        self._strippers: dict[int, ThinkStripper] = {}
        self._last: Mapping[str, Any] = {}

    def take(self, event: Event) -> tuple[int, bytes]:
        """The inner side's, with its texts stripped."""
        signal, data = self._inner.take(event)
        return signal, self._strip(data) if data else data

    def end(self) -> bytes:
        """The inner side's end, after what was held of a stream that told no reason for its end."""
        return self._end(self._inner.end())

    async def finish(self) -> bytes:
        """The same, once the inner side has finished."""
        return self._end(await self._inner.finish())

    def _end(self, given: bytes) -> bytes:
        end = self._strip(given)
        held = b""
        for index, stripper in self._strippers.items():
            if self._last and (text := stripper.finish()):
                chat = "delta" in self._last["choices"][0]
                place = {"delta": {"content": text}} if chat else {"text": text}
                row = {"index": index, **place, "finish_reason": None}
                held += format_event(msgspec.json.encode({**self._last, "choices": [row]}))
        return held + end

    def _strip(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in (*self._reader.feed(data), *self._reader.finish()):
            try:
                told = msgspec.json.decode(event.data) if event.data else None
            except (ValueError, RecursionError):
                told = None
            out += self._edit(event, told) if isinstance(told, dict) else (event.raw,)
        return b"".join(out)

    def _stripper(self, index: Any) -> ThinkStripper:
        return self._strippers.setdefault(index if isinstance(index, int) else 0, ThinkStripper())

    def _edit_chunk(self, event: Event, told: dict[str, Any]) -> Iterator[bytes]:
        """A chunk of OpenAI's chat or completions."""
        changed, idle = False, not told.get("usage")
        for _, choice in _objects(told.get("choices")):
            delta = choice.get("delta")
            holder, name = (delta, "content") if isinstance(delta, dict) else (choice, "text")
            stripper = self._stripper(choice.get("index"))
            text = holder.get(name)
            left = stripper.feed(text) if isinstance(text, str) else ""
            if choice.get("finish_reason") is not None:
                left += stripper.finish()
                idle = False
            if left != (text or ""):
                holder[name] = left
                changed = True
            idle = idle and not left and not _holds_more(holder, name)
            self._last = {key: value for key, value in told.items() if key != "usage"}
        if not changed:
            yield event.raw
        elif not idle:
            yield format_event(msgspec.json.encode(told), event.name)

    def _edit_message(self, event: Event, told: dict[str, Any]) -> Iterator[bytes]:
        """An event of Anthropic's."""
        delta = told.get("delta")
        if (
            isinstance(delta, dict)
            and delta.get("type") == "text_delta"
            and isinstance(delta.get("text"), str)
        ):
            left = self._stripper(told.get("index")).feed(delta["text"])
            if left == delta["text"]:
                yield event.raw
            elif left:
                yield _text_delta(told.get("index"), left)
            return
        if told.get("type") == "content_block_stop":
            held = self._stripper(told.get("index")).finish()
            if held:
                yield _text_delta(told.get("index"), held)
        yield event.raw


def _text_delta(index: Any, text: str) -> bytes:
    event = {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}
    return format_event(msgspec.json.encode(event), "content_block_delta")


def _holds_more(holder: Mapping[str, Any], name: str) -> bool:
    """Whether a delta has something besides its text that a client waits for."""
    ours = (name, "index", "logprobs", "finish_reason")
    return any(value not in (None, "", [], {}) for key, value in holder.items() if key not in ours)
