"""One consumer request on its way through the house: what is known of it, and how its answer goes out. Data plane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from gateway.body import Body
from gateway.directives import Directives
from gateway.wire.base import WireFormat
from tokenhub.core.chat import ChatCall
from tokenhub.core.specs import KeySpec, Snapshot

if TYPE_CHECKING:
    from gateway.settle import Account
    from gateway.stages import AnswerStage
    from gateway.targets import Choice
    from providers.adapters.base import Failure
    from routing.engine.decide import Decision

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_VALUES_KEPT = 1024
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

Interruption = Literal["", "disconnect", "total", "outrun"]
"""Why the request's own task was cancelled by us; "" = it was not, or by somebody else (shutdown). `outrun`: another attempt
of the same request answered first."""


@lru_cache(_VALUES_KEPT)
def header_value(text: str) -> bytes:
    """A text as a header's value: what is foreign to one becomes a question mark."""
    return _CONTROL.sub(b"?", text.encode("latin-1", "replace"))


class Tried:
    """One attempt of a request: where it went, its account, and why it failed (None: it did not, or is under way)."""

    __slots__ = ("account", "choice", "failure")

    def __init__(self, choice: Choice, account: Account) -> None:
        self.choice = choice
        self.account = account
        self.failure: Failure | None = None


class Exchange:
    """The state of one request. Times are from the gateway's monotonic clock, in seconds."""

    __slots__ = (
        "_call",
        "asked",
        "attempts",
        "began_at",
        "body",
        "decision",
        "directives",
        "disconnected",
        "drain",
        "dropped",
        "estimated",
        "finished",
        "guarded",
        "headers",
        "interruption",
        "key",
        "losses",
        "pin",
        "purpose",
        "query",
        "racing",
        "reason",
        "received_at",
        "request_id",
        "send",
        "sent_anything",
        "snapshot",
        "stages",
        "started_at",
        "status",
        "stream",
        "task",
        "told",
        "tried",
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
        self.estimated = 0
        """The prompt's tokens as `gateway.tokens` estimates them; 0 = not yet."""
        self.started_at = 0.0
        self.began_at = 0.0
        self.received_at = 0.0
        self.asked = ""
        self.stream = False
        self.attempts = 0
        self.tried: list[Tried] = []
        """Every attempt that was opened, in their order, those of its children too."""
        self.purpose = "request"
        """What its attempts are for, as the ledger calls it."""
        self.decision: Decision | None = None
        self.told: Headers = []
        """What stages add to the answer's headers."""
        self.stages: Sequence[AnswerStage] = ()
        """What its answer goes through before the caller gets it."""
        self.guarded: dict[str, int] = {}
        """What guards found, by `guard:kind`."""
        self.reason = ""
        self.pin: tuple[bytes, float] | None = None
        """Under which name the target that serves this is remembered, and for how many seconds."""
        self.losses: tuple[str, ...] = ()
        self.dropped: tuple[str, ...] = ()
        """What was taken out of the request before it was put in any target's format."""
        self.status = 0
        self.sent_anything = False
        self.disconnected = False
        self.drain = False
        self.finished = False
        self.racing = False
        """Whether another attempt may answer in this one's place: it sends nothing then before it has an answer."""
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

    def child(self, send: Send, purpose: str) -> Exchange:
        """Another exchange for the same request and key, with its own way of answering and its own task.

        Its attempts are counted and accounted with this one's.
        """
        child = Exchange(self.wire, self.headers, self.query, send, self.request_id)
        child.snapshot, child.key, child.body = self.snapshot, self.key, self.body
        child.directives, child.stages, child.decision = self.directives, self.stages, self.decision
        child.asked, child.stream, child.reason = self.asked, self.stream, self.reason
        child.started_at, child.upstream_seconds = self.started_at, self.upstream_seconds
        child.attempts, child.tried, child.purpose = self.attempts, self.tried, purpose
        child.estimated = self.estimated
        child.guarded, child.told = self.guarded, list(self.told)
        child._call, child.losses, child.dropped = self._call, self.losses, self.dropped
        return child

    def cost_nanos(self) -> int | None:
        """What all its attempts so far cost, in nano-dollars; None where one of them has no price."""
        total = 0
        for one in self.tried:
            cost = one.account.cost_nanos
            if cost is None:
                return None
            total += cost
        return total

    def get_call(self) -> ChatCall:
        """The request as a ChatCall, read once however many targets need it. Raises InvalidRequest."""
        if self._call is None:
            self._call = self.wire.read_call(self.body.data)
        return self._call

    def take_call(self, call: ChatCall) -> None:
        """Another call in the place of the one that was read."""
        self._call = call

    def forget_call(self) -> None:
        """Drops what was read from a body that is another one now."""
        self._call = None

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
