"""A scripted TCP server for tests: every accepted connection runs one coroutine which reads and writes raw bytes."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

PATIENCE = 10.0  # seconds after which a script or a test that waits has failed


@dataclass(frozen=True, slots=True)
class RawRequest:
    """What a client wrote: the request line's method and target, header pairs as sent, the body."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class RawConnection(asyncio.Protocol):
    """One accepted connection, seen from the script."""

    def __init__(self, server: "RawServer") -> None:
        self.server = server
        self.number = len(server.connections)
        self.received = bytearray()
        self.total_received = 0
        self.sent = 0
        self.peer_gone = asyncio.Event()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.accepted(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.total_received += len(data)
        self._arrived.set()

    def eof_received(self) -> bool:
        self.peer_gone.set()
        self._arrived.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer_gone.set()
        self._arrived.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def until(self, marker: bytes) -> bytes:
        """Bytes up to and including `marker`. Raises ConnectionError when the client leaves first."""
        while marker not in self.received:
            await self._more()
        end = self.received.index(marker) + len(marker)
        return self._take(end)

    async def exactly(self, size: int) -> bytes:
        while len(self.received) < size:
            await self._more()
        return self._take(size)

    async def head(self) -> RawRequest:
        """The next request's head, with an empty body: the body's bytes stay unread."""
        start, *lines = (await self.until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        method, target, version = start.split(b" ")
        assert version == b"HTTP/1.1"
        pairs = (line.partition(b": ") for line in lines)
        return RawRequest(method, target, tuple((name, value) for name, _, value in pairs), b"")

    async def request(self) -> RawRequest:
        """The next whole request."""
        head = await self.head()
        self.server.requests += 1
        body = await self.exactly(int(head.header(b"content-length") or b"0"))
        return RawRequest(head.method, head.target, head.headers, body)

    def send(self, data: bytes) -> None:
        """Write without waiting. Raises ConnectionError when the client has left."""
        if self.transport.is_closing():
            raise ConnectionError("client left")
        self.sent += len(data)
        self.transport.write(data)

    async def send_patiently(self, data: bytes) -> None:
        """Write and wait until the client has made room. Raises ConnectionError when it has left."""
        self.send(data)
        await self._writable.wait()
        if self.transport.is_closing():
            raise ConnectionError("client left")

    def stop_reading(self) -> None:
        self.transport.pause_reading()

    def close(self) -> None:
        """Orderly: flush, then FIN (over TLS close_notify first)."""
        self.transport.close()

    def cut(self) -> None:
        """No farewell: over TLS no close_notify."""
        self.transport.abort()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.transport.abort()

    def shut_down_now(self) -> None:
        """FIN in this very moment, past the event loop."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.shutdown(socket.SHUT_WR)

    async def _more(self) -> None:
        if self.peer_gone.is_set():
            raise ConnectionError("client left")
        self._arrived.clear()
        await self._arrived.wait()

    def _take(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


Script = Callable[[RawConnection], Awaitable[None]]


class RawServer:
    """Listens on loopback. `requests` counts requests read whole; `open` connections that the client still holds."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections: list[RawConnection] = []
        self.requests = 0
        self.port = 0
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def accepted(self, connection: RawConnection) -> None:
        self.connections.append(connection)
        task = asyncio.get_running_loop().create_task(self._run(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def open(self) -> int:
        return sum(not connection.peer_gone.is_set() for connection in self.connections)

    async def all_closed(self) -> None:
        """Wait until the client has closed every connection."""
        async with asyncio.timeout(PATIENCE):
            for connection in self.connections:
                await connection.peer_gone.wait()

    async def _run(self, connection: RawConnection) -> None:
        try:
            async with asyncio.timeout(PATIENCE * 3):
                await self.script(connection)
        except ConnectionError:
            pass  # the client left: many tests want just that
        except (
            Exception
        ) as error:  # shown by `serve`, which otherwise could not tell why a client was hung up on
            self.failures.append(error)
            connection.cut()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serve(
    script: Script, *, tls: ssl.SSLContext | None = None, backlog: int = 4096
) -> AsyncIterator[RawServer]:
    """Run a server while the block runs; a script's own failure fails the block."""
    raw = RawServer(script)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: RawConnection(raw), "127.0.0.1", 0, ssl=tls, backlog=backlog)
    raw.port = listener.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        listener.close()
        await raw.stop()
    if raw.failures:
        raise AssertionError("a server script failed") from raw.failures[0]
