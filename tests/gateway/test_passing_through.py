"""Same-format routes: the caller's bytes go up and the provider's events come down as they are."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import a_body, call
from tests.gateway.serving import CREDENTIAL, RunningGateway, running_gateway
from tokenhub.core.specs import Snapshot

ODD = (
    b' {\t"temperature" : 0.50,\n "model":"%b" , "messages":[{"role":"user","content":"caf\\u00e9 \xf0\x9f\x98\x80"}],'
    b'"unknown_field":{"b":1e2,"a":[ 1,2 ]},"max_tokens":40%b}\n'
)


def one_of_each(port: int) -> tuple[Snapshot, str]:
    """An OpenAI model `gpt`, called the same upstream, and `renamed`, which is not; an Anthropic model `claude`."""
    openai, anthropic = a_provider("oa", "openai", port), a_provider("an", "anthropic", port)
    key, text = a_key()
    models = (
        a_model(openai, "gpt"),
        a_model(openai, "renamed", "gpt-upstream"),
        a_model(anthropic, "claude"),
    )
    return a_snapshot(providers=(openai, anthropic), models=models, keys=(key,)), text


@pytest.mark.parametrize(("client", "model"), [("openai", b"gpt"), ("anthropic", b"claude")])
async def test_a_body_that_needs_no_edit_goes_up_byte_for_byte(
    client: str, model: bytes, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, ODD % (model, b""))  # type: ignore[arg-type]
        assert answer.status == 200
        assert mock.bodies()[-1].body == ODD % (model, b"")


async def test_only_the_declared_edits_change_a_body(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", ODD % (b"renamed", b""))
        assert answer.status == 200
        assert mock.bodies()[-1].body == ODD % (b"gpt-upstream", b"")
        await call(http, gateway, key, "openai", ODD % (b"renamed", b',"stream":true'))
        injected = b',"stream":true,"stream_options":{"include_usage":true}}\n'
        assert mock.bodies()[-1].body == (ODD % (b"gpt-upstream", b"")).removesuffix(b"}\n") + injected


async def direct(http: httpx.AsyncClient, mock: MockProvider, path: str, body: dict[str, object]) -> bytes:
    """What the provider itself says."""
    headers = {
        "authorization": f"Bearer {CREDENTIAL}",
        "x-api-key": CREDENTIAL,
        "anthropic-version": "2023-06-01",
    }
    return (await http.post(mock.origin + path, json=body, headers=headers)).content


def without_ids(stream: bytes) -> bytes:
    """The stream with what differs from call to call blanked."""
    lines = []
    for line in stream.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            for holder in (event, event.get("message") or {}):
                for name in ("id", "created"):
                    if name in holder:
                        holder[name] = "same"
            line = b"data: " + json.dumps(event).encode()
        lines.append(line)
    return b"\n".join(lines)


async def test_a_stream_comes_down_as_the_provider_sent_it(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        asked = a_body("openai", "gpt", stream=True, stream_options={"include_usage": True})
        through = await call(http, gateway, key, "openai", asked)
        assert without_ids(through.raw) == without_ids(
            await direct(http, mock, "/v1/chat/completions", asked)
        )
        asked = a_body("anthropic", "claude", stream=True)
        through = await call(http, gateway, key, "anthropic", asked)
        assert without_ids(through.raw) == without_ids(await direct(http, mock, "/v1/messages", asked))


async def test_usage_that_the_caller_did_not_ask_for_is_taken_out_again(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        asked = a_body("openai", "gpt", stream=True)
        through = await call(http, gateway, key, "openai", asked)
        assert b'"usage"' not in through.raw
        assert without_ids(through.raw) == without_ids(
            await direct(http, mock, "/v1/chat/completions", asked)
        )
        (final,) = await gateway.settled(1)
        assert final.usage.source == "provider"


async def test_a_whole_answer_comes_down_byte_for_byte(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        through = await call(http, gateway, key, "anthropic", a_body("anthropic", "claude"))
        own = json.loads(await direct(http, mock, "/v1/messages", a_body("anthropic", "claude")))
        assert through.body is not None
        assert list(through.body) == list(own)
        assert through.body["content"] == own["content"]


async def headers_upstream(
    gateway: RunningGateway, mock: MockProvider, http: httpx.AsyncClient, key: str
) -> dict[bytes, bytes]:
    headers = {
        "authorization": f"Bearer {key}",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "context-1m-2025-08-07",
        "x-forwarded-for": "10.0.0.1",
        "cookie": "session=secret",
        "x-custom": "1",
    }
    response = await http.post(
        gateway.origin + "/v1/messages?beta=true", json=a_body("anthropic", "claude"), headers=headers
    )
    assert response.status_code == 200
    return dict(mock.calls()[-1].headers)


async def test_the_providers_credential_goes_up_and_the_callers_key_does_not(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        sent = await headers_upstream(gateway, mock, http, key)
        assert sent[b"x-api-key"].decode() == CREDENTIAL
        assert sent[b"anthropic-beta"] == b"context-1m-2025-08-07"
        assert key.encode() not in b" ".join(sent.values())
        assert not {b"cookie", b"x-custom", b"x-forwarded-for"} & set(sent)
        assert mock.calls()[-1].path == "/v1/messages"


@pytest.mark.parametrize("stream", [False, True])
async def test_each_header_of_an_answer_stands_once(
    stream: bool, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_of_each(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "claude", stream=stream))
        assert answer.status == 200
        names = [name for name, _ in answer.headers.multi_items()]
        assert sorted(names) == sorted(set(names))
