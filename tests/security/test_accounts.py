"""Nobody reads for nothing: however a caller leaves, what it was sent is in its account."""

from __future__ import annotations

import json
from pathlib import Path

from websockets.asyncio.client import connect

from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.serving import running_gateway

CONTENT = 2_000_000


async def test_a_caller_who_tears_its_socket_down_has_what_it_read_on_its_account(tmp_path: Path) -> None:
    choice = {"index": 0, "delta": {"content": "y" * 30_000}}
    event = b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"

    async def generous(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for _ in range(2000):
            await connection.send_patiently(event)
        await connection.peer_gone.wait()

    async with serve(generous) as upstream:
        provider = a_provider("only", "openai", upstream.port)
        key, text = a_key()
        snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
        async with running_gateway(snapshot, tmp_path) as gateway:
            address = f"ws://127.0.0.1:{gateway.port}/v1/stream"
            headers = {"authorization": f"Bearer {text}"}
            async with connect(address, additional_headers=headers, max_size=None) as caller:
                body = {"model": "work", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                await caller.send(json.dumps({"id": "a", "body": body}))
                read = 0
                while read < CONTENT:
                    read += len(await caller.recv())
                caller.transport.abort()
            (final,) = await gateway.settled(1)
    assert final.outcome == "cancelled"
    assert final.client_disconnected
    assert final.usage.output >= CONTENT // 8
    assert final.cost_nanos
