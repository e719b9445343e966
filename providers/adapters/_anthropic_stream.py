"""Reads Anthropic's Messages streams: a watch for native ones, a decoder for translated ones. Data plane;
pure, no I/O.

Until `message_delta` came (Signal.FINISH), `usage` holds the input side alone, marked `usage.method ==
INPUT_ONLY`: the output figure of `message_start` is a placeholder and is never billed. A stream that is cut
there is settled with that input and an estimate of the output from `output_characters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from providers.adapters._anthropic_errors import classify_event
from providers.adapters._anthropic_messages import (
    merge_usage,
    name_content,
    read_finish,
    read_input_usage,
    read_usage,
)
from providers.adapters.base import Signal, StreamDecoder, StreamWatch
from tokenhub.core.chat import (
    ChatEvent,
    Ended,
    Finished,
    Losses,
    PartDelta,
    PartStarted,
    PartStopped,
    SignatureDelta,
    Started,
    UsageSeen,
)
from tokenhub.core.usage import Usage

_Kind = Literal["text", "thinking", "redacted_thinking", "tool_call", "refusal"]


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Typed(msgspec.Struct):
    type: str = ""


class _MessageStart(msgspec.Struct):
    message: _Message


class _BlockStart(msgspec.Struct):
    content_block: _Block
    index: int = 0


class _BlockDelta(msgspec.Struct):
    delta: _Delta
    index: int = 0


class _BlockStop(msgspec.Struct):
    index: int = 0


class _MessageDelta(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    usage: dict[str, Any] | None = None


_read_type = msgspec.json.Decoder(_Typed).decode
_read_message_start = msgspec.json.Decoder(_MessageStart).decode
_read_block_start = msgspec.json.Decoder(_BlockStart).decode
_read_block_delta = msgspec.json.Decoder(_BlockDelta).decode
_read_block_stop = msgspec.json.Decoder(_BlockStop).decode
_read_message_delta = msgspec.json.Decoder(_MessageDelta).decode

_STARTED_EMPTY: Final = frozenset({"text", "thinking"})
"""Blocks whose start carries nothing; the start of any other one already shows content to the caller."""


class _Ledger:
    """A stream's accounting, alike for watch and decoder: the usage object so far, merged."""

    __slots__ = ("_raw",)

    def __init__(self) -> None:
        self._raw: dict[str, Any] = {}

    def start(self, usage: dict[str, Any] | None) -> Usage | None:
        if usage is None:
            return None
        self._raw = merge_usage(self._raw, usage)
        return read_input_usage(self._raw)

    def total(self, usage: dict[str, Any] | None) -> Usage | None:
        if usage is None:
            return None
        self._raw = merge_usage(self._raw, usage)
        return read_usage(self._raw)


class MessagesWatch(StreamWatch):
    """Reads along with one native Messages stream."""

    def __init__(self) -> None:
        self._ledger = _Ledger()

    def see(self, name: str, data: bytes) -> Signal:
        """What this event means. `name` may be empty: the data's own `type` then decides."""
        try:
            if name == "content_block_delta":
                return self._see_delta(data)
            return self._see_other(name or _read_type(data).type, data)
        except ValueError:
            return Signal.MALFORMED

    def _see_other(self, name: str, data: bytes) -> Signal:
        if name == "content_block_delta":
            return self._see_delta(data)
        if name == "content_block_start":
            block = _read_block_start(data).content_block
            shown = block.text or block.thinking or block.type not in _STARTED_EMPTY
            self.output_characters += _count_start(block)
            return Signal.CONTENT if shown else Signal.NONE
        if name == "message_start":
            return self._see_start(_read_message_start(data).message)
        if name == "message_delta":
            return self._see_end(_read_message_delta(data))
        if name == "message_stop":
            return Signal.END
        if name == "error":
            self.failure = classify_event(data)
            return Signal.ERROR
        return Signal.NONE

    def _see_delta(self, data: bytes) -> Signal:
        delta = _read_block_delta(data).delta
        text = delta.text or delta.partial_json or delta.thinking
        if text:
            self.output_characters += len(text)
            return Signal.CONTENT
        # An empty text or an empty piece of JSON shows nothing; citations, signatures and new kinds do.
        known = (delta.text, delta.partial_json, delta.thinking)
        return Signal.CONTENT if known == (None, None, None) else Signal.NONE

    def _see_start(self, message: _Message) -> Signal:
        self.model = message.model or ""
        self.usage = self._ledger.start(message.usage)
        return Signal.USAGE if self.usage is not None else Signal.NONE

    def _see_end(self, event: _MessageDelta) -> Signal:
        signal = Signal.NONE
        if (usage := self._ledger.total(event.usage)) is not None:
            self.usage = usage
            signal |= Signal.USAGE
        if event.delta.stop_reason:
            self.finish_reason = event.delta.stop_reason
            signal |= Signal.FINISH
        return signal


class _Part:
    """An open block's number among the parts, its kind, and the input that its start brought."""

    __slots__ = ("early_input", "kind", "number")

    def __init__(self, number: int, kind: _Kind, early_input: str = "") -> None:
        self.number = number
        self.kind: _Kind = kind
        self.early_input = early_input


