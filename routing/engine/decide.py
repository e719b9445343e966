"""The decision: which candidates may serve this very request, in which order, with every figure kept. Pure.

Runs along the plan's columns, a pass a figure, without an object a candidate: fifty candidates take some forty microseconds.
What is told of it (`routing.engine.explain`) is written only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from routing.engine.endpoints import draw_sticky
from routing.engine.health import MOST_FACTOR, TargetHealth
from routing.engine.plan import UNBOUNDED, Candidate, Plan
from tokenhub.core.money import PER_MILLION
from tokenhub.core.policies import MODES, Strategy, WeightsSpec

CONTEXT_MARGIN = 1.15
"""Estimates of tokens are made this much longer before they are held against a context."""

EXPECTED_OUTPUT = 500
"""Tokens of an answer about which nothing is known, for its cost and its time."""

_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Ask:
    """One request's own figures and wishes. Tokens, nano-dollars, milliseconds, seconds; 0 = unknown, or no bound.

    `input_tokens` are an estimate, which each target's factor corrects, unless they are `counted`. `output_tokens` are expected,
    `max_output_tokens` the most that was asked for. `sticky` names what keeps to one target ("" = nothing), `pinned` is the id of
    the model it went to last, `kept_cache` says that a move would lose its prompt cache.
    `turn` counts requests, for taking turns.
    """

    input_tokens: int = 0
    counted: bool = False
    output_tokens: int = 0
    max_output_tokens: int = 0
    strategy: Strategy = "priority"
    weights: WeightsSpec = MODES["normal"]
    min_weight: int = 0
    max_cost_nanos: int = 0
    max_latency_ms: int = 0
    sticky: str = ""
    pinned: str = ""
    hinted: str = ""
    turn: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The order of a plan's candidates (by place), the ones refused, and the columns that led there; each None if not needed.

    `refused` has for a place the rule, the figure and the bound. `resting` is how many places at the end of `order` rest.
    """

    plan: Plan
    ask: Ask
    order: Sequence[int]
    refused: dict[int, tuple[str, float, float]]
    resting: int = 0
    pinned: int = -1
    costs: Sequence[int] | None = None
    latencies: Sequence[float] | None = None
    failures: Sequence[float] | None = None
    scores: Sequence[float] | None = None

    @property
    def candidates(self) -> list[Candidate]:
        """In the order in which they are tried."""
        return [self.plan.candidates[place] for place in self.order]


def decide(
    plan: Plan, ask: Ask, health: Sequence[TargetHealth], now: float, draw: Callable[[], float]
) -> Decision:
    """The decision for one request; `health` has the plan's candidates' measurements, place by place. `draw` is in [0, 1).

    Its order is empty only where every candidate is refused. Those that rest come last, soonest awake first.
    """
    count = len(plan.candidates)
    costs = _list_costs(plan, ask, health) if ask.strategy in ("score", "lowest_cost") else None
    latencies = (
        _list_latencies(ask, health, now)
        if ask.strategy in ("score", "lowest_latency") or ask.max_latency_ms
        else None
    )
    refused: dict[int, tuple[str, float, float]] = {}
    _refuse_small_contexts(plan, ask, health, refused)
    if ask.min_weight > plan.smallest_weight:
        floor = ask.min_weight / 10
        for place, weight in enumerate(plan.weights):
            if weight < floor:
                refused[place] = ("min_weight", weight * 10, ask.min_weight)
    if ask.max_cost_nanos:
        _refuse_costly(plan, ask, health, refused)
    if ask.max_latency_ms and latencies is not None:
        most = ask.max_latency_ms / 1000
        for place, latency in enumerate(latencies):
            if latency > most:
                refused.setdefault(place, ("max_latency_ms", latency * 1000, ask.max_latency_ms))
    places: Sequence[int] = range(count) if not refused else [p for p in range(count) if p not in refused]
    failures: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    if len(places) < 2:
        order: Sequence[int] = places
    elif ask.strategy == "score" and costs is not None and latencies is not None:
        failures = [one.failure for one in health]
        scores = _score(plan, ask.weights, costs, latencies, failures, places)
        order = _sort(places, scores, health, plan, draw)
    else:
        order = _order(plan, ask, places, health, costs, latencies, draw)
    order, pinned = _put_first(plan, ask, order)
    order, resting = _put_resting_last(order, health, now)
    return Decision(plan, ask, order, refused, resting, pinned, costs, latencies, failures, scores)


