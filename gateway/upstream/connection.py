"""One socket to a provider and the exchange on it (data plane): asyncio.Protocol over httptools' parser.

No task and no event object per request: the caller's own coroutine waits on one future at a time, and one lazily
re-armed timer per connection serves every deadline.
"""

import asyncio
import select
import socket
import ssl
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.upstream.framing import MAX_INFORMATIONAL, find_head_violation, keep_alive_seconds
from gateway.upstream.response import Http1Response
from gateway.upstream.seam import (
    BrokenPhase,
    ProtocolViolation,
    UpstreamBroken,
    UpstreamFault,
    UpstreamTimeout,
)
from tokenhub.core.secret_bytes import SecretBytes

# Up to here head and body go out in one write; beyond, the body is handed over in slices as the socket drains.
_JOIN_BYTES = 64 * 1024
_SLICE_BYTES = 128 * 1024
_TURN_BYTES = 1024 * 1024
"""What is written of a body in one turn of the loop: a fast peer takes all of it at once, and others wait meanwhile."""
_FRAMING_FIELDS = frozenset((b"content-length", b"transfer-encoding", b"keep-alive"))
_READABLE_OR_HUNG_UP = select.POLLIN | getattr(select, "POLLRDHUP", 0)
_TIMER_SLACK = 0.002


class ConnectionOwner(Protocol):
    """Who is told what becomes of a connection."""

    def connection_rests(self, connection: "Connection", seconds: float) -> None:
        """The exchange is over and the socket may serve another within `seconds`."""

    def connection_ended(self, connection: "Connection") -> None:
        """Called exactly once: the socket is closed or about to be; its slot is free."""


