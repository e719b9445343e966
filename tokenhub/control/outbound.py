"""The one way out of the control plane: an HTTP client that connects only where it may. Control plane.

No proxy and no `.netrc` from the environment, no redirects (httpx would send `x-api-key` along to another host), no compressed
answers, a bound on the answer's bytes. A name is resolved once, every address is checked, and the connection goes to a
checked one; the certificate and the Host header are for the name. The gateway's own is `gateway/upstream/guard.py`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpcore
import httpx

from tokenhub.core.addresses import PrivateOrigins
from tokenhub.core.tls import system_tls

Resolve = Callable[[str, int], list[str]]
"""Host and port → addresses. Raises OSError."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024
_MOST_CONNECTIONS = 10


class OutboundRefused(httpx.TransportError):
    """Refused on this side: `kind` says what the host's address is, such as "a loopback address". Nothing was connected to."""

    def __init__(self, host: str, port: int, kind: str) -> None:
        super().__init__(f"{host} leads to {kind}, to which connections are not allowed")
        shown = f"[{host}]" if ":" in host else host
        self.hint = f"to allow it, add {shown}:{port} to TOKENHUB_ALLOW_PRIVATE_ORIGINS and restart"


class AnswerRefused(httpx.TransportError):
    """The answer is longer than was asked for, or encoded although that was not asked for."""


def make_client(
    private: PrivateOrigins,
    *,
    timeout: httpx.Timeout,
    max_bytes: int = MAX_ANSWER_BYTES,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
    transport: httpx.BaseTransport | None = None,
) -> httpx.Client:
    """A client for one provider; close it. Its errors are httpx's; OutboundRefused and AnswerRefused are among them.

    `resolve` and `tls` stand for the system's; `transport` stands for the whole network in tests.
    """
    network = transport or GuardedTransport(private, resolve or resolve_by_system, tls or system_tls())
    return httpx.Client(
        transport=_Bounded(network, max_bytes),
        headers={"accept-encoding": "identity"},
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
    )


def resolve_by_system(host: str, port: int) -> list[str]:
    """The addresses that the operating system knows for a host. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for _, _, _, _, place in found]


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that were checked, one after the other; to nothing else."""

    def __init__(self, private: PrivateOrigins, resolve: Resolve) -> None:
        self._private = private
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        host = host.strip("[]")
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{type(error).__name__}: the name is not known") from error
        _, kind = self._private.find_denied(host, port, addresses)
        if kind:
            raise OutboundRefused(host, port, kind)
        fault: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("no provider is a file")


class GuardedTransport(httpx.BaseTransport):
    """httpx over httpcore's pool, both by their public interfaces: HTTPTransport would not take the checked network."""

    def __init__(self, private: PrivateOrigins, resolve: Resolve, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=_MOST_CONNECTIONS,
            retries=0,
            network_backend=_CheckedNetwork(private, resolve),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. Raises httpx.TransportError."""
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._pool.handle_request(asked)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """An answer's bytes, with httpx's errors."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Bounded(httpx.BaseTransport):
    """Refuses answers that are longer than `max_bytes`, or encoded: a small one could unfold into any size."""

    def __init__(self, network: httpx.BaseTransport, max_bytes: int) -> None:
        self._network = network
        self._max_bytes = max_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._network.handle_request(request)
        coding = answer.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            answer.close()
            raise AnswerRefused("the answer is compressed, which was not asked for")
        answer.stream = _BoundedBody(answer.stream, self._max_bytes)
        return answer

    def close(self) -> None:
        self._network.close()


class _BoundedBody(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, max_bytes: int) -> None:
        assert isinstance(stream, httpx.SyncByteStream)
        self._stream = stream
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise AnswerRefused(f"the answer is longer than {self._max_bytes} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """httpcore's errors as httpx's of the same names, which is what they are called in both."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        same = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise same(str(error)) from error
