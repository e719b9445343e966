"""A decision as data: every candidate with its figures, what refused it or where it came, and why. Pure."""

from __future__ import annotations

from typing import Any

from routing.engine.decide import Decision
from routing.engine.plan import UNBOUNDED, Refusal
from tokenhub.core.money import PER_MILLION

_UNITS = {
    "context": "needs {0:.0f} tokens, has {1:.0f}",
    "min_weight": "its weight {0:g} is below {1:g}",
    "max_cost": "may cost {0:.0f} nano-dollars, {1:.0f} are allowed",
    "max_latency_ms": "is expected to take {0:.0f} ms, {1:.0f} are allowed",
}
_UNPRICED = "it has no price, so that no budget can be kept"


def list_refusals(decision: Decision) -> list[Refusal]:
    """Every target that may not serve the request: those that serve none of its kind, and those that this one is too much for."""
    own = [
        Refusal(
            decision.plan.candidates[place].provider.name,
            decision.plan.candidates[place].model.name,
            describe_refusal(code, figure, bound),
            code,
        )
        for place, (code, figure, bound) in sorted(decision.refused.items())
    ]
    return [*decision.plan.refusals, *own]


def describe_refusal(code: str, figure: float, bound: float) -> str:
    """A refusal's figures in words."""
    if code == "max_cost" and figure >= UNBOUNDED // PER_MILLION:
        return _UNPRICED
    return _UNITS[code].format(figure, bound)


def describe_reason(decision: Decision) -> str:
    """The short reason that an answer's header tells: what gave the candidates, and what put the first one first."""
    plan, ask = decision.plan, decision.ask
    parts = [plan.reason]
    if decision.pinned >= 0:
        pinned = plan.candidates[decision.pinned].model
        parts.append("pinned" if ask.pinned in (pinned.id, pinned.name) else "hinted")
    elif len(decision.order) > 1 and ask.strategy != "priority":
        parts.append(ask.strategy)
    if decision.refused:
        parts += sorted({code for code, _, _ in decision.refused.values()})
    if decision.resting:
        parts.append(f"resting={decision.resting}")
    return ";".join(parts)


def explain(decision: Decision) -> dict[str, Any]:
    """The whole decision as JSON values. Costs are nano-dollars, latencies milliseconds, scores lower is better."""
    plan, ask = decision.plan, decision.ask
    rank = {place: number for number, place in enumerate(decision.order)}
    candidates = []
    for place, candidate in enumerate(plan.candidates):
        told: dict[str, Any] = {
            "provider": candidate.provider.name,
            "model": candidate.model.name,
            "weight": candidate.model.weight,
            "order": rank.get(place),
        }
        if decision.costs is not None:
            cost = decision.costs[place]
            told["expected_cost_nanos"] = None if plan.input_rates[place] >= UNBOUNDED else cost
        if decision.latencies is not None:
            told["expected_latency_ms"] = round(decision.latencies[place] * 1000, 1)
        if decision.failures is not None:
            told["failure"] = round(decision.failures[place], 4)
        if decision.scores is not None and place in rank:
            told["score"] = round(decision.scores[place], 6)
        if place in decision.refused:
            code, figure, bound = decision.refused[place]
            told["refused"] = {"rule": code, "reason": describe_refusal(code, figure, bound)}
        candidates.append(told)
    candidates.sort(key=lambda one: (one["order"] is None, one["order"] or 0))
    policy = plan.policy
    return {
        "reason": describe_reason(decision),
        "policy": None if policy is None else {"name": policy.name, "version": policy.version},
        "strategy": ask.strategy,
        "weights": {name: getattr(ask.weights, name) for name in ("cost", "latency", "failure", "weight")},
        "request": {
            "input_tokens": ask.input_tokens,
            "output_tokens": ask.output_tokens,
            "max_output_tokens": ask.max_output_tokens,
        },
        "candidates": candidates,
        "left_out": [
            {"provider": one.provider, "model": one.model, "rule": one.code, "reason": one.reason}
            for one in plan.refusals
        ],
        "resting": decision.resting,
    }
