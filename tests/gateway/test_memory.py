"""Memory stays flat: a stream of any length, a reader of any slowness."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.specs import TimeoutsSpec

MEGABYTE = 1024 * 1024
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 4000 + b'"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Flood:
    """An upstream that sends a long stream as fast as it is taken, and counts what it sent."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        writer.write(HEAD)
        batch = EVENT * 16
        try:
            while self.sent < self.size:
                writer.write(batch)
                self.sent += len(batch)
                await writer.drain()
            writer.write(LAST)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def flooded(size: int, folder: Path) -> AsyncIterator[tuple[RunningGateway, Flood, str]]:
    """A gateway whose only model sends a stream of this size."""
    flood = Flood(size)
    server = await asyncio.start_server(flood.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider = a_provider("flood", "openai", port, timeouts=TimeoutsSpec(1, 10, 20, 120))
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    async with running_gateway(snapshot, folder) as gateway:
        yield gateway, flood, text
    server.close()


async def ask(gateway: RunningGateway, key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a streaming request on a bare socket with a small receive buffer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=MEGABYTE)
    body = json.dumps(
        {"model": "work", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    ).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )
    return reader, writer


@pytest.mark.slow
async def test_a_long_stream_passes_through_in_flat_memory(tmp_path: Path) -> None:
    size = 200 * MEGABYTE
    async with flooded(size, tmp_path) as (gateway, _, key):
        reader, writer = await ask(gateway, key)
        await reader.read(MEGABYTE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        received, tail = 0, b""
        while chunk := await reader.read(MEGABYTE):
            received += len(chunk)
            tail = (tail + chunk)[-200:]
        assert received > size - 2 * MEGABYTE
        assert b"[DONE]" in tail
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 20 * 1024, f"the peak grew by {grown} KiB over a stream of 200 MiB"
        writer.close()
        (final,) = await gateway.settled(1)
        assert final.outcome == "completed"


async def test_a_caller_who_does_not_read_slows_the_provider_down(tmp_path: Path) -> None:
    async with flooded(400 * MEGABYTE, tmp_path) as (gateway, flood, key):
        reader, writer = await ask(gateway, key)
        await reader.readuntil(b"\r\n\r\n")
        held = -1
        while held != flood.sent:
            held = flood.sent
            await asyncio.sleep(0.5)
        assert held < 40 * MEGABYTE, "what is under way is bounded by the sockets' and our own buffers"
        writer.transport.abort()
        (final,) = await gateway.settled(1)
        assert final.outcome == "cancelled"
        assert final.usage.source == "estimated"
