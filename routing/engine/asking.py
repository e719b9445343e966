"""From a policy and what a request wishes to what is asked of the decision. Pure; the gateway and the simulator both use it."""

from __future__ import annotations

from dataclasses import dataclass

from routing.engine.decide import Ask
from routing.engine.plan import Plan
from routing.engine.resolve import AUTO
from tokenhub.core.policies import MODES, BoundsSpec, Mode, PolicySpec, Strategy


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request itself says of its routing; None and 0 = nothing. Nano-dollars, milliseconds, tokens."""

    mode: Mode | None = None
    min_weight: int = 0
    budget_nanos: int = 0
    latency_ms: int = 0
    input_tokens: int = 0


NO_WISHES = Wishes()


def is_scored(policy: PolicySpec | None, asked: str, wishes: Wishes) -> bool:
    """Whether a request's candidates are weighed against each other; else they are tried in their own order."""
    return (
        policy is not None
        or asked in AUTO
        or bool(wishes.mode or wishes.min_weight or wishes.budget_nanos or wishes.latency_ms)
    )


def make_ask(
    plan: Plan,
    wishes: Wishes,
    *,
    input_tokens: int,
    max_output_tokens: int,
    sticky: str = "",
    pinned: str = "",
    turn: int = 0,
) -> Ask:
    """The figures and wishes of one request that is scored. `input_tokens` is the estimate, which the request's own goes before.

    A request may bind itself more than its policy does, not less.
    """
    policy = plan.policy
    bounds = policy.bounds if policy is not None else BoundsSpec()
    weights = policy.weights or MODES[policy.mode] if policy is not None else MODES["normal"]
    strategy: Strategy = policy.strategy if policy is not None else "score"
    if wishes.mode is not None:
        # Who names a mode wants its score, whatever else the policy orders by.
        weights, strategy = MODES[wishes.mode], "score"
    return Ask(
        input_tokens=wishes.input_tokens or input_tokens,
        counted=bool(wishes.input_tokens),
        max_output_tokens=max_output_tokens,
        strategy=strategy,
        weights=weights,
        min_weight=wishes.min_weight,
        max_cost_nanos=_tighter(bounds.max_cost_nanos, wishes.budget_nanos),
        max_latency_ms=_tighter(bounds.max_latency_ms, wishes.latency_ms),
        sticky=sticky,
        pinned=pinned,
        turn=turn,
    )


def _tighter(one: int, other: int) -> int:
    """The lower of two bounds of which 0 is none."""
    return min(one, other) if one and other else one or other
