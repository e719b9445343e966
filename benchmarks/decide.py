"""What a routing decision costs by itself: `python -m benchmarks.decide`. Microseconds of wall time, the best of many rounds."""

from __future__ import annotations

import argparse
import random
import time

from routing.engine.conditions import Circumstances, choose_policy
from routing.engine.decide import Ask, decide
from routing.engine.explain import explain
from routing.engine.health import TargetHealth
from routing.engine.plan import Features, make_plan
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import ConditionSpec, PolicySpec
from tokenhub.core.specs import EndpointSpec, KeySpec, ModelSpec, ProviderSpec, Snapshot

CONTEXTS = (8_000, 128_000, 1_000_000)
ASKS = {
    "by priority": Ask(1000),
    "by score": Ask(1000, strategy="score"),
    "by score, every bound at work": Ask(
        9000,
        max_output_tokens=1000,
        strategy="score",
        min_weight=4,
        max_cost_nanos=10**9,
        max_latency_ms=20_000,
    ),
    "by lowest cost": Ask(1000, strategy="lowest_cost"),
    "weighted, sticky": Ask(1000, strategy="weighted", sticky="somebody"),
}


def make_snapshot(count: int, dice: random.Random) -> Snapshot:
    """So many models, each at a provider of its own."""
    providers = tuple(
        ProviderSpec(str(at), f"p{at}", "openai", (EndpointSpec(str(at), "http", "h", 1),))
        for at in range(count)
    )
    models = tuple(
        ModelSpec(
            str(at),
            f"m{at}",
            str(at),
            "u",
            weight=dice.randint(1, 10),
            context_tokens=dice.choice(CONTEXTS),
            price=PriceSpec(
                "1", (("input", dice.randint(1, 10) * 10**8), ("output", dice.randint(1, 30) * 10**8))
            ),
            priority=at,
        )
        for at in range(count)
    )
    return Snapshot(1, 0.0, providers, models)


def measure(work: object, rounds: int, calls: int = 500) -> float:
    """The best round's seconds a call."""
    assert callable(work)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    dice = random.Random(1)
    counts = (1, 5, 50)
    print("| µs | " + " | ".join(f"{count} candidates" for count in counts) + " |")
    print("|---|" + "---|" * len(counts))
    plans = []
    for count in counts:
        snapshot = make_snapshot(count, dice)
        plan = make_plan(snapshot, KeySpec("k", "k", ()), Features("auto", frozenset({"chat"})))
        health = [TargetHealth() for _ in plan.candidates]
        for one in health:
            one.ttft, one.failure = dice.random() * 2, dice.random() / 10
        plans.append((plan, health))
    for name, ask in ASKS.items():
        figures = [
            measure(lambda p=plan, h=health, a=ask: decide(p, a, h, 100.0, dice.random), rounds)
            for plan, health in plans
        ]
        print(f"| {name} | " + " | ".join(f"{figure * 1e6:.1f}" for figure in figures) + " |")
    told = [
        measure(
            lambda p=plan, h=health: explain(decide(p, ASKS["by score"], h, 100.0, dice.random)), rounds, 100
        )
        for plan, health in plans
    ]
    print("| by score, and told in full | " + " | ".join(f"{figure * 1e6:.1f}" for figure in told) + " |")
    at = Circumstances(KeySpec("k", "k", ()), "gpt", "openai_chat")
    for number in (1, 10, 100):
        never = tuple(
            PolicySpec(str(one), str(one), 1, when=ConditionSpec(teams=frozenset({"other"})))
            for one in range(number)
        )
        policies = Snapshot(1, 0.0, policies=never)
        print(
            f"choosing among {number} policies: {measure(lambda s=policies: choose_policy(s, at), rounds) * 1e6:.1f} µs"
        )


if __name__ == "__main__":
    main()
