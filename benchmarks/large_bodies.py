"""What bodies of 20 MB do to one worker's event loop, shape by shape, without Django.

    python -m benchmarks.large_bodies [--bodies 12] [--rounds 2] [--only image,chinese] [--translated | --native]

Provider, sender and gateway run in processes of their own. A ticker in the worker's own loop asks to be woken every 5 ms; how
much later it is woken is the lag, counted while a body is under way alone. Beside the clock's lag stands the CPU time that the
worker itself spent in between, which other work on the machine does not lengthen. The best round counts.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from benchmarks.accounting import footprint
from benchmarks.hot_path import Provider, Running, run_gateway, started
from benchmarks.load import Pool, Tally, Target, ask_once, percentile, run_fast

SIZE = 20_000_000
TICK = 0.005
GAP = 0.05
SWITCH_SECONDS = 0.0005
"""As tokenhub.asgi sets it."""
_RECORD = struct.Struct("=ddd")


def _dump(value: object, *, escape: bool = False) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=escape).encode()


def _picture(size: int) -> dict[str, Any]:
    url = "data:image/png;base64," + "iVBORw0KGgoAAAAN" * (size // 16)
    return {"type": "image_url", "image_url": {"url": url}}


def _says(*contents: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


def _image() -> list[dict[str, Any]]:
    return _says([{"type": "text", "text": "What is this?"}, _picture(SIZE)])


def _images() -> list[dict[str, Any]]:
    return _says([{"type": "text", "text": "What are these?"}, *(_picture(SIZE // 10) for _ in range(10))])


def _messages() -> list[dict[str, Any]]:
    return _says(*["the river bends " * 31] * (SIZE // 530))


def _chinese() -> list[dict[str, Any]]:
    return _says("\u6cb3\u6d41\u5411\u897f\u5f2f\u66f2\uff0c" * (SIZE // 21))


def _escaped() -> list[dict[str, Any]]:
    return _says('a "line"\n\u00e9\U0001f600 and text\t' * (SIZE // 48))


SHAPES: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
    "image": ("one image of 20 MB", _image),
    "images": ("ten images of 2 MB", _images),
    "messages": ("messages of 500 characters", _messages),
    "chinese": ("one text of Chinese", _chinese),
    "escaped": ("one text of escapes", _escaped),
}


class LargeProvider(Provider):
    """hot_path's provider, for requests of any length: answers when all of it has come."""

    _left = 0

    def data_received(self, data: bytes) -> None:
        """A part of one request."""
        if self._left:
            self._left -= len(data)
        else:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._left = int(length[15:]) - len(rest)
            self._head = head
        if not self._left:
            super().data_received(self._head)


async def run_provider(ready: Pipe) -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(LargeProvider, "127.0.0.1", 0)
    ready.send((server.sockets[0].getsockname()[1], ""))
    await server.serve_forever()


async def run_watched(ready: Pipe, provider_port: int, ticks: str) -> None:
    """The gateway, with a ticker that writes its ticks to a file: when, how late, and after how much CPU of the process."""
    descriptor = os.open(ticks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def tick() -> None:
        while True:
            began, busy = time.monotonic(), time.process_time()
            await asyncio.sleep(TICK)
            now = time.monotonic()
            record = _RECORD.pack(now, now - began - TICK, time.process_time() - busy)
            os.write(descriptor, record)

    sys.setswitchinterval(SWITCH_SECONDS)
    ticking = asyncio.create_task(tick())
    try:
        await run_gateway(ready, provider_port)
    finally:
        ticking.cancel()


def send(target: Target, count: int) -> list[tuple[float, float]]:
    """Sends `count` bodies in turn, in a process of its own; when each began and was answered."""
    return run_fast(_send(target, count))


async def _send(target: Target, count: int) -> list[tuple[float, float]]:
    spans, pool, message, tally = [], Pool(target.port), target.message(), Tally()
    for _ in range(count):
        began = time.monotonic()
        await ask_once(pool, message, tally, began)
        spans.append((began, time.monotonic()))
        await asyncio.sleep(GAP)
    pool.close()
    if tally.failed:
        raise RuntimeError(str(tally.reasons))
    return spans


@dataclass(frozen=True, slots=True)
class Found:
    """One round: lags in seconds, the CPU seconds between two ticks at most, CPU and time a body, the worker's memory in MB."""

    lags: list[float]
    most_busy: float
    cpu: float
    taken: float
    memory: float


def measure(gateway: Running, ticks: Path, target: Target, count: int, senders: ProcessPoolExecutor) -> Found:
    """One round of bodies."""
    before, begun = gateway.cpu_seconds(), ticks.stat().st_size
    spans = senders.submit(send, target, count).result()
    cpu = (gateway.cpu_seconds() - before) / count
    lags, busy = [], []
    for woken, late, worked in _RECORD.iter_unpack(ticks.read_bytes()[begun:]):
        if any(start < woken and woken - late < end for start, end in spans):
            lags.append(late)
            busy.append(worked)
    taken = percentile([end - start for start, end in spans], 0.5)
    return Found(lags, max(busy), cpu, taken, footprint(gateway.pid).megabytes)


def render(name: str, rounds: list[Found]) -> str:
    """The Markdown row of one shape: of each figure the best round's."""
    shares = [min(percentile(found.lags, share) for found in rounds) * 1e3 for share in (0.5, 0.99)]
    most = min(max(found.lags) for found in rounds) * 1e3
    busy, cpu = (
        min(found.most_busy for found in rounds) * 1e3,
        min(found.cpu for found in rounds) * 1e3,
    )
    taken, memory = min(found.taken for found in rounds) * 1e3, rounds[-1].memory
    lag = " / ".join(f"{figure:.1f}" for figure in (*shares, most))
    return f"| {name} | {lag} | {busy:.1f} | {cpu:.0f} | {taken:.0f} | {memory:.0f} |"


def main() -> None:
    """Measures all shapes on both routes and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_bodies", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--bodies", type=int, default=12, help="in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(SHAPES), help=f"some of {', '.join(SHAPES)}")
    routes = parser.add_mutually_exclusive_group()
    routes.add_argument("--native", action="store_true", help="OpenAI → OpenAI alone")
    routes.add_argument("--translated", action="store_true", help="OpenAI → Anthropic alone")
    given = parser.parse_args()
    print(
        "| body, route | lag p50 / p99 / max, ms | most CPU between ticks, ms | CPU a body, ms | time, ms | MB |"
    )
    print("|---|---|---|---|---|---|")
    for route, model in (("OpenAI → OpenAI", "same"), ("OpenAI → Anthropic", "other")):
        if (given.native and model == "other") or (given.translated and model == "same"):
            continue
        for shape in given.only.split(","):
            told, make = SHAPES[shape]
            body = _dump({"model": model, "messages": make(), "max_tokens": 200}, escape=shape == "escaped")
            print(render(f"{told}, {route}", _measure_shape(body, given.bodies, given.rounds)), flush=True)


def _measure_shape(body: bytes, bodies: int, rounds: int) -> list[Found]:
    """All rounds of a shape on a gateway of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as senders,
        started(run_provider) as provider,
        started(run_watched, provider.port, f"{folder}/ticks") as gateway,
    ):
        head = {"content-type": "application/json", "authorization": f"Bearer {gateway.key}"}
        target = Target(gateway.port, "/v1/chat/completions", head, body)
        ticks = Path(folder) / "ticks"
        measure(gateway, ticks, target, 3, senders)  # Warms up.
        return [measure(gateway, ticks, target, bodies, senders) for _ in range(rounds)]


if __name__ == "__main__":
    main()
