"""Classifies what OpenAI-style providers refuse, in each vendor's own words. Data plane; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.adapters._openai_json import dict_of, list_of, read_object, text_of
from providers.adapters.base import Failure, FailureKind
from tokenhub.core.rate_limits import read_duration, read_retry_after

MAX_MESSAGE_CHARACTERS = 2_000

_OVERFLOW_CODES = frozenset(
    {
        "context_length_exceeded",
        "too_many_prompt_tokens",
        "exceed_context_size_error",
        "context_window_exceeded",
        "request_too_large",
    }
)
_OVERFLOW_WORDS = re.compile(
    r"maximum context length|exceed\w* (?:the |this |its )?(?:available |max\w* |model'?s? )*(?:context|max_model_len)"
    r"|context (?:length|window|size) (?:\w+ ){0,3}exceed|prompt (?:is )?too long|too many (?:prompt |input )?tokens"
    r"|input token\w* (?:count )?.{0,40}exceed|(?:messages|prompt|input) is too long|reduce the length of the"
    r"|greater than max_model_len|larger than the (?:max\w* )?context"
    # vLLM <= 0.9 subtracts a too long prompt from its context and complains of the negative rest.
    r"|^max_tokens must be at least 1, got -\d+\.?$",
    re.IGNORECASE,
)
_TOO_LARGE_WORDS = re.compile(r"request too large", re.IGNORECASE)
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"}
)
_QUOTA_WORDS = re.compile(r"insufficient (?:balance|credits|quota)", re.IGNORECASE)
_WAIT_WORDS = re.compile(r"(?:try again|retry) in (\d[\d.]*(?:ms|[hms])[\dhms.]*)", re.IGNORECASE)
_FILTER_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "data_inspection_failed",
        "moderation_blocked",
        "sensitive_content",
    }
)
_FILTER_WORDS = re.compile(
    r"content (?:management|filter\w*) polic|requires moderation|input was flagged", re.IGNORECASE
)
_KEY_WORDS = re.compile(r"(?:incorrect|invalid) api key|api key (?:is )?not valid", re.IGNORECASE)
_GENERATION_CODES = frozenset({"tool_use_failed", "json_validate_failed"})
"""Groq's 400 for what its model, not the caller, wrote badly: another attempt may do better."""

_TYPE_STATUS = {
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "notfounderror": 404,
    "rate_limit_error": 429,
    "requests": 429,
    "tokens": 429,
    "insufficient_quota": 429,
}
_SECRETS = re.compile(
    r"(?i)(?<=key: )\S+|(?<=provided: )\S+|\b(?:sk-|gsk_|csk-|pplx-|nvapi-|hf_|aiza|xai-(?=\w{20}))[\w*.\-]*"
)


def classify_answer(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
    """What a refused answer means: see `classify_error`. The message is the provider's own, or tells the status."""
    found = read_object(body)
    if found is None:
        text = body[:400].decode("utf-8", "replace").strip()
        # An HTML page of a proxy in between says nothing to a caller.
        found = {"message": text} if text and not text.startswith(("<", "{", "[")) else {}
    return classify_error(found, status, headers)


def classify_error(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[bytes, bytes] | None = None
) -> Failure:
    """A failure of a parsed error body: OpenAI's `error` object, vLLM <= 0.9's flat one, FastAPI's `detail`, or a bare text.

    An exhausted quota (429) is the credential's: waiting doesn't help, another credential does. A request that is larger
    than a credential's tokens a minute (429 or 413 "Request too large") is a context overflow: it never fits here, however
    long one waits, and a target with more room may serve it. An unknown model (404) is transient: another target may have
    it, and a credential that other models use must not be taken out for it.
    """
    error = _read_error(body)
    told = _read_status(error, status)
    message = _SECRETS.sub("[redacted]", _read_message(body, error) or f"the provider answered {told}")
    kind = _choose_kind(told, _list_codes(error), message)
    waits = kind in ("rate_limited", "transient")
    return Failure(
        kind=kind,
        status=told,
        message=message[:MAX_MESSAGE_CHARACTERS],
        retry_after=_read_wait(error, headers or {}, message) if waits else None,
        code=_read_code(error),
        param=text_of(error.get("param")),
    )


def is_error(body: Mapping[str, Any]) -> bool:
    """Whether a body or a stream's chunk is (or carries) an error."""
    return bool(body.get("error")) or body.get("object") == "error"


def _read_error(body: Mapping[str, Any]) -> Mapping[str, Any]:
    error = body.get("error")
    if isinstance(error, dict):
        return error
    # xAI's error is a text, with the code beside it.
    return {"message": error, "code": body.get("code")} if isinstance(error, str) else body


def _read_status(error: Mapping[str, Any], status: int) -> int:
    """The answer's status; within a good answer or a stream, the one that the error itself tells."""
    if status >= 400:
        return status
    for name in ("status_code", "code", "status"):
        value = error.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:6])
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    names = (text_of(error.get("type")).lower(), text_of(error.get("code")).lower())
    return next((_TYPE_STATUS[name] for name in names if name in _TYPE_STATUS), 500)


