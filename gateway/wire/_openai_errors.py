"""OpenAI's error object, which every OpenAI-shaped endpoint answers with. Data plane."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.adapters.base import Failure, FailureKind
from tokenhub.core.errors import TokenhubError
from tokenhub.core.sse import format_event

_CODES: Mapping[FailureKind, str] = {
    "context_overflow": "context_length_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "content_filter": "content_filter",
    "credential": "provider_credential_refused",
}
_CODE = re.compile(r"[a-z][a-z0-9_.-]*")
"""What a code looks like; some providers put prose or a number in its place."""
_MAX_DEPTH = 6


def choose_type(status: int) -> str:
    """The `type` that OpenAI sends with a status. Its SDKs choose their exception by the status alone."""
    if status == 429:
        return "rate_limit_error"
    if status == 402:
        return "insufficient_quota"
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


def write_error(error: TokenhubError, request_id: str) -> bytes:
    """An error of ours: message, type, param and code as OpenAI's; the request id, hint and details beside them."""
    body: dict[str, Any] = {
        # The official clients show the message alone, so the mend stands in it.
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
        "type": choose_type(error.status),
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }
    if error.hint:
        body["hint"] = error.hint
    if error.details:
        body["details"] = to_plain(error.details)
    return msgspec.json.encode({"error": body})


def describe_failure(failure: Failure) -> tuple[str, str]:
    """A provider's failure as a caller may hear of it: a message and a code."""
    code = _CODES.get(failure.kind) or failure.code
    if not _CODE.fullmatch(code):
        code = "provider_error"
    if failure.kind == "credential":
        return "the provider refused the gateway's credential", code
    return failure.message, code


def write_failure(failure: Failure, request_id: str) -> bytes:
    """A provider's failure. Of a refused credential the caller learns no more than that: it is the operator's."""
    message, code = describe_failure(failure)
    kind = choose_type(failure.status)
    if failure.kind == "credential":
        kind = "server_error"
    elif failure.kind in ("context_overflow", "content_filter"):
        kind = "invalid_request_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": message,
                "type": kind,
                "param": failure.param or None,
                "code": code,
                "request_id": request_id,
            }
        }
    )


def write_error_event(error: TokenhubError, request_id: str) -> bytes:
    """An error within a stream. It has no event name: OpenAI's SDKs look for `error` in the data of nameless events."""
    return format_event(write_error(error, request_id))


def to_plain(value: Any, depth: int = 0) -> Any:
    """Details as JSON values; read-only mappings and other objects are no JSON of their own."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth >= _MAX_DEPTH:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [to_plain(item, depth + 1) for item in value]
    return str(value)
