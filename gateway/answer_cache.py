"""The answers of a project, given again to requests that are exactly the same: opt-in, one tenant's own, sealed. Data plane.

A request is looked up when it has been routed: an answer counts only while the model that gave it may still be chosen for this
key and request. Only whole, good answers are kept. A store that is away costs nothing but the answer's price.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from gateway.body import SMALL
from gateway.exchange import Exchange, Headers
from gateway.keeping import StoreUnavailable, headers_of_note
from gateway.metrics import Metrics
from gateway.recorder import Recorder, load_answer
from gateway.sealing import Sealer
from providers.adapters.base import Operation
from routing.engine.decide import Decision
from tokenhub.core.money import usd_from_nanos

MOST_BYTES: Final = 1_000_000
"""The longest request and the longest answer that are kept."""

REASON: Final = "cached"

_CACHED: Final = frozenset(Operation) - {Operation.ANTHROPIC_COUNT_TOKENS}
_HEADER: Final = b"x-tokenhub-cache"
_KEPT_HEADERS: Final = frozenset(
    {
        b"content-type",
        b"cache-control",
        b"x-accel-buffering",
        b"x-tokenhub-model",
        b"x-tokenhub-provider",
        b"x-tokenhub-translation",
        b"x-tokenhub-output",
    }
)
"""What of an answer's head is about the answer; the rest is about the request that got it first."""

