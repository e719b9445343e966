"""Routes a request: chooses its policy, finds or makes its plan, and decides with what is measured now. Data plane.

Plans are kept for one snapshot: they are made of it, the key, the policy and the request's kind, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.directives import Directives
from gateway.exchange import Exchange
from gateway.features import (
    KINDS,
    list_needs,
    list_tags,
    minute_of_week,
    name_conversation,
    read_output_limit,
)
from gateway.health import HealthBoard
from gateway.tokens import estimate_input_tokens
from routing.engine.asking import NO_WISHES, Wishes, is_scored, make_ask
from routing.engine.conditions import Circumstances, choose_policy
from routing.engine.decide import Ask, Decision, decide
from routing.engine.explain import describe_reason, list_refusals
from routing.engine.health import TargetHealth
from routing.engine.pins import Pins, name_pin
from routing.engine.plan import Candidate, Features, Plan, make_plan, nothing_eligible
from tokenhub.core.policies import PolicySpec, StickyBy
from tokenhub.core.specs import Snapshot

PLANS_KEPT = 4096
_PLAIN = Ask()


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan with its candidates' measurements, place by place, and whether it asks for nothing that a request could change."""

    plan: Plan
    health: list[TargetHealth]
    sticky_by: StickyBy
    lone: Decision | None
    """The decision for every request that asks for nothing more, where there is only one candidate: it is tried, rest or not."""


