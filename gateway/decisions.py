"""What was decided for requests, kept for whoever asks why: sampled, bounded, handed to a thread that stores it. Data plane.

A decision is kept as JSON with figures, names and reasons. Nothing of the request's or the answer's content is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.exchange import Exchange, Tried
from providers.adapters.base import Operation
from routing.engine.explain import explain
from tokenhub.core.errors import NothingEligible, TokenhubError

MOST_WAITING: Final = 5000
"""Decisions that wait for their storing; more are dropped and counted, for instance while the database is away."""

_SETTINGS: Final = ("mode", "policy", "min_weight", "budget_nanos", "latency_ms", "max_tokens", "strip_think")


@dataclass(frozen=True, slots=True)
class KeptDecision:
    """One decision to store. `at` is Unix seconds, `document` JSON."""

    request_id: str
    at: float
    key_id: str
    team: str
    project: str
    asked: str
    policy: str
    model: str
    provider: str
    status: int
    attempts: int
    document: bytes


class DecisionLog:
    """The decisions of one worker. `per_second` are kept of quiet requests, and as many again of those that failed or fell back.

    `wall` gives Unix, `clock` monotonic seconds. Noting is for the loop, taking for one thread.
    """

    def __init__(
        self,
        per_second: float,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._wall = wall
        self._clock = clock
        self._most_waiting = most_waiting
        self._quiet = _Rate(per_second)
        self._eventful = _Rate(per_second)
        self._waiting: deque[KeptDecision] = deque()
        self.dropped = 0
        """Decisions that found too many waiting."""

    def note(self, exchange: Exchange, error: TokenhubError | None = None) -> None:
        """A request is over. One that was not routed has no decision, but for that nothing was eligible."""
        decision = exchange.decision
        if decision is None and not isinstance(error, NothingEligible):
            return
        rate = self._quiet if exchange.status < 400 and len(exchange.tried) <= 1 else self._eventful
        if not rate.take(self._clock()):
            return
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
            return
        self._waiting.append(self._keep(exchange, error))

    def take(self, most: int) -> list[KeptDecision]:
        """Up to `most` of the decisions that wait, oldest first."""
        taken: list[KeptDecision] = []
        while len(taken) < most:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                break
        return taken

    def _keep(self, exchange: Exchange, error: TokenhubError | None) -> KeptDecision:
        decision, key = exchange.decision, exchange.key
        policy = decision.plan.policy if decision is not None else None
        last = exchange.tried[-1] if exchange.tried else None
        return KeptDecision(
            request_id=exchange.request_id,
            at=self._wall(),
            key_id=key.id,
            team=key.team,
            project=key.project,
            asked=exchange.asked[:200],
            policy=f"{policy.name}@{policy.version}" if policy is not None else "",
            model=last.choice.candidate.model.name if last is not None else "",
            provider=last.choice.candidate.provider.name if last is not None else "",
            status=exchange.status,
            attempts=len(exchange.tried),
            document=msgspec.json.encode(_describe(exchange, error)),
        )


class _Rate:
    """So many a second, and as many at once."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _describe(exchange: Exchange, error: TokenhubError | None) -> dict[str, Any]:
    """The decision as JSON values: costs in nano-dollars, times in milliseconds."""
    told: dict[str, Any] = {
        "operation": Operation(exchange.wire.operation).value,
        "streamed": exchange.stream,
        "revision": exchange.snapshot.revision,
        "status": exchange.status,
        "cost_nanos": exchange.cost_nanos(),
    }
    if exchange.decision is not None:
        told |= explain(exchange.decision)
    else:
        told |= {"reason": "", "policy": None, "candidates": [], "resting": 0}
        told["left_out"] = list(error.details.get("candidates", ())) if error is not None else []
    if exchange.reason:
        told["reason"] = exchange.reason
    if error is not None:
        told["error"] = error.code
    if exchange.directives is not None:
        asked = {name: getattr(exchange.directives, name) for name in _SETTINGS}
        told["directives"] = {name: value for name, value in asked.items() if value}
        told["directives_ignored"] = list(exchange.directives.ignored)
    if exchange.guarded:
        told["guards"] = dict(sorted(exchange.guarded.items()))
    if exchange.losses:
        told["translation"] = list(exchange.losses)
    told["attempts"] = [_describe_attempt(one) for one in exchange.tried]
    return told


def _describe_attempt(one: Tried) -> dict[str, Any]:
    choice, account = one.choice, one.account
    intent, final = account.intent, account.final
    told: dict[str, Any] = {
        "number": intent.number,
        "purpose": intent.purpose,
        "provider": intent.provider,
        "model": intent.model,
        "endpoint": intent.endpoint,
        "credential": choice.credential.name,
        "input_estimate": intent.input_estimate,
        "estimated": "calibrated" if account.calibrated else "heuristic",
        "price_version": intent.price_version,
    }
    if final is not None:
        told |= {
            "outcome": final.outcome,
            "upstream_status": final.status,
            "duration_ms": final.duration_ms,
            "first_token_ms": final.first_token_ms if final.first_token_ms >= 0 else None,
            "cost_nanos": final.cost_nanos,
            "translated": final.translated,
        }
    if one.failure is not None:
        told["failure"] = one.failure.kind
    return told
