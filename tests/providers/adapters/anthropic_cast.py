"""The cast of the Anthropic tests: targets, recordings, and folds of a stream into a whole answer."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from providers.adapters.base import Inbound, Signal, StreamDecoder, StreamWatch, Target
from tokenhub.core.chat import (
    ChatAnswer,
    ChatEvent,
    Choice,
    Ended,
    Finished,
    Message,
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
from tokenhub.core.specs import EndpointSpec, ModelSpec, ProviderSpec
from tokenhub.core.sse import Event, EventReader
from tokenhub.core.usage import NOTHING_USED, Usage

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = Path(__file__).resolve().parent / "samples"
FIXTURES = ROOT.parent / "shared" / "fixtures"
ABSENT = f"the recorded provider traffic is absent: {FIXTURES} (../shared/fixtures beside the repository)"


def build_target(
    upstream: str = "claude-sonnet-4-5",
    *,
    secret: str = "sk-ant-sample",
    max_output_tokens: int = 0,
    headers: tuple[tuple[str, str], ...] = (),
    base_path: str = "",
    kind: str = "anthropic",
    **profile: str | int | bool,
) -> Target:
    """A target at one Anthropic provider."""
    endpoint = EndpointSpec("e1", "https", "api.anthropic.invalid", 443, base_path)
    provider = ProviderSpec("p1", "anthropic-main", kind, (endpoint,), headers=headers, profile=profile)
    model = ModelSpec("m1", "claude", "p1", upstream, max_output_tokens=max_output_tokens)
    return Target(provider, model, endpoint, secret)


def build_inbound(query: bytes = b"", **headers: str) -> Inbound:
    """The caller's headers, given with underscores."""
    return Inbound(
        {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}, query
    )


def read_sample(name: str, vendor: str = "anthropic") -> bytes:
    """A hand-made sample's bytes."""
    return (SAMPLES / vendor / name).read_bytes()


@dataclass(frozen=True)
class Recording:
    """One recorded exchange."""

    id: str
    provider: str
    status: int
    streaming: bool
    request: Mapping[str, Any] | None
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether the answer is an event stream."""
        return self.body.lstrip()[:1] not in (b"{", b"[")


def read_recordings(name: str) -> Iterator[Recording]:
    """The recordings of one file."""
    with (FIXTURES / name).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            raw = row["response_body_raw"]
            text = base64.b64decode(raw) if row["response_body_encoding"] == "base64" else raw.encode()
            headers = {
                key.lower().encode(): str(value).encode()
                for key, value in (row["response_headers"] or {}).items()
            }
            request = row.get("request_body") or None
            yield Recording(
                row["id"],
                row["provider"],
                row["status"] or 0,
                row["streaming"],
                request if isinstance(request, dict) else None,
                headers,
                restore_lines(text),
            )


def restore_lines(body: bytes) -> bytes:
    """One Ollama stream was recorded without its line ends; they are put back where they must have been."""
    if not body.startswith(b"event: message_startdata: "):
        return body
    framed = re.sub(rb"(event: [a-z_]+)(data: )", rb"\1\n\2", body)
    return framed.replace(b"}event: ", b"}\n\nevent: ") + b"\n\n"


def split_answers(body: bytes) -> list[bytes]:
    """The streams of a recording: four of them hold the several answers of one conversation, one behind the
    other."""
    mark = b'"type":"message_stop"'
    if body.count(mark) < 2:
        return [body]
    answers: list[bytes] = [b""]
    for event in EventReader().feed(body):
        answers[-1] += event.raw
        if mark in event.raw:
            answers.append(b"")
    return [answer for answer in answers if answer.strip()]


def split_events(body: bytes) -> list[Event]:
    """The events of a whole stream that carry data."""
    reader = EventReader()
    events = reader.feed(body) + reader.finish()
    assert reader.tail == b"", "the stream has bytes behind its last event"
    return [event for event in events if event.data is not None]


def watch_stream(body: bytes, watch: StreamWatch) -> Signal:
    """All signals of a stream, joined."""
    signals = Signal.NONE
    for event in split_events(body):
        signals |= watch.see(event.name, event.data or b"")
    return signals


def decode_stream(body: bytes, decoder: StreamDecoder) -> tuple[Signal, list[ChatEvent]]:
    """All signals, joined, and all events of a stream."""
    signals = Signal.NONE
    found: list[ChatEvent] = []
    for event in split_events(body):
        signal, events = decoder.decode(event.name, event.data or b"")
        signals |= signal
        found.extend(events)
    return signals, found


def fold_events(events: Iterable[ChatEvent]) -> ChatAnswer:
    """The answer that a stream's events amount to; asserts that each part starts and stops once."""
    started = Started("", "")
    parts: dict[int, Part] = {}
    stopped: set[int] = set()
    finish: Finished | None = None
    usage: Usage = NOTHING_USED
    for event in events:
        if isinstance(event, Started):
            started, usage = event, event.usage or usage
        elif isinstance(event, PartStarted):
            assert event.part == len(parts), "parts are numbered in order and start once"
            parts[event.part] = _start_part(event)
        elif isinstance(event, PartDelta):
            assert event.part not in stopped
            parts[event.part] = _add_text(parts[event.part], event.text)
        elif isinstance(event, SignatureDelta):
            part = parts[event.part]
            assert isinstance(part, ThinkingPart)
            parts[event.part] = replace(part, signature=part.signature + event.signature)
        elif isinstance(event, PartStopped):
            assert event.part not in stopped
            stopped.add(event.part)
        elif isinstance(event, Finished):
            assert finish is None
            finish = event
        elif isinstance(event, UsageSeen):
            usage = event.usage
        else:
            assert isinstance(event, Ended)
    if finish is not None:
        assert stopped == set(parts), "every part stops before its choice is finished"
    ended = finish or Finished("other")
    choice = Choice(tuple(parts.values()), ended.finish, ended.stop_sequence)
    return ChatAnswer(started.id, started.model, (choice,), usage)


