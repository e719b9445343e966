"""The bounded pool of one origin (data plane): idle connections, slots, and callers waiting in order.

A slot is held from before the connect until the connection has ended. A caller who waits is given either a slot or a
resting connection, never both; a caller who has gone away by then passes it on.
"""

# ruff: noqa: ASYNC109 -- waiting and connecting share one deadline

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.upstream.connection import Connection
from gateway.upstream.framing import fixed_fields
from gateway.upstream.seam import (
    ConnectFailed,
    ConnectTimeout,
    Origin,
    OriginStats,
    Resolve,
    UpstreamFault,
    UpstreamTimeout,
)

Grant = Connection | None  # None: a slot, for a connection of one's own
Open = Callable[["OriginPool", float], Awaitable[Connection]]


class OriginPool:
    """Owns every connection of one origin. `open_connection(pool, seconds)` makes one or raises UpstreamFault;
    `on_empty(pool)` says that nothing is left to remember."""

    __slots__ = ("_idle", "_live", "_loop", "_max_idle", "_max_open", "_on_empty", "_open", "_open_connection",
                 "_pending", "_waiters", "fixed_fields", "origin")  # fmt: skip

    def __init__(
        self,
        origin: Origin,
        loop: asyncio.AbstractEventLoop,
        *,
        max_open: int,
        max_idle: int,
        open_connection: Open,
        on_empty: Callable[["OriginPool"], None],
    ) -> None:
        self.origin = origin
        self.fixed_fields = fixed_fields(origin)
        self._loop = loop
        self._max_open = max_open
        self._max_idle = max_idle
        self._open_connection = open_connection
        self._on_empty = on_empty
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Grant]] = deque()
        self._open = 0
        self._pending = 0

    def find_idle(self) -> Connection | None:
        """The connection that rested last, for it is the least likely to be closing; stale ones are dropped."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now < connection.rests_until and connection.is_fresh():
                return connection
            connection.abort()
        return None

    async def acquire(self, timeout: float) -> Connection:
        """A connection to use, within `timeout` seconds for waiting and connecting together."""
        deadline = self._loop.time() + timeout
        self._pending += 1
        try:
            while True:
                if self._open < self._max_open and not self._waiters:
                    self._open += 1
                    grant: Grant = None
                else:
                    grant = await self._wait(deadline)
                if grant is None:
                    return await self._connect(deadline)
                if grant.is_fresh():
                    return grant
                grant.abort()
        finally:
            self._pending -= 1
            self._forget_if_empty()

    def connection_opened(self, connection: Connection) -> None:
        """From here on the slot goes with the connection."""
        self._live.add(connection)

    def connection_rests(self, connection: Connection, seconds: float) -> None:
        connection.rests_until = self._loop.time() + seconds
        if self._grant(connection):
            return
        if len(self._idle) >= self._max_idle:
            if not self._max_idle:
                connection.abort()
                return
            self._idle.pop(0).abort()
        self._idle.append(connection)

    def connection_ended(self, connection: Connection) -> None:
        if connection not in self._live:
            return
        self._live.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._release_slot()

    def sweep(self, now: float) -> None:
        """Close what has rested too long."""
        for connection in [c for c in self._idle if c.rests_until <= now]:
            connection.abort()

    def close(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ConnectFailed("closed"))
        self._waiters.clear()
        for connection in list(self._live):
            connection.break_off()

    @property
    def resting(self) -> bool:
        return bool(self._idle)

    def stats(self) -> OriginStats:
        idle = len(self._idle)
        waiting = sum(not waiter.done() for waiter in self._waiters)
        return OriginStats(open=self._open, idle=idle, in_use=self._open - idle, waiting=waiting)

    async def _connect(self, deadline: float) -> Connection:
        try:
            return await self._open_connection(self, deadline - self._loop.time())
        except BaseException:
            # Whatever ended the attempt, cancellation above all, the slot goes to the next in line.
            self._release_slot()
            raise

    async def _wait(self, deadline: float) -> Grant:
        waiter: asyncio.Future[Grant] = self._loop.create_future()
        self._waiters.append(waiter)
        timer = self._loop.call_at(deadline, _expire, waiter)
        try:
            return await waiter
        except BaseException:
            # Cancelled in the very moment of being served: what was given must not be lost.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise
        finally:
            timer.cancel()

    def _pass_on(self, grant: Grant) -> None:
        if grant is None:
            self._release_slot()
        elif not grant.ended:
            self.connection_rests(grant, grant.rests_until - self._loop.time())

    def _grant(self, grant: Grant) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(grant)
                return True
        return False

    def _release_slot(self) -> None:
        if not self._grant(None):
            self._open -= 1
            self._forget_if_empty()

    def _forget_if_empty(self) -> None:
        if not self._open and not self._pending:
            self._on_empty(self)


def _expire(waiter: asyncio.Future[Grant]) -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamTimeout("pool"))


async def connect(
    loop: asyncio.AbstractEventLoop,
    origin: Origin,
    make: Callable[[], Connection],
    *,
    resolve: Resolve,
    tls: ssl.SSLContext | None,
    timeout: float,
) -> Connection:
    """Look the host up and connect to its addresses in turn, each with its share of what is left of `timeout`
    seconds; the certificate is checked against the origin's host. Raises ConnectFailed."""
    deadline = loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            addresses = await resolve(origin.host, origin.port)
    except TimeoutError:
        raise ConnectTimeout from None
    except OSError as error:
        raise ConnectFailed("dns", type(error).__name__) from error
    if not addresses:
        raise ConnectFailed("dns", "no address")
    fault: ConnectFailed | None = None
    for index, (_, address) in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - index)
        try:
            async with asyncio.timeout(share):
                return await _open_socket(loop, origin, make, address, tls)
        except (OSError, ssl.CertificateError) as error:
            fault = explain(error)
    assert fault is not None
    raise fault


async def _open_socket(
    loop: asyncio.AbstractEventLoop,
    origin: Origin,
    make: Callable[[], Connection],
    address: tuple[object, ...],
    tls: ssl.SSLContext | None,
) -> Connection:
    host, port = str(address[0]), int(str(address[1]))
    if tls is None:
        _, connection = await loop.create_connection(make, host, port)
    else:
        # The name that the caller meant is what the certificate must show, whatever address was looked up.
        _, connection = await loop.create_connection(make, host, port, ssl=tls, server_hostname=origin.host)
    return connection


def explain(error: OSError) -> ConnectFailed:
    """Why a connect failed, in our own words."""
    if isinstance(error, TimeoutError):
        return ConnectTimeout()
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed("tls", error.verify_message or "certificate not accepted")
    if isinstance(error, ssl.SSLError):
        return ConnectFailed("tls", error.reason or "handshake failed")
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return ConnectFailed("refused")
    if isinstance(error, ConnectionResetError):
        return ConnectFailed("unreachable", "reset while connecting")
    return ConnectFailed("unreachable", errno.errorcode.get(error.errno or 0, type(error).__name__))


__all__ = ["Grant", "OriginPool", "UpstreamFault", "connect", "explain"]
