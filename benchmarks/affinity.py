"""How much of prompt caches survives being spread: `python -m benchmarks.affinity`. A gateway over mock providers with caches.

A hundred conversations of several turns, first with one place to go to, then with three equal ones: endpoints of one provider, and
providers of their own under a policy. The table has the share of input tokens that came from a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import call
from tests.gateway.serving import running_gateway
from tokenhub.core.policies import AffinitySpec, PolicySpec
from tokenhub.core.specs import Snapshot

AT_ONCE = 12
WORDS = ("amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "haven", "islet", "jetty")


async def run(places: str, sessions: int, turns: int, folder: Path) -> tuple[float, Counter[str], int]:
    """The cached share of all input, calls by place, and failed requests. `places`: `one`, `endpoints` or `providers`."""
    async with AsyncExitStack() as stack:
        count = 1 if places == "one" else 3
        mocks = [await stack.enter_async_context(MockProvider(latency=0.002)) for _ in range(count)]
        snapshot, key = _spread(mocks, apart=places == "providers")
        failed, draw = 0, random.Random(7)
        async with running_gateway(snapshot, folder) as gateway, httpx.AsyncClient(timeout=60) as http:
            waiting = [_Session(number, draw) for number in range(sessions)]
            running = asyncio.Semaphore(AT_ONCE)

            async def hold(session: _Session) -> None:
                nonlocal failed
                for _ in range(turns):
                    async with running:
                        answer = await call(http, gateway, key, "anthropic", session.ask())
                    if answer.status != 200:
                        failed += 1
                        return
                    session.hear(answer.text)

            await asyncio.gather(*(hold(session) for session in waiting))
            _, finals = gateway.records()
        read = sum(final.usage.cache_read for final in finals)
        total = sum(final.usage.input_total for final in finals)
        by_place = Counter({f"{number}": mock.stats()["calls"] for number, mock in enumerate(mocks)})
        return read / total, by_place, failed


def _spread(mocks: list[MockProvider], *, apart: bool) -> tuple[Snapshot, str]:
    key, text = a_key()
    if not apart:
        provider = a_provider("only", "anthropic", *(mock.port for mock in mocks))
        return a_snapshot(providers=(provider,), models=(a_model(provider, "mind"),), keys=(key,)), text
    providers = tuple(a_provider(f"p{number}", "anthropic", mock.port) for number, mock in enumerate(mocks))
    models = tuple(a_model(provider, f"mind-{provider.name}") for provider in providers)
    policy = PolicySpec("1", "spread", 1, strategy="round_robin", affinity=AffinitySpec("conversation", 300))
    alias = an_alias("mind", *models)
    alias = replace(alias, targets=tuple(replace(target, priority=0) for target in alias.targets))
    return a_snapshot(
        providers=providers, models=models, aliases=(alias,), keys=(key,), policies=(policy,)
    ), text


class _Session:
    """One conversation: a long system prompt of its own, which is to be cached, and a question a turn."""

    def __init__(self, number: int, draw: random.Random) -> None:
        words = " ".join(draw.choices(WORDS, k=1500))
        self._system = [
            {
                "type": "text",
                "text": f"Session {number}. {words}",
                "cache_control": {"type": "ephemeral"},
            }
        ]
        self._messages: list[dict[str, Any]] = []

    def ask(self) -> dict[str, Any]:
        text = f"Question {len(self._messages) // 2 + 1}: what next?"
        self._messages.append({"role": "user", "content": text})
        marked = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
        messages = [*self._messages[:-1], {"role": "user", "content": marked}]
        return {"model": "mind", "max_tokens": 60, "system": self._system, "messages": messages}

    def hear(self, text: str) -> None:
        self._messages.append({"role": "assistant", "content": text})


async def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--turns", type=int, default=6)
    given = parser.parse_args()
    print("| places | cached share of input | of one place's | calls by place | failed |")
    print("|---|---|---|---|---|")
    alone = 0.0
    for places in ("one", "endpoints", "providers"):
        with tempfile.TemporaryDirectory(prefix="tokenhub-affinity-") as folder:
            share, by_place, failed = await run(places, given.sessions, given.turns, Path(folder))
        alone = alone or share
        calls = " / ".join(str(count) for count in by_place.values())
        print(f"| {places} | {share:.4f} | {100 * share / alone:.1f} % | {calls} | {failed} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
