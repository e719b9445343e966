"""Runs uvicorn in production: one process or several, bounded request heads, a clean end on SIGTERM. Both planes.

The application is named, not imported, so that each worker builds its own.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from functools import partial
from types import FrameType
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server, ServerState
from uvicorn.supervisors import Multiprocess

from tokenhub.environment import TokenhubSettings
from tokenhub.logs import build_logging

APPLICATION = "tokenhub.asgi:application"
# Longer than load balancers keep idle connections (60 s is common), so that they close first and no request meets a
# connection that is just being closed here.
KEEP_ALIVE_SECONDS = 75


class ServerConfig(Config):
    """uvicorn's configuration with the bounds of request heads: `head_timeout` in seconds, `max_head_bytes`."""

    def __init__(self, *, head_timeout: float, max_head_bytes: int, **options: Any) -> None:
        self.head_timeout = head_timeout
        self.max_head_bytes = max_head_bytes
        super().__init__(http=BoundedHeadProtocol, **options)


class BoundedHeadProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with what it lacks: a deadline and a length limit for request heads.

    A head that is too slow is answered with 408, one that is too long with 431, and the connection is closed. A body that
    goes on after its answer ended gets the same time and no answer.
    """

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timeout = config.head_timeout
        self._max_head_bytes = config.max_head_bytes
        self._deadline: asyncio.TimerHandle | None = None
        self._heads_ended = 0
        self._told_bytes = 0
        self._unfinished_bytes = 0
        self._head_open = True
        self._body_open = False
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the first head's deadline."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the deadline."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, then sees to the limits of a head that is still open."""
        if self._refused:
            return
        ended_before, open_before = self._heads_ended, self._head_open
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():
            return
        # The parser tells only whole headers. Data that belongs to nothing but an unfinished head is counted as it is.
        if self._head_open and open_before and self._heads_ended == ended_before:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > self._max_head_bytes:
                self._refuse_long_head()
                return
        self._watch_if_idle()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_open = True
        self._body_open = True
        self._told_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Counts the target."""
        self._told_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header with its colon, space and line end."""
        self._told_bytes += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has ended: its deadline too."""
        if self._told_bytes > self._max_head_bytes:
            # The parser turns this into its own error; `send_400_response` then finds the length.
            raise ValueError("request head too long")
        self._unfinished_bytes = 0
        self._heads_ended += 1
        self._head_open = False
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has ended; the next head may come."""
        self._body_open = False
        self._disarm()
        super().on_message_complete()
        self._told_bytes = 0
        self._head_open = True

    def on_response_complete(self) -> None:
        """An answer has ended; a body that still comes in is given limited time."""
        super().on_response_complete()
        if self._body_open and not self._head_open:
            self._watch_if_idle()

    def send_400_response(self, msg: str) -> None:
        """What can't be parsed is a 400, unless the reason was the head's length."""
        if self._head_open and self._told_bytes > self._max_head_bytes:
            self._refuse_long_head()
        else:
            self._refuse(400, "invalid_request", "This is no valid HTTP/1.1 request.")

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_if_idle(self) -> None:
        """Starts the deadline where bytes came in that no answer is being made for."""
        if self._deadline is None and not self._is_answering():
            self._arm()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self._head_timeout, self._on_deadline)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._head_open and self._unfinished_bytes and not self._is_answering():
            message = f"The request's head did not arrive within {self._head_timeout:g} seconds."
            self._refuse(408, "request_timeout", message)
        else:
            self.transport.close()

    def _refuse_long_head(self) -> None:
        message = f"The request's head is longer than {self._max_head_bytes} bytes."
        self._refuse(431, "request_head_too_large", message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refused = True
        self._disarm()
        # In the middle of an earlier answer, a second one would be taken for a part of it.
        if not self._is_answering():
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            body = json.dumps({"error": error}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(
                body
            )
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def build_config(settings: TokenhubSettings, application: str = APPLICATION) -> ServerConfig:
    """uvicorn's configuration for these settings."""
    return ServerConfig(
        app=application,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        lifespan="on",
        interface="asgi3",
        ws="websockets-sansio",
        log_config=build_logging(settings.log_level, settings.log_format),
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=settings.backlog,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_seconds),
        callback_notify=partial(_follow_supervisor, os.getpid()) if settings.workers > 1 else None,
        timeout_notify=1,
        head_timeout=settings.head_timeout,
        max_head_bytes=settings.max_head_bytes,
    )


def run_server(config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT: stops accepting, lets requests end, shuts the application down, returns.

    With several workers uvicorn's supervisor replaces a dead one. Exits with 3 where the application does not start.
    """
    if config.workers > 1:
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return
    leave_on_signals()
    server = Server(config)
    server.run()
    if not server.started:
        raise SystemExit(3)


async def _follow_supervisor(supervisor: int) -> None:
    """Ends a worker whose supervisor was killed: it would keep the port, and nobody would replace it or pass signals on."""
    if os.getppid() != supervisor:
        os.kill(os.getpid(), signal.SIGTERM)


def leave_on_signals() -> None:
    """Makes SIGTERM and SIGINT end the process with 0 where uvicorn does not handle them.

    uvicorn raises the signal again after its own clean end; without this the process would end as if it had been killed.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
