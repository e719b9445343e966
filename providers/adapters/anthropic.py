"""Anthropic's Messages API, and servers that speak it (vLLM, llama.cpp, Ollama). Data plane; pure, no I/O.

Messages and token counts of callers who speak the format themselves pass through; the model's name is the
only member that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from providers.adapters._anthropic_encode import EncodingSettings, encode_call
from providers.adapters._anthropic_errors import classify_response
from providers.adapters._anthropic_messages import decode_message, read_count, read_outline
from providers.adapters._anthropic_request import LEGACY_VERSION, build_headers, build_path, choose_version
from providers.adapters._anthropic_stream import MessagesDecoder, MessagesWatch
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
from tokenhub.core.chat import ChatAnswer, ChatCall, Losses
from tokenhub.core.errors import SettingInvalid
from tokenhub.core.usage import NOTHING_USED, Usage

DEFAULT_MAX_TOKENS = 4_096
"""The bound on output where neither the caller nor the model has one; the API requires a bound."""

MODELS_PER_PAGE = 1_000
"""The most that one page of the models list holds."""

_PATHS: Mapping[Operation, str] = {
    Operation.ANTHROPIC_MESSAGES: "/v1/messages",
    Operation.ANTHROPIC_COUNT_TOKENS: "/v1/messages/count_tokens",
}

_CAPABILITY_NAMES: Mapping[str, str] = {
    "image_input": "vision",
    "pdf_input": "documents",
    "structured_outputs": "json_schema",
    "thinking": "thinking",
}


class _Support(msgspec.Struct):
    supported: bool = False


class _Model(msgspec.Struct):
    id: str
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    capabilities: dict[str, _Support] | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


_models_decoder = msgspec.json.Decoder(_Models)


class Anthropic(Adapter):
    """Anthropic's wire format."""

    kind: ClassVar[str] = "anthropic"
    label: ClassVar[str] = "Anthropic"
    default_origin: ClassVar[str] = "https://api.anthropic.com"
    native: ClassVar[frozenset[Operation]] = frozenset(_PATHS)
    profile_fields: ClassVar[Mapping[str, tuple[type, Any, str]]] = {
        "auth": (str, "x-api-key", "how the credential is sent: x-api-key or bearer"),
        "anthropic_version": (str, "", "the API version to send always; empty: chosen for each request"),
        "thinking": (str, "auto", "how the models think: budget, adaptive, or auto (by the model's name)"),
        "structured_outputs": (bool, True, "whether the models take output_config.format and strict tools"),
        "default_max_tokens": (
            int,
            DEFAULT_MAX_TOKENS,
            "output bound where neither caller nor model has one",
        ),
    }
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"chat", "streaming", "tools", "vision", "json_schema", "thinking", "documents"}
    )

    def auth_header(self, profile: Mapping[str, Any]) -> str:
        """`x-api-key`, or `authorization` where the profile says bearer."""
        return "authorization" if profile.get("auth") == "bearer" else "x-api-key"

    def request(
        self, target: Target, operation: Operation, body: bytes, inbound: Inbound, *, stream: bool
    ) -> WireRequest:
        """The request for a Messages or count body. Raises SettingInvalid for a credential that no header can
        carry."""
        if operation not in _PATHS:
            raise ValueError(f"{operation} is not native to {self.kind}")
        pinned = _read_text(target, "anthropic_version", "")
        version = choose_version(pinned, inbound.headers.get(b"anthropic-version", b""), body)
        return WireRequest(
            path=build_path(target, _PATHS[operation], inbound.query),
            headers=build_headers(target, version, inbound, stream=stream),
            body=body,
        )

    def encode_chat(self, call: ChatCall, target: Target) -> tuple[Operation, bytes, Losses]:
        """The call as a Messages body; its losses are the encoding's alone. Raises InvalidRequest (`n` > 1,
        audio, files)."""
        body, losses = encode_call(call, _read_settings(target))
        return Operation.ANTHROPIC_MESSAGES, body, losses

    def decode_chat(self, body: bytes) -> ChatAnswer:
        """A whole message. Raises ValueError if the body is none."""
        return decode_message(body)

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder of a Messages stream."""
        return MessagesDecoder()

    def stream_watch(self, operation: Operation) -> StreamWatch:
        """A fresh watch of a Messages stream; token counts don't stream."""
        if operation != Operation.ANTHROPIC_MESSAGES:
            raise ValueError(f"{operation} has no streams at {self.kind}")
        return MessagesWatch()

    def read_answer(self, operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
        """Usage, `stop_reason` and model of a message; a token count used nothing. Raises ValueError."""
        if operation == Operation.ANTHROPIC_COUNT_TOKENS:
            read_count(body)
            return NOTHING_USED, "", ""
        return read_outline(body)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
        """What an error answer means (platform.claude.com, "Errors")."""
        return classify_response(status, headers, body)

    def models_request(self, target: Target) -> WireRequest:
        """`GET /v1/models`, one page."""
        version = choose_version(_read_text(target, "anthropic_version", ""), LEGACY_VERSION, b"")
        path = build_path(target, "/v1/models", b"") + f"?limit={MODELS_PER_PAGE}".encode()
        headers = build_headers(target, version, None, stream=False)
        return WireRequest(path, headers, b"", method=b"GET")

    def read_models(self, body: bytes) -> tuple[Mapping[str, Any], ...]:
        """The listed models; limits and capabilities only where the provider tells them. Raises
        ValueError."""
        return tuple(_describe(model) for model in _models_decoder.decode(body).data)


def _describe(model: _Model) -> Mapping[str, Any]:
    found: dict[str, Any] = {"id": model.id}
    if model.max_input_tokens:
        found["context_tokens"] = model.max_input_tokens
    if model.max_tokens:
        found["max_output_tokens"] = model.max_tokens
    if model.capabilities is not None:
        told = {
            name
            for vendor_name, name in _CAPABILITY_NAMES.items()
            if vendor_name in model.capabilities and model.capabilities[vendor_name].supported
        }
        found["capabilities"] = frozenset(told | {"chat", "streaming", "tools"})
    return found


def _read_text(target: Target, name: str, default: str, choices: tuple[str, ...] = ()) -> str:
    value = target.provider.profile.get(name, default)
    if not isinstance(value, str) or (choices and value not in choices):
        raise SettingInvalid(f"profile setting {name} of provider {target.provider.name} is {value!r}")
    return value


def _read_settings(target: Target) -> EncodingSettings:
    profile = target.provider.profile
    return EncodingSettings(
        model=target.model.upstream_name,
        default_max_tokens=int(profile.get("default_max_tokens", DEFAULT_MAX_TOKENS)),
        max_output_tokens=target.model.max_output_tokens,
        thinking=_read_text(target, "thinking", "auto", ("auto", "budget", "adaptive")),
        structured_outputs=bool(profile.get("structured_outputs", True)),
    )
