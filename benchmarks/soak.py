"""What is left behind by hours of everything: `python -m benchmarks.soak --minutes 30`. One worker as an operator runs it, SQLite.

Whole answers, streams, callers who leave, bodies of 10 MB, failing targets, broken streams and requests that are refused, in turn.
Memory, descriptors and threads are looked at every half minute; the memory's slope is of what comes after the first third. At the
end the ledger's rows are counted against the provider's calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.accounting import Footprint, footprint
from providers.mock import MockProcess, mock_process
from tests.e2e.service import Service

_VARIABLE = "TOKENHUB_CRED_SOAK"
_LOOK_SECONDS = 30.0
_BIG = 10_000_000
_TARGETS = {
    "good": ("good", "gpt-4o"),
    "refusing": ("bad", "fault-503"),
    "limited": ("bad", "fault-429"),
    "cutting": ("worse", "fault-cut-3"),
    "slow": ("slow", "fault-slow-400"),
}


def declare(origin: str) -> str:
    """The configuration: failing models stand at providers of their own, so that the good one is never left for them."""
    lines = ["providers:"]
    for provider in sorted({provider for provider, _ in _TARGETS.values()}):
        lines += [
            f"  - name: {provider}",
            "    kind: openai",
            f"    endpoints: ['{origin}']",
            f"    credentials: [{{name: main, source: env, reference: {_VARIABLE}}}]",
        ]
    lines += ["models:"]
    for name, (provider, upstream) in _TARGETS.items():
        lines += [
            f"  - provider: {provider}",
            f"    name: {name}",
            f"    upstream_name: {upstream}",
            "    context_tokens: 100000000",
            "    capabilities: [chat, streaming, tools, vision]",
            '    price: {input: "2", output: "8"}',
        ]
    return "\n".join(lines) + "\n"


class Traffic:
    """Callers who send one kind of request after another until the time is over. What they get is counted by kind and status."""

    def __init__(self, service: Service, http: httpx.AsyncClient, seed: int) -> None:
        self._http = http
        self._url = f"{service.url}/v1/chat/completions"
        self._key = {"authorization": f"Bearer {service.key}"}
        self._draw = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self._kinds: tuple[tuple[str, int, Callable[[], Awaitable[Any]]], ...] = (
            ("whole", 40, lambda: self._ask("good")),
            ("stream", 25, lambda: self._ask("good", stream=True)),
            ("left", 10, self._leave),
            ("refusing", 6, lambda: self._ask("refusing")),
            ("limited", 4, lambda: self._ask("limited")),
            ("cutting", 6, lambda: self._ask("cutting", stream=True)),
            ("unknown", 4, lambda: self._ask(f"no-{self._draw.random()}")),
            ("not json", 4, self._send_garbage),
            ("big", 1, lambda: self._ask("good", text="x" * _BIG)),
        )

    async def go_on(self, until: float, pause: float) -> None:
        """One caller."""
        names = [name for name, _, _ in self._kinds]
        shares = [share for _, share, _ in self._kinds]
        asks = {name: ask for name, _, ask in self._kinds}
        while time.monotonic() < until:
            (kind,) = self._draw.choices(names, shares)
            try:
                told = await asks[kind]()
            except httpx.HTTPError as error:
                told = type(error).__name__
            self.seen[f"{kind} {told}"] += 1
            await asyncio.sleep(pause * self._draw.random() * 2)

    async def _ask(self, model: str, *, stream: bool = False, text: str = "") -> int:
        message = {"role": "user", "content": text or f"question {self._draw.random()}"}
        body = {"model": model, "messages": [message], "stream": stream, "max_tokens": 200}
        return (await self._http.post(self._url, json=body, headers=self._key)).status_code

    async def _leave(self) -> str:
        body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        try:
            async with asyncio.timeout(self._draw.random() * 0.6):
                await self._http.post(self._url, json=body, headers=self._key)
        except TimeoutError:
            return "left"
        return "200"

    async def _send_garbage(self) -> int:
        return (await self._http.post(self._url, content=b'{"model": ', headers=self._key)).status_code


async def watch(pid: int, until: float) -> list[tuple[float, Footprint]]:
    """Looks at the processes until the time is over. Seconds since the start, and what they hold."""
    began = time.monotonic()
    looks = [(0.0, footprint(pid))]
    while time.monotonic() < until:
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.1, until - time.monotonic())))
        looks.append((time.monotonic() - began, footprint(pid)))
        held = looks[-1][1]
        print(
            f"{looks[-1][0] / 60:6.1f} min {held.megabytes:7.1f} MB {held.descriptors:4} descriptors {held.threads:3} threads",
            flush=True,
        )
    return looks


def slope(looks: list[tuple[float, Footprint]]) -> float:
    """Megabytes an hour, by least squares over what comes after the first third."""
    later = looks[len(looks) // 3 :]
    line = statistics.linear_regression([at for at, _ in later], [held.megabytes for _, held in later])
    return line.slope * 3600


def count(service: Service, mock: MockProcess) -> tuple[int, int, int]:
    """Rows of the ledger, those of them without an end, and the provider's calls, once these are all written."""
    calls = httpx.get(f"{mock.origin}/_stats?limit=0", timeout=30).json()["calls"]
    service.until(
        lambda: service.sql("SELECT count(*) AS n FROM usage_usagerecord")[0]["n"], lambda rows: rows >= calls
    )
    rows = service.sql("SELECT outcome, count(*) AS n FROM usage_usagerecord GROUP BY outcome")
    by_outcome = {row["outcome"]: row["n"] for row in rows}
    return sum(by_outcome.values()), by_outcome.get("unsettled", 0), calls


async def soak(
    service: Service, minutes: float, callers: int, pause: float
) -> tuple[list[tuple[float, Footprint]], Counter[str]]:
    """Runs the traffic; what the processes held, and what the callers saw."""
    until = time.monotonic() + minutes * 60
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=callers)) as http:
        traffic = Traffic(service, http, seed=11)
        looking = asyncio.create_task(watch(service.process.pid, until))
        await asyncio.gather(*(traffic.go_on(until, pause) for _ in range(callers)))
        return await looking, traffic.seen


def main() -> None:
    """Prints what was held, by half minutes, and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds between a caller's requests")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenhub-soak-") as folder, mock_process() as mock:
        environment = {
            _VARIABLE: "sk-soak-0123456789abcdef",
            f"{_VARIABLE}__ORIGIN": mock.origin,
            "TOKENHUB_SIMULATED_PROVIDER": "false",
            "TOKENHUB_LOG_LEVEL": "error",
        }
        service = Service(Path(folder) / "service", 1, environment)
        service.folder.mkdir(parents=True)
        service.config_path.write_text(declare(mock.origin))
        with service:
            looks, seen = asyncio.run(soak(service, given.minutes, given.callers, given.pause))
            time.sleep(3)
            last = footprint(service.process.pid)
            rows, unsettled, calls = count(service, mock)
            metrics = httpx.get(f"{service.url}/metrics", timeout=30).text
        series = sum(not line.startswith("#") for line in metrics.splitlines())
    told = {
        "requests": sum(seen.values()),
        "megabytes an hour": round(slope(looks), 2),
        "megabytes": [round(looks[0][1].megabytes, 1), round(last.megabytes, 1)],
        "descriptors": [looks[0][1].descriptors, last.descriptors],
        "threads": [looks[0][1].threads, last.threads],
        "series of metrics": series,
        "rows": rows,
        "of them unsettled": unsettled,
        "provider's calls": calls,
        "seen": dict(sorted(seen.items())),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
