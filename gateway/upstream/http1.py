"""The gateway's own upstream client (data plane): HTTP/1.1 over asyncio and httptools, one bounded pool per origin.

Sending twice is the caller's decision alone: nothing here retries. What keeps a reused connection from being a dead
one: the connection that rested last is taken first; it rests at most `idle_seconds`, or a second less than the
server's own `Keep-Alive: timeout`; an end of file or stray bytes while it rests discard it; and the kernel is asked
once more in the moment before writing. What is left is a close that crosses the request on the wire: UpstreamBroken
with `sent` True.
"""

import asyncio
import ssl
from collections.abc import Callable

from gateway.upstream.connection import Connection
from gateway.upstream.framing import fixed_fields, render_head
from gateway.upstream.guard import guarded
from gateway.upstream.pool import OriginPool, connect
from gateway.upstream.response import Http1Response
from gateway.upstream.seam import ConnectFailed, Origin, OriginStats, Resolve, UpstreamBroken, UpstreamRequest
from tokenhub.core.tls import system_tls


class Http1Client:
    """See `seam.Upstream`. Belongs to the event loop of its first request.

    `tls`: the context for https origins (default: the system's roots, TLS 1.2 or later, no key log). `resolve`:
    (host, port) → [(family, sockaddr)] (default: public addresses and loopback); the client connects to what it
    returns and to nothing else. An OSError from it is ConnectFailed("dns"), an UpstreamFault stays what it is.
    `high_water`: bytes of unread body beyond which the socket is not read.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        max_connections_per_origin: int = 256,
        max_idle_per_origin: int = 64,
        idle_seconds: float = 30.0,
        max_head_bytes: int = 64 * 1024,
        high_water: int = 256 * 1024,
    ) -> None:
        self._tls = tls
        self._resolve = resolve or guarded()
        self._max_open = max_connections_per_origin
        self._max_idle = max_idle_per_origin
        self._idle_seconds = idle_seconds
        self._max_head_bytes = max_head_bytes
        self._high_water = high_water
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[Origin, OriginPool] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self,
        request: UpstreamRequest,
        *,
        connect_timeout: float,
        head_timeout: float,
        on_sent: Callable[[], None] | None = None,
    ) -> Http1Response:
        if self._closed:
            raise ConnectFailed("closed")
        pool = self._pools.get(request.origin)
        head = render_head(request, pool.fixed_fields if pool else fixed_fields(request.origin))
        if pool is None:
            pool = self._make_pool(request.origin)
        connection = pool.find_idle()
        if connection is None:
            connection = await pool.acquire(connect_timeout)
            if connection.ended:
                raise UpstreamBroken("connect", False)
        if on_sent is not None:
            on_sent()
        response = connection.start(head, request.body, request.method == b"HEAD")
        await response.head(head_timeout)
        return response

    async def aclose(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for pool in list(self._pools.values()):
            pool.close()
        # The loop closes aborted sockets in its next rounds: one for TCP, one more for TLS above it.
        for _ in range(3):
            await asyncio.sleep(0)

    def stats(self) -> dict[Origin, OriginStats]:
        return {origin: pool.stats() for origin, pool in self._pools.items()}

    def _make_pool(self, origin: Origin) -> OriginPool:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if origin.scheme == "https" and self._tls is None:
            self._tls = system_tls()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_seconds / 2, self._sweep)
        pool = self._pools[origin] = OriginPool(
            origin,
            self._loop,
            max_open=self._max_open,
            max_idle=self._max_idle,
            open_connection=self._open,
            on_empty=self._forget,
        )
        return pool

    async def _open(self, pool: OriginPool, seconds: float) -> Connection:
        loop = self._loop
        assert loop is not None

        def make() -> Connection:
            return Connection(
                loop,
                pool,
                max_head_bytes=self._max_head_bytes,
                high_water=self._high_water,
                idle_seconds=self._idle_seconds,
            )

        tls = self._tls if pool.origin.scheme == "https" else None
        connection = await connect(loop, pool.origin, make, resolve=self._resolve, tls=tls, timeout=seconds)
        if self._closed:
            connection.abort()
            raise ConnectFailed("closed")
        pool.connection_opened(connection)
        return connection

    def _forget(self, pool: OriginPool) -> None:
        if self._pools.get(pool.origin) is pool:
            del self._pools[pool.origin]

    def _sweep(self) -> None:
        self._sweeper = None
        loop = self._loop
        if self._closed or loop is None:
            return
        for pool in list(self._pools.values()):
            pool.sweep(loop.time())
        if self._pools:
            self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)
