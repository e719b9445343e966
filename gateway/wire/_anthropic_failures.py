"""Writes errors in Anthropic's format. Data plane; pure, no I/O.

`{"type": "error", "error": {"type", "message", "code"}, "request_id"}` with the types of platform.claude.com,
"Errors"; `code` and `param` are Tokenhub's own and stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.wire._anthropic_write import encode_json
from providers.adapters.base import Failure
from tokenhub.core.errors import ContextOverflow, TokenhubError
from tokenhub.core.sse import format_event

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

TOO_LONG: Final = "prompt is too long"
"""What clients (Claude Code among them) look for in a message before they shorten their history and try
again."""


def find_type(status: int) -> str:
    """The error type of an HTTP status."""
    return _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def write_error(error: TokenhubError, request_id: str) -> bytes:
    """An error of ours as a body."""
    return encode_json(_envelope(error, request_id))


def write_error_event(error: TokenhubError, request_id: str) -> bytes:
    """An error of ours as the stream's `error` event."""
    return format_event(encode_json(_envelope(error, request_id)), "error")


def write_failure(failure: Failure, request_id: str) -> bytes:
    """A provider's failure as a body. A refused credential is ours, not the caller's, so it is no
    authentication error."""
    if failure.kind == "rate_limited":
        kind = "overloaded_error" if failure.status == 529 else "rate_limit_error"
    elif failure.kind in ("fatal", "transient"):
        kind = find_type(failure.status)
    else:
        kind = "api_error" if failure.kind == "credential" else "invalid_request_error"
    message = failure.message
    # Where the answer asked for is too long, shortening the history would not help.
    if failure.kind == "context_overflow" and TOO_LONG not in message.lower() and "max_tokens" not in message:
        message = f"{TOO_LONG}: {message}"
    return encode_json(_wrap(kind, message, failure.code or failure.kind, failure.param, request_id))


def _envelope(error: TokenhubError, request_id: str) -> dict[str, Any]:
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, ContextOverflow) and TOO_LONG not in message.lower():
        message = f"{TOO_LONG}: {message}"
    return _wrap(find_type(error.status), message, error.code, error.param or "", request_id)


def _wrap(kind: str, message: str, code: str, param: str, request_id: str) -> dict[str, Any]:
    error = {"type": kind, "message": message, "code": code}
    if param:
        error["param"] = param
    return {"type": "error", "error": error, "request_id": request_id}
