"""The seam between the relay and whatever speaks HTTP to a provider (data plane).

Request head and body go in; status, headers and a stream of body bytes come out. Two implementations stand behind
it: `http1.Http1Client` and, as the reference, `aiohttp_client.AiohttpClient`. One test suite runs over both.

    UpstreamFault                 .sent: may the provider have seen (and charged for) the request?
    ├── ConnectFailed             .reason: refused | dns | tls | timeout | unreachable | closed | denied; never sent
    │   ├── ConnectTimeout        is an UpstreamTimeout of phase "connect" as well
    │   └── AddressDenied         the host leads to an address that is not allowed; nothing was connected to
    ├── UpstreamTimeout           .phase: connect | pool | head | read
    ├── UpstreamBroken            .phase: connect | head | read
    ├── ProtocolViolation         what came back is not an HTTP/1.1 response that can be framed safely
    └── ResponseTooLarge          .limit: bytes
"""

# ruff: noqa: ASYNC109 -- the deadlines are part of the seam

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tokenhub.core.records import record
from tokenhub.core.secret_bytes import SecretBytes

Headers = tuple[tuple[bytes, bytes], ...]
RequestHeaders = tuple[tuple[bytes, bytes | SecretBytes], ...]
Resolve = Callable[[str, int], Awaitable[list[tuple[int, tuple[Any, ...]]]]]
ConnectReason = Literal["refused", "dns", "tls", "timeout", "unreachable", "closed", "denied"]
TimeoutPhase = Literal["connect", "pool", "head", "read"]
BrokenPhase = Literal["connect", "head", "read"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


class UpstreamFault(Exception):
    """A call to a provider failed. The text names the cause; it never carries headers, bodies or credentials."""

    sent: bool = True


class ConnectFailed(UpstreamFault):
    """No connection came about, so the request was certainly not sent."""

    sent = False

    def __init__(self, reason: ConnectReason, detail: str = "") -> None:
        # Not super(): ConnectTimeout has a second base with other arguments.
        Exception.__init__(self, f"no connection to the upstream: {reason}{f' ({detail})' if detail else ''}")
        self.reason: ConnectReason = reason


class UpstreamTimeout(UpstreamFault):
    """A deadline passed in `phase`. Before "head" nothing was sent."""

    def __init__(self, phase: TimeoutPhase) -> None:
        super().__init__(_TIMEOUT_TEXT[phase])
        self.phase: TimeoutPhase = phase
        self.sent = phase in ("head", "read")


class ConnectTimeout(ConnectFailed, UpstreamTimeout):
    """Name lookup, TCP connect or TLS handshake took longer than the connect timeout."""

    def __init__(self) -> None:
        ConnectFailed.__init__(self, "timeout")
        self.phase = "connect"


class AddressDenied(ConnectFailed):
    """The address guard refused. The text is told to callers: it has the operator's mend, and no address."""

    code = "endpoint_not_allowed"

    def __init__(self) -> None:
        Exception.__init__(
            self,
            "this provider's endpoint is not allowed: it leads to an address that is not public. "
            "The operator can allow its host in TOKENHUB_ALLOW_PRIVATE_ORIGINS",
        )
        self.reason = "denied"


class UpstreamBroken(UpstreamFault):
    """The connection ended where HTTP does not allow an end. `sent` is True once any byte was given to the socket."""

    def __init__(self, phase: BrokenPhase, sent: bool, detail: str = "connection closed") -> None:
        super().__init__(f"upstream broken off ({phase}): {detail}")
        self.phase: BrokenPhase = phase
        self.sent = sent


class ProtocolViolation(UpstreamFault):
    """The upstream's bytes cannot be framed without doubt; the connection was closed."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"upstream violates HTTP/1.1: {detail or 'unparsable response'}")


class ResponseTooLarge(UpstreamFault):
    """A body that was to be read whole is larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"upstream body exceeds {limit} bytes")
        self.limit = limit


_TIMEOUT_TEXT: dict[TimeoutPhase, str] = {
    "connect": "timed out connecting to the upstream",
    "pool": "timed out waiting for a free connection to the upstream",
    "head": "timed out waiting for the upstream's response head",
    "read": "timed out waiting for the upstream's body",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port; the unit of pooling. `host` is an ASCII name or a bare IP address (no brackets).

    Raises ValueError for anything that could not stand in a Host header.
    """

    scheme: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if self.scheme not in _DEFAULT_PORTS:
            raise ValueError("an origin's scheme is http or https")
        if not _HOST.fullmatch(self.host):
            raise ValueError("an origin's host is an ASCII host name or an IP address without brackets")
        if not 0 < self.port < 65536:
            raise ValueError("an origin's port is between 1 and 65535")

    @property
    def authority(self) -> str:
        """The Host header's value: the default port is left off, an IPv6 address is bracketed, its zone dropped."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@record(frozen=True, slots=True)
class UpstreamRequest:
    """One request. `target` is path and query. `headers` carry no framing or connection headers: the client adds
    Host, Content-Length and `Accept-Encoding: identity`, and refuses those and their kin with ValueError. A value of
    SecretBytes leaves no copy in memory once the request is written."""

    origin: Origin
    method: bytes
    target: bytes
    headers: RequestHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class OriginStats:
    """Connections of one origin at this moment; `open` counts those still being opened too. `waiting`: callers."""

    open: int
    idle: int
    in_use: int
    waiting: int


class UpstreamResponse(Protocol):
    """A response whose head has arrived. Header names are lower case. Only one reader at a time."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    async def read(self, timeout: float | None) -> bytes:
        """All body bytes that have arrived, waiting for some if there are none; b"" at the clean end.

        Raises UpstreamTimeout after `timeout` seconds of silence (the response stays readable until closed),
        UpstreamBroken if it was cut off, ProtocolViolation on bad framing. Cancelling closes the socket.
        """
        ...

    def read_nowait(self) -> bytes | None:
        """What has already arrived, b"" at the clean end, None when nothing is there. Raises like `read`."""
        ...

    async def read_all(self, limit: int, timeout: float) -> bytes:
        """The rest of the body, within `timeout` seconds in all. Closes the response whether or not it succeeds.

        Raises ResponseTooLarge beyond `limit` bytes, else as `read`.
        """
        ...

    def close(self) -> None:
        """Idempotent. Complete: the connection stays in the pool. Not complete: its socket is closed at once."""
        ...


class Upstream(Protocol):
    """A client: a bounded pool per origin, FIFO. It never redirects, retries, decompresses or reads proxies."""

    async def send(
        self,
        request: UpstreamRequest,
        *,
        connect_timeout: float,
        head_timeout: float,
        on_sent: Callable[[], None] | None = None,
    ) -> UpstreamResponse:
        """Send once and return when the final response's head is there.

        `connect_timeout`: seconds for a place in the pool, name lookup, connect and TLS together. `head_timeout`:
        seconds from the first byte written to the end of the response head. Raises UpstreamFault, and ValueError,
        before anything is sent, for a request that cannot be written safely. Cancelling closes the socket; whoever
        cancels gets no fault that would tell whether the request was sent, so `on_sent` is called when it goes out.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; responses in progress break, callers waiting get ConnectFailed("closed")."""
        ...

    def stats(self) -> Mapping[Origin, OriginStats]:
        """Origins which have connections or waiting callers; others are forgotten."""
        ...
