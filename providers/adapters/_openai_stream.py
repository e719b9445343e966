"""Turns OpenAI-style chat streams into ChatEvents, and takes injected usage members out again. Data plane; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from providers.adapters._openai_answer import (
    list_calls,
    read_arguments,
    read_finish,
    read_pieces,
    read_reasoning,
    read_thinking,
)
from providers.adapters._openai_failure import classify_error, is_error
from providers.adapters._openai_json import count_of, dict_of, list_of, read_object, text_of
from providers.adapters._openai_usage import find_usage
from providers.adapters._openai_watch import DONE, combine_signals, measure_choice
from providers.adapters.base import Failure, Signal, StreamDecoder
from tokenhub.core.chat import (
    ChatEvent,
    Ended,
    Finished,
    PartDelta,
    PartStarted,
    PartStopped,
    SignatureDelta,
    Started,
    UsageSeen,
)

_Kind = Literal["text", "thinking", "tool_call", "refusal"]


class _ChoiceState:
    """One choice: its open part, its tool calls so far, and whether it ended. At most one part is open at a time."""

    __slots__ = (
        "call_ids", "call_index", "called", "choice", "finished", "kind", "next_part", "open_call", "part", "refused",
    )  # fmt: skip

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.kind: _Kind | None = None
        self.part = 0
        self.next_part = 0
        self.open_call: object = None
        self.call_ids: dict[object, str] = {}
        self.call_index = 0
        self.called = self.refused = self.finished = False

    def stop(self, events: list[ChatEvent]) -> None:
        """Ends the open part, if there is one."""
        if self.kind is not None:
            events.append(PartStopped(self.part, self.choice))
            self.kind = self.open_call = None

    def begin(self, kind: _Kind, events: list[ChatEvent], *, id: str = "", name: str = "") -> None:
        """Ends the open part and starts a new one."""
        self.stop(events)
        self.kind, self.part = kind, self.next_part
        self.next_part += 1
        events.append(PartStarted(self.part, kind, id=id, name=name, choice=self.choice))

    def add(self, kind: _Kind, text: str, events: list[ChatEvent]) -> None:
        """More text of that kind, in the open part if it is of that kind."""
        if text:
            if self.kind != kind:
                self.begin(kind, events)
            events.append(PartDelta(self.part, text, self.choice))

    def redact(self, data: str, events: list[ChatEvent]) -> None:
        """A redacted thinking part, whole."""
        self.stop(events)
        part = self.next_part
        self.next_part += 1
        events.append(PartStarted(part, "redacted_thinking", redacted=data, choice=self.choice))
        events.append(PartStopped(part, self.choice))


class OpenAIDecoder(StreamDecoder):
    """The decoder of chat streams.

    Vendors that leave out a tool call's index or id, send a call whole, or repeat an index for another call are understood.
    A piece of a call that already ended can't be told as an event: it is a failure, never a silent loss.
    """

    def __init__(self) -> None:
        self._started = False
        self._ended = False
        self._choices: dict[int, _ChoiceState] = {}

    def decode(self, name: str, data: bytes) -> tuple[Signal, Sequence[ChatEvent]]:
        """The signals and the events of one SSE event; see `OpenAIWatch` for the signals."""
        chunk = read_object(data)
        if chunk is None:
            return self._end() if data.strip() == DONE else (Signal.MALFORMED, ())
        events: list[ChatEvent] = []
        if name == "error" or is_error(chunk):
            self.failure = self.failure or classify_error(chunk)
        elif not self._started:
            self._start(chunk, events)
        content = finished = lost = False
        for choice in map(dict_of, list_of(chunk.get("choices"))):
            carries, kept = self._read_choice(choice, events)
            content |= carries and kept
            lost |= carries and not kept
            finished |= bool(choice.get("finish_reason"))
        usage = find_usage(chunk)
        if usage is not None:
            self.usage = usage
            events.append(UsageSeen(usage))
        failed = name == "error" or is_error(chunk) or (lost and self.failure is not None)
        signal = combine_signals(
            chunk, content=content, finished=finished, usage=usage is not None, error=failed
        )
        # What comes behind a choice's end has no place in it.
        return (signal | Signal.MALFORMED if lost and not failed else signal), events

    def _start(self, chunk: Mapping[str, Any], events: list[ChatEvent]) -> None:
        # Azure's first chunk tells only how the prompt was filtered: no id, no model, no choices.
        self.model = text_of(chunk.get("model"))
        if not self.model and not chunk.get("choices"):
            return
        self._started = True
        events.append(Started(text_of(chunk.get("id")), self.model, count_of(chunk.get("created")) or 0))

    def _read_choice(self, row: Mapping[str, Any], events: list[ChatEvent]) -> tuple[bool, bool]:
        """Whether the choice carries content, and whether that could be told as events."""
        number = count_of(row.get("index")) or 0
        state = self._choices.get(number)
        if state is None:
            state = self._choices[number] = _ChoiceState(number)
        carries, count = measure_choice(row)
        if state.finished:
            return carries, False
        kept = True
        if carries:
            self.output_characters += count
            delta = row.get("delta")
            kept = self._read_delta(
                delta if isinstance(delta, dict) else dict_of(row.get("message")), state, events
            )
        if finish := row.get("finish_reason"):
            self.finish_reason = self.finish_reason or text_of(finish)
            _finish(row, state, events)
        return carries, kept

    def _read_delta(self, delta: Mapping[str, Any], state: _ChoiceState, events: list[ChatEvent]) -> bool:
        content = delta.get("content")
        if isinstance(content, str) and len(delta) == (2 if "role" in delta else 1):
            # Content alone is what nearly every chunk holds.
            state.add("text", content, events)
            return True
        _add_thinking(delta, state, events)
        if isinstance(content, str):
            state.add("text", content, events)
        elif isinstance(content, list):
            for kind, text in read_pieces(content):
                state.add("thinking" if kind == "thinking" else "text", text, events)
        if refusal := text_of(delta.get("refusal")):
            state.refused = True
            state.add("refusal", refusal, events)
        for call in list_calls(delta):
            if not _add_call(call, state, events):
                self.failure = self.failure or Failure(
                    "transient",
                    502,
                    "the provider mixed up the pieces of its tool calls",
                    code="tool_calls_mixed",
                )
                return False
        return True

    def _end(self) -> tuple[Signal, Sequence[ChatEvent]]:
        if self._ended:
            return Signal.END, ()
        self._ended = True
        events: list[ChatEvent] = []
        for state in self._choices.values():
            if not state.finished:
                _finish({}, state, events)
        events.append(Ended())
        return Signal.END, events


def _finish(row: Mapping[str, Any], state: _ChoiceState, events: list[ChatEvent]) -> None:
    state.stop(events)
    state.finished = True
    finish, stopped_by = read_finish(row, called=state.called, refused=state.refused)
    events.append(Finished(finish, stopped_by, state.choice))


def _add_thinking(delta: Mapping[str, Any], state: _ChoiceState, events: list[ChatEvent]) -> None:
    """Reasoning text once, whatever number of members repeats it, and the signatures and redacted parts behind it."""
    plain = read_reasoning(delta)
    state.add("thinking", plain, events)
    if "thinking_blocks" not in delta and "reasoning_details" not in delta:
        return
    for part in read_thinking(delta):
        if part.redacted:
            state.redact(part.redacted, events)
            continue
        # A signed block is whole: its text already came in pieces.
        if not plain and not (part.signature and state.kind == "thinking"):
            state.add("thinking", part.text, events)
        if part.signature:
            if state.kind != "thinking":
                state.begin("thinking", events)
            events.append(SignatureDelta(state.part, part.signature, state.choice))


def _add_call(call: Mapping[str, Any], state: _ChoiceState, events: list[ChatEvent]) -> bool:
    """One piece of a tool call; False if it belongs to a call that already ended."""
    function = dict_of(call.get("function"))
    id, name = text_of(call.get("id")), text_of(function.get("name"))
    index = count_of(call.get("index"))
    key: object = index if index is not None else (id or state.open_call)
    known = state.call_ids.get(key)
    arguments = read_arguments(function)
    # Another id under the same index is another call: Gemini and some Ollama versions number every call 0.
    if known is None or (id and name and id != known):
        id = id or f"call_{state.choice}_{state.call_index}"
        state.call_index += 1
        key = key if key is not None else id
        state.call_ids[key] = id
        state.called = True
        state.begin("tool_call", events, id=id, name=name)
        state.open_call = key
    elif state.open_call != key:
        return not arguments
    if arguments:
        events.append(PartDelta(state.part, arguments, state.choice))
    return True


_WS = rb"[ \t\r\n]*"
_FLAT_MEMBER = rb',%b"[^"\\]*"%b:%b(?:"[^"\\]*"|null|true|false|-?[0-9.eE+-]+)%b' % (_WS, _WS, _WS, _WS)
_FLAT_END = re.compile(rb"%b(?:%b)*\}%b" % (_WS, _FLAT_MEMBER, _WS))
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_NULL = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*null")
_BLANK = b" \t\r\n"


def strip_injected_usage(data: bytes) -> bytes:
    """A chunk's JSON without its top-level `"usage": null`, every other byte as it was; unchanged where there is none.

    That member is there only because usage was asked for. A `"usage"` in a text or a nested object stays.
    """
    at = data.rfind(b'"usage"')
    if at < 0:
        return data
    null = _NULL.match(data, at + 7)
    # A chunk ends `,"usage":null}` or with flat members behind it: then the brace that ends it tells the depth.
    if null is not None and data[:at].rstrip(_BLANK).endswith(b",") and _FLAT_END.fullmatch(data, null.end()):
        return data[: data.rfind(b",", 0, at)] + data[null.end() :]
    return _strip_anywhere(data)


def _strip_anywhere(data: bytes) -> bytes:
    chunk = read_object(data)
    if chunk is None or "usage" not in chunk or chunk["usage"] is not None:
        return data
    depth = 0
    for token in _TOKEN.finditer(data):
        text = token[0]
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif depth == 1 and text == b'"usage"' and (null := _NULL.match(data, token.end())) is not None:
            return _cut_member(data, token.start(), null.end())
    return data


def _cut_member(data: bytes, start: int, end: int) -> bytes:
    before, after = data[:start].rstrip(_BLANK), data[end:].lstrip(_BLANK)
    if before.endswith(b","):
        return before[:-1] + data[end:]
    return (
        data[:start] + after.removeprefix(b",").lstrip(_BLANK) if after.startswith(b",") else before + after
    )
