"""OpenAI's API and every vendor that speaks it: chat, completions, embeddings. Data plane; pure, no I/O.

A compatible vendor is configuration: see `_openai_profile.FIELDS`. Examples, from recorded traffic:

- Azure: `auth_header=api-key`, `auth_scheme=`, `api_path=/openai/v1` (or `/openai/deployments/{model}` with `api_query`).
- Mistral: `developer_role=false`, `max_tokens_field=max_tokens`, `seed_field=random_seed`, `service_tier=false`.
- DeepSeek: `api_path=`, `max_tokens_field=max_tokens`, `reasoning_parameter=thinking`, `json_schema=false`,
  `developer_role=false`, `reasoning_field=reasoning_content`.
- Groq: `api_path=/openai/v1`, `reasoning_field=reasoning`.
- OpenRouter: `api_path=/api/v1`, `reasoning_parameter=reasoning`, `cache_control=true`, `top_k=true`.
- Ollama, llama.cpp: `max_tokens_field=max_tokens`, `developer_role=false`, `top_k=true` (llama.cpp), `max_stops=0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from providers.adapters._json_pieces import encode_request
from providers.adapters._openai_answer import read_body, read_chat, read_native
from providers.adapters._openai_chat import encode_body
from providers.adapters._openai_failure import classify_answer
from providers.adapters._openai_json import count_of, dict_of, list_of, text_of
from providers.adapters._openai_profile import FIELDS, Profile, read_profile
from providers.adapters._openai_stream import OpenAIDecoder, strip_injected_usage
from providers.adapters._openai_watch import OpenAIWatch
from providers.adapters.base import (
    Adapter,
    Failure,
    Inbound,
    Operation,
    StreamDecoder,
    StreamWatch,
    Target,
    WireRequest,
    auth_value,
)
from tokenhub.core.chat import ChatAnswer, ChatCall, Losses
from tokenhub.core.secret_bytes import SecretBytes
from tokenhub.core.specs import ProviderSpec
from tokenhub.core.usage import Usage

_PATHS = {
    Operation.OPENAI_CHAT: "/chat/completions",
    Operation.OPENAI_COMPLETIONS: "/completions",
    Operation.OPENAI_EMBEDDINGS: "/embeddings",
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_PROFILES_KEPT = 256

FORWARDED = (b"openai-beta", b"x-client-request-id")
"""The caller's headers that go upstream: a feature switch and the caller's own trace id, which the vendor only logs.

