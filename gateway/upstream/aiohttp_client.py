"""aiohttp behind the seam (data plane): the reference that the gateway's own client is tested against.

Where aiohttp's ways differ from the seam's they are bent: our own gate bounds and orders callers, our own rules check
the request and the response head, and a middleware keeps it from sending a request a second time. What cannot be
bent is named in the test suite.
"""

# ruff: noqa: ASYNC109 -- the deadlines are part of the seam

import asyncio
import io
import ssl
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.upstream.framing import check_name, check_start, check_value, find_head_violation
from gateway.upstream.guard import guarded
from gateway.upstream.seam import (
    ConnectFailed,
    ConnectTimeout,
    Headers,
    Origin,
    OriginStats,
    ProtocolViolation,
    Resolve,
    ResponseTooLarge,
    UpstreamBroken,
    UpstreamFault,
    UpstreamRequest,
    UpstreamTimeout,
)
from tokenhub.core.secret_bytes import SecretBytes
from tokenhub.core.tls import system_tls

_PLAIN_BODY_BYTES = 64 * 1024
_NO_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_KEEPALIVE_SLACK = 0.001


class _Attempt(SimpleNamespace):
    """What the tracing hooks note about one request."""

    timer: asyncio.Timeout
    head_timeout: float
    on_sent: Callable[[], None] | None
    sent: bool = False