class MessagesDecoder(StreamDecoder):
    """Turns one Messages stream into ChatEvents. Blocks that those can't hold are skipped and named in
    `losses`.

    A server that leaves out `message_start` or a block's start (llama.cpp does the first) is read all the
    same.
    """

    def __init__(self) -> None:
        self.losses = Losses()
        self._ledger = _Ledger()
        self._open: dict[int, _Part | None] = {}
        self._parts = 0
        self._started = False
        self._finished = False

    def decode(self, name: str, data: bytes) -> tuple[Signal, Sequence[ChatEvent]]:
        """The signals and events of one SSE event."""
        events: list[ChatEvent] = []
        try:
            signal = self._decode(name or _read_type(data).type, data, events)
        except ValueError:
            return Signal.MALFORMED, ()
        return signal, events

    def _decode(self, name: str, data: bytes, events: list[ChatEvent]) -> Signal:
        if name == "content_block_delta":
            event = _read_block_delta(data)
            return self._add(event.index, event.delta, events)
        if name == "content_block_start":
            opening = _read_block_start(data)
            return self._start_block(opening.index, opening.content_block, events)
        if name == "content_block_stop":
            self._stop_block(_read_block_stop(data).index, events)
            return Signal.NONE
        if name == "message_start":
            return self._start(_read_message_start(data).message, events)
        if name == "message_delta":
            return self._finish(_read_message_delta(data), events)
        if name == "message_stop":
            events.append(Ended())
            return Signal.END
        if name == "error":
            self.failure = classify_event(data)
            return Signal.ERROR
        return Signal.NONE

    def _start(self, message: _Message, events: list[ChatEvent]) -> Signal:
        self.model = message.model or ""
        self.usage = self._ledger.start(message.usage)
        if not self._started:
            self._started = True
            events.append(Started(message.id or "", self.model, usage=self.usage))
        return Signal.USAGE if self.usage is not None else Signal.NONE

    def _begin(self, events: list[ChatEvent]) -> None:
        if not self._started:
            self._started = True
            events.append(Started("", self.model))

    def _open_part(
        self, index: int, kind: _Kind, events: list[ChatEvent], block: _Block | None = None
    ) -> _Part:
        self._begin(events)
        part = self._open[index] = _Part(self._parts, kind)
        self._parts += 1
        if block is None:
            events.append(PartStarted(part.number, kind))
        else:
            events.append(PartStarted(part.number, kind, block.id or "", block.name or "", block.data or ""))
        return part

    def _start_block(self, index: int, block: _Block, events: list[ChatEvent]) -> Signal:
        self._stop_block(index, events)
        if block.type == "text":
            part = self._open_part(index, "text", events)
            return self._text(part, block.text or "", events)
        if block.type == "thinking":
            part = self._open_part(index, "thinking", events)
            signal = self._text(part, block.thinking or "", events)
            if block.signature:
                events.append(SignatureDelta(part.number, block.signature))
            return signal
        if block.type == "tool_use":
            part = self._open_part(index, "tool_call", events, block)
            part.early_input = _early_input(block)
            return Signal.CONTENT
        if block.type == "redacted_thinking":
            self._open_part(index, "redacted_thinking", events, block)
            return Signal.CONTENT
        self.losses.dropped(name_content(block.type))
        self.output_characters += _count_start(block)
        self._open[index] = None
        return Signal.NONE

    def _add(self, index: int, delta: _Delta, events: list[ChatEvent]) -> Signal:
        if index in self._open:
            part = self._open[index]
            if part is None:
                # Not shown, but generated and billed: an estimate of a cut stream has to count it.
                self.output_characters += len(delta.text or delta.partial_json or delta.thinking or "")
                return Signal.NONE
        else:
            kind = _kind_of(delta)
            if kind is None:
                self.losses.dropped(name_content(delta.type))
                return Signal.NONE
            part = self._open_part(index, kind, events)
        if delta.signature:
            events.append(SignatureDelta(part.number, delta.signature))
            return Signal.CONTENT
        text = delta.text or delta.partial_json or delta.thinking
        if text:
            part.early_input = ""
            return self._text(part, text, events)
        if delta.type == "citations_delta":
            self.losses.dropped("content.citations")
        return Signal.NONE

    def _text(self, part: _Part, text: str, events: list[ChatEvent]) -> Signal:
        if not text:
            return Signal.NONE
        self.output_characters += len(text)
        events.append(PartDelta(part.number, text))
        return Signal.CONTENT

    def _stop_block(self, index: int, events: list[ChatEvent]) -> None:
        part = self._open.pop(index, None)
        if part is None:
            return
        self._text(part, part.early_input, events)
        events.append(PartStopped(part.number))

    def _finish(self, event: _MessageDelta, events: list[ChatEvent]) -> Signal:
        signal = Signal.NONE
        self._begin(events)
        if (usage := self._ledger.total(event.usage)) is not None:
            self.usage = usage
            events.append(UsageSeen(usage))
            signal |= Signal.USAGE
        if event.delta.stop_reason:
            self.finish_reason = event.delta.stop_reason
            signal |= Signal.FINISH
            for index in tuple(self._open):
                self._stop_block(index, events)
            if not self._finished:
                self._finished = True
                finish = read_finish(event.delta.stop_reason)
                events.append(Finished(finish, event.delta.stop_sequence or ""))
        return signal


def _early_input(block: _Block) -> str:
    """The input of a call that came whole with its start (calls made by Anthropic's code execution do), else
    ""."""
    text = "" if block.input is msgspec.UNSET else bytes(block.input).decode()
    return "" if text == "{}" else text


def _count_start(block: _Block) -> int:
    """Characters of generated text that a block's start brings."""
    return len(block.text or "") + len(block.thinking or "") + len(_early_input(block))


def _kind_of(delta: _Delta) -> _Kind | None:
    """The kind of the part that a delta without a block's start belongs to."""
    if delta.text is not None:
        return "text"
    if delta.partial_json is not None:
        return "tool_call"
    if delta.thinking is not None or delta.signature is not None:
        return "thinking"
    return None
