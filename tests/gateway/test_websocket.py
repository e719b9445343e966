"""`WS /v1/stream`: the same answers over a WebSocket, several in flight, each under its caller's id."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import a_body
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.keys import mint_key
from tokenhub.core.specs import Snapshot


def one_model(port: int, upstream_name: str = "model") -> tuple[Snapshot, str]:
    """The model `work`."""
    provider = a_provider("only", "openai", port)
    key, text = a_key()
    return a_snapshot(
        providers=(provider,), models=(a_model(provider, "work", upstream_name),), keys=(key,)
    ), text


def socket_to(gateway: RunningGateway, key: str = "") -> connect:
    """A connection, with the key in its handshake unless it is empty."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return connect(f"ws://127.0.0.1:{gateway.port}/v1/stream", additional_headers=headers)


async def collect(socket: ClientConnection, ends: int) -> dict[str, list[dict[str, Any]]]:
    """Every message by its id, until so many requests have ended."""
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    while ends:
        message = json.loads(await socket.recv())
        told[message["id"]].append(message)
        ends -= message["type"] == "end"
    return told


async def test_several_requests_run_at_once_each_under_its_id(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
        for number in range(5):
            stream = number % 2 == 0
            await socket.send(
                json.dumps({"id": f"call-{number}", "body": a_body("openai", "work", stream=stream)})
            )
        await socket.send(
            json.dumps(
                {"id": "claude", "path": "/v1/messages", "body": a_body("anthropic", "work", stream=True)}
            )
        )
        told = await collect(socket, 6)
        for number in range(5):
            messages = told[f"call-{number}"]
            assert messages[0]["type"] == "start"
            assert messages[0]["status"] == 200
            if number % 2 == 0:
                assert messages[-2]["data"] == "[DONE]"
                text = "".join(
                    m["data"]["choices"][0]["delta"].get("content") or ""
                    for m in messages[1:-2]
                    if m["data"]["choices"]
                )
                assert text
            else:
                assert messages[1]["body"]["choices"][0]["message"]["content"]
        assert [m["event"] for m in told["claude"] if m["type"] == "event"][-1] == "message_stop"
        await gateway.settled(6)


async def test_a_cancelled_request_ends_its_upstream_call_and_leaves_the_others(tmp_path: Path) -> None:
    async with MockProvider(gap=0.05, tokens=60) as mock:
        snapshot, key = one_model(mock.port)
        async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
            for call_id in ("leaves", "stays"):
                await socket.send(json.dumps({"id": call_id, "body": a_body("openai", "work", stream=True)}))
            while json.loads(await socket.recv())["type"] != "event":
                pass
            await socket.send(json.dumps({"id": "leaves", "cancel": True}))
            told = await collect(socket, 1)
            assert told["stays"][-1]["type"] == "end"
            outcomes = {final.outcome for final in await gateway.settled(2)}
            assert outcomes == {"cancelled", "completed"}


async def test_closing_the_socket_ends_every_request(tmp_path: Path) -> None:
    async with MockProvider(gap=0.05, tokens=60) as mock:
        snapshot, key = one_model(mock.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            async with socket_to(gateway, key) as socket:
                for number in range(3):
                    await socket.send(
                        json.dumps({"id": str(number), "body": a_body("openai", "work", stream=True)})
                    )
                while json.loads(await socket.recv())["type"] != "event":
                    pass
            assert {final.outcome for final in await gateway.settled(3)} == {"cancelled"}
            await mock.until(lambda stats: stats["connections"]["open"] == 0)


async def test_a_browser_sends_its_key_in_the_first_message(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        async with socket_to(gateway) as socket:
            await socket.send(json.dumps({"key": key}))
            assert json.loads(await socket.recv())["type"] == "ready"
            await socket.send(json.dumps({"id": "a", "body": a_body("openai", "work")}))
            assert (await collect(socket, 1))["a"][0]["status"] == 200
        async with socket_to(gateway) as socket:
            await socket.send(json.dumps({"key": mint_key()}))
            assert json.loads(await socket.recv())["error"]["code"] == "invalid_api_key"
            await socket.wait_closed()
            assert socket.close_code == 4401


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"body": {}}', "invalid_request"),
        ('{"id": 7, "body": {}}', "invalid_request"),
    ],
)
async def test_a_bad_message_is_told_and_the_socket_stays_open(
    message: str, code: str, mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
        await socket.send(message)
        assert json.loads(await socket.recv())["error"]["code"] == code
        await socket.send(json.dumps({"id": "a", "body": {"model": "work"}}))
        assert (await collect(socket, 1))["a"][0]["status"] == 400
        await socket.send(json.dumps({"id": "b", "body": a_body("openai", "work")}))
        assert (await collect(socket, 1))["b"][0]["status"] == 200


@pytest.mark.parametrize("key", ["", "a bad one"])
async def test_without_a_good_key_a_socket_takes_no_request(
    key: str, mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, _ = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
        if not key:
            await socket.send(json.dumps({"id": "a", "body": a_body("openai", "work")}))
        told = json.loads(await socket.recv())
        assert told["error"]["code"] in ("missing_api_key", "invalid_api_key")
        await socket.wait_closed()
        assert socket.close_code == 4401


async def test_an_unknown_caller_has_nothing_long_parsed(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, _ = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway) as socket:
        await socket.send(json.dumps({"key": "x" * 2000}))
        await socket.wait_closed()
        assert socket.close_code == 1009


async def test_a_caller_who_tears_the_socket_down_pays_for_what_was_relayed(tmp_path: Path) -> None:
    async with MockProvider(gap=0.01, tokens=60) as mock:
        snapshot, key = one_model(mock.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            async with socket_to(gateway, key) as socket:
                await socket.send(json.dumps({"id": "a", "body": a_body("openai", "work", stream=True)}))
                for _ in range(6):
                    await socket.recv()
                socket.transport.abort()
            (final,) = await gateway.settled(1)
            assert final.outcome in ("cancelled", "truncated")
            assert final.usage.output > 0
            assert final.cost_nanos


async def test_a_key_in_a_message_takes_the_place_of_the_one_before(
    mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway) as socket:
        for _ in range(2):
            await socket.send(json.dumps({"key": key}))
            assert json.loads(await socket.recv())["type"] == "ready"
        await socket.send(json.dumps({"id": "a", "body": a_body("openai", "work")}))
        assert (await collect(socket, 1))["a"][0]["status"] == 200


async def test_bodies_on_sockets_count_against_the_bytes_under_way(
    mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with (
        running_gateway(snapshot, tmp_path, max_inflight_body_bytes=1000) as gateway,
        socket_to(gateway, key) as socket,
    ):
        body = a_body("openai", "work", text="x" * 2000)
        await socket.send(json.dumps({"id": "a", "body": body}))
        assert (await collect(socket, 1))["a"][0]["status"] == 503
