"""Bodies in front of Django: what is too long or too slow is answered, cut off, and never handed on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from tokenhub.bounded_body import BoundedBody

LIMIT = 200_000
PATIENCE = 10.0


@dataclass
class Reader:
    """An application that counts what it is given, as Django would store it, and answers with the count."""

    port: int = 0
    pieces: list[int] = field(default_factory=list)
    calls: int = 0
    left: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads one body to its end."""
        self.calls += 1
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            self.pieces.append(len(message["body"]))
            more = message["more_body"]
        content = str(sum(self.pieces)).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def reading(seconds: float = PATIENCE) -> AsyncIterator[Reader]:
    """A served Reader behind the bounds."""
    reader = Reader()
    listener = socket.create_server(("127.0.0.1", 0))
    reader.port = listener.getsockname()[1]
    application = BoundedBody(reader, seconds=seconds, max_bytes=LIMIT)
    server = uvicorn.Server(
        uvicorn.Config(application, lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield reader
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def exchange(port: int, path: str, *sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes, read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(f"POST {path} HTTP/1.1\r\nhost: h\r\n".encode() + b"".join(sent))
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split(" ")[1]), headers, body


def chunk(size: int) -> bytes:
    """One chunk of the chunked coding."""
    return b"%x\r\n%s\r\n" % (size, b"a" * size)


@pytest.mark.parametrize("path", ["/admin/v1/teams", "/admin/v1"])
async def test_an_announced_length_over_the_limit_is_a_413_problem_before_anything_is_read(path: str) -> None:
    async with reading() as reader:
        status, headers, body = await exchange(reader.port, path, b"content-length: 200001\r\n\r\n")
    problem = json.loads(body)
    assert (status, headers["content-type"], headers["connection"]) == (
        413,
        "application/problem+json",
        "close",
    )
    assert (problem["status"], problem["code"]) == (413, "payload_too_large")
    assert problem["request_id"] == headers["x-tokenhub-request-id"]
    assert reader.calls == 0


@pytest.mark.parametrize("path", ["/admin/login/", "/admin/v1x", "/"])
async def test_pages_get_the_413_as_plain_text(path: str) -> None:
    async with reading() as reader:
        status, headers, body = await exchange(
            reader.port, path, b"content-length: 9" + b"9" * 17 + b"\r\n\r\n"
        )
    assert (status, headers["content-type"]) == (413, "text/plain; charset=utf-8")
    assert body == b"The body is longer than 200000 bytes.\n"
    assert reader.calls == 0


async def test_a_body_of_unknown_length_is_cut_at_the_limit_and_closed() -> None:
    async with reading() as reader:
        status, headers, _ = await exchange(
            reader.port, "/admin/login/", b"transfer-encoding: chunked\r\n\r\n", chunk(150_000), chunk(50_001)
        )
    assert (status, headers["connection"]) == (413, "close")
    assert sum(reader.pieces) <= LIMIT
    assert reader.left == 1


async def test_a_body_that_does_not_arrive_in_time_is_a_408_and_closed() -> None:
    async with reading(seconds=0.2) as reader:
        status, headers, body = await exchange(
            reader.port, "/admin/v1/teams", b"content-length: 10\r\n\r\nhalf"
        )
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body)["code"] == "request_timeout"
    assert reader.left == 1


async def test_a_body_within_the_bounds_goes_through_in_pieces_as_it_comes() -> None:
    async with reading() as reader:
        status, _, body = await exchange(
            reader.port,
            "/admin/login/",
            b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n",
            *(chunk(50_000),) * 4,
            b"0\r\n\r\n",
        )
    assert (status, body) == (200, b"200000")
    assert len(reader.pieces) > 1
