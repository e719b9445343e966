"""The adapter contract: what a provider's wire format must be able to do. Data plane; pure functions, no I/O.

An adapter is one module in this package with one public subclass of `Adapter`; `providers.adapters.registry` finds it.
It serves some operations natively (`native`): the caller's bytes are forwarded, and a `StreamWatch` only reads along. A chat
call in another format is translated: `encode_chat` → provider → `decode_chat` or a `StreamDecoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Any, ClassVar, Literal

from tokenhub.core.chat import ChatAnswer, ChatCall, ChatEvent, Losses
from tokenhub.core.records import record
from tokenhub.core.secret_bytes import Secret, SecretBytes
from tokenhub.core.specs import EndpointSpec, ModelSpec, ProviderSpec
from tokenhub.core.usage import Usage

Headers = tuple[tuple[bytes, bytes | SecretBytes], ...]
"""Header pairs as on the wire, names in lower case. A sealed secret's value stays SecretBytes."""


class Operation(StrEnum):
    """What a caller asks, by wire format."""

    OPENAI_CHAT = "openai.chat"
    OPENAI_COMPLETIONS = "openai.completions"
    OPENAI_EMBEDDINGS = "openai.embeddings"
    ANTHROPIC_MESSAGES = "anthropic.messages"
    ANTHROPIC_COUNT_TOKENS = "anthropic.count_tokens"
    TOKENHUB_CHAT = "tokenhub.chat"
    """The envelope around a chat call in OpenAI's shape; no provider speaks it, so that it is always translated."""


CHAT_OPERATIONS = frozenset({Operation.OPENAI_CHAT, Operation.ANTHROPIC_MESSAGES})
"""Operations that translate into each other through ChatCall."""

FailureKind = Literal[
    "context_overflow", "rate_limited", "transient", "fatal", "credential", "content_filter"
]
"""context_overflow: a larger context may serve. rate_limited: this credential, for a while. transient: another attempt may
serve. fatal: the request itself is wrong, no other attempt helps. credential: this credential is refused. content_filter: the
provider refused the content."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A provider's failure, classified. `retry_after` is seconds; `message` is the provider's own, for the caller.

    `retry_elsewhere` False: the same request fails everywhere (a caller's mistake).
    """

    kind: FailureKind
    status: int
    message: str
    retry_after: float | None = None
    code: str = ""
    param: str = ""
    ours: bool = False
    """Whether the message is the gateway's own. A provider's may quote the prompt, and so is never stored."""
    of_thoughts: bool = False
    """Whether it refuses the thoughts that the request brings, which another provider signed: it may serve without them."""

    @property
    def retry_elsewhere(self) -> bool:
        """Whether another target may serve the request."""
        return self.kind != "fatal"

    @property
    def of_model(self) -> bool:
        """Whether it tells of this model, not of the endpoint: unknown there (404), or what it wrote was unfit (400)."""
        return self.kind == "transient" and self.status in (400, 404)


@record(frozen=True, slots=True)
class Target:
    """Where one attempt goes. `secret` is the credential's value, in memory only and never shown; "" = none."""

    provider: ProviderSpec
    model: ModelSpec
    endpoint: EndpointSpec
    secret: Secret

    def __repr__(self) -> str:
        return f"Target({self.provider.name}, {self.model.name}, {self.endpoint.origin})"


@record(frozen=True, slots=True)
class WireRequest:
    """What goes to the endpoint: path with its prefix and query, headers without host, length and connection, body."""

    path: bytes
    headers: Headers
    body: bytes
    method: bytes = b"POST"

    def __repr__(self) -> str:
        return f"WireRequest({self.method!r}, {self.path!r}, {len(self.body)} bytes)"


def auth_value(scheme: str, secret: Secret) -> bytes | SecretBytes:
    """The value of the header that carries the credential, after a scheme such as `Bearer` where there is one."""
    prefix = f"{scheme} " if scheme else ""
    if isinstance(secret, str):
        return f"{prefix}{secret}".encode("latin-1")
    return SecretBytes.of((prefix.encode("latin-1"), secret))


class Signal(IntFlag):
    """What one event of a stream means to the relay. An event may be several of them, or none."""

    NONE = 0
    CONTENT = 1
    """Carries content (text, thinking, a tool call, a refusal, audio): from here on the answer is committed."""
    USAGE = 2
    """Told usage; `StreamWatch.usage` holds it."""
    USAGE_ONLY = 4
    """Is only there because usage was asked for; removed for a caller who did not ask."""
    FINISH = 8
    """Told why the answer ended."""
    END = 16
    """The format's own end mark."""
    ERROR = 32
    """The format's error event; `StreamWatch.failure` holds it."""
    MALFORMED = 64
    """Can't be read. It is relayed, counted, and does not end the stream."""