Never `openai-organization` and `openai-project`: they belong to the credential, so a provider's own headers set them. Never
`idempotency-key`: a repeated request is answered here, and another attempt must not be taken for the first one.
"""

_CONTEXT_KEYS = ("max_model_len", "context_length", "context_window", "max_context_length")
_OUTPUT_KEYS = ("max_completion_tokens", "max_output_tokens")


class OpenAI(Adapter):
    """OpenAI and compatible vendors."""

    kind: ClassVar[str] = "openai"
    label: ClassVar[str] = "OpenAI or compatible"
    default_origin: ClassVar[str] = "https://api.openai.com"
    native: ClassVar[frozenset[Operation]] = frozenset(_PATHS)
    profile_fields: ClassVar[Mapping[str, tuple[type, Any, str]]] = FIELDS
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"chat", "completions", "embeddings", "streaming", "tools", "vision", "json_schema"}
    )
    newest_limit: ClassVar[str] = "max_completion_tokens"
    """The output limit's name on translated routes where the profile says keep."""

    def __init__(self) -> None:
        self._profiles: dict[tuple[object, ...], Profile] = {}
        self._last_profile: tuple[ProviderSpec | None, Profile] = (
            None,
            read_profile({}, self.profile_fields, self.newest_limit),
        )

    def auth_header(self, profile: Mapping[str, Any]) -> str:
        """As the profile says."""
        return str(profile.get("auth_header", FIELDS["auth_header"][1])).lower()

    def request(
        self, target: Target, operation: Operation, body: bytes, inbound: Inbound, *, stream: bool
    ) -> WireRequest:
        """The request; raises ValueError for an operation that is not native."""
        if operation not in self.native:
            raise ValueError(f"{self.kind} providers don't serve {operation} natively")
        accept = b"text/event-stream" if stream else b"application/json"
        headers: dict[bytes, bytes | SecretBytes] = {b"content-type": b"application/json", b"accept": accept}
        for name in FORWARDED:
            if name in inbound.headers:
                headers[name] = inbound.headers[name]
        return self._build(target, _PATHS[operation], headers, body)

    def edits(self, target: Target, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The upstream model's name, the usage flag of a stream whose caller did not set it, and the limit's only name."""
        changes: dict[str, Any] = {"model": target.model.upstream_name}
        if operation is Operation.OPENAI_EMBEDDINGS:
            return changes
        profile = self.profile(target.provider)
        if body.get("stream") is True and profile.stream_usage:
            options = dict_of(body.get("stream_options"))
            if options.get("include_usage") is not True:
                changes["stream_options"] = {**options, "include_usage": True}
        if profile.renames_max_tokens and operation is Operation.OPENAI_CHAT:
            other = _LIMITS[profile.max_tokens_field == _LIMITS[0]]
            if other in body:
                changes[other] = None
                if body.get(profile.max_tokens_field) is None and body[other] is not None:
                    changes[profile.max_tokens_field] = body[other]
        return changes

    def encode_chat(self, call: ChatCall, target: Target) -> tuple[Operation, bytes, Losses]:
        """A translated call; the losses are this step's alone, without those that the call brought."""
        body, losses = encode_body(call, target.model.upstream_name, self.profile(target.provider))
        return Operation.OPENAI_CHAT, encode_request(body), losses

    def decode_chat(self, body: bytes) -> ChatAnswer:
        """A whole answer. Raises ValueError if the body is not one."""
        return read_chat(body)

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder of a chat stream."""
        return OpenAIDecoder()

    def stream_watch(self, operation: Operation) -> StreamWatch:
        """A fresh watch; chat and completions streams share one."""
        if operation not in (Operation.OPENAI_CHAT, Operation.OPENAI_COMPLETIONS):
            raise ValueError(f"{operation} has no stream in OpenAI's format")
        return OpenAIWatch()

    def strip_usage(self, data: bytes) -> bytes:
        """The event's bytes without the `usage: null` that `include_usage` adds to it."""
        return strip_injected_usage(data)

    def read_answer(self, operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
        """Usage, finish reason and model of a whole native answer. Raises ValueError if it is none."""
        return read_native(operation, body)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
        """What a refused answer means; see `_openai_failure.classify_error`."""
        return classify_answer(status, headers, body)

    def models_request(self, target: Target) -> WireRequest:
        """GET /models."""
        return self._build(target, "/models", {b"accept": b"application/json"}, b"", b"GET")

    def read_models(self, body: bytes) -> tuple[Mapping[str, Any], ...]:
        """The models, with the limits that some vendors tell. Raises ValueError if the body is no list of models."""
        rows = read_body(body).get("data")
        if not isinstance(rows, list):
            raise ValueError("the provider's answer has no data")
        return tuple(_read_model(row) for row in rows if isinstance(row, dict) and text_of(row.get("id")))

    def profile(self, provider: ProviderSpec) -> Profile:
        """The provider's settings over this adapter's defaults. Raises ValueError for a wrong type."""
        last = self._last_profile
        if last[0] is provider:
            return last[1]
        self._last_profile = (provider, found := self._find_profile(provider))
        return found

    def _find_profile(self, provider: ProviderSpec) -> Profile:
        settings = provider.profile
        # With the types, since 1 == True and only one of them is a flag.
        key = (*settings.items(), *map(type, settings.values()))
        found = self._profiles.get(key)
        if found is None:
            if len(self._profiles) >= _PROFILES_KEPT:
                self._profiles.clear()
            found = self._profiles[key] = read_profile(settings, self.profile_fields, self.newest_limit)
        return found

    def _build(
        self,
        target: Target,
        path: str,
        headers: dict[bytes, bytes | SecretBytes],
        body: bytes,
        method: bytes = b"POST",
    ) -> WireRequest:
        profile = self.profile(target.provider)
        prefix = profile.api_path
        if "{model}" in prefix:
            prefix = prefix.replace("{model}", _quote(target.model.upstream_name))
        query = f"?{profile.api_query}" if profile.api_query else ""
        full = f"{target.endpoint.base_path}{prefix}{path}{query}"
        if target.secret:
            headers[profile.auth_header.lower().encode("ascii")] = auth_value(
                profile.auth_scheme, target.secret
            )
        for name, setting in target.provider.headers:
            headers[name.lower().encode("ascii")] = setting.encode("latin-1")
        return WireRequest(full.encode("ascii"), tuple(headers.items()), body, method)


def _quote(name: str) -> str:
    """Percent-encoding of one path segment (RFC 3986: all but unreserved characters)."""
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in b"-._~" else f"%{byte:02X}"
        for byte in name.encode()
    )


def _read_model(row: Mapping[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = {"id": row["id"]}
    top = dict_of(row.get("top_provider"))
    for name, keys in (("context_tokens", _CONTEXT_KEYS), ("max_output_tokens", _OUTPUT_KEYS)):
        for count in (count_of(source.get(key)) for source in (row, top) for key in keys):
            if count:
                model[name] = count
                break
    if found := _read_capabilities(row):
        model["capabilities"] = found
    return model


def _read_capabilities(row: Mapping[str, Any]) -> frozenset[str]:
    """What Mistral (`capabilities`) and OpenRouter (`supported_parameters`, `architecture`) tell of a model."""
    told = dict_of(row.get("capabilities"))
    names = {
        "completion_chat": "chat",
        "function_calling": "tools",
        "vision": "vision",
        "audio": "audio",
        "reasoning": "thinking",
    }
    found = {ours for theirs, ours in names.items() if told.get(theirs) is True}
    parameters = list_of(row.get("supported_parameters"))
    wanted = {"tools": "tools", "structured_outputs": "json_schema", "reasoning": "thinking"}
    found |= {ours for theirs, ours in wanted.items() if theirs in parameters}
    inputs = list_of(dict_of(row.get("architecture")).get("input_modalities"))
    found |= {
        ours
        for theirs, ours in (("image", "vision"), ("audio", "audio"), ("file", "documents"))
        if theirs in inputs
    }
    if found:
        found |= {"chat", "streaming"}
    return frozenset(found)