class Router:
    """Decides for one request after another. One object a worker; `wall` gives Unix, `clock` monotonic seconds."""

    def __init__(
        self,
        board: HealthBoard,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        self._board = board
        self._wall = wall
        self._clock = clock
        self._rng = rng
        self._turn = 0
        self._planned: Snapshot | None = None
        self._plans: dict[tuple[str, Features, str], Kept] = {}
        self.pins = Pins()

    def route(self, exchange: Exchange) -> Decision:
        """The decision. Raises ModelNotFound, PermissionDenied, InvalidRequest, NothingEligible."""
        needs = list_needs(exchange.wire.operation, exchange.body.data)
        features = Features(exchange.asked, needs)
        policy = self._choose_policy(exchange, features)
        kept = self._find_plan(exchange, features, policy)
        plan = kept.plan
        ask = self._ask(exchange, kept)
        if ask is _PLAIN and kept.lone is not None:
            exchange.reason, exchange.decision = plan.reason, kept.lone
            return kept.lone
        self._board.refresh_rests(plan.candidates)
        exchange.decision = decision = decide(plan, ask, kept.health, self._clock(), self._rng)
        exchange.reason = describe_reason(decision) if ask is not _PLAIN else plan.reason
        if not decision.order:
            raise nothing_eligible(exchange.asked, list_refusals(decision))
        return decision

    def correct(self, candidate: Candidate, tokens: int) -> tuple[int, bool]:
        """An estimate of a prompt's tokens as this target's own counts correct it, and whether there are enough of them."""
        health = self._board.measure(candidate.model)
        return max(1, int(tokens * health.token_factor)), health.calibrated

    def served(self, exchange: Exchange, model_id: str, endpoint_id: str) -> None:
        """A target answered: what belongs together with this request goes there, too, while its cache lives."""
        if exchange.pin is not None:
            name, seconds = exchange.pin
            self.pins.put(name, model_id, endpoint_id, self._clock() + seconds)

    def _choose_policy(self, exchange: Exchange, features: Features) -> PolicySpec | None:
        named = exchange.directives.policy if exchange.directives is not None else ""
        if not exchange.snapshot.policies and not named and b"x-tokenhub-policy" not in exchange.headers:
            return None
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers.items()
        }
        at = Circumstances(
            exchange.key,
            exchange.asked,
            KINDS[exchange.wire.operation],
            features.needs,
            estimate_input_tokens(exchange),
            list_tags(exchange.headers),
            headers,
            minute_of_week(self._wall()),
        )
        return choose_policy(exchange.snapshot, at, named or headers.get("x-tokenhub-policy", ""))

    def _find_plan(self, exchange: Exchange, features: Features, policy: PolicySpec | None) -> Kept:
        snapshot = exchange.snapshot
        if snapshot is not self._planned or len(self._plans) >= PLANS_KEPT:
            self._planned = snapshot
            self._plans.clear()
        key = (exchange.key.id, features, policy.name if policy is not None else "")
        kept = self._plans.get(key)
        if kept is None:
            plan = make_plan(snapshot, exchange.key, features, policy)
            alias = snapshot.alias_by_name.get(features.asked)
            if policy is not None:
                sticky_by: StickyBy = policy.affinity.by
            else:
                sticky_by = alias.sticky_by if alias is not None else "request"
            lone = Decision(plan, _PLAIN, (0,), {}) if len(plan.candidates) == 1 else None
            health = self._board.list_health(plan.candidates)
            kept = self._plans[key] = Kept(plan, health, sticky_by, lone)
        return kept

    def _ask(self, exchange: Exchange, kept: Kept) -> Ask:
        """The request's own figures and wishes; of one that has none, and whose plan needs none, always the same object."""
        plan, body = kept.plan, exchange.body.data
        wishes = NO_WISHES if exchange.directives is None else _read_wishes(exchange.directives)
        scored = is_scored(plan.policy, exchange.asked, wishes)
        if not scored and kept.sticky_by == "request" and len(plan.candidates) == 1:
            return _PLAIN
        self._turn += 1
        sticky, pinned = self._find_sticky(exchange, kept)
        if not scored:
            if not sticky and len(exchange.body.raw) < plan.smallest_context:
                return _PLAIN  # A token has no less than one byte, so that this fits anywhere.
            return Ask(
                input_tokens=estimate_input_tokens(exchange),
                max_output_tokens=read_output_limit(body),
                sticky=sticky,
                turn=self._turn,
            )
        return make_ask(
            plan,
            wishes,
            input_tokens=estimate_input_tokens(exchange),
            max_output_tokens=read_output_limit(body),
            sticky=sticky,
            pinned=pinned,
            turn=self._turn,
        )

    def _find_sticky(self, exchange: Exchange, kept: Kept) -> tuple[str, str]:
        """What this request belongs together with, and the model that it went to last. Notes where to pin it."""
        told = _read_sticky(exchange, kept.sticky_by)
        if not told:
            return "", ""
        tenant = exchange.key.tenant
        sticky = f"{tenant}\0{kept.sticky_by}\0{told}"
        policy = kept.plan.policy
        if policy is None or not policy.affinity.seconds:
            return sticky, ""
        name = name_pin(tenant, f"{policy.name}@{policy.version}\0{kept.sticky_by}\0{told}")
        exchange.pin = (name, policy.affinity.seconds)
        pin = self.pins.find(name, self._clock())
        return sticky, "" if pin is None else pin.model_id


def _read_wishes(told: Directives) -> Wishes:
    return Wishes(told.mode, told.min_weight, told.budget_nanos, told.latency_ms, told.input_tokens)


def _read_sticky(exchange: Exchange, by: StickyBy) -> str:
    if by == "request":
        return ""
    if by == "key":
        return exchange.key.id
    body = exchange.body.data
    if by == "conversation":
        return name_conversation(body)
    if by == "session":
        return exchange.headers.get(b"x-tokenhub-session", b"").decode("latin-1")
    user = body.get("user") or body.get("safety_identifier")
    metadata = body.get("metadata")
    if not user and isinstance(metadata, dict):
        user = metadata.get("user_id")
    return user if isinstance(user, str) else ""


def name_sticky(exchange: Exchange, sticky: str) -> str:
    """What keeps to one endpoint of a provider: what keeps to one target, else the conversation, within its tenant."""
    if sticky:
        return sticky
    told = name_conversation(exchange.body.data)
    return f"{exchange.key.tenant}\0{told}" if told else ""
