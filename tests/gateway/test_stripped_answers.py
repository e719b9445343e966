"""`strip_think`: answers without the thoughts that a model wrote into its text, in both formats, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.stripped_answers import strip_answer
from providers.adapters.base import Operation
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.fakes.raw_server import RawConnection, Script, serve
from tests.gateway.calls import Client, a_body, call
from tests.gateway.serving import running_gateway
from tokenhub.core.specs import Snapshot

THOUGHT = "<think>\nTwo and two…\n</think>\n\n"
ASKING = "@@tokenhub strip_think=on\nWhat is two and two?"
PLAIN = "What is two and two?"
USAGE = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
ODD = '{"id" : "c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0, "message":{"role":"assistant",'
ODD += '"content":%s},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":30} }'


def http_answer(body: bytes, kind: bytes = b"application/json") -> bytes:
    """A whole HTTP response."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


def answering(body: bytes, kind: bytes = b"application/json") -> Script:
    """A provider that always says the same."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            connection.send(http_answer(body, kind))

    return script


def openai_stream(text: str, step: int) -> bytes:
    """The text as chunks of OpenAI's, `step` characters each."""

    def chunks() -> Iterator[dict[str, Any]]:
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        yield {
            **head,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        }
        for at in range(0, len(text), step):
            delta = {"content": text[at : at + step]}
            yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {**head, "choices": [], "usage": USAGE}

    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks()]
    return b"".join(events) + b"data: [DONE]\n\n"


def anthropic_stream(text: str, step: int) -> bytes:
    """The text as events of Anthropic's."""
    usage = {"input_tokens": 9, "output_tokens": 1}
    message = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": usage,
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    events += [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text[at : at + step]},
        }
        for at in range(0, len(text), step)
    ]
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


def a_world(kind: str, port: int) -> tuple[Snapshot, str]:
    """The model `m` at one provider."""
    provider = a_provider("only", kind, port)
    key, text = a_key()
    return a_snapshot(providers=(provider,), models=(a_model(provider, "m"),), keys=(key,)), text


@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_a_whole_answer_loses_its_thoughts_and_nothing_else(
    client: Client, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = (ODD % json.dumps(THOUGHT + "It's four: caf\u00e9.")).encode()
    async with serve(answering(body)) as server:
        snapshot, key = a_world("openai", server.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, client, a_body(client, "m", text=ASKING))
            assert answer.text == "It's four: café."
            if client == "openai":
                assert answer.raw == (ODD % '"It\'s four: café."').encode()
            plain = await call(http, gateway, key, client, a_body(client, "m", text=PLAIN))
            assert plain.text == THOUGHT + "It's four: café."
            for final in await gateway.settled(2):
                assert final.usage.output_total == 30


@pytest.mark.parametrize("step", [1, 3, 4, 7, 1000])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_a_stream_loses_its_thoughts_however_it_is_cut(
    client: Client, kind: str, step: int, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    made = openai_stream if kind == "openai" else anthropic_stream
    body = made(THOUGHT + "It's <b>four</b>.", step)
    async with serve(answering(body, b"text/event-stream")) as server:
        snapshot, key = a_world(kind, server.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, client, a_body(client, "m", text=ASKING, stream=True))
            assert answer.text == "It's <b>four</b>."
            assert answer.ended
            assert not answer.errors
            assert b"Two" not in answer.raw
            (final,) = await gateway.settled(1)
            assert final.outcome == "completed"
            assert final.usage.output_total == 30


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_what_was_held_at_the_end_comes_before_the_end(
    kind: str, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    made, client = (openai_stream, "openai") if kind == "openai" else (anthropic_stream, "anthropic")
    async with serve(answering(made("<thin", 2), b"text/event-stream")) as server:
        snapshot, key = a_world(kind, server.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, client, a_body(client, "m", text=ASKING, stream=True))  # type: ignore[arg-type]
            assert answer.text == "<thin"
            assert answer.ended


async def test_a_stream_without_thoughts_passes_byte_for_byte(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = openai_stream("Four. <think>no</think>", 3)
    async with serve(answering(body, b"text/event-stream")) as server:
        snapshot, key = a_world("openai", server.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            options = {"include_usage": True}
            asked = a_body("openai", "m", text=ASKING, stream=True, stream_options=options)
            answer = await call(http, gateway, key, "openai", asked)
            assert answer.raw == body


async def test_completions_are_stripped_too(http: httpx.AsyncClient, tmp_path: Path) -> None:
    told = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "usage": USAGE}
    told["choices"] = [{"index": 0, "text": THOUGHT + "Four.", "finish_reason": "stop", "logprobs": None}]
    async with serve(answering(json.dumps(told).encode())) as server:
        snapshot, key = a_world("openai", server.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            response = await http.post(
                gateway.origin + "/v1/completions",
                json={"model": "m", "prompt": ASKING},
                headers={"authorization": f"Bearer {key}"},
            )
            assert response.json()["choices"][0]["text"] == "Four."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"choices":{}}',
        b'{"choices":[1,{"message":[]},{"text":1}]}',
        b'{"content":[{"type":"text"}]}',
    ],
)
@pytest.mark.parametrize("operation", [Operation.OPENAI_CHAT, Operation.ANTHROPIC_MESSAGES])
def test_an_answer_of_another_shape_passes(operation: Operation, body: bytes) -> None:
    assert strip_answer(operation, body) == body
