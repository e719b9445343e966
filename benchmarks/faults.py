"""What a faulty target costs the callers: `python -m benchmarks.faults`. A running gateway over three equal mock providers.

Requests come at a steady rate. One of the three works, has its fault for a while, and works again. The table has what callers saw,
how many calls the providers got for each request, and how soon the faulty one was left and taken again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_body, call
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.policies import PolicySpec
from tokenhub.core.specs import TimeoutsSpec

NAMES = ("one", "two", "three")
MANY = 1_000_000


@dataclass(frozen=True)
class Fault:
    """A drill: the mock's fault (`dead`: it is stopped), and whether the requests are streamed."""

    name: str
    fault: str
    stream: bool = False


DRILLS = (
    Fault("dead", "dead"),
    Fault("resets the connection", "reset"),
    Fault("silent", "silent"),
    Fault("slow (2 s)", "slow:2000"),
    Fault("503", "503"),
    Fault("429, retry-after 3 s", "429:3"),
    Fault("401", "401"),
    Fault("breaks streams before content", "cut:0", stream=True),
    Fault("breaks streams after content", "cut:3", stream=True),
    Fault("error events first", "error-event", stream=True),
)


@dataclass
class Seen:
    """What a drill came to. Seconds since the fault began, and since it ended."""

    requests: int = 0
    failed: int = 0
    broken: int = 0
    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    left_after: float | None = None
    faulty_calls: int = 0
    back_after: float | None = None


async def run_drill(
    drill: Fault, folder: Path, *, rate: float, steady: float, faulty: float, back: float = 40.0
) -> Seen:
    """Requests at `rate` a second: `steady` seconds, `faulty` with the fault, then until it is taken again, `back` at most."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        mocks = {
            name: await stack.enter_async_context(MockProvider(latency=0.005, tokens=8)) for name in NAMES
        }
        timeouts = TimeoutsSpec(connect=0.5, first_event=1.0, between_events=1.0, total=10.0)
        providers = tuple(a_provider(name, "openai", mocks[name].port, timeouts=timeouts) for name in NAMES)
        models = tuple(a_model(provider, f"model-{provider.name}") for provider in providers)
        key, text = a_key()
        policy = PolicySpec("1", "equal", 1, strategy="round_robin")
        snapshot = a_snapshot(
            providers=providers,
            models=models,
            aliases=(an_alias("work", *models),),
            keys=(key,),
            policies=(policy,),
        )
        async with running_gateway(snapshot, folder) as gateway, httpx.AsyncClient(timeout=30) as http:
            asking = _Asking(http, gateway, text, drill.stream, seen)
            await asking.go_on(rate, steady)
            first = mocks["one"]
            port, began = first.port, time.time()
            if drill.fault == "dead":
                await first.stop()
            else:
                first.fail_next(drill.fault, MANY)
            await asking.go_on(rate, faulty)
            ended = time.time()
            await _mend(drill, first, port)
            await asking.go_on(rate, steady, until=lambda: _find_back(first, ended) is not None, most=back)
            await asking.finish()
            stamps = [record.received_at for record in first.calls() if began <= record.received_at < ended]
            seen.faulty_calls = len(stamps)
            seen.left_after = _find_leaving(stamps, began)
            seen.back_after = _find_back(first, ended)
            intents, finals = gateway.records()
            assert len(intents) == len(finals), "an attempt without an end"
            seen.calls = len(finals)
    return seen


async def _mend(drill: Fault, mock: MockProvider, port: int) -> None:
    mock.app.schedule.clear()
    if drill.fault == "dead":
        mock.options = replace(mock.options, port=port)
        await mock.start()


def _find_leaving(stamps: list[float], began: float) -> float:
    """When the requests' crowd had left: a call that is followed by none for half a second was the last of it."""
    last = began
    for stamp in stamps:
        if stamp - last > 0.5:
            break
        last = stamp
    return last - began


def _find_back(mock: MockProvider, ended: float) -> float | None:
    for record in mock.calls():
        if record.received_at >= ended and record.fault is None and record.finished:
            return record.received_at - ended
    return None


class _Asking:
    """Sends requests at a steady rate and notes what becomes of them."""

    def __init__(
        self, http: httpx.AsyncClient, gateway: RunningGateway, key: str, stream: bool, seen: Seen
    ) -> None:
        self._http, self._gateway, self._key, self._stream, self._seen = http, gateway, key, stream, seen
        self._tasks: set[asyncio.Task[None]] = set()

    async def go_on(self, rate: float, seconds: float, until: Any = None, most: float = 0.0) -> None:
        began = time.monotonic()
        due = began
        while True:
            now = time.monotonic()
            done = now - began >= seconds if until is None else (until() or now - began >= most)
            if done:
                return
            task = asyncio.create_task(self._one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def finish(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _one(self) -> None:
        seen = self._seen
        seen.requests += 1
        began = time.monotonic()
        # Each is a conversation of its own, so that none has a place to stay at.
        body = a_body("openai", "work", stream=self._stream, text=f"question {seen.requests}")
        answer = await call(self._http, self._gateway, self._key, "openai", body)
        seen.seconds.append(time.monotonic() - began)
        if answer.status != 200:
            seen.failed += 1
            print("  failed:", answer.status, json.dumps(answer.body)[:300], flush=True)
        elif self._stream and not answer.ended:
            seen.broken += 1


async def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--steady", type=float, default=2.0, help="seconds before the fault")
    parser.add_argument("--faulty", type=float, default=8.0, help="seconds of the fault")
    given = parser.parse_args()
    columns = (
        "one of three",
        "requests",
        "failed",
        "broken off",
        "calls a request",
        "calls to it",
        "left after s",
        "back after s",
        "p50 / p99 ms",
    )
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for drill in DRILLS:
        with tempfile.TemporaryDirectory(prefix="tokenhub-faults-") as folder:
            seen = await run_drill(
                drill, Path(folder), rate=given.rate, steady=given.steady, faulty=given.faulty
            )
        ordered = sorted(seen.seconds)
        p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
        back = "never" if seen.back_after is None else f"{seen.back_after:.1f}"
        print(
            f"| {drill.name} | {seen.requests} | {seen.failed} | {seen.broken} | {seen.calls / seen.requests:.3f} "
            f"| {seen.faulty_calls} | {seen.left_after:.2f} | {back} | {p50:.0f} / {p99:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main())
