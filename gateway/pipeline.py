"""The way of one request: authenticate → admit → parse → route → attempt. Data plane; readable in one screen.

The snapshot is read once, at the top; everything below gets it from the exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from gateway.answer_cache import AnswerCache
from gateway.authenticate import authenticate, check_scope
from gateway.body import SMALL, BodyBudget, Booking, Receive, parse_body, read_body
from gateway.config import GatewayConfig
from gateway.departure import DepartureWatch
from gateway.directives import MARK
from gateway.exchange import Exchange
from gateway.failover import Failover
from gateway.features import NEEDS
from gateway.guards.guarding import Guards
from gateway.idempotency import HEADER, Idempotency
from gateway.inner import InnerCalls
from gateway.metrics import Metrics
from gateway.opening import open_request
from gateway.routing import Router
from gateway.tokens import estimate_aside, estimate_input_tokens
from providers.adapters.base import Operation
from providers.adapters.registry import get_adapter
from routing.engine.decide import Decision
from routing.engine.plan import Candidate
from tokenhub.core.current import Current
from tokenhub.core.errors import NotReady
from usage.journal import Journal

_STREAMED = frozenset(NEEDS) - {Operation.OPENAI_EMBEDDINGS, Operation.ANTHROPIC_COUNT_TOKENS}
"""The operations whose answers can stream; elsewhere a `stream` flag is the provider's to judge."""


class Pipeline:
    """Serves one request after another. One object a worker; `wall` gives Unix seconds, `clock` monotonic seconds."""

    def __init__(
        self,
        config: GatewayConfig,
        current: Current,
        journal: Journal,
        router: Router,
        failover: Failover,
        inner: InnerCalls,
        idempotency: Idempotency,
        answers: AnswerCache,
        guards: Guards,
        metrics: Metrics,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._current = current
        self._journal = journal
        self._failover = failover
        self._inner = inner
        self._idempotency = idempotency
        self._answers = answers
        self._guards = guards
        self._metrics = metrics
        self._wall = wall
        self._clock = clock
        self.bodies = BodyBudget(config.max_inflight_body_bytes)
        self._drains = 0
        self._router = router

    async def run(self, exchange: Exchange, receive: Receive) -> None:
        """Serves the request, or raises a TokenhubError before anything was sent."""
        exchange.started_at = self._clock()
        exchange.snapshot = self._current.get()
        exchange.key = authenticate(
            exchange.snapshot,
            exchange.headers,
            exchange.query,
            peppers=self._config.peppers,
            now=self._wall(),
        )
        check_scope(exchange.key, exchange.wire.scope)
        self._admit()
        booking = Booking(self.bodies)
        try:
            raw = await read_body(
                receive,
                exchange.headers,
                limit=self._config.max_body_bytes,
                timeout=self._config.body_timeout,
                booking=booking,
            )
            exchange.body = await parse_body(raw)
            await self._serve(exchange, receive)
        finally:
            booking.release()

    def _admit(self) -> None:
        """Refuses work that could not be accounted."""
        if not self._journal.available:
            self._metrics.add("journal_refusals", ())
            raise NotReady("the usage journal can't be written, so no request is taken", retry_after=5)

    async def _serve(self, exchange: Exchange, receive: Receive) -> None:
        wire, raw = exchange.wire, exchange.body.raw
        if len(raw) <= SMALL and raw.find(MARK) < 0 and not wire.wraps:
            # What nearly every request is: one search of its bytes is all that it pays for directives.
            wire.check(exchange.body.data)
        else:
            await open_request(exchange, self._inner)
        if len(raw) > SMALL:
            await estimate_aside(exchange)
        body = exchange.body.data
        exchange.asked = body["model"]
        operation = exchange.wire.operation
        exchange.stream = body.get("stream") is True and operation in _STREAMED
        if HEADER in exchange.headers:
            go_on = partial(self._dispatch, exchange, receive)
            await self._idempotency.serve(exchange, go_on, self._config.idempotency_wait)
        else:
            await self._dispatch(exchange, receive)

    async def _dispatch(self, exchange: Exchange, receive: Receive) -> None:
        """Routes the request and has it answered."""
        decision = self._router.route(exchange)
        candidates, operation = decision.candidates, exchange.wire.operation
        if operation is Operation.ANTHROPIC_COUNT_TOKENS and not _counts_itself(candidates[0]):
            await self._count_here(exchange, candidates[0])
        elif exchange.key.cache_seconds:
            await self._answers.serve(exchange, decision, partial(self._attempt, exchange, decision, receive))
        else:
            await self._attempt(exchange, decision, receive)

    async def _attempt(self, exchange: Exchange, decision: Decision, receive: Receive) -> None:
        """Has a provider answer the request, for as long as its caller is there and its time lasts."""
        policy = decision.plan.policy
        if policy is not None and policy.guards:
            await self._guards.enter(exchange, policy.guards)
        loop = asyncio.get_running_loop()
        watch = DepartureWatch(receive, partial(self._caller_gone, exchange), loop)
        total = decision.candidates[0].provider.timeouts.total
        timer = loop.call_later(total, exchange.interrupt, "total")
        try:
            await self._failover.serve(exchange, decision)
        finally:
            timer.cancel()
            watch.stop()
            self._drains -= exchange.disconnected

    def _caller_gone(self, exchange: Exchange) -> None:
        """Closes the upstream call of a caller who went away, or drains it where the provider says so."""
        if exchange.finished:
            return
        self._metrics.add("client_disconnects", (exchange.wire.operation.value,))
        if exchange.drain and self._drains < self._config.max_drains:
            self._drains += 1
            exchange.disconnected = True
        else:
            exchange.interrupt("disconnect")

    async def _count_here(self, exchange: Exchange, candidate: Candidate) -> None:
        """No provider call, so no attempt: the plan's first target has no counting endpoint."""
        tokens, calibrated = self._router.correct(candidate, estimate_input_tokens(exchange))
        await exchange.answer(
            200,
            [
                (b"content-type", b"application/json"),
                *exchange.identity(),
                (b"x-tokenhub-reason", b"estimated;calibrated" if calibrated else b"estimated"),
                (b"x-tokenhub-revision", b"%d" % exchange.snapshot.revision),
            ],
            b'{"input_tokens":%d}' % tokens,
        )


def _counts_itself(candidate: Candidate) -> bool:
    adapter = get_adapter(candidate.provider.kind)
    return Operation.ANTHROPIC_COUNT_TOKENS in adapter.native
