"""HTTP/1.1 of the production server: uvicorn's protocol over httptools, with bounded heads and answers of our own. Both planes."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from tokenhub.http_answer import AnswerCycle
from tokenhub.process import harden_process

_TIMER_SLACK = 0.01


class ServerConfig(Config):
    """uvicorn's configuration with the bounds of request heads: `head_timeout` in seconds, `max_head_bytes`.

    `harden`: whether the serving processes close themselves to their neighbours.
    """

    def __init__(
        self, *, head_timeout: float, max_head_bytes: int, harden: bool = True, **options: Any
    ) -> None:
        self.head_timeout = head_timeout
        self.max_head_bytes = max_head_bytes
        self.harden = harden
        super().__init__(http=BoundedHeadProtocol, **options)

    def load(self) -> None:
        """Hardens the process, then loads the application. Each worker comes here first, before it reads a secret."""
        if self.harden:
            harden_process()
        super().load()


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
        self._idle_until = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the first head's deadline."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the deadlines."""
        self._disarm()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
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

    def on_headers_complete(self) -> None:
        """A head has ended, its deadline too: its request is served, or waits for the ones before it."""
        # Each header counts with its colon, space and line end.
        self._told_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._told_bytes > self._max_head_bytes:
            # The parser turns this into its own error; `send_400_response` then finds the length.
            raise ValueError("request head too long")
        self._unfinished_bytes = 0
        self._heads_ended += 1
        self._head_open = False
        self._disarm()
        parser = self.parser
        if parser.should_upgrade() and self._should_upgrade():
            # What hands the connection to the WebSocket protocol writes the request anew, out of the scope.
            self._fill_scope()
            return
        version = self._fill_scope()
        before = self.cycle
        self.cycle = cycle = AnswerCycle(  # type: ignore[assignment]
            self.loop,
            self.scope,  # type: ignore[arg-type]
            self.transport,
            self.flow,
            expects_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)  # type: ignore[arg-type]
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _fill_scope(self) -> str:
        """The rest of the request's scope; returns the HTTP version."""
        parser, scope = self.parser, self.scope
        version: str = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        parsed = httptools.parse_url(self.url)
        raw_path: bytes = parsed.path
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = parsed.query or b""
        return version

    def on_message_complete(self) -> None:
        """A request has ended; the next head may come."""
        self._body_open = False
        self._disarm()
        super().on_message_complete()
        self._told_bytes = 0
        self._head_open = True

    def on_response_complete(self) -> None:
        """An answer has ended: the next request of the pipeline, or the idle connection's deadline.

        A body that still comes in is given limited time.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._rest()
        if self._body_open and not self._head_open:
            self._watch_if_idle()

    def _rest(self) -> None:
        """From now on the connection is idle. Its timer stays through many requests and looks at the time only when it fires."""
        self._idle_until = self.loop.time() + self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self._await_idle_end(self._idle_until)

    def _await_idle_end(self, when: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(when, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_until = math.inf

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for too long."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._idle_until == math.inf:
            return
        if self.loop.time() + _TIMER_SLACK < self._idle_until:
            self._await_idle_end(self._idle_until)
        else:
            self.transport.close()

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
