"""The attempts of one request, until one answers. The only owner of retries. Data plane.

decision ─▶ target ─▶ attempt ─┬─ answered
              ▲                ├─ failed for good ─▶ the caller's error
              └────────────────┴─ failed here     ─▶ the next target, while attempts and the retry budget last
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.attempt import Dispatcher, Prepared
from gateway.body import ClientGone
from gateway.exchange import Exchange
from gateway.health import HealthBoard
from gateway.metrics import Metrics
from gateway.outcome import refuse
from gateway.race import Race
from gateway.routing import Router, name_sticky
from gateway.targets import Choice, TargetPicker
from gateway.thoughts import strip_body, strip_call
from providers.adapters.base import Failure, Operation
from routing.engine.breaker import RetryBudget
from routing.engine.decide import Decision
from routing.engine.hedge import HedgeBudgets, find_delay
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import PolicySpec
from vault.keyring import Keyring


def _drop_thoughts(exchange: Exchange) -> bool:
    """Takes the thoughts out of the request; False where it has none. The answer's headers tell of it."""
    if exchange.wire.operation in (Operation.ANTHROPIC_MESSAGES, Operation.ANTHROPIC_COUNT_TOKENS):
        stripped = strip_body(exchange.body)
        if stripped is None:
            return False
        exchange.body, exchange.dropped = stripped
        exchange.forget_call()
    else:
        call = strip_call(exchange.get_call())
        if call is None:
            return False
        exchange.take_call(call[0])
        exchange.dropped = call[1]
    exchange.reason += ";thoughts_dropped"
    return True


class Failover:
    """Serves requests by their decisions. One object a worker; `rng` gives numbers in [0, 1)."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        board: HealthBoard,
        keyring: Keyring,
        router: Router,
        metrics: Metrics,
        *,
        rng: Callable[[], float],
        max_attempts: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._board = board
        self._keyring = keyring
        self._router = router
        self._metrics = metrics
        self._rng = rng
        self._max_attempts = max_attempts
        self.retries = RetryBudget()
        self.hedges = HedgeBudgets()

    async def serve(self, exchange: Exchange, decision: Decision) -> None:
        """Tries the decision's targets until one answers. Raises a TokenhubError where none did and nothing was sent."""
        picker = TargetPicker(
            decision,
            self._board,
            self._keyring,
            self._rng,
            partial(name_sticky, exchange, decision.ask.sticky),
        )
        failures: list[tuple[Choice, Failure]] = []
        policy = decision.plan.policy
        most = policy.attempts if policy is not None and policy.attempts else self._max_attempts
        self.retries.request()
        hedged = False
        if policy is not None and policy.hedge.enabled:
            hedged = True
            self.hedges.request(policy)
        while len(failures) < most:
            choice = picker.find_next()
            if choice is None or (failures and not self.retries.take()):
                break
            try:
                prepared = await self._dispatcher.prepare(exchange, choice)
            except InvalidRequest as error:
                # It can't be put in this target's format; the next one may speak the caller's own. Nothing was sent.
                picker.refused(choice, error)
                continue
            exchange.attempts += 1
            if hedged:
                served, failed = await self._race(exchange, decision, picker, choice, prepared)
            else:
                failure = await self._dispatcher.attempt(exchange, choice, prepared)
                served, failed = (choice, []) if failure is None else (None, [(choice, failure)])
            if served is not None:
                self._router.served(exchange, served.target.model.id, served.target.endpoint.id)
                return
            if exchange.disconnected:
                raise ClientGone  # It was drained for its usage alone; another attempt would be paid for nobody.
            of_thoughts = any(failure.of_thoughts for _, failure in failed)
            if of_thoughts and not exchange.dropped and _drop_thoughts(exchange):
                continue  # The same target again: nothing speaks against it.
            failures += failed
            if not all(failure.retry_elsewhere for _, failure in failed):
                break
            for choice, failure in failed:
                picker.failed(choice, failure)
        await refuse(exchange, failures, picker.unusable, picker.refusals)

    async def _race(
        self,
        exchange: Exchange,
        decision: Decision,
        picker: TargetPicker,
        choice: Choice,
        prepared: Prepared,
    ) -> tuple[Choice | None, list[tuple[Choice, Failure]]]:
        """The attempt, and another beside it if it is slow. The choice that answered, or why each of them did not."""
        policy = decision.plan.policy
        health = self._board.measure(choice.target.model)
        delay = None if policy is None else find_delay(policy.hedge, health, streamed=exchange.stream)
        if policy is None or delay is None:
            failure = await self._dispatcher.attempt(exchange, choice, prepared)
            return (choice, []) if failure is None else (None, [(choice, failure)])
        race = Race(exchange, self._dispatcher)
        find_second = partial(self._find_second, exchange, policy, picker, choice)
        served, failed = await race.run(choice, prepared, delay, find_second)
        if race.second is not None:
            result = "won" if served is race.second else "lost" if served is not None else "failed"
            self._metrics.add("hedges", (race.second.candidate.provider.name, result))
        return served, failed

    async def _find_second(
        self, exchange: Exchange, policy: PolicySpec, picker: TargetPicker, first: Choice
    ) -> tuple[Choice, Prepared] | None:
        """Where a second attempt may go beside a slow first one; None: nowhere that is healthy, or the policy's share is used."""
        choice = picker.find_beside(first)
        if choice is None or not self.hedges.take(policy):
            return None
        try:
            prepared = await self._dispatcher.prepare(exchange, choice)
        except InvalidRequest as error:
            picker.refused(choice, error)
            return None
        exchange.attempts += 1
        return choice, prepared
