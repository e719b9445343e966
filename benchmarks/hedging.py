"""What second attempts bring and cost: `python -m benchmarks.hedging`. A running gateway over two equal mock providers.

Some of the calls are slow to begin. The same requests go once without hedging, once after the 95th percentile of their target, and
once after a fixed time. The table has the time to the first content and what the losers cost, from the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from benchmarks.load import percentile
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_body, a_head
from tests.gateway.serving import running_gateway
from tokenhub.core.policies import HedgeSpec, PolicySpec

AT_ONCE = 8
SLOW_OF_100 = 4
HEDGES = (
    ("none", HedgeSpec()),
    ("after the 95th percentile", HedgeSpec(enabled=True, max_share=0.1)),
    ("after 100 ms", HedgeSpec(enabled=True, after_ms=100, max_share=0.1)),
)


async def run(
    hedge: HedgeSpec, requests: int, folder: Path
) -> tuple[list[float], dict[str, int], dict[str, int]]:
    """Seconds to the first content; attempts and nano-dollars of winners and losers."""
    async with AsyncExitStack() as stack:
        mocks = [await stack.enter_async_context(MockProvider(latency=0.02, tokens=20)) for _ in range(2)]
        providers = tuple(a_provider(f"p{number}", "openai", mock.port) for number, mock in enumerate(mocks))
        models = tuple(a_model(provider, f"model-{provider.name}") for provider in providers)
        key, text = a_key()
        policy = PolicySpec("1", "p", 1, strategy="priority", hedge=hedge)
        snapshot = a_snapshot(
            providers=providers,
            models=models,
            aliases=(an_alias("work", *models),),
            keys=(key,),
            policies=(policy,),
        )
        firsts: list[float] = []
        numbers = iter(range(requests))
        async with running_gateway(snapshot, folder) as gateway, httpx.AsyncClient(timeout=60) as http:

            async def caller() -> None:
                for number in numbers:
                    if number % 100 < SLOW_OF_100:
                        mocks[0].fail_next("slow:1000")
                    body = a_body("openai", "work", stream=True, text=f"question {number}")
                    began = time.perf_counter()
                    url = f"{gateway.origin}/v1/chat/completions"
                    async with http.stream("POST", url, json=body, headers=a_head("openai", text)) as answer:
                        assert answer.status_code == 200
                        first = 0.0
                        async for line in answer.aiter_lines():
                            if not first and line.startswith("data: {") and json.loads(line[6:])["choices"]:
                                first = time.perf_counter() - began
                        firsts.append(first)

            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
            _, finals = gateway.records()
        counts: dict[str, int] = {}
        costs: dict[str, int] = {}
        for final in finals:
            what = "losers" if final.outcome == "cancelled" else "winners"
            counts[what] = counts.get(what, 0) + 1
            costs[what] = costs.get(what, 0) + (final.cost_nanos or 0)
        return firsts, counts, costs


async def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    print("| second attempts | p50 ms | p95 ms | p99 ms | calls a request | losers | losers' cost of all |")
    print("|---|---|---|---|---|---|---|")
    for name, hedge in HEDGES:
        with tempfile.TemporaryDirectory(prefix="tokenhub-hedging-") as folder:
            firsts, counts, costs = await run(hedge, requests, Path(folder))
        p50, p95, p99 = (percentile(firsts, share) * 1000 for share in (0.5, 0.95, 0.99))
        calls = sum(counts.get(what, 0) for what in ("winners", "losers"))
        lost = 100 * costs.get("losers", 0) / sum(costs.values())
        print(
            f"| {name} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {calls / requests:.3f} | {counts.get('losers', 0)} | {lost:.2f} % |",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main())