_logger = logging.getLogger("tokenhub.gateway")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One answer. `model_id` gave it; `at` (Unix seconds). `cost_nanos` (None: it has no price) is
    of all its attempts, the tokens are of the one that gave it."""

    sealed: bytes
    model_id: str
    cost_nanos: int | None
    input_tokens: int
    output_tokens: int
    at: float


class AnswerCacheStore(Protocol):
    """Keeps answers by name, each for its tenant. Its methods block, and are called in threads. Each raises StoreUnavailable."""

    def find(self, name: str) -> KeptAnswer | None:
        """The answer of that name; None where none is kept, or it is over."""

    def keep(self, name: str, tenant: str, answer: KeptAnswer, seconds: int) -> None:
        """Keeps an answer for so many seconds, in place of an older one."""

    def count_hit(self, tenant: str, answer: KeptAnswer) -> None:
        """Counts what an answer saved that was given again. Does not block."""


class AnswerCache:
    """Serves the requests of projects that opted in. One object a worker; `store` None: this installation keeps no answers."""

    def __init__(
        self, store: AnswerCacheStore | None, pepper: bytes, metrics: Metrics, wall: Callable[[], float]
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._metrics = metrics
        self._wall = wall
        self._keeping: set[asyncio.Task[None]] = set()

    async def serve(
        self, exchange: Exchange, decision: Decision, go_on: Callable[[], Awaitable[None]]
    ) -> None:
        """Answers with what is kept, or lets the request go on and keeps its answer."""
        store, wishes = self._store, exchange.headers.get(b"cache-control", b"").lower()
        passed_by = exchange.directives is not None and exchange.directives.cache is False
        if store is None or passed_by or b"no-store" in wishes:
            await self._pass_by(exchange, go_on)
            return
        sealer = await self._make_sealer(exchange, decision)
        if sealer is None:
            await self._pass_by(exchange, go_on)
            return
        try:
            kept = None if b"no-cache" in wishes else await asyncio.to_thread(store.find, sealer.name)
        except StoreUnavailable:
            await self._pass_by(exchange, go_on)
            return
        if kept is not None and await self._answer(exchange, decision, sealer, kept):
            store.count_hit(exchange.key.tenant, kept)
            return
        self._count(exchange, "miss")
        exchange.told.append((_HEADER, b"miss"))
        recorder = Recorder(exchange.send, MOST_BYTES)
        exchange.send = recorder.send
        await go_on()
        if recorder.whole and recorder.status == 200 and not recorder.too_large:
            self._keep_soon(store, exchange, sealer, recorder)

    async def _pass_by(self, exchange: Exchange, go_on: Callable[[], Awaitable[None]]) -> None:
        self._count(exchange, "bypass")
        exchange.told.append((_HEADER, b"bypass"))
        await go_on()

    async def _make_sealer(self, exchange: Exchange, decision: Decision) -> Sealer | None:
        """None for a request that is not cached: too large, or nothing that would be the same twice."""
        size = len(exchange.body.raw)
        if exchange.wire.operation not in _CACHED or size > MOST_BYTES:
            return None
        if size <= SMALL:
            return self._seal_for(exchange, decision)
        return await asyncio.to_thread(self._seal_for, exchange, decision)

    def _seal_for(self, exchange: Exchange, decision: Decision) -> Sealer | None:
        policy = decision.plan.policy
        try:
            # Members in another order, and other spaces, make no other request; what directives asked is not in the body.
            body = msgspec.json.encode(exchange.body.data, order="sorted")
            asked = msgspec.json.encode(exchange.directives, order="sorted")
        except (OverflowError, TypeError, ValueError):
            return None
        parts = (
            exchange.wire.operation.value.encode(),
            f"{policy.name}@{policy.version}".encode() if policy is not None else b"",
            headers_of_note(exchange),
            asked,
            body,
        )
        return Sealer.of_content(self._pepper, "cached answer", exchange.key.tenant.encode(), *parts)

    async def _answer(self, exchange: Exchange, decision: Decision, sealer: Sealer, kept: KeptAnswer) -> bool:
        """Whether the kept answer could be given: it opens, is young enough, and its model may be chosen for this request."""
        age = max(0.0, self._wall() - kept.at)
        if age > exchange.key.cache_seconds:
            return False
        giver = next((one for one in decision.candidates if one.model.id == kept.model_id), None)
        opened = sealer.open(kept.sealed) if giver is not None else None
        if opened is None:
            return False
        _, headers, body = load_answer(opened)
        self._count(exchange, "hit")
        exchange.reason = f"{exchange.reason};{REASON}" if exchange.reason else REASON
        await exchange.answer(
            200,
            self._head(exchange, headers, age),
            exchange.wire.give_again(body, exchange.reason, exchange.request_id, stream=exchange.stream),
        )
        return True

    def _head(self, exchange: Exchange, headers: Headers, age: float) -> Headers:
        return [
            *((name, value) for name, value in headers if name in _KEPT_HEADERS),
            *exchange.identity(),
            (b"x-tokenhub-attempts", b"0"),
            (b"x-tokenhub-reason", exchange.reason.encode("latin-1", "replace")),
            (b"x-tokenhub-revision", b"%d" % exchange.snapshot.revision),
            (b"x-tokenhub-cost-usd", usd_from_nanos(0).encode()),
            (_HEADER, b"hit"),
            (b"age", b"%d" % age),
        ]

    def _keep_soon(
        self, store: AnswerCacheStore, exchange: Exchange, sealer: Sealer, recorder: Recorder
    ) -> None:
        """The answer is out, and nobody waits for its keeping."""
        last = exchange.tried[-1] if exchange.tried else None
        final = last.account.final if last is not None else None
        if last is None or final is None or final.outcome != "completed":
            return  # A stream that broke off has a good status too.
        used = last.account.usage
        answer = KeptAnswer(
            b"",
            last.choice.candidate.model.id,
            exchange.cost_nanos(),
            used.input_total,
            used.output_total,
            self._wall(),
        )
        task = asyncio.create_task(
            asyncio.to_thread(_keep, store, exchange, sealer, recorder, answer), name="keep an answer"
        )
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    def _count(self, exchange: Exchange, result: str) -> None:
        self._metrics.add("answer_cache", (exchange.wire.operation.value, result))


def _keep(
    store: AnswerCacheStore, exchange: Exchange, sealer: Sealer, recorder: Recorder, answer: KeptAnswer
) -> None:
    sealed = replace(answer, sealed=sealer.seal(recorder.dump()))
    try:
        store.keep(sealer.name, exchange.key.tenant, sealed, exchange.key.cache_seconds)
    except StoreUnavailable:
        _logger.warning("an answer could not be cached", extra={"request_id": exchange.request_id})
