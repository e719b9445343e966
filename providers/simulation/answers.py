"""What the simulation answers: a whole body, or a head and the frames of a stream. Data plane, pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from .cache import PromptCache
from .failures import Headers, SimulatedFailure, Surface

Operation = Literal[
    "chat.completions", "completions", "embeddings", "models", "messages", "messages.count_tokens"
]
Json = dict[str, Any]
JSON_TYPE = ("content-type", "application/json")
STREAM_TYPE = ("content-type", "text/event-stream; charset=utf-8")


@dataclass(frozen=True, slots=True)
class SimulatedUsage:
    """Tokens in disjoint buckets: `input` excludes what was read from or written to the prompt cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0  # a part of `output`, not added to it


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """A complete answer: HTTP status, headers, body bytes and the usage that the vendor would bill."""

    status: int
    headers: Headers
    body: bytes
    usage: SimulatedUsage = SimulatedUsage()


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event as bytes.

    `delay` is how many seconds pass between the frame before and this one; `tokens` how many output tokens it
    brings; `content` is true for the events that carry part of the answer.
    """

    data: bytes
    delay: float = 0.0
    tokens: int = 0
    content: bool = False


@dataclass(frozen=True, slots=True)
class SimulatedStream:
    """A streamed answer: status and headers now, frames as they come, and the usage once all came."""

    status: int
    headers: Headers
    frames: Iterator[Frame]
    usage: SimulatedUsage


Reply = SimulatedAnswer | SimulatedStream


@dataclass(frozen=True, slots=True)
class Settings:
    """What a simulated provider is like.

    `latency` and `gap` are seconds: before the answer's head, and between content events. `tokens` fixes the
    length of every text answer (20 to 60 tokens otherwise). `context_window` (tokens) makes longer prompts
    the vendor's 400; None is no limit. `strict_fields` refuses unknown top-level fields. `cache_minimum` is
    the fewest tokens that Anthropic's prompt cache keeps. `reports_usage` false leaves usage out everywhere.
    """

    dialect: Literal["vendor", "vllm"] = "vendor"
    latency: float = 0.0
    gap: float = 0.0
    tokens: int | None = None
    models: tuple[str, ...] = ("sim-small", "sim-large", "sim-reasoning", "sim-embedding")
    context_window: int | None = None
    strict_fields: bool = False
    cache_minimum: int = 1024
    reports_usage: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through the simulation, with the server's state that it may use."""

    request: Json
    settings: Settings
    surface: Surface
    version: str
    request_id: str
    now: Callable[[], float]
    key: bytes = field(repr=False)
    cache: PromptCache = field(repr=False)

    @property
    def model(self) -> str:
        return str(self.request["model"])

    def headers(self, *, stream: bool = False) -> Headers:
        """The answer's headers as the vendor names them."""
        kind = STREAM_TYPE if stream else JSON_TYPE
        if self.surface in ("anthropic", "vllm-messages"):
            return (kind, ("request-id", self.request_id), *_ANTHROPIC_HEADERS)
        return (kind, ("x-request-id", self.request_id), *_OPENAI_HEADERS)

    def answer(self, body: Json, usage: SimulatedUsage) -> SimulatedAnswer:
        """A 200 with this JSON body; without its usage where the settings say so."""
        if not self.settings.reports_usage:
            body.pop("usage", None)
        return SimulatedAnswer(200, self.headers(), msgspec.json.encode(body), usage)

    def stream(self, frames: Iterator[Frame], usage: SimulatedUsage) -> SimulatedStream:
        """A 200 with these frames."""
        return SimulatedStream(200, self.headers(stream=True), frames, usage)

    def fail(self, failure: SimulatedFailure) -> SimulatedAnswer:
        """The failure as an answer of this call's surface."""
        headers = (*self.headers(), *failure.headers)
        return SimulatedAnswer(failure.status, headers, failure.body(self.surface, self.request_id))


_OPENAI_HEADERS: Headers = (
    ("openai-version", "2020-10-01"),
    ("openai-processing-ms", "12"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-reset-requests", "6ms"),
    ("x-ratelimit-limit-tokens", "2000000"),
    ("x-ratelimit-remaining-tokens", "1999000"),
    ("x-ratelimit-reset-tokens", "120ms"),
)
_ANTHROPIC_HEADERS: Headers = (
    ("anthropic-ratelimit-requests-limit", "4000"),
    ("anthropic-ratelimit-requests-remaining", "3999"),
    ("anthropic-ratelimit-tokens-limit", "480000"),
    ("anthropic-ratelimit-tokens-remaining", "479000"),
)
