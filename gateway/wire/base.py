"""What the pipeline needs of a consumer format: read a call, write an answer, a stream and errors. Data plane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.directives import Directives
from providers.adapters.base import Failure, Operation
from tokenhub.core.chat import ChatAnswer, ChatCall, ChatEvent
from tokenhub.core.errors import TokenhubError
from tokenhub.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Figures:
    """What an envelope tells of an answer beside it. Amounts are nano-dollars, None where a price is not known."""

    model: str
    provider: str
    estimated_nanos: int | None
    cost_nanos: int | None
    reason: str
    usage: Usage
    decision_id: str


class StreamEncoder(ABC):
    """Writes one stream in the client's format. One object a stream."""

    @abstractmethod
    def encode(self, events: Sequence[ChatEvent]) -> bytes:
        """The SSE bytes of these events; each SSE event is whole. The end mark is withheld until `end`."""

    @abstractmethod
    def end(self) -> bytes:
        """What closes a good stream: pending final events and the format's end mark."""


class WireFormat(ABC):
    """One consumer format. Stateless."""

    operation: ClassVar[Operation]
    scope: ClassVar[str]
    """The key scope that it needs."""
    heartbeat: ClassVar[bytes] = b": heartbeat\n\n"
    error_type: ClassVar[bytes] = b"application/json"
    """The content type of errors."""
    wraps: ClassVar[bool] = False
    """Whether requests and answers stand in an envelope: then `unwrap`, `wrap` and `final_event` are there."""

    @property
    def bare(self) -> WireFormat:
        """The format of what stands in the envelope; its own where there is none."""
        return self

    def unwrap(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Directives]:
        """The request that an envelope holds, and what it asks besides. Raises InvalidRequest with the path."""
        raise ValueError(f"{self.operation} has no envelope")

    def wrap(self, answer: bytes, figures: Figures) -> bytes:
        """The envelope around a whole answer."""
        raise ValueError(f"{self.operation} has no envelope")

    def final_event(self, figures: Figures) -> bytes:
        """What a stream tells in the place of an envelope, behind its end."""
        raise ValueError(f"{self.operation} has no envelope")

    def give_again(self, answer: bytes, reason: str, decision_id: str, *, stream: bool) -> bytes:
        """The bytes of a kept answer for another request, which cost nothing: an envelope tells of that one."""
        return answer

    def read_call(self, body: Mapping[str, Any]) -> ChatCall:
        """The call of a parsed body, for translation. Raises InvalidRequest naming the JSON path."""
        raise ValueError(f"{self.operation} can't be translated")

    def write_answer(self, answer: ChatAnswer, *, model: str, call: ChatCall) -> bytes:
        """A whole answer; `model` is the name that the caller is told."""
        raise ValueError(f"{self.operation} can't be translated")

    def stream_encoder(self, *, model: str, call: ChatCall) -> StreamEncoder:
        """A fresh encoder for a translated stream."""
        raise ValueError(f"{self.operation} can't be translated")

    @abstractmethod
    def check(self, body: Mapping[str, Any]) -> None:
        """Cheap checks before any work: `model` and the required members' types. Raises InvalidRequest with the path."""

    @abstractmethod
    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """An error of ours in this format: JSON bytes."""

    @abstractmethod
    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure, translated into this format: JSON bytes."""

    @abstractmethod
    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """An error after the stream began: this format's own error event as SSE bytes."""