class Connection(asyncio.Protocol):
    """Carries at most one exchange at a time. Every way out ends in `connection_rests` or `connection_ended`."""

    __slots__ = (
        "_bodyless", "_codings", "_complete", "_deadline", "_ended", "_head_budget", "_head_bytes_left",
        "_head_done", "_headers", "_high_water", "_idle_seconds", "_informational", "_keep_alive", "_lengths",
        "_loop", "_owner", "_parser", "_poller", "_quiet_bytes", "_read_paused", "_response", "_rest_seconds",
        "_started", "_timer", "_timer_at", "_transport", "_unsent", "_until_eof", "_violation", "_write_paused",
        "rests_until",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: ConnectionOwner,
        *,
        max_head_bytes: int,
        high_water: int,
        idle_seconds: float,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._head_budget = max_head_bytes
        self._high_water = high_water
        self._idle_seconds = idle_seconds
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._poller: select.poll | None = None
        self._response: Http1Response | None = None
        self._unsent: memoryview | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = 0.0
        self._write_paused = self._read_paused = self._ended = False
        self.rests_until = 0.0

    # The life of the socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport but are none.
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        self._poller = select.poll()
        self._poller.register(sock.fileno(), _READABLE_OR_HUNG_UP)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(UpstreamBroken(self._phase(), True, type(exc).__name__ if exc else "connection closed"))
        self._end()
        # Breaks the reference cycle with the parser, so that memory goes without waiting for the collector.
        self._parser = None

    def abort(self) -> None:
        """Close the socket now, without waiting for buffers or a TLS farewell."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def break_off(self) -> None:
        """Close the socket under a running exchange; its reader gets UpstreamBroken."""
        self._fail(UpstreamBroken(self._phase(), True, "closed by this side"))
        self.abort()

    def is_fresh(self) -> bool:
        """Whether a resting connection may take a request: neither ended nor holding bytes or an end of file that
        the loop has not seen yet. The poll costs a microsecond and narrows the race with a closing peer to the
        time that packets travel."""
        return not self._ended and self._poller is not None and not self._poller.poll(0)

    @property
    def ended(self) -> bool:
        return self._ended

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._poller = None
        self._unsent = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.connection_ended(self)

    def _phase(self) -> BrokenPhase:
        return "read" if self._response is not None and self._head_done else "head"

    # An exchange: out.

    def start(self, head: bytes | SecretBytes, body: bytes, bodyless: bool) -> Http1Response:
        """Write a request and return its response-to-be. `bodyless`: the method was HEAD."""
        assert self._transport is not None
        response = self._response = Http1Response(self, self._loop)
        self._bodyless = bodyless
        self._headers: list[tuple[bytes, bytes]] = []
        self._codings: list[bytes] = []
        self._lengths = self._informational = self._quiet_bytes = 0
        self._head_bytes_left = self._head_budget
        self._head_done = self._complete = self._keep_alive = self._until_eof = self._started = False
        self._violation: str | None = None
        self._rest_seconds = self._idle_seconds
        if len(body) <= _JOIN_BYTES:
            if type(head) is SecretBytes:
                self._transport.write(SecretBytes.of((head, body)))
            else:
                self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._pump()
        return response

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._unsent is not None:
            self._pump()

    def _pump(self) -> None:
        transport = self._transport
        assert transport is not None
        left = _TURN_BYTES
        while self._unsent is not None and not self._write_paused and not self._ended:
            if not left:
                self._loop.call_soon(self._pump)
                return
            left -= _SLICE_BYTES
            piece, rest = self._unsent[:_SLICE_BYTES], self._unsent[_SLICE_BYTES:]
            self._unsent = rest if len(rest) else None
            transport.write(piece)

    # An exchange: in.

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            # Nobody asked: a farewell such as 408, or the second half of a smuggled answer. Never reuse.
            self.abort()
            return
        if self._head_done:
            self._feed(data)
        else:
            self._feed_head(data)
        self._after_feed()

    def _feed_head(self, data: bytes) -> None:
        if not self._started:
            self._started = True
            # llhttp would take RTSP/, ICE/ and leading blank lines too.
            if data[0] != 0x48:
                self._violation = "not an HTTP status line"
                return
        left = self._head_bytes_left
        self._head_bytes_left = left - len(data)
        if len(data) <= left:
            self._feed(data)
            return
        self._feed(data[:left])
        if self._head_done:
            self._feed(data[left:])
        elif self._violation is None:
            self._violation = "response head too large"

    def _feed(self, data: bytes) -> None:
        response, parser = self._response, self._parser
        if response is None or parser is None or self._violation is not None:
            return
        before = response.received
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            # Garbage after a complete response spoils the connection, not the response.
            self._keep_alive = False
            if not self._complete and self._violation is None:
                self._violation = str(error)
        if response.received != before:
            self._quiet_bytes = 0
        elif self._head_done:
            # Trailers and chunk extensions: bytes that are no body, and that no reader's buffer accounts for.
            self._quiet_bytes += len(data)
            if self._quiet_bytes > self._head_budget and not self._complete:
                self._violation = "trailers or chunk extensions too large"

    def _after_feed(self) -> None:
        response = self._response
        if response is None:
            return
        if self._violation is not None:
            self._fail(ProtocolViolation(self._violation))
            self.abort()
        elif self._complete:
            self._finish()
        elif self._head_done:
            if response.buffered > self._high_water and not self._read_paused and self._transport is not None:
                self._read_paused = True
                self._transport.pause_reading()
            response.wake()

    def eof_received(self) -> None:
        if self._response is not None and self._head_done and self._until_eof and self._farewell_said():
            self._keep_alive = False
            self._finish()
        self._fail(UpstreamBroken(self._phase(), True, "end of file"))
        self.abort()

    def _farewell_said(self) -> bool:
        # Over TLS only close_notify may end a body, else anybody on the path could truncate it. asyncio reports a
        # bare end of the TCP stream in the same way, so the TLS layer is asked: it has an end, or it wants more.
        assert self._transport is not None
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except (ssl.SSLError, OSError):
            return False

    def resume(self) -> None:
        """The reader has taken what was buffered."""
        if self._read_paused and self._transport is not None and not self._ended:
            self._read_paused = False
            self._transport.resume_reading()

    def _finish(self) -> None:
        response, transport = self._response, self._transport
        assert response is not None
        assert transport is not None
        self._response = None
        response.complete()
        # Unsent or unflushed request bytes: the peer answered early and cannot frame another request.
        flushed = self._unsent is None and not self._write_paused and not transport.get_write_buffer_size()
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()
        if self._keep_alive and flushed and self._rest_seconds > 0 and not self._ended:
            self._owner.connection_rests(self, self._rest_seconds)
        else:
            self.abort()

    def _fail(self, fault: UpstreamFault) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.fail(fault)

    # httptools' callbacks. What they raise would be wrapped and lose its type, so they note and return.

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        self._headers.append((name, value))
        if name in _FRAMING_FIELDS:
            if name == b"content-length":
                self._lengths += 1
            elif name == b"transfer-encoding":
                self._codings.append(value)
            else:
                self._rest_seconds = keep_alive_seconds(value, self._idle_seconds)

    def on_headers_complete(self) -> None:
        parser, response = self._parser, self._response
        if parser is None or response is None or self._head_done or self._violation is not None:
            return
        status = parser.get_status_code()
        self._violation = find_head_violation(parser.get_http_version(), status, self._codings, self._lengths)
        if self._violation is not None:
            return
        if status < 200:
            self._skip_informational()
            return
        self._head_done = True
        response.status, response.headers = status, tuple(self._headers)
        if self._bodyless:
            # The parser does not know that the request was HEAD: it waits for the body that the head announces, so
            # it is of no use to a second response, nor is the connection.
            self._complete = True
        elif status != 204 and status != 304:
            self._until_eof = not self._lengths and not self._codings
        if self._unsent is not None and status >= 400:
            # Refused early: RFC 9112 9.3 has the client stop; the connection cannot be used again.
            self._unsent = None
            self._keep_alive = False
            self._rest_seconds = 0.0

    def _skip_informational(self) -> None:
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            self._violation = "too many informational responses"
        self._headers = []
        self._codings = []
        self._lengths = 0
        self._rest_seconds = self._idle_seconds

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is None or self._complete:
            self._keep_alive = False
            return
        response.append(data)

    def on_message_complete(self) -> None:
        if self._head_done and not self._complete and self._parser is not None:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # Deadlines.

    def arm(self, timeout: float) -> None:
        """Wake the waiting reader in `timeout` seconds. A timer that fires too early re-arms itself, so waiting
        costs a clock reading, not a timer, as long as deadlines only move forward."""
        self._deadline = deadline = self._loop.time() + timeout
        if self._timer is None or self._timer_at > deadline:
            self._set_timer(deadline)

    def disarm(self) -> None:
        """The current wait has no deadline."""
        self._deadline = float("inf")

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        response = self._response
        if response is None or not response.waiting:
            return
        if self._loop.time() + _TIMER_SLACK < self._deadline:
            if self._deadline != float("inf"):
                self._set_timer(self._deadline)
            return
        response.time_out(UpstreamTimeout("read" if self._head_done else "head"))
