"""Writes answers and streams in Anthropic's Messages format. Data plane; pure, no I/O.

A thinking block of a provider that signs nothing carries an empty signature, which Anthropic's own API later
refuses: a router that moves such a conversation there has to translate it, which leaves the block out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.wire.base import StreamEncoder
from tokenhub.core.chat import (
    ChatAnswer,
    ChatEvent,
    Ended,
    Finished,
    FinishReason,
    Losses,
    Part,
    PartDelta,
    PartStarted,
    PartStopped,
    RefusalPart,
    SignatureDelta,
    Started,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UsageSeen,
)
from tokenhub.core.sse import EventTooLarge, format_event
from tokenhub.core.usage import NOTHING_USED, Usage

MAX_HELD_CHARACTERS: Final = 16 * 1024 * 1024
"""Characters held of parts that wait for the open one to stop; the format shows one block at a time."""

STOP_REASONS: Final[Mapping[FinishReason, str]] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
    "context": "model_context_window_exceeded",
    "error": "end_turn",
    "other": "end_turn",
}

Block = dict[str, Any]

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def write_message(answer: ChatAnswer, model: str) -> bytes:
    """A whole answer as a message; of several choices the first. What it can't hold is named in the answer's
    losses."""
    choice = answer.choices[0] if answer.choices else None
    if len(answer.choices) > 1:
        answer.losses.dropped("choices")
    content = list(_write_parts(choice.parts, answer.losses)) if choice is not None else []
    calls = any(block["type"] == "tool_use" for block in content)
    message = {
        "id": answer.id or "msg_unnamed",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": write_stop(choice.finish, calls=calls) if choice is not None else None,
        "stop_sequence": (choice.stop_sequence or None) if choice is not None else None,
        "usage": write_usage(answer.usage),
    }
    return encode_json(message)


def write_stop(finish: FinishReason, *, calls: bool) -> str:
    """The `stop_reason`. Some providers end a turn with tool calls as if it were a plain one; clients would
    not run them."""
    return "tool_use" if calls and finish == "stop" else STOP_REASONS[finish]


def write_usage(usage: Usage) -> Block:
    """The `usage` object; audio and image tokens count as plain ones, since the format has no buckets for
    them."""
    told: Block = {
        "input_tokens": usage.input + usage.audio_in + usage.image_in,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output_total,
    }
    if usage.reasoning:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if usage.searches:
        told["server_tool_use"] = {"web_search_requests": usage.searches, "web_fetch_requests": 0}
    return told


def write_input(arguments: str) -> tuple[msgspec.Raw | Block, bool]:
    """A tool call's arguments as the `input` object, digits untouched; a text that is none is kept under
    `_raw`."""
    if not arguments.strip():
        return {}, True
    try:
        data = arguments.encode()
        _object_decoder.decode(data)
    except ValueError:
        return {"_raw": arguments}, False
    return msgspec.Raw(data), True


def encode_json(value: Any) -> bytes:
    """JSON bytes; half a surrogate pair, which no UTF-8 can hold, becomes a question mark."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_mend(value))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_mend(name): _mend(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mend(item) for item in value]
    return value


def _write_parts(parts: Iterable[Part], losses: Losses) -> Iterable[Block]:
    for part in parts:
        if isinstance(part, TextPart | RefusalPart):
            # A client sends its history back, and the API refuses empty texts there.
            if part.text:
                yield {"type": "text", "text": part.text}
        elif isinstance(part, ToolCallPart):
            arguments, good = write_input(part.arguments)
            if not good:
                losses.changed("content.tool_call.arguments")
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        elif isinstance(part, ThinkingPart):
            if part.redacted:
                yield {"type": "redacted_thinking", "data": part.redacted}
            elif part.text or part.signature:
                yield {"type": "thinking", "thinking": part.text, "signature": part.signature}
        else:
            losses.dropped(f"content.{type(part).__name__.removesuffix('Part').lower()}")


class _Held:
    """A part that has started and is not written to its end: its start, the text that waits, its
    signature."""

    __slots__ = ("begun", "pieces", "signature", "start", "stopped")

    def __init__(self, start: PartStarted) -> None:
        self.start = start
        self.pieces: list[str] = []
        self.signature = ""
        self.begun = False
        self.stopped = False


