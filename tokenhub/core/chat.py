"""A chat call, its answer and its stream, free of any vendor's format: the middle of every translation. Values only.

client bytes ── gateway/wire ──▶ ChatCall ── adapter ──▶ provider bytes
client bytes ◀── gateway/wire ── ChatAnswer / ChatEvent ◀── adapter ── provider bytes

Where a target format can't hold something, whoever drops or changes it names it in `Losses`, by the field's path in the
format that it came from; nothing is lost in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenhub.core.usage import NOTHING_USED, Usage

Role = Literal["system", "developer", "user", "assistant"]
"""Tool results are parts of a user message here, as in Anthropic's format."""

FinishReason = Literal[
    "stop",
    "stop_sequence",
    "length",
    "tool_calls",
    "content_filter",
    "refusal",
    "pause",
    "context",
    "error",
    "other",
]
"""stop: the model ended its turn. stop_sequence: a caller's stop string. pause: the provider wants the turn continued."""

Cache = Literal["", "5m", "1h"]
"""A prompt-cache breakpoint behind this part, by its life; "" = none."""


class Losses:
    """Collects, once each and in order, what a translation dropped or changed: `dropped:logit_bias`, `changed:n`."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def dropped(self, path: str) -> None:
        """The field at `path` was left out."""
        self._names[f"dropped:{path}"] = None

    def changed(self, path: str) -> None:
        """The field at `path` was changed to something near."""
        self._names[f"changed:{path}"] = None

    def names(self) -> tuple[str, ...]:
        """All of them, for the `x-tokenhub-translation` header and the decision."""
        return tuple(self._names)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text."""

    text: str
    cache: Cache = ""


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by URL or as base64 data with its media type; exactly one of `url` and `data` is set."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""
    cache: Cache = ""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document: base64 data with its media type, a URL, a provider's file id, or plain text."""

    data: str = ""
    media_type: str = ""
    url: str = ""
    file_id: str = ""
    text: str = ""
    filename: str = ""
    cache: Cache = ""


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Base64 audio and its format (`wav`, `mp3`)."""

    data: str
    format: str


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """A model's reasoning with the signature that binds it to its provider; `redacted` is opaque data instead of text."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class RefusalPart:
    """A refusal in the model's words."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A tool call. `arguments` is the JSON text as the model wrote it; an empty one means `{}`."""

    id: str
    name: str
    arguments: str
    cache: Cache = ""


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool gave back: text, image and file parts."""

    call_id: str
    content: tuple[TextPart | ImagePart | FilePart, ...]
    is_error: bool = False
    cache: Cache = ""


Part = (
    TextPart | ImagePart | FilePart | AudioPart | ThinkingPart | RefusalPart | ToolCallPart | ToolResultPart
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `name` tells participants of the same role apart."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `schema` is JSON Schema, None where the caller gave none."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    cache: Cache = ""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`auto`, `none`, `required` (any tool) or `named` with the tool's name."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """`json_object`, or `json_schema` with its schema and name."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much to think: an effort word, or a budget in tokens (0 = off, None = unset), or adaptive."""

    effort: str = ""
    budget_tokens: int | None = None
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What the caller asked. None everywhere means: not said, so not sent. System text stands in `messages`, in its place.

    `max_tokens` None: the caller set no bound. `losses` already holds what the client's format brought that this can't hold.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    output_format: OutputFormat | None = None
    reasoning: Reasoning | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    n: int = 1
    user: str = ""
    service_tier: str = ""
    stream: bool = False
    include_usage: bool = False
    losses: Losses = field(default_factory=Losses, compare=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its parts in order, why it ended, and the caller's stop string if that ended it."""

    parts: tuple[Part, ...]
    finish: FinishReason
    stop_sequence: str = ""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer. `id` and `model` are the provider's; `created` is Unix seconds, 0 = not told."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage = NOTHING_USED
    created: int = 0
    losses: Losses = field(default_factory=Losses, compare=False)


# A stream's events. `choice` counts answers (n > 1), `part` counts parts within one, from 0, each started and stopped once.


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the provider's id and model."""

    id: str
    model: str
    created: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class PartStarted:
    """A part begins. `id` and `name` are a tool call's; `redacted` is the whole of a redacted thinking part."""

    part: int
    kind: Literal["text", "thinking", "redacted_thinking", "tool_call", "refusal"]
    id: str = ""
    name: str = ""
    redacted: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class PartDelta:
    """More of a part: text, thinking, refusal text, or a tool call's arguments as JSON text."""

    part: int
    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class SignatureDelta:
    """The signature of a thinking part (appended if it comes in pieces)."""

    part: int
    signature: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class PartStopped:
    """A part is complete."""

    part: int
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice is complete."""

    finish: FinishReason
    stop_sequence: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class UsageSeen:
    """The provider told its usage; the last one holds (they are totals, never added up)."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Ended:
    """The provider's own end mark (`[DONE]`, `message_stop`). Without it a stream was cut."""


ChatEvent = Started | PartStarted | PartDelta | SignatureDelta | PartStopped | Finished | UsageSeen | Ended