def _start_part(event: PartStarted) -> Part:
    if event.kind == "tool_call":
        return ToolCallPart(event.id, event.name, "")
    if event.kind == "thinking":
        return ThinkingPart()
    if event.kind == "redacted_thinking":
        return ThinkingPart(redacted=event.redacted)
    return RefusalPart("") if event.kind == "refusal" else TextPart("")


def _add_text(part: Part, text: str) -> Part:
    if isinstance(part, ToolCallPart):
        return replace(part, arguments=part.arguments + text)
    assert isinstance(part, TextPart | RefusalPart | ThinkingPart)
    return replace(part, text=part.text + text)


def concatenate(body: bytes) -> dict[str, Any]:
    """A stream's whole message, put together the plain way, without the code under test."""
    message: dict[str, Any] = {"id": "", "model": "", "content": [], "usage": {}}
    blocks: dict[int, dict[str, Any]] = {}
    pieces: dict[int, str] = {}
    for event in split_events(body):
        data = json.loads(event.data or b"")
        if data["type"] == "message_start":
            message |= data["message"]
        elif data["type"] == "content_block_start":
            blocks[data["index"]] = data["content_block"]
        elif data["type"] == "content_block_delta":
            block, delta = blocks[data["index"]], data["delta"]
            if delta["type"] == "input_json_delta":
                pieces[data["index"]] = pieces.get(data["index"], "") + delta["partial_json"]
            elif delta["type"] == "citations_delta":
                block["citations"] = (block.get("citations") or []) + [delta["citation"]]
            else:
                (name,) = set(delta) - {"type"}
                block[name] = (block.get(name) or "") + delta[name]
        elif data["type"] == "message_delta":
            message |= data["delta"]
            told = {name: value for name, value in (data.get("usage") or {}).items() if value is not None}
            message["usage"] = message["usage"] | told
    for index, text in pieces.items():
        if text:
            blocks[index]["input"] = read_arguments(text)
    return {**message, "content": [blocks[index] for index in sorted(blocks)]}


def plain(answer: ChatAnswer) -> ChatAnswer:
    """The answer with tool arguments in one spelling and without empty parts, for comparing."""
    choices = tuple(
        replace(choice, parts=tuple(plain_part(part) for part in choice.parts if not is_empty(part)))
        for choice in answer.choices
    )
    return replace(answer, choices=choices, usage=replace(answer.usage, raw=None))


def is_empty(part: Part) -> bool:
    """Whether a part says nothing at all."""
    if isinstance(part, TextPart | RefusalPart):
        return not part.text
    return isinstance(part, ThinkingPart) and part == ThinkingPart()


def plain_part(part: Part) -> Part:
    """A tool call's arguments in one spelling."""
    if not isinstance(part, ToolCallPart):
        return part
    return replace(part, arguments=json.dumps(read_arguments(part.arguments), sort_keys=True))


def read_arguments(text: str) -> dict[str, Any]:
    """A call's arguments as an object; a text that is none (a stream that `max_tokens` cut) under `_raw`."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"_raw": text}


def say(text: str) -> Message:
    """A user's message."""
    return Message("user", (TextPart(text),))