class _Gate:
    """Slots of one origin, given in order of arrival."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.in_use = 0
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self, timeout: float) -> None:
        if self.in_use < self.slots and not self.waiters:
            self.in_use += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException as error:
            # Served and cancelled in one moment: the slot goes to the next in line.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout("pool") from None
            raise

    def release(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.in_use -= 1


class _Resolver(AbstractResolver):
    """Our `resolve` as aiohttp wants to see it."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=kind, proto=0, flags=0)
            for kind, address in await self._resolve(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class AiohttpResponse:
    """See `seam.UpstreamResponse`."""

    __slots__ = ("_gate", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, gate: _Gate) -> None:
        self.status = response.status
        self.headers: Headers = tuple((name.lower(), value) for name, value in response.raw_headers)
        self._response = response
        self._gate: _Gate | None = gate
        # Called at once if the body is complete already.
        response.content.on_eof(self._free_slot)

    async def read(self, timeout: float | None) -> bytes:
        content = self._response.content
        try:
            if timeout is None:
                return await content.readany()
            async with asyncio.timeout(timeout):
                return await content.readany()
        except TimeoutError:
            raise UpstreamTimeout("read") from None
        except (aiohttp.ClientError, RuntimeError) as error:
            # RuntimeError is what a body whose connection this side has closed answers a reader with.
            self.close()
            raise _read_fault(error) from error
        except BaseException:
            # Cancelled: nobody will read on, so the provider must stop generating.
            self.close()
            raise

    def read_nowait(self) -> bytes | None:
        content = self._response.content
        try:
            data = content.read_nowait()
        except aiohttp.ClientError as error:
            self.close()
            raise _read_fault(error) from error
        return data if data or content.at_eof() else None

    async def read_all(self, limit: int, timeout: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout):
                while data := await self.read(None):
                    size += len(data)
                    if size > limit:
                        raise ResponseTooLarge(limit)
                    parts.append(data)
        except TimeoutError:
            raise UpstreamTimeout("read") from None
        finally:
            self.close()
        return b"".join(parts)

    def close(self) -> None:
        # For a complete response this only forgets it; its connection went back when the last byte arrived.
        self._response.close()
        self._free_slot()

    def _free_slot(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()


class AiohttpClient:
    """See `seam.Upstream`; the arguments are those of `http1.Http1Client`. Belongs to the loop of its first request.

    aiohttp keeps every idle connection up to `idle_seconds`: it knows no limit of idle connections per origin.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        max_connections_per_origin: int = 256,
        idle_seconds: float = 30.0,
        max_head_bytes: int = 64 * 1024,
        high_water: int = 256 * 1024,
    ) -> None:
        self._tls = tls
        self._resolve = resolve or guarded()
        self._slots = max_connections_per_origin
        self._idle_seconds = idle_seconds
        self._max_head_bytes = max_head_bytes
        self._high_water = high_water
        self._session: aiohttp.ClientSession | None = None
        self._connector: aiohttp.TCPConnector | None = None
        self._gates: dict[Origin, _Gate] = {}
        self._closed = False

    async def send(
        self,
        request: UpstreamRequest,
        *,
        connect_timeout: float,
        head_timeout: float,
        on_sent: Callable[[], None] | None = None,
    ) -> AiohttpResponse:
        if self._closed:
            raise ConnectFailed("closed")
        check_start(request)
        for name, value in request.headers:
            check_name(name)
            check_value(value)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + connect_timeout
        self._forget_idle_gates()
        gate = self._gates.setdefault(request.origin, _Gate(self._slots))
        await gate.acquire(connect_timeout)
        try:
            response = await self._request(request, deadline - loop.time(), head_timeout, on_sent)
        except BaseException:
            gate.release()
            raise
        return AiohttpResponse(response, gate)

    async def aclose(self) -> None:
        self._closed = True
        for gate in self._gates.values():
            for waiter in gate.waiters:
                if not waiter.done():
                    waiter.set_exception(ConnectFailed("closed"))
            gate.waiters.clear()
        if self._session is not None:
            await self._session.close()

    def stats(self) -> dict[Origin, OriginStats]:
        idle: dict[tuple[str, int, bool], int] = {}
        if self._connector is not None:
            # aiohttp shows its pool to nobody; this private mapping has been there since 3.0.
            for key, kept in self._connector._conns.items():
                count = sum(entry[0].is_connected() for entry in kept)
                idle[key.host, key.port or 0, key.is_ssl] = count
        found = {}
        for origin, gate in self._gates.items():
            resting = idle.get((origin.host, origin.port, origin.scheme == "https"), 0)
            waiting = sum(not waiter.done() for waiter in gate.waiters)
            if gate.in_use or resting or waiting:
                found[origin] = OriginStats(gate.in_use + resting, resting, gate.in_use, waiting)
        return found

    async def _request(
        self,
        request: UpstreamRequest,
        connect_timeout: float,
        head_timeout: float,
        on_sent: Callable[[], None] | None,
    ) -> aiohttp.ClientResponse:
        origin, body = request.origin, request.body
        session = self._find_or_make_session()
        # Trailing headers and cookies of the session play no part; targets are sent as given.
        url = URL(f"{origin.scheme}://{origin.authority}{request.target.decode('ascii')}", encoded=True)
        headers = [(name.decode("ascii"), _text(value)) for name, value in request.headers]
        headers.append(("Accept-Encoding", "identity"))
        attempt = _Attempt(head_timeout=head_timeout, on_sent=on_sent)
        try:
            await self._check_literal(origin, connect_timeout)
            async with asyncio.timeout(None) as attempt.timer:
                response = await session.request(
                    request.method.decode("ascii"),
                    url,
                    data=(io.BytesIO(body) if len(body) > _PLAIN_BODY_BYTES else body) or None,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(connect=max(connect_timeout, _KEEPALIVE_SLACK)),
                    trace_request_ctx=attempt,
                )
        except aiohttp.ClientError as error:
            closed = self._closed and not attempt.sent
            raise (ConnectFailed("closed") if closed else _send_fault(error, attempt.sent)) from error
        except TimeoutError:
            raise UpstreamTimeout("head") from None
        violation = _find_violation(response)
        if violation is not None:
            response.close()
            raise ProtocolViolation(violation)
        return response

    async def _check_literal(self, origin: Origin, timeout: float) -> None:
        # aiohttp connects to an address literal without asking its resolver: the address guard must be asked here.
        if ":" not in origin.host and not origin.host.replace(".", "").isdigit():
            return
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(origin.host, origin.port)
        except TimeoutError:
            raise ConnectTimeout from None
        except OSError as error:
            raise ConnectFailed("dns", type(error).__name__) from error
        if all(address[0] != origin.host for _, address in addresses):
            raise ConnectFailed("dns", "address literal not confirmed")

    def _find_or_make_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._connector = aiohttp.TCPConnector(
                limit=0,
                ssl=self._tls or system_tls(),
                resolver=_Resolver(self._resolve),
                use_dns_cache=False,
                happy_eyeballs_delay=None,
                keepalive_timeout=self._idle_seconds,
            )
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=_NO_AUTO_HEADERS,
                read_bufsize=self._high_water,
                max_line_size=self._max_head_bytes,
                max_field_size=self._max_head_bytes,
                trace_configs=[_tracing()],
                middlewares=(_send_once,),
            )
        return self._session

    def _forget_idle_gates(self) -> None:
        if len(self._gates) > 64:
            self._gates = {origin: gate for origin, gate in self._gates.items() if gate.in_use}


def _text(value: bytes | SecretBytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("aiohttp writes header values as UTF-8, which this one is not") from None


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp repeats idempotent methods when a reused connection breaks, on exactly these two errors.
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise UpstreamBroken("head", True, type(error).__name__) from error


def _tracing() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()

    async def connected(_: Any, context: Any, __: Any) -> None:
        attempt: _Attempt = context.trace_request_ctx
        attempt.timer.reschedule(asyncio.get_running_loop().time() + attempt.head_timeout)

    async def headers_sent(_: Any, context: Any, __: Any) -> None:
        attempt: _Attempt = context.trace_request_ctx
        attempt.sent = True
        if attempt.on_sent is not None:
            attempt.on_sent()

    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(connected)
    config.on_request_headers_sent.append(headers_sent)
    return config


def _find_violation(response: aiohttp.ClientResponse) -> str | None:
    version = response.version
    codings = [value for name, value in response.raw_headers if name.lower() == b"transfer-encoding"]
    lengths = sum(name.lower() == b"content-length" for name, _ in response.raw_headers)
    text = f"{version.major}.{version.minor}" if version else "?"
    return find_head_violation(text, response.status, codings, lengths)


def _send_fault(error: aiohttp.ClientError, sent: bool) -> UpstreamFault:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectTimeout()
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectFailed("dns", type(error.os_error).__name__)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectFailed("tls", "certificate not accepted")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return ConnectFailed("tls", "handshake failed")
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return ConnectFailed("refused" if refused else "unreachable", type(error.os_error).__name__)
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolViolation("unparsable response head")
    return UpstreamBroken("head", sent, type(error).__name__)


def _read_fault(error: Exception) -> UpstreamFault:
    return UpstreamBroken("read", True, type(error).__name__)
