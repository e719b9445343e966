"""OpenAI's error object on every OpenAI-shaped endpoint, and the checks of the endpoints that are only relayed."""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType
from typing import Any

import openai
import pytest

from gateway.wire.base import WireFormat
from gateway.wire.openai_chat import OpenAIChat
from gateway.wire.openai_completions import OpenAICompletions
from gateway.wire.openai_embeddings import OpenAIEmbeddings
from providers.adapters.base import Failure
from tokenhub.core.chat import ChatCall
from tokenhub.core.errors import (
    AllAttemptsFailed,
    AuthenticationFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    RateLimited,
    TokenhubError,
)

FORMATS = [OpenAIChat(), OpenAICompletions(), OpenAIEmbeddings()]


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("n: must be at least 1", param="n"), "invalid_request_error"),
        (AuthenticationFailed("no key"), "authentication_error"),
        (PermissionDenied("scope"), "permission_error"),
        (ModelNotFound("no model"), "invalid_request_error"),
        (RateLimited("slow down", retry_after=2.0), "rate_limit_error"),
        (AllAttemptsFailed("all failed"), "server_error"),
    ],
)
def test_an_error_of_ours_is_openais_object(wire: WireFormat, error: TokenhubError, kind: str) -> None:
    body = json.loads(wire.error_body(error, "req_1"))
    assert body == {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
            "request_id": "req_1",
        }
    }


def test_hints_and_details_go_along_as_plain_json() -> None:
    details = MappingProxyType(
        {"near": ("a", "b"), "attempts": [MappingProxyType({"status": 503, "why": ValueError("x")})]}
    )
    error = ModelNotFound("no model", hint="use a or b", details=details)
    body = json.loads(FORMATS[0].error_body(error, "r"))["error"]
    assert body["hint"] == "use a or b"
    assert body["details"] == {"near": ["a", "b"], "attempts": [{"status": 503, "why": "x"}]}


@pytest.mark.parametrize(
    ("failure", "kind", "code", "message"),
    [
        (Failure("context_overflow", 400, "long", code="Bad"), "invalid_request_error", "context_length_exceeded", "long"),
        (Failure("rate_limited", 429, "slow"), "rate_limit_error", "rate_limit_exceeded", "slow"),
        (Failure("fatal", 400, "bad", code="invalid_value", param="n"), "invalid_request_error", "invalid_value", "bad"),
        (Failure("fatal", 422, "bad"), "invalid_request_error", "provider_error", "bad"),
        (Failure("transient", 503, "down"), "server_error", "provider_error", "down"),
        (Failure("content_filter", 403, "filtered"), "invalid_request_error", "content_filter", "filtered"),
        (
            Failure("credential", 401, "org-secret is over quota", code="invalid_api_key"),
            "server_error",
            "provider_credential_refused",
            "the provider refused the gateway's credential",
        ),
    ],
)  # fmt: skip
def test_a_providers_failure_is_openais_object(failure: Failure, kind: str, code: str, message: str) -> None:
    for wire in FORMATS:
        body = json.loads(wire.failure_body(failure, "r"))["error"]
        assert (body["type"], body["code"], body["message"], body["request_id"]) == (kind, code, message, "r")
        assert body["param"] == (failure.param or None)


def test_openais_sdk_raises_the_error_event_of_a_stream_behind_its_chunks() -> None:
    """The SDK over a real socket, against a server that answers with what we wrote."""
    wire = FORMATS[0]
    encoder = wire.stream_encoder(model="m", call=ChatCall((), stream=True))
    from_us = encoder.encode([]) + b"".join(
        [
            b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n',
            wire.heartbeat,
            wire.error_event(InternalError("it broke", code="internal_error"), "req_9"),
        ]
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + from_us
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def call() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        seen: list[Any] = []
        async with (
            server,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}", api_key="k", max_retries=0) as client,
        ):
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            with pytest.raises(openai.APIError, match="it broke") as raised:
                seen += [chunk async for chunk in stream]
            assert isinstance(raised.value.body, dict)
            assert raised.value.body["request_id"] == "req_9"
            await stream.close()

    asyncio.run(asyncio.wait_for(call(), 20))


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": []}, "prompt"),
        ({"model": "m", "prompt": 7}, "prompt"),
        ({"model": "m", "prompt": "x", "stream": "true"}, "stream"),
        ({"model": "m", "prompt": "x", "max_tokens": -1}, "max_tokens"),
        ({"model": "m", "prompt": "x", "n": 0}, "n"),
        ({"model": "m", "prompt": "x", "best_of": "2"}, "best_of"),
    ],
)
def test_a_wrong_completions_body_is_refused_with_its_path(body: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        OpenAICompletions().check(body)
    assert raised.value.param == path


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": "x"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": ""}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": {"a": 1}}, "input"),
        ({"model": "m", "input": "x", "dimensions": 0}, "dimensions"),
    ],
)
def test_a_wrong_embeddings_body_is_refused_with_its_path(body: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        OpenAIEmbeddings().check(body)
    assert raised.value.param == path


@pytest.mark.parametrize("given", ["x", ["x", "y"], [1, 2], [[1], [2]]])
def test_every_form_of_prompt_and_input_is_taken(given: Any) -> None:
    OpenAICompletions().check({"model": "m", "prompt": given, "stream": True, "max_tokens": 0, "x": 1})
    OpenAIEmbeddings().check({"model": "m", "input": given, "encoding_format": "base64"})


def test_completions_and_embeddings_are_never_translated() -> None:
    for wire in FORMATS[1:]:
        with pytest.raises(ValueError, match="translated"):
            wire.read_call({"model": "m"})