def _list_costs(plan: Plan, ask: Ask, health: Sequence[TargetHealth]) -> list[int]:
    """Expected costs in nano-dollars, UNBOUNDED or more where there is no price."""
    tokens_in, tokens_out = ask.input_tokens, ask.output_tokens or _expect_output(ask)
    if ask.counted:
        return [
            (rate_in * tokens_in + rate_out * tokens_out) // PER_MILLION
            for rate_in, rate_out in zip(plan.input_rates, plan.output_rates, strict=True)
        ]
    return [
        (rate_in * int(tokens_in * one.token_factor) + rate_out * tokens_out) // PER_MILLION
        for rate_in, rate_out, one in zip(plan.input_rates, plan.output_rates, health, strict=True)
    ]


def _expect_output(ask: Ask) -> int:
    return min(ask.max_output_tokens, EXPECTED_OUTPUT) if ask.max_output_tokens else EXPECTED_OUTPUT


def _list_latencies(ask: Ask, health: Sequence[TargetHealth], now: float) -> list[float]:
    """Expected seconds until the whole answer is there. A target that lets somebody wait now is at least so slow."""
    tokens = ask.output_tokens or _expect_output(ask)
    return [
        (one.ttft if now - one.waiting_since < one.ttft else now - one.waiting_since)
        + tokens * one.seconds_per_token
        for one in health
    ]


def _refuse_small_contexts(
    plan: Plan, ask: Ask, health: Sequence[TargetHealth], refused: dict[int, tuple[str, float, float]]
) -> None:
    estimate = ask.input_tokens * CONTEXT_MARGIN
    if estimate * MOST_FACTOR + ask.max_output_tokens <= plan.smallest_context:
        return
    for place, context in enumerate(plan.contexts):
        needed = estimate if ask.counted else estimate * health[place].token_factor
        limit = plan.output_limits[place]
        wanted = min(ask.max_output_tokens, limit) if limit else ask.max_output_tokens
        if needed + wanted > context:
            refused[place] = ("context", needed + wanted, context)


def _refuse_costly(
    plan: Plan, ask: Ask, health: Sequence[TargetHealth], refused: dict[int, tuple[str, float, float]]
) -> None:
    """By the worst case: all of the input written to a cache, as much output as was asked for or the model gives."""
    tokens_in, asked_out, most = ask.input_tokens * CONTEXT_MARGIN, ask.max_output_tokens, ask.max_cost_nanos
    columns = zip(plan.worst_input_rates, plan.output_rates, plan.output_limits, strict=True)
    for place, (rate_in, rate_out, limit) in enumerate(columns):
        out = min(asked_out, limit) if asked_out and limit else asked_out or limit or EXPECTED_OUTPUT
        factor = 1.0 if ask.counted else health[place].token_factor
        worst = (rate_in * tokens_in * factor + rate_out * out) / PER_MILLION
        if rate_in >= UNBOUNDED or worst > most:
            refused.setdefault(place, ("max_cost", worst, most))


