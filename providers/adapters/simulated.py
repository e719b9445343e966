"""The built-in provider without a network: OpenAI's and Anthropic's formats, answered in process. Data plane;
pure, no I/O.

The answers come from `providers.simulation`; reading them is left to the two vendors' adapters, so
that a simulated answer takes the same way as a real one. Translated chat calls go out in OpenAI's format,
which holds more (`n`, `seed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from providers.adapters.anthropic import Anthropic
from providers.adapters.base import (
    Adapter,
    Failure,
    Inbound,
    Operation,
    StreamDecoder,
    StreamWatch,
    Target,
    WireRequest,
)
from providers.adapters.openai import OpenAI
from providers.simulation import Settings
from tokenhub.core.chat import ChatAnswer, ChatCall, Losses
from tokenhub.core.specs import ProviderSpec
from tokenhub.core.usage import Usage

_OPENAI = OpenAI()
_ANTHROPIC = Anthropic()


class _Envelope(msgspec.Struct):
    type: str = ""


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def _speaker(operation: Operation) -> Adapter:
    return _ANTHROPIC if operation in _ANTHROPIC.native else _OPENAI


def read_settings(provider: ProviderSpec) -> Settings:
    """How a simulated provider behaves, from its profile. Raises ValueError for a value of the wrong type or
    below zero."""
    values: dict[str, int] = {}
    for name in Simulated.profile_fields:
        value = provider.profile.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"the profile setting {name} must be an integer of at least 0")
        values[name] = value
    return Settings(
        latency=values["latency_ms"] / 1000,
        gap=values["gap_ms"] / 1000,
        tokens=values["tokens"] or None,
        context_window=values["context_window"] or None,
    )


class Simulated(Adapter):
    """A provider that answers from this process."""

    kind: ClassVar[str] = "simulated"
    label: ClassVar[str] = "Simulated (no network)"
    default_origin: ClassVar[str] = "http://simulated.invalid"
    native: ClassVar[frozenset[Operation]] = _OPENAI.native | _ANTHROPIC.native
    profile_fields: ClassVar[Mapping[str, tuple[type, Any, str]]] = {
        "latency_ms": (int, 0, "milliseconds before an answer's head"),
        "gap_ms": (int, 0, "milliseconds between two events of a stream"),
        "tokens": (int, 0, "tokens of every text answer; 0: twenty to sixty"),
        "context_window": (int, 0, "tokens above which a prompt is refused; 0: no limit"),
    }
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            "chat",
            "completions",
            "embeddings",
            "streaming",
            "tools",
            "vision",
            "json_schema",
            "thinking",
            "documents",
        }
    )
    in_process: ClassVar[bool] = True

    def request(
        self, target: Target, operation: Operation, body: bytes, inbound: Inbound, *, stream: bool
    ) -> WireRequest:
        """The vendor's own request; its path and version header tell the simulation what is asked."""
        return _speaker(operation).request(target, operation, body, inbound, stream=stream)

    def edits(self, target: Target, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the vendor's adapter sets in a native body."""
        return _speaker(operation).edits(target, operation, body)

    def encode_chat(self, call: ChatCall, target: Target) -> tuple[Operation, bytes, Losses]:
        """The call in OpenAI's format."""
        return _OPENAI.encode_chat(call, target)

    def decode_chat(self, body: bytes) -> ChatAnswer:
        """A whole answer in OpenAI's format. Raises ValueError if the body is none."""
        return _OPENAI.decode_chat(body)

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder of OpenAI's chat stream."""
        return _OPENAI.stream_decoder()

    def stream_watch(self, operation: Operation) -> StreamWatch:
        """A fresh watch of the operation's own stream."""
        return _speaker(operation).stream_watch(operation)

    def read_answer(self, operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
        """As the vendor's adapter reads it."""
        return _speaker(operation).read_answer(operation, body)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
        """As the adapter reads it whose envelope it is: Anthropic's has a `type` beside `error`."""
        try:
            anthropic = _envelope_decoder.decode(body).type == "error"
        except ValueError:
            anthropic = False
        return (_ANTHROPIC if anthropic else _OPENAI).classify(status, headers, body)

    def models_request(self, target: Target) -> WireRequest:
        """`GET /v1/models` in OpenAI's format."""
        return _OPENAI.models_request(target)

    def read_models(self, body: bytes) -> tuple[Mapping[str, Any], ...]:
        """The models of OpenAI's list."""
        return _OPENAI.read_models(body)
