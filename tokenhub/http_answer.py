"""One HTTP request and its answer on a connection: the ASGI side of the production server. Both planes.

It stands where uvicorn has its `RequestResponseCycle`, and differs in what a gateway does most: the head leaves together with the
first bytes of the body, in one write; a header's name is checked once in a process's life, not in each answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Message = dict[str, Any]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]

_BAD_IN_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\\\[\]={} \t"]')
_BAD_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAMES_KEPT = 1024
_LENGTH, _CODING, _CONNECTION, _OTHER = range(4)
_FRAMING = {b"content-length": _LENGTH, b"transfer-encoding": _CODING, b"connection": _CONNECTION}
_GONE: Message = {"type": "http.disconnect"}
_names: dict[bytes, tuple[bytes, int]] = {}
_logger = logging.getLogger("uvicorn.error")


def _check_name(name: bytes) -> tuple[bytes, int]:
    """A header's name in lower case with its colon, and what it says of the framing. Raises RuntimeError."""
    if _BAD_IN_NAME.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    known = (lower + b": ", _FRAMING.get(lower, _OTHER))
    if len(_names) < _NAMES_KEPT:
        _names[name] = known
    return known


class AnswerCycle:
    """Serves one request. The protocol fills `body` and `more_body` and calls `set` at each change, as uvicorn's does."""

    __slots__ = (
        "_chunked",
        "_expects_continue",
        "_flow",
        "_head",
        "_loop",
        "_on_response",
        "_scope",
        "_told",
        "_transport",
        "_unsent",
        "_waiter",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scope: Message,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        expects_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._scope = scope
        self._transport = transport
        self._flow = flow
        self._expects_continue = expects_continue
        self._on_response: Callable[[], None] | None = on_response
        self._waiter: asyncio.Future[None] | None = None
        self._told = False
        self._head = b""
        self._chunked: bool | None = None
        self._unsent = 0
        self.keep_alive = keep_alive
        self.disconnected = False
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.response_started = False
        self.response_complete = False

    @property
    def message_event(self) -> AnswerCycle:
        """What uvicorn's protocol calls `set` on."""
        return self

    def set(self) -> None:
        """Wakes whoever waits in `receive`."""
        self._told = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run_asgi(self, app: Application) -> None:
        """Runs the application; an answer that it leaves open is closed, one that it never began is a 500."""
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as error:
            # The server outlives its application, as uvicorn's does; the trace goes to its log.
            _logger.error("Exception in ASGI application\n", exc_info=error)
            await self._close_unfinished()
        else:
            if not self.response_complete and not self.disconnected:
                _logger.error("ASGI callable returned without completing response.")
                await self._close_unfinished()
        finally:
            self._on_response = None

    async def _close_unfinished(self) -> None:
        if self.response_started:
            self._write_head()
            self._transport.close()
            return
        text = b"Internal Server Error"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": text})

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if self._expects_continue:
            self._expects_continue = False
            if not self.response_started and not self._transport.is_closing():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            self._flow.resume_reading()
            if not self._told:
                await self._wait()
            self._told = False
        if self.disconnected or self.response_complete:
            return _GONE
        body, self.body = self.body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("receive() is waited for already")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._start(message["status"], message.get("headers", ()))
        elif self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            self._send_body(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: Any) -> None:
        pieces = [STATUS_LINE[status]]
        closes = False
        for name, value in headers:
            known = _names.get(name) or _check_name(name)
            if _BAD_IN_VALUE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            pieces += (known[0], value, b"\r\n")
            if known[1] != _OTHER:
                closes = self._note_framing(known[1], value) or closes
        self.response_started = True
        self._expects_continue = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            pieces.append(b"connection: close\r\n")
        if self._chunked is None and self._scope["method"] != "HEAD" and status not in (204, 304):
            self._chunked = True
            pieces.append(b"transfer-encoding: chunked\r\n")
        pieces.append(b"\r\n")
        self._head = b"".join(pieces)
        # A body mostly follows at once, and takes the head with it. Where none does, the head must not wait for it.
        self._loop.call_soon(self._write_head)

    def _note_framing(self, kind: int, value: bytes) -> bool:
        """Takes a framing header into account; whether the connection is to be closed."""
        if kind == _LENGTH:
            if self._chunked is None:
                self._unsent = int(value)
                self._chunked = False
        elif kind == _CODING:
            if value.lower() == b"chunked":
                self._unsent = 0
                self._chunked = True
        else:
            return b"close" in [token.lower().strip() for token in value.split(b",")]
        return False

    def _write_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self.disconnected:
            self._transport.write(head)

    def _send_body(self, body: bytes, more_body: bool) -> None:
        head = self._head
        if self._scope["method"] == "HEAD":
            self._unsent = 0
            framed = head
        elif self._chunked:
            if body:
                framed = b"%b%x\r\n%b\r\n%b" % (head, len(body), body, b"" if more_body else b"0\r\n\r\n")
            else:
                framed = head if more_body else head + b"0\r\n\r\n"
        else:
            if len(body) > self._unsent:
                raise RuntimeError("Response content longer than Content-Length")
            self._unsent -= len(body)
            framed = head + body if head else body
        self._head = b""
        if framed:
            self._transport.write(framed)
        if not more_body:
            self._complete()

    def _complete(self) -> None:
        if self._unsent:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self._transport.close()
        if self._on_response is not None:
            self._on_response()
