"""One caller, or none, can't take the gateway from the others: memory, the loop, connections, the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.body import parse_body
from gateway.wire.openai_chat import OpenAIChat
from providers.adapters.base import Target
from providers.adapters.registry import get_adapter
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.serving import RunningGateway, running_gateway
from tests.security.cast import Trap
from tokenhub.core.errors import InvalidJSON
from tokenhub.core.specs import Snapshot

MEGABYTE = 1_000_000
PATIENCE = 10.0


def one_model(port: int, kind: str = "openai") -> tuple[Snapshot, str]:
    """The model `work`."""
    provider = a_provider("only", kind, port)
    key, text = a_key()
    return a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,)), text


def a_head(key: str, *fields: str) -> bytes:
    """The head of a chat request."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", f"authorization: Bearer {key}", *fields]
    return ("\r\n".join([*lines, "content-type: application/json"]) + "\r\n\r\n").encode()


async def ask(gateway: RunningGateway, key: str, **more: Any) -> tuple[int, bytes]:
    """Status and body of one small request on a connection of its own."""
    body = json.dumps({"model": "work", "messages": [{"role": "user", "content": "hi"}], **more}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(a_head(key, f"content-length: {len(body)}", "connection: close") + body)
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), rest


async def test_bodies_that_are_announced_but_not_sent_keep_nobody_out(
    mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, contextlib.AsyncExitStack() as held:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            held.callback(writer.close)
            writer.write(a_head(key, "content-length: 25000000"))
            await writer.drain()
        await asyncio.sleep(0.2)
        status, _ = await ask(gateway, key)
        assert status == 200


async def test_a_body_of_which_nothing_comes_is_given_up_in_time(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path, body_timeout=0.2) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(a_head(key, "content-length: 1000"))
        try:
            async with asyncio.timeout(3.0):
                status = await reader.readline()
        finally:
            writer.close()
        assert status.split(b" ")[1] == b"408"


async def test_bodies_of_unknown_length_count_while_they_arrive(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = one_model(mock.port)
    limits: dict[str, Any] = {"max_body_bytes": MEGABYTE, "max_inflight_body_bytes": 2 * MEGABYTE}
    async with (
        running_gateway(snapshot, tmp_path, **limits) as gateway,
        contextlib.AsyncExitStack() as held,
    ):
        ended = 0
        for _ in range(6):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            held.callback(writer.close)
            writer.write(a_head(key, "transfer-encoding: chunked") + b"dac00\r\n" + b" " * 0xDAC00 + b"\r\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0.1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    ended += (await reader.readline()).split(b" ")[1:2] == [b"503"]
        assert ended >= 3, "5.4 MB of bodies are held, 2 MB are allowed"


async def test_depth_does_not_multiply_the_memory_of_a_body() -> None:
    text = b'"' + b"a" * MEGABYTE + b'"'
    body = b'{"x":' + b"[" * 200 + text + b"]" * 200 + b"}"
    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidJSON):  # A refusal is as good: what counts is the memory.
            await parse_body(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * len(body)


async def test_many_small_values_leave_the_loop_free() -> None:
    """Between two turns of the loop lie no more than so many values; counted, not timed."""
    body = b'{"x":[' + b",".join([b"1"] * 400_000) + b"]}"
    turns = 0
    done = False

    async def count() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    try:
        await parse_body(body)
    except InvalidJSON:
        turns = 40  # A refusal is as good.
    done = True
    await counting
    # 400,000 values cost about 0.8 s; forty turns leave 20 ms between two of them.
    assert turns >= 40


def count_steps(work: Callable[[], object]) -> int:
    """How many bytecode instructions Python runs for this."""
    steps = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_translation_costs_in_proportion_to_its_messages(kind: str) -> None:
    provider = a_provider("only", kind, 1)
    target = Target(provider, a_model(provider, "work"), provider.endpoints[0], "credential")
    wire, adapter = OpenAIChat(), get_adapter(kind)

    def steps(number: int) -> int:
        messages = [{"role": "user", "content": "hi"}] * number
        return count_steps(
            lambda: adapter.encode_chat(wire.read_call({"model": "work", "messages": messages}), target)
        )

    assert steps(800) < 5 * steps(200)


async def test_a_stream_without_content_is_cut_at_the_limit_of_answers(tmp_path: Path) -> None:
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant"},"pad":"%b"}]}\n\n' % (
        b"x" * 60_000
    )

    async def endless(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for _ in range(800):
            await connection.send_patiently(event)
        await connection.peer_gone.wait()

    async with serve(endless) as upstream:
        snapshot, key = one_model(upstream.port)
        async with running_gateway(snapshot, tmp_path, max_answer_bytes=MEGABYTE, max_attempts=1) as gateway:
            status, _ = await ask(gateway, key, stream=True)
            assert status == 502
            assert upstream.connections[0].sent < 20 * MEGABYTE


async def test_a_socket_without_a_key_has_no_large_message_read(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, _ = one_model(mock.port)
    told: list[str] = []
    async with (
        running_gateway(snapshot, tmp_path) as gateway,
        connect(f"ws://127.0.0.1:{gateway.port}/v1/stream", max_size=None) as caller,
        asyncio.timeout(PATIENCE),
    ):
        with contextlib.suppress(ConnectionClosed):
            await caller.send('{"id":"a","body":{"x":[' + ",".join(["[]"] * 500_000) + "]}}")
        with contextlib.suppress(ConnectionClosed):
            while "end" not in told:
                told.append(json.loads(await caller.recv())["type"])
    assert set(told) <= {"error"}, "the message was read and answered"


@pytest.mark.parametrize("path", ["/admin/login/", "/admin/v1/providers", "/admin/nowhere"])
def test_the_admin_side_takes_no_endless_body_from_strangers(trap: Trap, path: str) -> None:
    """Django spools a body to disk before any view, and so before anybody is authenticated."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000000000\r\n\r\n".encode()
    piece, taken = b"a" * MEGABYTE, 0
    with socket.create_connection(("127.0.0.1", trap.service.port), timeout=5) as caller:
        caller.sendall(head)
        with contextlib.suppress(OSError):
            while taken < 80:
                caller.sendall(piece)
                taken += 1
    assert taken < 80, "80 MB were taken"