class MessagesEncoder(StreamEncoder):
    """Writes one stream. Blocks open one at a time: a part that starts while another is open waits until that
    one stops.

    Texts and thinking without any character get no block, signatures go out whole at their block's end
    (clients replace, not append), and `message_delta` waits for `end`, since many providers tell usage last.
    Raises EventTooLarge when more than MAX_HELD_CHARACTERS wait.
    """

    def __init__(self, model: str, losses: Losses) -> None:
        self._model = model
        self._losses = losses
        self._out: list[bytes] = []
        self._parts: dict[int, _Held] = {}
        self._index = 0
        self._held = 0
        self._calls = False
        self._usage: Usage = NOTHING_USED
        self._begun = False
        self._finish: Finished | None = None

    def encode(self, events: Sequence[ChatEvent]) -> bytes:
        """The SSE bytes of these events."""
        for event in events:
            self._take(event)
        return self._flush()

    def end(self) -> bytes:
        """Closes what is open, then `message_delta` with the stop reason and all usage, then
        `message_stop`."""
        self._begin("", None)
        self._close_all()
        finish = self._finish
        self._emit(
            "message_delta",
            {
                "type": "message_delta",
                "delta": {
                    "stop_reason": write_stop(finish.finish, calls=self._calls) if finish else None,
                    "stop_sequence": (finish.stop_sequence or None) if finish else None,
                },
                "usage": write_usage(self._usage),
            },
        )
        self._emit("message_stop", {"type": "message_stop"})
        return self._flush()

    def _take(self, event: ChatEvent) -> None:
        if (
            isinstance(event, PartDelta | PartStarted | PartStopped | SignatureDelta | Finished)
            and event.choice
        ):
            self._losses.dropped("choices")
        elif isinstance(event, PartDelta):
            self._take_delta(event)
        elif isinstance(event, PartStarted):
            self._begin("", None)
            self._parts[event.part] = _Held(event)
            self._advance()
        elif isinstance(event, PartStopped):
            if (part := self._parts.get(event.part)) is not None:
                part.stopped = True
                self._advance()
        elif isinstance(event, SignatureDelta):
            if (part := self._parts.get(event.part)) is not None:
                part.signature += event.signature
        elif isinstance(event, UsageSeen):
            self._usage = event.usage
        elif isinstance(event, Started):
            self._begin(event.id, event.usage)
        elif isinstance(event, Finished):
            self._begin("", None)
            self._finish = self._finish or event
            self._close_all()
        else:
            # The end mark is `end`'s to write: only the relay knows that all is well.
            assert isinstance(event, Ended)

    def _take_delta(self, event: PartDelta) -> None:
        part = self._parts.get(event.part)
        if part is None or part.stopped or not event.text:
            return
        if next(iter(self._parts)) == event.part:
            self._write_text(part, event.text)
            return
        part.pieces.append(event.text)
        self._held += len(event.text)
        if self._held > MAX_HELD_CHARACTERS:
            raise EventTooLarge(f"parts that wait for an open one are over {MAX_HELD_CHARACTERS} characters")

    def _begin(self, message_id: str, usage: Usage | None) -> None:
        if self._begun:
            return
        self._begun = True
        if usage is not None:
            self._usage = usage
        message: Block = {
            "id": message_id or "msg_unnamed",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(self._usage),
        }
        self._emit("message_start", {"type": "message_start", "message": message})

    def _advance(self) -> None:
        """Writes what the first part allows: its start and waiting text, then its end if it stopped, then the
        next one."""
        while self._parts:
            number, part = next(iter(self._parts.items()))
            if not part.begun and part.start.kind in ("tool_call", "redacted_thinking"):
                self._write_start(part)
            for piece in part.pieces:
                self._held -= len(piece)
                self._write_text(part, piece)
            part.pieces.clear()
            if not part.stopped:
                return
            self._write_stop(part)
            del self._parts[number]

    def _close_all(self) -> None:
        for part in self._parts.values():
            part.stopped = True
        self._advance()

    def _write_start(self, part: _Held) -> None:
        part.begun = True
        start = part.start
        if start.kind == "tool_call":
            self._calls = True
            block: Block = {"type": "tool_use", "id": start.id, "name": start.name, "input": {}}
        elif start.kind == "redacted_thinking":
            block = {"type": "redacted_thinking", "data": start.redacted}
        elif start.kind == "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        self._emit(
            "content_block_start",
            {"type": "content_block_start", "index": self._index, "content_block": block},
        )

    def _write_text(self, part: _Held, text: str) -> None:
        if not part.begun:
            self._write_start(part)
        kind = part.start.kind
        if kind == "tool_call":
            self._write_delta({"type": "input_json_delta", "partial_json": text})
        elif kind == "thinking":
            self._write_delta({"type": "thinking_delta", "thinking": text})
        elif kind != "redacted_thinking":
            self._write_delta({"type": "text_delta", "text": text})

    def _write_stop(self, part: _Held) -> None:
        if part.signature and part.start.kind == "thinking":
            if not part.begun:
                self._write_start(part)
            self._write_delta({"type": "signature_delta", "signature": part.signature})
        if part.begun:
            self._emit("content_block_stop", {"type": "content_block_stop", "index": self._index})
            self._index += 1

    def _write_delta(self, delta: Block) -> None:
        self._emit(
            "content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta}
        )

    def _emit(self, name: str, value: Block) -> None:
        self._out.append(format_event(encode_json(value), name))

    def _flush(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out
