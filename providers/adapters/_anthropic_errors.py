"""Says what a refusal in Anthropic's format means, as an answer or inside a stream. Data plane; pure, no I/O.

Types and statuses: platform.claude.com, "Errors". Also read: vLLM's and llama.cpp's errors on the same route,
which carry types of their own, and error objects that come under status 200.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from providers.adapters.base import Failure, FailureKind
from tokenhub.core.rate_limits import read_retry_after

MAX_MESSAGE_CHARACTERS = 2_000
"""A provider's message is cut there; some quote the whole request."""

_STATUSES: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

_KINDS: Final[Mapping[str, FailureKind]] = {
    "authentication_error": "credential",
    "billing_error": "credential",
    "permission_error": "credential",
    # Another target of the alias may have the model, so failing over is worth it.
    "not_found_error": "transient",
    # The limit is this provider's (32 MB at Anthropic); another one may take the request.
    "request_too_large": "context_overflow",
    "rate_limit_error": "rate_limited",
    "api_error": "transient",
    "timeout_error": "transient",
    "overloaded_error": "transient",
    "exceed_context_size_error": "context_overflow",
}

_KINDS_BY_STATUS: Final[Mapping[int, FailureKind]] = {
    401: "credential",
    402: "credential",
    403: "credential",
    404: "transient",
    408: "transient",
    413: "context_overflow",
    425: "transient",
    429: "rate_limited",
}

_CONTEXT = (
    "prompt is too long",
    "exceed context limit",
    "exceeds the available context size",
    "maximum context length",
)
_THOUGHTS = (
    "`signature` in `thinking`",
    "thinking.signature",
    "expected `thinking` or `redacted_thinking`",
    "`data` in `redacted_thinking`",
    "blocks in the latest assistant message cannot be modified",
)
_CREDIT = ("credit balance is too low", "spend limit", "billing")
_CONTENT = ("content filtering policy", "blocked by content filter", "violates our usage policy")


def classify_response(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
    """The failure of a whole answer. `status` may be 200 where the body is an error object."""
    error = _read_error(body)
    kind_name = _text(error, "type")
    message = _text(error, "message") or f"the provider answered with status {status} and no error message"
    told = _STATUSES.get(kind_name, 502) if status < 400 else status
    kind = _decide(told, kind_name, message, headers.get(b"x-should-retry", b""))
    wait = read_retry_after(headers) if kind in ("rate_limited", "transient") else None
    lower = message.lower() if kind == "fatal" and told == 400 else ""
    return Failure(
        kind,
        told,
        message[:MAX_MESSAGE_CHARACTERS],
        wait,
        kind_name,
        _text(error, "param"),
        of_thoughts=any(words in lower for words in _THOUGHTS),
    )


def classify_event(data: bytes) -> Failure:
    """The failure of a stream's `error` event."""
    return classify_response(200, {}, data)


def _decide(status: int, kind_name: str, message: str, should_retry: bytes) -> FailureKind:
    lower = message.lower()
    if status in (400, 413, 422) and any(words in lower for words in _CONTEXT):
        return "context_overflow"
    if status in (400, 403) and any(words in lower for words in _CREDIT):
        return "credential"
    if status in (400, 403) and any(words in lower for words in _CONTENT):
        return "content_filter"
    kind = _KINDS.get(kind_name) or _KINDS_BY_STATUS.get(status)
    if kind is not None:
        return kind
    # The header speaks about sending the same request again; a 5xx without it is worth another target anyway.
    return "transient" if status >= 500 or should_retry.strip().lower() == b"true" else "fatal"


def _read_error(body: bytes) -> Mapping[str, Any]:
    """The error object of a body: Anthropic's and OpenAI's envelope, a flat object, or a bare text under
    `error`."""
    try:
        document = msgspec.json.decode(body)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _text(error: Mapping[str, Any], name: str) -> str:
    value = error.get(name)
    return value if isinstance(value, str) else ""