class StreamWatch(ABC):
    """Reads along with one native stream, without changing it. One object a stream; cheap on events that carry only text."""

    usage: Usage | None = None
    failure: Failure | None = None
    finish_reason: str = ""
    model: str = ""
    output_characters: int = 0
    """Characters of generated text seen, the base of an estimate when the stream is cut before its usage came."""

    @abstractmethod
    def see(self, name: str, data: bytes) -> Signal:
        """What this event (its SSE name and data) means."""


class StreamDecoder(ABC):
    """Turns one provider stream into ChatEvents. Holds what `StreamWatch` holds, for the same purposes.

    `losses` are what the events could not hold, known only as the stream goes on.
    """

    usage: Usage | None = None
    failure: Failure | None = None
    finish_reason: str = ""
    model: str = ""
    output_characters: int = 0

    @abstractmethod
    def decode(self, name: str, data: bytes) -> tuple[Signal, Sequence[ChatEvent]]:
        """The signals and the events of one SSE event."""


@record(frozen=True, slots=True)
class Inbound:
    """What of the caller's request an adapter may need besides its body: headers by lower-case name, and the query string.

    Only headers on the adapter's own allow-list go upstream (`anthropic-beta`, `openai-organization` never, …).
    """

    headers: Mapping[bytes, bytes]
    query: bytes = b""


class Adapter(ABC):
    """One wire format of one kind of provider. Stateless: every method is a pure function of its arguments."""

    kind: ClassVar[str]
    label: ClassVar[str]
    default_origin: ClassVar[str] = ""
    """Where the vendor is reached, e.g. `https://api.openai.com`, path prefix without `/v1` left out."""
    native: ClassVar[frozenset[Operation]]
    profile_fields: ClassVar[Mapping[str, tuple[type, Any, str]]] = {}
    """The profile settings that this adapter knows: name → (type, default, what it does)."""
    capabilities: ClassVar[frozenset[str]] = frozenset({"chat", "streaming"})
    """What its models can do unless a model says otherwise."""
    health_path: ClassVar[str] = ""
    """The path of an unbilled page that tells whether an endpoint works, or ""."""
    in_process: ClassVar[bool] = False
    """True: no network; the gateway answers from `providers.adapters.simulated`."""

    def auth_header(self, profile: Mapping[str, Any]) -> str:
        """The lower-case name of the header that carries the credential. A sealed secret is bound to it."""
        return "authorization"

    @abstractmethod
    def request(
        self, target: Target, operation: Operation, body: bytes, inbound: Inbound, *, stream: bool
    ) -> WireRequest:
        """The request for a body in the format of `operation` (one of `native`), with the provider's own auth header."""

    def edits(self, target: Target, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Top-level members to set in a native body: the model's upstream name, an injected usage flag, a renamed limit.

        A value of None removes the member. Every other byte of the caller's body stays as it is.
        """
        return {"model": target.model.upstream_name}

    @abstractmethod
    def encode_chat(self, call: ChatCall, target: Target) -> tuple[Operation, bytes, Losses]:
        """A translated call as this provider's body, which of its native operations that is, and what was lost."""

    @abstractmethod
    def decode_chat(self, body: bytes) -> ChatAnswer:
        """A whole answer. Raises ValueError if the body is not one."""

    @abstractmethod
    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder for one stream of this provider's chat format."""

    @abstractmethod
    def stream_watch(self, operation: Operation) -> StreamWatch:
        """A fresh watch for one native stream."""

    def strip_usage(self, data: bytes) -> bytes:
        """A relayed event's bytes without what only stands there because we asked for usage."""
        return data

    @abstractmethod
    def read_answer(self, operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
        """Usage (None if the provider told none), finish reason and served model of a whole native answer.

        Raises ValueError if the body is no answer (empty, `null`, an error object under status 200).
        """

    @abstractmethod
    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
        """What a non-2xx answer (or an error object under 200) means."""

    def models_request(self, target: Target) -> WireRequest:
        """The request that lists the provider's models."""
        raise ValueError(f"{self.kind} providers can't list their models")

    def read_models(self, body: bytes) -> tuple[Mapping[str, Any], ...]:
        """Models of such a list: `{"id", "context_tokens"?, "max_output_tokens"?, "capabilities"?}` each."""
        raise ValueError(f"{self.kind} providers can't list their models")
