"""What every test of the upstream clients does: name an origin, send a request, answer it, read a body."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from gateway.upstream.aiohttp_client import AiohttpClient
from gateway.upstream.http1 import Http1Client
from gateway.upstream.seam import Headers, Origin, UpstreamRequest, UpstreamResponse
from tests.fakes.raw_server import PATIENCE, RawConnection, RawServer, Script

Client = Http1Client | AiohttpClient
MakeClient = Callable[..., Client]
CLIENTS: dict[str, Callable[..., Client]] = {"http1": Http1Client, "aiohttp": AiohttpClient}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def origin_of(server: RawServer, *, host: str = "127.0.0.1", scheme: str = "http") -> Origin:
    return Origin(scheme, host, server.port)


def a_request(
    origin: Origin,
    *,
    method: bytes = b"POST",
    target: bytes = b"/v1/chat/completions",
    headers: Headers = ((b"content-type", b"application/json"),),
    body: bytes = b"{}",
) -> UpstreamRequest:
    return UpstreamRequest(origin, method, target, headers, body)


async def send(
    client: Client,
    server: RawServer | Origin,
    *,
    connect_timeout: float = PATIENCE,
    head_timeout: float = PATIENCE,
    **fields: Any,
) -> UpstreamResponse:
    origin = server if isinstance(server, Origin) else origin_of(server)
    return await client.send(
        a_request(origin, **fields), connect_timeout=connect_timeout, head_timeout=head_timeout
    )


async def whole(client: Client, server: RawServer | Origin, **fields: Any) -> tuple[int, bytes]:
    """Status and body of one request."""
    response = await send(client, server, **fields)
    return response.status, await response.read_all(1 << 30, PATIENCE)


def answering(data: bytes, *, close: bool = False) -> Script:
    """Answers every request of a connection with the same bytes."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            connection.send(data)
            if close:
                connection.close()

    return script


async def silent(connection: RawConnection) -> None:
    """Reads requests and never answers."""
    while True:
        await connection.request()


async def to_loopback(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Every name is this machine."""
    return [(socket.AF_INET, ("127.0.0.1", port))]


async def eventually(true: Callable[[], bool]) -> None:
    """Wait for what the loop will do by itself."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.001)
