"""Callers that go away, deadlines, heartbeats: every way of ending closes the upstream call and settles the account."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import PATHS, Client, a_body, a_head, call
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.specs import Snapshot, TimeoutsSpec

CLIENTS: tuple[Client, ...] = get_args(Client)


def one_target(
    port: int, upstream_name: str = "model", kind: str = "openai", **fields: Any
) -> tuple[Snapshot, str]:
    """One model, `work`."""
    provider = a_provider("only", kind, port, **fields)
    key, text = a_key()
    return a_snapshot(
        providers=(provider,), models=(a_model(provider, "work", upstream_name),), keys=(key,)
    ), text


async def read_some_then_leave(
    gateway: RunningGateway, key: str, client: Client, until: bytes, **more: Any
) -> None:
    """Sends a request on a bare socket, reads until `until` came, and closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(a_body(client, "work", **more)).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in a_head(client, key).items())
    writer.write(
        f"POST {PATHS[client]} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    if until:
        await asyncio.wait_for(reader.readuntil(until), 5)
    else:
        await asyncio.sleep(0.2)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("stream", "until"), [(True, b"\r\n\r\n"), (True, b"text"), (False, b""), (True, b"")]
)
async def test_when_the_caller_leaves_the_upstream_call_is_closed_within_a_second(
    client: Client, kind: str, stream: bool, until: bytes, tmp_path: Path
) -> None:
    until = b"content" if until == b"text" else until
    latency = 0.0 if until else 3.0
    async with MockProvider(latency=latency, gap=0.2, tokens=60) as mock:
        snapshot, key = one_target(mock.port, kind=kind, timeouts=TimeoutsSpec(1, 10, 10, 20))
        async with running_gateway(snapshot, tmp_path) as gateway:
            await read_some_then_leave(gateway, key, client, until, stream=stream)
            left = time.monotonic()
            await mock.until(lambda stats: stats["connections"]["open"] == 0, seconds=3)
            assert time.monotonic() - left < 1.0
            (final,) = await gateway.settled(1)
            assert final.outcome == "cancelled"
            assert final.client_disconnected
            assert final.usage.source == "estimated"
            assert 0 <= final.usage.output <= 60
            assert gateway.worker.board.total_in_flight == 0


async def test_a_provider_set_to_drain_is_read_to_its_end_and_its_own_usage_booked(tmp_path: Path) -> None:
    async with MockProvider(gap=0.02, tokens=30) as mock:
        snapshot, key = one_target(mock.port, on_disconnect="drain")
        async with running_gateway(snapshot, tmp_path) as gateway:
            await read_some_then_leave(gateway, key, "openai", b"content", stream=True)
            (final,) = await gateway.settled(1)
            assert final.outcome == "completed"
            assert final.client_disconnected
            assert final.usage.source == "provider"
            assert final.usage.output == mock.calls()[0].output_tokens == 30


async def test_with_no_room_left_for_draining_a_leaver_is_cut_off(tmp_path: Path) -> None:
    async with MockProvider(gap=0.05, tokens=60) as mock:
        snapshot, key = one_target(mock.port, on_disconnect="drain")
        async with running_gateway(snapshot, tmp_path, max_drains=0) as gateway:
            await read_some_then_leave(gateway, key, "openai", b"content", stream=True)
            (final,) = await gateway.settled(1)
            assert final.outcome == "cancelled"


async def test_pings_alone_do_not_put_off_the_first_deadline(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b'event: ping\ndata: {"type": "ping"}\n\n: still here\n\n')
                await writer.drain()
                await asyncio.sleep(0.05)

    async with MockProvider() as mock, await asyncio.start_server(ping, "127.0.0.1", 0) as server:
        pinging = a_provider(
            "pinging", "anthropic", server.sockets[0].getsockname()[1], timeouts=TimeoutsSpec(1, 0.5, 5, 9)
        )
        good = a_provider("good", "anthropic", mock.port)
        models = (a_model(pinging, "first"), a_model(good, "second"))
        key, text = a_key()
        snapshot = a_snapshot(
            providers=(pinging, good), models=models, aliases=(an_alias("work", *models),), keys=(key,)
        )
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, text, "anthropic", a_body("anthropic", "work", stream=True))
            assert answer.ended
            assert answer.headers["x-tokenhub-provider"] == "good"
            assert [final.outcome for final in await gateway.settled(2)] == ["failed", "completed"]


