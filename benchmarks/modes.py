"""What each mode chooses: `python -m benchmarks.modes [--requests 5000]`. A running gateway over three mock providers.

They differ in speed, price, capability, context and reliability; the table has each mode's shares, mean cost, latency and failures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.serving import running_gateway
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import MODES, ConditionSpec, PolicySpec

AT_ONCE = 16


@dataclass(frozen=True)
class Subject:
    """A model: dollars per million tokens, seconds to answer, capability, context, and how often of 100 it fails."""

    name: str
    dollars: float
    latency: float
    weight: int
    context: int
    failing: int


SUBJECTS = (
    Subject("small", 0.15, 0.020, 3, 16_000, 0),
    Subject("quick", 1.00, 0.005, 5, 128_000, 3),
    Subject("large", 10.0, 0.060, 9, 1_000_000, 0),
)


@dataclass
class Outcome:
    """What a mode's requests came to."""

    chosen: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    failed: int = 0


async def run_mode(requests: int, mode: str, folder: Path) -> tuple[Outcome, float]:
    """So many requests under a policy of that mode; the mean cost in dollars from the journal's rows."""
    async with AsyncExitStack() as stack:
        mocks = {
            one.name: await stack.enter_async_context(MockProvider(latency=one.latency, tokens=40))
            for one in SUBJECTS
        }
        providers = tuple(a_provider(one.name, "openai", mocks[one.name].port) for one in SUBJECTS)
        models = tuple(
            a_model(
                provider,
                one.name,
                weight=one.weight,
                context_tokens=one.context,
                price=PriceSpec(
                    one.name, tuple((part, int(one.dollars * 1e9)) for part in ("input", "output"))
                ),
            )
            for provider, one in zip(providers, SUBJECTS, strict=True)
        )
        key, text = a_key()
        policy = PolicySpec("1", mode, 1, mode=mode, when=ConditionSpec(models=frozenset({"auto"})))  # type: ignore[arg-type]
        snapshot = a_snapshot(providers=providers, models=models, keys=(key,), policies=(policy,))
        outcome, numbers = Outcome(), iter(range(requests))
        async with running_gateway(snapshot, folder) as gateway, httpx.AsyncClient(timeout=30) as http:

            async def caller() -> None:
                for number in numbers:
                    for one in SUBJECTS:
                        if one.failing and number % 100 < one.failing:
                            mocks[one.name].fail_next("500")
                    body = {"model": "auto", "messages": [{"role": "user", "content": f"question {number}"}]}
                    began = time.perf_counter()
                    answer = await http.post(
                        f"{gateway.origin}/v1/chat/completions",
                        content=json.dumps(body),
                        headers={"authorization": f"Bearer {text}", "content-type": "application/json"},
                    )
                    outcome.seconds.append(time.perf_counter() - began)
                    if answer.status_code == 200:
                        outcome.chosen[answer.headers["x-tokenhub-model"]] += 1
                    else:
                        outcome.failed += 1

            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
            _, finals = gateway.records()
        cost = sum(final.cost_nanos or 0 for final in finals) / 1e9 / requests
        return outcome, cost


async def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    requests = parser.parse_args().requests
    print(
        "| mode | "
        + " | ".join(one.name for one in SUBJECTS)
        + " | mean cost, $ | p50 ms | p95 ms | failed |"
    )
    print("|---|" + "---|" * (len(SUBJECTS) + 4))
    for mode in MODES:
        with tempfile.TemporaryDirectory(prefix="tokenhub-modes-") as folder:
            outcome, cost = await run_mode(requests, mode, Path(folder))
        shares = " | ".join(f"{100 * outcome.chosen[one.name] / requests:.1f} %" for one in SUBJECTS)
        cuts = statistics.quantiles(outcome.seconds, n=20)
        print(
            f"| {mode} | {shares} | {cost:.6f} | {cuts[9] * 1000:.1f} | {cuts[18] * 1000:.1f} | {outcome.failed} |",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main())