def _score(
    plan: Plan,
    by: WeightsSpec,
    costs: Sequence[int],
    latencies: Sequence[float],
    failures: Sequence[float],
    places: Sequence[int],
) -> list[float]:
    """Lower is better. Cost and latency are spread over [0, 1] between the best and the worst that may serve."""
    if len(places) == len(costs):
        some_costs, some_latencies = costs, latencies
    else:
        some_costs, some_latencies = [costs[p] for p in places], [latencies[p] for p in places]
    cheapest, fastest, slowest = min(some_costs), min(some_latencies), max(some_latencies)
    dearest = max(some_costs)
    if dearest >= UNBOUNDED // PER_MILLION:
        # What has no price is as dear as the dearest that has one, or twice the cheapest.
        priced = [cost for cost in some_costs if cost < UNBOUNDED // PER_MILLION]
        dearest = max(priced, default=0)
        cheapest = min(priced, default=0)
        if dearest == cheapest:
            dearest = 2 * cheapest + 1
        costs = [cost if cost < dearest else dearest for cost in costs]
    spread_cost = by.cost / (dearest - cheapest) if dearest > cheapest else 0.0
    spread_latency = by.latency / (slowest - fastest) if slowest > fastest else 0.0
    by_failure, by_weight = by.failure, by.weight
    return [
        (cost - cheapest) * spread_cost
        + (latency - fastest) * spread_latency
        + failure * by_failure
        - weight * by_weight
        for cost, latency, failure, weight in zip(costs, latencies, failures, plan.weights, strict=True)
    ]


def _sort(
    places: Sequence[int],
    figures: Sequence[float],
    health: Sequence[TargetHealth],
    plan: Plan,
    draw: Callable[[], float],
) -> list[int]:
    """By figure; where it is the same by least in flight, and then by a draw after the candidates' shares."""
    order = sorted(places, key=figures.__getitem__)
    last = figures[order[0]]
    for place in order[1:]:
        if figures[place] - last < _TIE:
            break
        last = figures[place]
    else:
        return order
    keys = {
        place: (round(figures[place], 9), health[place].in_flight, _draw_key(plan, place, draw()))
        for place in places
    }
    return sorted(places, key=keys.__getitem__)


def _order(
    plan: Plan,
    ask: Ask,
    places: Sequence[int],
    health: Sequence[TargetHealth],
    costs: Sequence[int] | None,
    latencies: Sequence[float] | None,
    draw: Callable[[], float],
) -> Sequence[int]:
    """The order of every strategy but the score."""
    if ask.strategy == "lowest_cost" and costs is not None:
        return _sort(places, costs, health, plan, draw)
    if ask.strategy == "lowest_latency" and latencies is not None:
        return _sort(places, latencies, health, plan, draw)
    if ask.strategy == "round_robin":
        start = ask.turn % len(places)
        return [*places[start:], *places[:start]]
    if ask.strategy == "least_busy":
        loads = [
            (one.in_flight + 1) / max(candidate.weight, 1)
            for one, candidate in zip(health, plan.candidates, strict=True)
        ]
        return _sort(places, loads, health, plan, draw)
    if ask.strategy == "priority" and plan.ranked:
        return places
    drawn = _draws(plan, ask, places, draw)
    if ask.strategy == "priority":
        ranks = [candidate.rank for candidate in plan.candidates]
        return sorted(places, key=lambda place: (ranks[place], drawn[place]))
    return sorted(places, key=drawn.__getitem__)


def _draws(plan: Plan, ask: Ask, places: Sequence[int], draw: Callable[[], float]) -> dict[int, float]:
    """A key for each place: sorted by it, each has its share's chance to be next. Whoever is sticky draws the same anywhere."""
    if not ask.sticky:
        return {place: _draw_key(plan, place, draw()) for place in places}
    return {
        place: _draw_key(plan, place, draw_sticky(ask.sticky, plan.candidates[place].model.id))
        for place in places
    }


def _draw_key(plan: Plan, place: int, drawn: float) -> float:
    """Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006); a share of 0 comes last."""
    weight = plan.candidates[place].weight
    return -((1.0 - drawn) ** (1.0 / weight)) if weight > 0 else 1.0 - drawn


def _put_first(plan: Plan, ask: Ask, order: Sequence[int]) -> tuple[Sequence[int], int]:
    """What is pinned, or hinted at, before all others, if it may serve at all."""
    if not ask.pinned and not ask.hinted:
        return order, -1
    for wanted in (ask.pinned, ask.hinted):
        for place in order if wanted else ():
            model = plan.candidates[place].model
            if wanted in (model.id, model.name):
                return [place, *(other for other in order if other != place)], place
    return order, -1


def _put_resting_last(
    order: Sequence[int], health: Sequence[TargetHealth], now: float
) -> tuple[Sequence[int], int]:
    asleep = [place for place in order if health[place].rest_until > now]
    if not asleep:
        return order, 0
    awake = [place for place in order if health[place].rest_until <= now]
    return [*awake, *sorted(asleep, key=lambda place: health[place].rest_until)], len(asleep)
