"""What refusals of OpenAI-style vendors mean, and how long to wait."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.base import Operation
from providers.adapters.openai import OpenAI
from tests.providers.adapters.openai_cast import read_sample
from tokenhub.core.rate_limits import read_duration, read_retry_after

ADAPTER = OpenAI()


def classify(status: int, body: Any, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return ADAPTER.classify(status, pairs, data)


def error(message: str, code: Any = None, type: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"), "context_overflow"),
        (400, error("This model's maximum context length is 10 tokens. However, you requested 12"), "context_overflow"),
        (400, error("prompt too long; exceeded max context length by 11 tokens"), "context_overflow"),
        (400, error("The total length of all messages is too long.", 400, "too_many_prompt_tokens"), "context_overflow"),
        (400, error("request (3 tokens) exceeds the available context size", 400), "context_overflow"),
        (400, error("max_tokens=9 cannot be greater than max_model_len=5."), "context_overflow"),
        (400, error("The input token count (12) exceeds the maximum number of tokens allowed (10)."), "context_overflow"),
        (400, {"object": "error", "message": "max_tokens must be at least 1, got -186.", "code": 400}, "context_overflow"),
        (400, error("max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)"), "fatal"),
        (413, error("Request too large for model on tokens per minute (TPM)", "rate_limit_exceeded"), "context_overflow"),
        (429, error("Request too large for gpt-x on tokens per min (TPM): Limit 100, Requested 200"), "context_overflow"),
        (429, error("You exceeded your current quota, please check your plan", "insufficient_quota"), "credential"),
        (402, error("Insufficient Balance", "invalid_request_error"), "credential"),
        (403, error("insufficient credits"), "credential"),
        (429, error("Rate limit reached for requests", "rate_limit_exceeded", "requests"), "rate_limited"),
        (429, b"", "rate_limited"),
        (401, error("Incorrect API key provided", "invalid_api_key"), "credential"),
        (401, {"detail": "Invalid API Key"}, "credential"),
        (400, error("API key not valid. Please pass a valid API key.", 400), "credential"),
        (403, error("Country not supported", "unsupported_country_region_territory"), "credential"),
        (400, error("The response was filtered", "content_filter", param="prompt"), "content_filter"),
        (400, error("x", "y", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filter"),
        (400, error("Output data may contain inappropriate content.", "data_inspection_failed"), "content_filter"),
        (404, error("The model `x` does not exist", "model_not_found"), "transient"),
        (400, error("Tool call validation failed", "tool_use_failed"), "transient"),
        (408, b"", "transient"),
        (409, b"{}", "transient"),
        (425, b"null", "transient"),
        (500, error("oops", type="server_error"), "transient"),
        (502, b"<html><body>Bad Gateway</body></html>", "transient"),
        (503, error("The engine is currently overloaded"), "transient"),
        (529, b"", "transient"),
        (400, error("Invalid image (base64) data.", "BadRequest"), "fatal"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "not an integer", "type": "int"}]}, "fatal"),
        (200, error("Busy", 429), "rate_limited"),
        (200, error("Bad", "x", status_code=400), "fatal"),
        (200, error("The response was filtered", "content_filter", status=400), "content_filter"),
        (200, {"error": "model 'x' not found"}, "transient"),
    ],
)  # fmt: skip
def test_refusals_are_classified(status: int, body: Any, kind: str) -> None:
    failure = classify(status, body)
    assert failure.kind == kind
    assert failure.status >= 400
    assert failure.message


@pytest.mark.parametrize(
    ("name", "kind"), [("error_context", "context_overflow"), ("error_flat", "context_overflow")]
)
def test_vllms_envelopes_are_read(name: str, kind: str) -> None:
    failure = ADAPTER.classify(400, {}, read_sample(f"vllm/{name}.json"))
    assert (failure.kind, failure.status, failure.code) == (kind, 400, "BadRequestError")
    assert "maximum context length" in failure.message


def test_only_a_callers_mistake_is_not_retried_elsewhere() -> None:
    assert not classify(400, error("bad")).retry_elsewhere
    assert classify(404, error("no such model")).retry_elsewhere


def test_code_and_param_are_the_providers() -> None:
    failure = classify(400, error("bad", "invalid_value") | {}, retry_after="7")
    assert (failure.code, failure.param, failure.retry_after) == ("invalid_value", "", None)
    assert classify(400, {"error": {"message": "m", "param": "messages[1]"}}).param == "messages[1]"


def test_openrouters_upstream_message_and_carried_headers_are_read() -> None:
    body = {
        "error": {
            "message": "Provider returned error",
            "code": 429,
            "metadata": {
                "raw": "busy upstream",
                "headers": {"X-RateLimit-Reset": "1754667660000", "X-RateLimit-Remaining": "0"},
            },
        }
    }
    failure = classify(429, body, date="Fri, 08 Aug 2025 15:40:00 GMT")
    assert (failure.kind, failure.message) == ("rate_limited", "Provider returned error: busy upstream")
    assert failure.retry_after == 60.0


@pytest.mark.parametrize(
    "message",
    [
        "Incorrect API key provided: sk-proj-abcd****wxyz. You can find your key at https://x",
        "Authentication Fails, Your api key: ****-key is invalid",
        "bad key gsk_0123456789",
    ],
)
def test_no_piece_of_a_credential_reaches_the_message(message: str) -> None:
    text = classify(401, error(message)).message
    assert "[redacted]" in text
    assert not any(piece in text for piece in ("abcd", "wxyz", "-key is", "gsk_0", "****"))


def test_a_wait_in_the_message_counts_where_no_header_tells_one() -> None:
    words = (
        "Rate limit reached. Please try again in 1m3.5s. Add a payment method at https://x/account/billing."
    )
    assert classify(429, error(words)).retry_after == pytest.approx(63.5)
    assert classify(429, error(words), retry_after="2").retry_after == 2.0
    assert classify(429, error(words)).kind == "rate_limited"
    assert classify(429, error("Please retry in 34.074824224s.")).retry_after == pytest.approx(
        34.07, abs=0.01
    )
    assert classify(429, error("try again in a while")).retry_after is None


def test_a_huge_or_binary_body_gives_a_bounded_message() -> None:
    assert len(classify(500, error("x" * 100_000)).message) <= 2_000
    assert len(classify(500, b"\xff" * 100_000).message) <= 2_000
    assert classify(502, b"<html>").message == "the provider answered 502"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"null",
        b"[]",
        b"not json",
        b'{"error":{"message":"x"}}',
        b'{"object":"error","message":"x"}',
        b'{"id":"1"}',
    ],
)
@pytest.mark.parametrize(
    "operation", [Operation.OPENAI_CHAT, Operation.OPENAI_COMPLETIONS, Operation.OPENAI_EMBEDDINGS]
)
def test_what_is_no_answer_is_a_value_error(operation: Operation, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"provider"):
        ADAPTER.read_answer(operation, body)
    with pytest.raises(ValueError, match=r"provider"):
        ADAPTER.decode_chat(body)


DATE = {b"date": b"Mon, 23 Nov 2026 06:00:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({b"retry-after": b"23"}, 23.0),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after-ms": b"250"}, 0.25),
        ({b"retry-after": b"1", b"retry-after-ms": b"0"}, 1.0),
        ({b"retry-after": b"505", b"x-ratelimit-reset-requests": b"1s"}, 505.0),
        ({**DATE, b"retry-after": b"Mon, 23 Nov 2026 06:00:30 GMT"}, 30.0),
        ({**DATE, b"retry-after": b"Mon, 23 Nov 2026 05:59:00 GMT"}, 0.0),
        ({b"retry-after": b"Mon, 23 Nov 2026 06:00:30 GMT"}, None),
        ({**DATE, b"retry-after": b"1795413660"}, 60.0),
        ({**DATE, b"x-ratelimit-reset": b"1795413660000"}, 60.0),
        ({b"x-ratelimit-reset": b"2"}, 2.0),
        ({b"x-ratelimit-reset-requests": b"1m26.4s", b"x-ratelimit-remaining-requests": b"0"}, 86.4),
        (
            {
                b"x-ratelimit-reset-requests": b"23h55m16.126s",
                b"x-ratelimit-remaining-requests": b"900",
                b"x-ratelimit-reset-tokens": b"6s",
                b"x-ratelimit-remaining-tokens": b"0",
            },
            6.0,
        ),
        (
            {
                b"x-ratelimit-reset-requests": b"30s",
                b"x-ratelimit-remaining-requests": b"0",
                b"x-ratelimit-reset-tokens": b"1s",
                b"x-ratelimit-remaining-tokens": b"50",
            },
            30.0,
        ),
        ({b"x-ratelimit-reset-requests": b"8.64s", b"x-ratelimit-reset-tokens": b"120ms"}, 0.12),
        ({**DATE, b"anthropic-ratelimit-input-tokens-reset": b"2026-11-23T06:00:18Z"}, 18.0),
        ({b"retry-after": b"-1", b"retry-after-ms": b"-1"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"99999999999999999999"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"\xff\x00"}, None),
        ({b"date": b"1", b"retry-after": b"Mon, 99 Nov 2026 06:00:30 GMT"}, None),
        ({}, None),
    ],
)
def test_every_spelling_of_a_wait_is_read(headers: dict[bytes, bytes], seconds: float | None) -> None:
    waited = read_retry_after(headers)
    assert waited == (seconds if seconds is None else pytest.approx(seconds))


def test_a_given_time_comes_before_the_date_header() -> None:
    headers = {**DATE, b"retry-after": b"Mon, 23 Nov 2026 06:00:30 GMT"}
    assert read_retry_after(headers, now=1795413600.0 + 20) == 10.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6s", 6),
        ("120ms", 0.12),
        ("1m26.4s", 86.4),
        ("23h55m16.126s", 86116.126),
        ("2d", 172_800),
        ("0s", 0),
        ("1m", 60),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "6", "6 s", "-6s", "1s1m", "nan"])
def test_other_texts_are_no_durations(text: str) -> None:
    assert read_duration(text) is None
