"""One connection of the mock: HTTP/1.1 over httptools, answers paced by timers, hang-ups noticed. Mock
provider.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from typing import cast

import httptools

from providers.simulation import Frame

from .app import MockApp, Request
from .calls import CallRecord, RawHeaders
from .delivery import Delivery, Ending, Step

_BODY_LIMIT = 128 * 1024 * 1024
_PIPELINE_LIMIT = 64
_FLUSH_BYTES = 64 * 1024
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_LINGER_NONE = struct.pack("ii", 1, 0)


class MockConnection(asyncio.Protocol):
    """Parses requests and delivers answers one after another; further requests wait their turn."""

    def __init__(self, app: MockApp, connections: set["MockConnection"], number: int) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.writable = True
        self.number = number
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._exchange: _Exchange | None = None
        self._closed_here = False
        self._begin_message()

    def _begin_message(self) -> None:
        self._target = b""
        self._headers: RawHeaders = []
        self._body: list[bytes] = []
        self._size = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's, they only behave alike.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        log = self.app.log
        log.connections_open += 1
        log.connections_total += 1
        log.connections_most = max(log.connections_most, log.connections_open)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.app.log.connections_open -= 1
        self._hung_up()
        self._transport = None

    def eof_received(self) -> bool:
        self._hung_up()
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._exchange is not None:
            self._exchange.resume()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._reject(b"HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        except httptools.HttpParserError:
            self._reject(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begin_message()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if name.lower() == b"expect" and value.lower() == b"100-continue" and self._exchange is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > _BODY_LIMIT:
            self._reject(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closed_here:
            return
        path, _, query = self._target.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(method, path, query, self._headers, body, self.number)
        self._waiting.append((request, self._parser.should_keep_alive()))
        if self._exchange is None:
            self._next()
        elif len(self._waiting) > _PIPELINE_LIMIT:
            # Reading on is what notices a hang-up, so a flood is cut off rather than left unread.
            self.app.log.unreadable_requests += 1
            self.abort()

    # answering

    def _next(self) -> None:
        """Answers what waits; a loop, so that a long pipeline of quick answers cannot exhaust the stack."""
        while self._waiting and self._exchange is None and not self._closed_here:
            request, keep_alive = self._waiting.popleft()
            delivery, record = self.app.handle(request)
            chunked_ok = self._parser.get_http_version() != "1.0"
            self._exchange = _Exchange(
                self, delivery, record, request.method == "HEAD", keep_alive, chunked_ok
            )
            self._exchange.start()

    def done(self, *, keep_alive: bool) -> None:
        """The exchange wrote its last byte."""
        self._exchange = None
        if not keep_alive:
            self.close()

    def proceed(self) -> None:
        """Takes the next waiting request; called when an exchange ended outside of `_next`."""
        if self._waiting and self._exchange is None:
            self._next()

    def write(self, data: bytes) -> None:
        """Writes unless the connection is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Closes once everything written is out."""
        self._closed_here = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; the server is going down."""
        self._closed_here = True
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Closes with a TCP RST instead of a FIN."""
        if self._transport is None:
            return
        plain = self._transport.get_extra_info("socket")
        # A duplicate of the descriptor sets the option on the same socket; event loops hide setsockopt.
        with socket.socket(fileno=os.dup(plain.fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.abort()

    def _reject(self, answer: bytes) -> None:
        self.app.log.unreadable_requests += 1
        self.write(answer)
        self.close()

    def _hung_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._waiting.clear()
        if exchange is not None:
            exchange.abandon(by_client=not self._closed_here)


class _Exchange:
    """The delivery of one answer: writes what is due, waits for the rest by timer or for a slow reader."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_delivery",
        "_due",
        "_head_only",
        "_held",
        "_keep_alive",
        "_out",
        "_over",
        "_record",
        "_size",
        "_steps",
        "_timer",
        "_whole_body",
    )

    def __init__(
        self,
        connection: MockConnection,
        delivery: Delivery,
        record: CallRecord | None,
        head_only: bool,
        keep_alive: bool,
        chunked_ok: bool,
    ) -> None:
        self._connection = connection
        self._delivery = delivery
        self._record = record
        self._head_only = head_only
        self._whole_body = delivery.length is not None
        self._chunked = not self._whole_body and chunked_ok
        # Without chunks only the end of the connection says where a body of unknown length ends.
        self._keep_alive = keep_alive and (self._whole_body or self._chunked)
        self._steps: Iterator[Step] = iter(delivery.steps)
        self._held: Frame | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._over = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins at once or after the delivery's delay."""
        if self._delivery.delay > 0:
            self._timer = self._connection.loop.call_later(self._delivery.delay, self._begin_later)
        else:
            self._begin()

    def _begin_later(self) -> None:
        self._begin()
        self._connection.proceed()

    def _begin(self) -> None:
        self._timer = None
        delivery = self._delivery
        self._due = self._connection.loop.time()
        if delivery.status is not None:
            self._put(_head(delivery, self._chunked, self._keep_alive))
            if self._record is not None:
                self._record.status = delivery.status
                self._record.book_prompt(delivery.booked)
        self._advance()

    def resume(self) -> None:
        """The reader caught up."""
        if self._timer is None and not self._over:
            self._due = self._connection.loop.time()
            self._advance_later()

    def _advance_later(self) -> None:
        self._timer = None
        self._advance()
        self._connection.proceed()

    def _advance(self) -> None:
        connection = self._connection
        while True:
            if self._size >= _FLUSH_BYTES:
                self._flush()
            if not connection.writable:
                return
            step = self._held or next(self._steps, Ending.FINISH)
            if isinstance(step, Ending):
                self._flush()
                self._end(step)
                return
            if self._held is None and step.delay > 0:
                self._due += step.delay
                if self._due > connection.loop.time():
                    self._held = step
                    self._flush()
                    self._timer = connection.loop.call_at(self._due, self._advance_later)
                    return
            self._held = None
            self._frame(step)

    def _frame(self, frame: Frame) -> None:
        record = self._record
        if record is not None:
            if self._whole_body:
                record.output_tokens = self._delivery.booked.output
            else:
                record.output_tokens += frame.tokens
                record.events_sent += 1
        if self._head_only or not frame.data:
            return
        self._put(b"%x\r\n%b\r\n" % (len(frame.data), frame.data) if self._chunked else frame.data)

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)

    def _flush(self) -> None:
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        if self._record is not None:
            self._record.bytes_sent += len(data)
        self._out, self._size = [], 0
        self._connection.write(data)

    def _end(self, ending: Ending) -> None:
        self._over = True
        if ending is Ending.STALL:
            return
        if ending is Ending.FINISH and self._chunked and not self._head_only:
            self._put(b"0\r\n\r\n")
            self._flush()
        self._note(finished=ending is Ending.FINISH)
        connection = self._connection
        if ending is Ending.RESET:
            connection.reset()
        connection.done(keep_alive=self._keep_alive and ending is Ending.FINISH)

    def abandon(self, *, by_client: bool) -> None:
        """The connection is gone before the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._note(finished=False, by_client=by_client)

    def _note(self, *, finished: bool, by_client: bool = False) -> None:
        if self._record is not None:
            app = self._connection.app
            app.log.end(self._record, app.now(), finished=finished, by_client=by_client)


def _head(delivery: Delivery, chunked: bool, keep_alive: bool) -> bytes:
    status = delivery.status or 0
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in delivery.headers]
    if delivery.length is not None:
        lines.append(f"content-length: {delivery.length}")
    elif chunked:
        lines.append("transfer-encoding: chunked")
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