DEADLINES = [
    ("silent", "first_event", False),
    ("silent", "first_event", True),
    ("silent-after-head", "first_event", True),
    ("stall:2", "between_events", True),
    ("stall", "between_events", False),
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("fault", "deadline", "stream"), DEADLINES)
async def test_each_deadline_ends_a_stuck_call_in_its_time(
    fault: str,
    deadline: str,
    stream: bool,
    client: Client,
    mock: MockProvider,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    seconds = {"connect": 5.0, "first_event": 5.0, "between_events": 5.0, "total": 9.0, deadline: 0.6}
    snapshot, key = one_target(mock.port, f"model@{fault}", timeouts=TimeoutsSpec(**seconds))
    async with running_gateway(snapshot, tmp_path) as gateway:
        began = time.monotonic()
        answer = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
        took = time.monotonic() - began
        assert 0.6 <= took < 2.5, "not the other deadlines, which are 5 s and more"
        error = answer.errors[0] if answer.events else (answer.body or {})["error"]
        assert deadline in error["message"]
        if not answer.events:
            assert answer.status == 504
        (final,) = await gateway.settled(1)
        assert final.outcome == ("truncated" if answer.events else "failed")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_total_deadline_ends_even_a_lively_stream(
    stream: bool, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider(gap=0.05, tokens=200, latency=0.0 if stream else 5.0) as mock:
        snapshot, key = one_target(mock.port, timeouts=TimeoutsSpec(5, 9, 9, 0.6))
        async with running_gateway(snapshot, tmp_path) as gateway:
            body = a_body("openai", "work", stream=stream)
            body["max_tokens"] = 200
            answer = await call(http, gateway, key, "openai", body)
            error = answer.errors[0] if stream else (answer.body or {})["error"]
            assert "total" in error["message"]
            assert not answer.ended
            (final,) = await gateway.settled(1)
            assert final.outcome == ("truncated" if stream else "failed")
            await mock.until(lambda stats: stats["connections"]["open"] == 0, seconds=2)


async def test_a_connect_deadline_is_ours(http: httpx.AsyncClient, tmp_path: Path) -> None:
    # A listener whose queue is full answers no handshake: connecting hangs.
    import socket  # noqa: PLC0415 - only this test makes such a socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.1)
        snapshot, key = one_target(port, timeouts=TimeoutsSpec(0.5, 9, 9, 20))
        async with running_gateway(snapshot, tmp_path) as gateway:
            began = time.monotonic()
            answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
            assert 0.5 <= time.monotonic() - began < 3
            assert answer.status == 504
            assert "connect" in (answer.body or {})["error"]["message"]
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("fault", ["silent", "silent-after-head"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_heartbeats_keep_a_slow_stream_open_and_count_as_no_content(
    client: Client, fault: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    slow = a_provider("slow", "openai", mock.port, heartbeat=0.1, timeouts=TimeoutsSpec(1, 0.55, 1, 10))
    good = a_provider("good", "openai", mock.port, heartbeat=0.1)
    models = (a_model(slow, "stuck", f"model@{fault}"), a_model(good, "fine", "model"))
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(slow, good), models=models, aliases=(an_alias("work", *models),), keys=(key,)
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, text, client, a_body(client, "work", stream=True))
        assert answer.raw.startswith(b": heartbeat\n\n")
        assert answer.ended
        assert answer.text, "failing over still works after heartbeats"
        assert [final.outcome for final in await gateway.settled(2)] == ["failed", "completed"]
        assert gateway.worker.metrics.counters["heartbeats"][("slow",)] >= 3


async def test_a_slow_provider_does_not_slow_calls_to_another(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    stuck, fine = a_provider("stuck", "openai", mock.port), a_provider("fine", "openai", mock.port)
    stuck = replace(stuck, timeouts=TimeoutsSpec(60, 60, 60, 120))
    models = (a_model(stuck, "stuck", "model@silent"), a_model(fine, "fine", "model"))
    key, text = a_key()
    snapshot = a_snapshot(providers=(stuck, fine), models=models, keys=(key,))
    async with many_connections() as callers, running_gateway(snapshot, tmp_path) as gateway:
        asked = [call(callers, gateway, text, "openai", a_body("openai", "stuck")) for _ in range(100)]
        waiting = [asyncio.create_task(asking) for asking in asked]
        await mock.until(lambda stats: stats["connections"]["open"] >= 100)
        answers = [await call(http, gateway, text, "openai", a_body("openai", "fine")) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await gateway.settled(120)


def many_connections() -> httpx.AsyncClient:
    """A client that opens as many connections as there are calls."""
    return httpx.AsyncClient(trust_env=False, timeout=120, limits=httpx.Limits(max_connections=None))
