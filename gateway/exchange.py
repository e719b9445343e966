"""One consumer request on its way through the house: what is known of it, and how its answer goes out. Data plane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from gateway.body import Body
from gateway.directives import Directives
from gateway.wire.base import WireFormat
from tokenhub.core.chat import ChatCall
from tokenhub.core.specs import KeySpec, Snapshot

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_VALUES_KEPT = 1024
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

Interruption = Literal["", "disconnect", "total"]
"""Why the request's own task was cancelled by us; "" = it was not, or by somebody else (shutdown)."""


@lru_cache(_VALUES_KEPT)
def header_value(text: str) -> bytes:
    """A text as a header's value: what is foreign to one becomes a question mark."""
    return _CONTROL.sub(b"?", text.encode("latin-1", "replace"))


class Exchange:
    """The state of one request. Times are from the gateway's monotonic clock, in seconds."""

    __slots__ = (
        "_call",
        "asked",
        "attempts",
        "began_at",
        "body",
        "directives",
        "disconnected",
        "drain",
        "finished",
        "headers",
        "interruption",
        "key",
        "losses",
        "pin",
        "query",
        "reason",
        "received_at",
        "request_id",
        "send",
        "sent_anything",
        "snapshot",
        "started_at",
        "status",
        "stream",
        "task",
        "upstream_seconds",
        "wire",
    )

    def __init__(
        self, wire: WireFormat, headers: Mapping[bytes, bytes], query: bytes, send: Send, request_id: str
    ) -> None:
        self.wire = wire
        self.headers = headers
        self.query = query
        self.send = send
        self.request_id = request_id
        self.task = asyncio.current_task()
        self.snapshot: Snapshot
        self.key: KeySpec
        self.body: Body
        self.directives: Directives | None = None
        """What the request asks of its routing and its answer, in its texts or in its envelope; None = nothing."""
        self._call: ChatCall | None = None
        self.started_at = 0.0
        self.began_at = 0.0
        self.received_at = 0.0
        self.asked = ""
        self.stream = False
        self.attempts = 0
        self.reason = ""
        self.pin: tuple[bytes, float] | None = None
        """Under which name the target that serves this is remembered, and for how many seconds."""
        self.losses: tuple[str, ...] = ()
        self.status = 0
        self.sent_anything = False
        self.disconnected = False
        self.drain = False
        self.finished = False
        self.upstream_seconds = 0.0
        self.interruption: Interruption = ""

    def identity(self) -> Headers:
        """The request's id, under our name and under the ones that OpenAI's and Anthropic's clients look for, and which keys of its
        directives nobody knows."""
        request_id = self.request_id.encode()
        headers = [
            (b"x-tokenhub-request-id", request_id),
            (b"x-request-id", request_id),
            (b"request-id", request_id),
        ]
        if self.directives is not None and self.directives.ignored:
            headers.append((b"x-tokenhub-directives-ignored", ", ".join(self.directives.ignored).encode()))
        return headers

    def get_call(self) -> ChatCall:
        """The request as a ChatCall, read once however many targets need it. Raises InvalidRequest."""
        if self._call is None:
            self._call = self.wire.read_call(self.body.data)
        return self._call

    def interrupt(self, why: Interruption) -> None:
        """Cancels the request's task, once; whoever catches the cancellation reads why."""
        if not self.interruption and self.task is not None and not self.task.done():
            self.interruption = why
            self.task.cancel()

    def take_interruption(self) -> Interruption:
        """Why we were cancelled, taken back so that the task can go on to settle; "" if it was somebody else's doing."""
        why = self.interruption
        if why and self.task is not None:
            self.task.uncancel()
        return why

    def overhead(self, now: float) -> float:
        """Our own part so far in seconds: before the attempt under way, and since its answer came."""
        return self.began_at - self.started_at - self.upstream_seconds + max(0.0, now - self.received_at)

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the answer's head."""
        self.status = status
        self.sent_anything = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Sends a part of the answer's body; waits while the caller reads slowly. Nothing goes to a caller who left."""
        if not more:
            self.finished = True
        if not self.disconnected:
            await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self.write(body, more=False)
