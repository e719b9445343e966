"""Requests with directives through the whole gateway: what they ask happens, and nobody behind it ever sees them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import Client, a_body, call
from tests.gateway.serving import RunningGateway, running_gateway
from tests.gateway.test_websocket import collect, socket_to
from tokenhub.core.policies import ConditionSpec, PolicySpec
from tokenhub.core.specs import Snapshot

DIRECTIVE = "@@tokenhub\nmode=cheap\nmy_secret_wish=1\n@@end\n"


def a_world(port: int) -> tuple[Snapshot, str]:
    """OpenAI's model `gpt`, Anthropic's model `claude`, and a key for both."""
    openai, anthropic = a_provider("oa", "openai", port), a_provider("an", "anthropic", port)
    key, text = a_key()
    models = (a_model(openai, "gpt"), a_model(anthropic, "claude"))
    return a_snapshot(providers=(openai, anthropic), models=models, keys=(key,)), text


def hear(mock: MockProvider) -> bytes:
    """All that the provider ever got, and what it says of it."""
    bodies = b"\n".join(received.body for received in mock.bodies())
    return bodies + json.dumps(mock.stats(), default=str).encode()


def read_journal(gateway: RunningGateway) -> bytes:
    """The journal's bytes."""
    return b"".join(path.read_bytes() for path in gateway.journal.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt", "claude"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_a_directive_reaches_no_provider_no_log_and_no_journal(
    client: Client,
    model: str,
    stream: bool,
    mock: MockProvider,
    http: httpx.AsyncClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    snapshot, key = a_world(mock.port)
    parts = [{"type": "text", "text": DIRECTIVE + "What is two and two?"}]
    async with running_gateway(snapshot, tmp_path) as gateway:
        for content in (DIRECTIVE + "What is two and two?", parts):
            asked = a_body(client, model, stream=stream)
            asked["messages"] = [{"role": "user", "content": content}]
            answer = await call(http, gateway, key, client, asked)
            assert answer.status == 200
            assert answer.text
            assert answer.headers["x-tokenhub-directives-ignored"] == "my_secret_wish"
        await gateway.settled(2)
        heard, written = hear(mock), read_journal(gateway)
    assert b"What is two and two?" in heard
    for place in (heard, written, caplog.text.encode()):
        assert b"@@tokenhub" not in place
        assert b"my_secret_wish" not in place


async def test_on_a_route_of_the_same_format_only_the_directive_is_missing(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    raw = (
        b' {\t"temperature" : 0.50,\n "model":"gpt" , "messages":[{"role":"user","content":"%bcaf\\u00e9 \\/ \xf0\x9f\x98\x80"}],'
        b'"unknown_field":{"b":1e2,"a":[ 1,2 ]},"max_tokens":40}\n'
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", raw % b"@@tokenhub mode=cheap\\n")
        assert answer.status == 200
        assert "x-tokenhub-directives-ignored" not in answer.headers
        assert mock.bodies()[-1].body == raw % b""


async def test_a_large_body_is_stripped_too(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    filling = "é" * 3_000_000
    async with running_gateway(snapshot, tmp_path) as gateway:
        raw = json.dumps(a_body("openai", "gpt", text="@@FILL"), ensure_ascii=False)
        asked = raw.replace("@@FILL", "@@tokenhub mode=cheap\\nhi " + filling).encode()
        answer = await call(http, gateway, key, "openai", asked)
        assert answer.status == 200
        assert mock.bodies()[-1].body == raw.replace("@@FILL", "hi " + filling).encode()


async def test_an_invalid_value_is_refused_before_anything_is_sent(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for client in ("openai", "anthropic"):
            asked = a_body(client, "gpt", text="@@tokenhub iterations=6\nhi")  # type: ignore[arg-type]
            answer = await call(http, gateway, key, client, asked)  # type: ignore[arg-type]
            assert answer.status == 400
            assert answer.body is not None
            told = answer.body["error"]["message"]
            assert (
                "messages[0].content: the directive iterations must be a whole number from 0 to 5, not '6'"
                in told
            )
        assert answer.body is not None
        assert not mock.bodies()


@pytest.mark.parametrize(
    ("client", "limits", "sent"),
    [
        ("openai", {"max_tokens": 60}, {"max_tokens": 7}),
        ("openai", {"max_tokens": 5}, {"max_tokens": 5}),
        ("openai", {"max_tokens": None}, {"max_completion_tokens": 7}),
        ("openai", {"max_tokens": None, "max_completion_tokens": 90}, {"max_completion_tokens": 7}),
        ("anthropic", {"max_tokens": 60}, {"max_tokens": 7}),
    ],
)
async def test_the_answers_length_is_clamped(
    client: Client,
    limits: dict[str, Any],
    sent: dict[str, int],
    mock: MockProvider,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    snapshot, key = a_world(mock.port)
    asked = a_body(client, {"openai": "gpt", "anthropic": "claude"}[client], **limits)
    asked = {name: value for name, value in asked.items() if value is not None}
    asked["messages"][0]["content"] = "@@tokenhub max_tokens=7\nhi"
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, asked)
        assert answer.status == 200
        received = json.loads(mock.bodies()[-1].body)
        assert {name: received[name] for name in received if name.startswith("max_")} == sent


async def test_a_prompt_and_a_count_are_stripped_as_well(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        head = {"authorization": f"Bearer {key}"}
        response = await http.post(
            gateway.origin + "/v1/completions",
            json={"model": "gpt", "prompt": DIRECTIVE + "Once upon a time", "max_tokens": 5},
            headers=head,
        )
        assert response.status_code == 200
        assert json.loads(mock.bodies()[-1].body)["prompt"] == "Once upon a time"
        counts = []
        for content in (DIRECTIVE + "hello there", "hello there"):
            response = await http.post(
                gateway.origin + "/v1/messages/count_tokens",
                json={"model": "claude", "messages": [{"role": "user", "content": content}]},
                headers=head,
            )
            counts.append(response.json()["input_tokens"])
        assert counts[0] == counts[1]
    assert b"@@tokenhub" not in hear(mock)


async def test_an_embeddings_input_is_no_message(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        response = await http.post(
            gateway.origin + "/v1/embeddings",
            json={"model": "gpt", "input": DIRECTIVE},
            headers={"authorization": f"Bearer {key}"},
        )
        assert response.status_code == 200
        assert json.loads(mock.bodies()[-1].body)["input"] == DIRECTIVE


async def test_a_message_of_nothing_but_a_directive_is_one_that_every_provider_takes(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "anthropic", a_body("anthropic", "claude", text=DIRECTIVE))
        assert answer.status == 200
        assert json.loads(mock.bodies()[-1].body)["messages"][0]["content"] == "."


async def test_over_a_websocket_it_is_the_same(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
        await socket.send(json.dumps({"id": "a", "body": a_body("openai", "gpt", text=DIRECTIVE + "hi")}))
        told = (await collect(socket, 1))["a"]
        assert told[0]["headers"]["x-tokenhub-directives-ignored"] == "my_secret_wish"
        assert json.loads(mock.bodies()[-1].body)["messages"][0]["content"] == "hi"


async def test_where_a_policy_switches_them_off_they_are_text(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, _ = a_world(mock.port)
    key, text = a_key(project="quiet")
    when = ConditionSpec(projects=frozenset({"quiet"}))
    off = PolicySpec("p", "quiet", 1, when=when, directives=False)
    snapshot = Snapshot(2, 0.0, snapshot.providers, snapshot.models, keys=(key,), policies=(off,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, text, "openai", a_body("openai", "gpt", text=DIRECTIVE + "hi"))
        assert answer.status == 200
        assert json.loads(mock.bodies()[-1].body)["messages"][0]["content"] == DIRECTIVE + "hi"