def _read_message(body: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    message = text_of(error.get("message"))
    raw = text_of(dict_of(error.get("metadata")).get("raw"))
    if raw:
        # OpenRouter's own message is only "Provider returned error".
        return f"{message}: {raw}" if message else raw
    if message:
        return message
    detail = body.get("detail")
    if isinstance(detail, str):
        return detail
    return "; ".join(text_of(dict_of(item).get("msg")) for item in list_of(detail))


def _list_codes(error: Mapping[str, Any]) -> tuple[str, ...]:
    inner = dict_of(error.get("innererror")).get("code")
    return tuple(text_of(value).lower() for value in (error.get("code"), error.get("type"), inner))


def _read_code(error: Mapping[str, Any]) -> str:
    """The error's code as text; vLLM's and llama.cpp's integers only repeat the status, so their type serves."""
    code = error.get("code")
    if isinstance(code, str) and code and not code.isdecimal():
        return code
    return text_of(error.get("type"))


def _read_wait(error: Mapping[str, Any], headers: Mapping[bytes, bytes], message: str) -> float | None:
    """The wait of the headers, of those that OpenRouter carries in its error, or of the message ("try again in 6ms")."""
    wait = read_retry_after(headers)
    if wait is not None:
        return wait
    told = dict_of(dict_of(error.get("metadata")).get("headers"))
    date = {b"date": headers[b"date"]} if b"date" in headers else {}
    carried = {name.lower().encode(): str(value).encode("latin-1", "replace") for name, value in told.items()}
    wait = read_retry_after({**carried, **date})
    words = _WAIT_WORDS.search(message) if wait is None else None
    return wait if words is None else read_duration(words[1].rstrip("."))


def _choose_kind(status: int, codes: tuple[str, ...], message: str) -> FailureKind:
    if not _FILTER_CODES.isdisjoint(codes) or _FILTER_WORDS.search(message):
        return "content_filter"
    if status == 402 or not _QUOTA_CODES.isdisjoint(codes):
        return "credential"
    if status in (403, 429) and _QUOTA_WORDS.search(message):
        return "credential"
    if status == 401 or (status == 400 and _KEY_WORDS.search(message)):
        return "credential"
    if status == 413 or not _OVERFLOW_CODES.isdisjoint(codes):
        return "context_overflow"
    if status in (400, 422, 500) and _OVERFLOW_WORDS.search(message):
        return "context_overflow"
    if status == 429:
        return "context_overflow" if _TOO_LARGE_WORDS.search(message) else "rate_limited"
    if status == 403:
        return "credential"
    if not _GENERATION_CODES.isdisjoint(codes):
        return "transient"
    if status in (404, 405, 408, 409, 425) or status >= 500:
        return "transient"
    return "fatal"
