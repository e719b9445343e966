"""Load: wrk for closed loops of whole answers, a small asyncio client on raw sockets for streams and open loops. Benchmarks."""

from __future__ import annotations

import asyncio
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import uvloop

PATIENCE = 60.0
MOST_OPEN = 400
"""Connections of an open loop; what is due beyond them waits, and its wait counts. Select can't watch descriptors above 1023."""
MOST_WAITING = 5000
_TICK = 0.005

_WRK_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes on 127.0.0.1 and what it says."""

    port: int
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    method: str = "POST"

    def message(self) -> bytes:
        """The whole request as bytes."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"content-length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(slots=True)
class Tally:
    """What a run did. Latencies and times to the first event are seconds, unsorted."""

    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    events: int = 0
    failed: int = 0
    abandoned: int = 0
    seconds: float = 0.0
    completed: int = 0
    reasons: set[str] = field(default_factory=set)


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; not a number where there are no values."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def load_with_wrk(target: Target, seconds: float, concurrency: int) -> Tally:
    """A closed loop for `seconds`; two latencies stand for all, the median and the 99th percentile of wrk's own count."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        headers = "".join(f"wrk.headers[{name!r}] = {value!r}\n" for name, value in target.headers.items())
        body = target.body.decode()
        script.write_text(f"wrk.method = {target.method!r}\nwrk.body = [==[{body}]==]\n{headers}{_WRK_DONE}")
        url = f"http://127.0.0.1:{target.port}{target.path}"
        command = [
            "wrk",
            "-t1",
            f"-c{concurrency}",
            f"-d{seconds:g}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    requests, microseconds, failed, middle, late = map(int, found.groups())
    return Tally(
        [middle / 1e6, late / 1e6], failed=failed, seconds=microseconds / 1e6, completed=requests - failed
    )


class Connection(asyncio.Protocol):
    """One keep-alive connection: one request at a time, answers counted by event and not kept."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.alive = True
        self._ended: asyncio.Future[bool] | None = None
        self._stop_after = 0
        self._tail = b""
        self.status = 0
        self.events = 0
        self.first = 0.0
        self.sample = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what is under way."""
        self.alive = False
        self._finish(False)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Counts events, also where their ends are cut; hangs up after as many as asked for."""
        if not self.first:
            self.first = time.perf_counter()
            self.sample = body[:300]
        self.events += (self._tail + body).count(b"\n\n")
        self._tail = b"\n" if body.endswith(b"\n") and not body.endswith(b"\n\n") else b""
        if self._stop_after and self.events >= self._stop_after:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.status = self._parser.get_status_code()
        self.alive = self.alive and self._parser.should_keep_alive()
        self._finish(True)

    async def ask(self, message: bytes, stop_after: int = 0) -> bool:
        """Sends a request; whether a whole answer came."""
        self._parser = httptools.HttpResponseParser(self)
        self._stop_after, self._tail = stop_after, b""
        self.status, self.events, self.first, self.sample = 0, 0, 0.0, b""
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        return await self._ended

    def _finish(self, whole: bool) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(whole)


class Pool:
    """Idle connections to one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def take(self) -> Connection:
        """An idle connection, else a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]

    def give(self, connection: Connection) -> None:
        """Takes it back if it can be used again."""
        if connection.alive:
            self._idle.append(connection)
        else:
            connection.transport.abort()

    def close(self) -> None:
        """Closes the idle ones."""
        for connection in self._idle:
            connection.transport.abort()


async def ask_once(pool: Pool, message: bytes, tally: Tally, due: float, stop_after: int = 0) -> None:
    """One request; its latency counts from `due`."""
    try:
        connection = await pool.take()
    except OSError as error:
        tally.failed += 1
        tally.reasons.add(type(error).__name__)
        return
    whole = await connection.ask(message, stop_after)
    now = time.perf_counter()
    tally.events += connection.events
    if stop_after and not whole and connection.events >= stop_after:
        tally.abandoned += 1
    elif whole and connection.status == 200:
        tally.completed += 1
        tally.latencies.append(now - due)
        tally.firsts.append(connection.first - due)
    else:
        tally.failed += 1
        tally.reasons.add(f"{connection.status} {connection.sample.decode(errors='replace')}")
    pool.give(connection)


async def closed_loop(target: Target, seconds: float, concurrency: int, stop_after: int = 0) -> Tally:
    """`concurrency` callers, each asking again when its answer is whole, begun for `seconds` and then ended."""
    tally, pool, message = Tally(), Pool(target.port), target.message()
    started = time.perf_counter()

    async def caller(number: int) -> None:
        # Streams that start together would also tick together, as no real ones do.
        await asyncio.sleep(number * 0.01 / concurrency)
        while (now := time.perf_counter()) - started < seconds:
            failed = tally.failed
            await ask_once(pool, message, tally, now, stop_after)
            if tally.failed > failed:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(seconds + PATIENCE):
        await asyncio.gather(*(caller(number) for number in range(concurrency)))
    tally.seconds = time.perf_counter() - started
    pool.close()
    return tally


async def open_loop(target: Target, rate: float, seconds: float) -> Tally:
    """`rate` requests a second whatever comes back; latency counts from the moment each was due."""
    tally, pool, message = Tally(), Pool(target.port), target.message()
    started, running = time.perf_counter() + 0.05, set[asyncio.Task[None]]()
    slots = asyncio.Semaphore(MOST_OPEN)

    async def fire(due: float) -> None:
        async with slots:
            await ask_once(pool, message, tally, due)

    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(running) >= MOST_WAITING:
            tally.failed += 1
            tally.reasons.add("not sent: too many are waiting")
            continue
        task = asyncio.create_task(fire(due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        _, left = await asyncio.wait(running, timeout=PATIENCE)
        for task in left:
            task.cancel()
            tally.failed += 1
    tally.seconds = time.perf_counter() - started
    pool.close()
    return tally


def run_exact[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs on a loop whose timers are exact: uvloop's and epoll's are rounded to milliseconds, select's are not."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(coroutine)


def run_fast[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs on uvloop."""
    return uvloop.run(coroutine)


def probe(target: Target, rate: float, seconds: float) -> tuple[list[float], int, float]:
    """An open loop in a process of its own: latencies in seconds, failures, and the prober's own lag at p99."""
    return run_exact(_probe(target, rate, seconds))


async def _probe(target: Target, rate: float, seconds: float) -> tuple[list[float], int, float]:
    lags: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            lags.append(time.perf_counter() - due)

    watching = asyncio.create_task(watch())
    tally = await open_loop(target, rate, seconds)
    watching.cancel()
    return tally.latencies, tally.failed, percentile(lags, 0.99)


def send_in_turn(target: Target, count: int, gap: float) -> Tally:
    """Sends `count` requests one after the other, `gap` seconds apart, in a process of its own."""
    return run_fast(_send_in_turn(target, count, gap))


async def _send_in_turn(target: Target, count: int, gap: float) -> Tally:
    tally, pool, message = Tally(), Pool(target.port), target.message()
    for _ in range(count):
        async with asyncio.timeout(PATIENCE):
            await ask_once(pool, message, tally, time.perf_counter())
        await asyncio.sleep(gap)
    pool.close()
    return tally
