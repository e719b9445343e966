"""The cast of the OpenAI-style adapters' tests: targets, samples, recordings, and streams put together again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from providers.adapters.base import Inbound, StreamDecoder, Target
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
from tokenhub.core.specs import EndpointSpec, ModelSpec, ProviderSpec
from tokenhub.core.sse import Event, EventReader
from tokenhub.core.usage import Usage

SAMPLES = Path(__file__).parent / "samples"
RECORDINGS = Path(__file__).parents[3].parent / "shared" / "fixtures"
needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="the recorded traffic (../shared/fixtures) is not here"
)
NO_CALLER = Inbound({})


def build_target(kind: str = "openai", *, secret: str = "sk-upstream", **profile: str | int | bool) -> Target:
    """A target at 127.0.0.1 whose upstream model is `upstream-1`."""
    return Target(
        provider=ProviderSpec("p1", "vendor", kind, (), profile=profile),
        model=ModelSpec("m1", "public-1", "p1", "upstream-1"),
        endpoint=EndpointSpec("e1", "http", "127.0.0.1", 9, "/prefix"),
        secret=secret,
    )


def read_sample(name: str) -> bytes:
    """A sample's bytes, e.g. `openai/text.sse`."""
    return (SAMPLES / name).read_bytes()


def list_samples(pattern: str) -> list[str]:
    """Names of samples, in order."""
    return sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.glob(pattern))


def read_recordings(name: str) -> Iterator[dict[str, Any]]:
    """The recordings of one file."""
    with (RECORDINGS / name).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def cut_events(stream: bytes, at: int = 0) -> list[Event]:
    """The events of a stream that came in two pieces, cut at `at`."""
    reader = EventReader()
    events = [*reader.feed(stream[:at]), *reader.feed(stream[at:]), *reader.finish()]
    return [event for event in events if event.data is not None]


@dataclass
class Told:
    """What a decoded stream told, put together. Breaking the order of ChatEvents is an AssertionError."""

    started: Started | None = None
    parts: dict[tuple[int, int], dict[str, str]] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    usage: Usage | None = None
    ended: bool = False
    open: set[tuple[int, int]] = field(default_factory=set)

    def add(self, event: ChatEvent) -> None:
        """Checks one event against those before it, and takes it in."""
        assert not self.ended, "nothing comes after the end"
        match event:
            case Started():
                assert self.started is None
                assert not self.parts
                self.started = event
            case PartStarted():
                key = (event.choice, event.part)
                assert self.started is not None
                assert key not in self.parts
                assert event.part == sum(1 for choice, _ in self.parts if choice == event.choice)
                assert not any(choice == event.choice for choice, _ in self.open), "one part at a time"
                self.open.add(key)
                self.parts[key] = {
                    "kind": event.kind, "id": event.id, "name": event.name, "text": event.redacted, "signature": "",
                }  # fmt: skip
            case PartDelta():
                assert (event.choice, event.part) in self.open
                self.parts[event.choice, event.part]["text"] += event.text
            case SignatureDelta():
                assert (event.choice, event.part) in self.open
                self.parts[event.choice, event.part]["signature"] += event.signature
            case PartStopped():
                self.open.remove((event.choice, event.part))
            case Finished():
                assert event.choice not in self.finished
                assert not any(choice == event.choice for choice, _ in self.open)
                self.finished[event.choice] = event
            case UsageSeen():
                self.usage = event.usage
            case Ended():
                self.ended = True

    def texts(self, kind: str = "text", choice: int = 0) -> list[str]:
        """The parts of one kind, in order."""
        return [part["text"] for (at, _), part in self.parts.items() if part["kind"] == kind and at == choice]

    def calls(self, choice: int = 0) -> list[tuple[str, str, str]]:
        """(id, name, arguments) of the tool calls."""
        return [
            (part["id"], part["name"], part["text"])
            for (at, _), part in self.parts.items()
            if part["kind"] == "tool_call" and at == choice
        ]


def tell(decoder: StreamDecoder, events: Sequence[Event]) -> Told:
    """What these events told, through the decoder."""
    told = Told()
    for event in events:
        for told_event in decoder.decode(event.name, event.data or b"")[1]:
            told.add(told_event)
    return told


def encode_headers(headers: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Recorded headers as an adapter gets them; of a repeated one the last."""
    pairs = {}
    for name, value in headers.items():
        text = value[-1] if isinstance(value, list) and value else value
        pairs[name.lower().encode()] = str(text).encode("latin-1", "replace")
    return pairs
