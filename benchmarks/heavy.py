"""A thousand streams at once, and 20 MB bodies beside small requests: what they do to memory and to the event loop. Benchmarks."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.accounting import Footprint, footprint
from benchmarks.load import Connection, Target, percentile, probe, run_fast, send_in_turn
from benchmarks.report import Row
from benchmarks.scenarios import Bench
from benchmarks.subjects import Subject

STREAMS = 1000
_OPENING_SECONDS = 30.0
_PROBES_A_SECOND = 100.0
_SETTLE_SECONDS = 2.0
_BODIES = 12
_BODY_GAP = 0.25
_CONNECTIONS = (
    "SELECT count(*) AS open, count(*) FILTER (WHERE state <> 'idle') AS busy FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

Probed = tuple[list[float], int, float]


@contextmanager
def _apart() -> Iterator[Executor]:
    """Processes of their own for what measures, so that it does not wait for what loads."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        # The first call of each starts it.
        for warming in [executor.submit(time.sleep, 0.3) for _ in range(2)]:
            warming.result()
        yield executor


def _find_health(subject: Subject) -> Target | None:
    """Tokenhub's page that the loop answers by itself: its latency is the loop's lag and little else."""
    if subject.service is None:
        return None
    return Target(subject.service.port, "/healthz", {}, b"", "GET")


def _probe_row(place: tuple[str, str], subject: str, told: str, found: Probed, note: str = "") -> Row:
    latencies, failed, own = found
    lag = f"the prober's own lag p99 {own * 1e3:.1f} ms"
    return Row(
        *place,
        subject,
        told,
        len(latencies),
        failed,
        p50_ms=percentile(latencies, 0.5) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
        note="; ".join(part for part in (note, lag) if part),
    )


def _database_note(subject: Subject) -> str:
    if subject.service is None or "TOKENHUB_DATABASE_URL" not in subject.service.environment:
        return ""
    found = subject.service.sql(_CONNECTIONS)[0]
    return f"{found['open']} connections to the database, {found['busy']} busy"


def measure_memory(bench: Bench) -> None:
    """For each subject of one worker: 1,000 streams of an event a second, and small requests beside them."""
    with _apart() as executor:
        for subject in bench.subjects:
            stream, small = subject.target("held"), subject.target("text")
            if subject.idle is None or " 2 workers" in subject.name or stream is None or small is None:
                continue
            bench.add(run_fast(_hold(bench, subject, stream, small, executor)))


async def _hold(
    bench: Bench, subject: Subject, stream: Target, small: Target, executor: Executor
) -> list[Row]:
    """Opens the streams, measures, hangs up, measures again."""
    place = ("memory", "1,000 streams open at once, an event a second each; small requests beside them")
    probes = [("small requests", small)]
    if (health := _find_health(subject)) is not None:
        probes.append(("/healthz: the loop's lag", health))
    rows = [_footprint_row(place, subject, "before")]
    for name, target in probes:
        rows.append(
            _probe_row(place, subject.name, f"{name}, before", await _probed(executor, target, bench))
        )
    connections: list[Connection] = []
    waiting = [asyncio.create_task(_open(stream, connections, number * 0.002)) for number in range(STREAMS)]
    deadline = time.monotonic() + _OPENING_SECONDS
    while sum(each.events > 0 for each in connections) < STREAMS and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    live = sum(each.events > 0 and each.alive for each in connections)
    rows.append(_footprint_row(place, subject, f"with {live} streams"))
    for name, target in probes:
        rows.append(
            _probe_row(place, subject.name, f"{name}, with them", await _probed(executor, target, bench))
        )
    still = sum(each.alive for each in connections)
    for each in connections:
        each.transport.abort()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.sleep(_SETTLE_SECONDS)
    rows.append(_footprint_row(place, subject, f"after {still} callers left"))
    return rows


async def _open(target: Target, connections: list[Connection], wait: float) -> None:
    await asyncio.sleep(wait)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", target.port)
    connections.append(connection)
    await connection.ask(target.message())


async def _probed(executor: Executor, target: Target, bench: Bench) -> Probed:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(executor, probe, target, _PROBES_A_SECOND, bench.seconds)


def _footprint_row(place: tuple[str, str], subject: Subject, told: str) -> Row:
    held: Footprint = footprint(subject.pid)
    notes = [f"{held.descriptors} descriptors, {held.threads} threads", _database_note(subject)]
    return Row(
        *place, subject.name, told, memory_mb=held.megabytes, note="; ".join(note for note in notes if note)
    )


def measure_bodies(bench: Bench) -> None:
    """Small requests alone and beside bodies of 20 MB, which come one after the other."""
    place = ("bodies", "100 small requests a second, alone and beside bodies of 20 MB")
    with _apart() as executor:
        for subject in bench.subjects:
            small, big = subject.target("text"), subject.target("image")
            if small is None or big is None or " 2 workers" in subject.name:
                continue
            probes = [("small requests", small)]
            if (health := _find_health(subject)) is not None:
                probes.append(("/healthz: the loop's lag", health))
            rows = []
            for name, target in probes:
                alone = executor.submit(probe, target, _PROBES_A_SECOND, bench.seconds).result()
                rows.append(_probe_row(place, subject.name, f"{name}, alone", alone))
                rows.append(_beside(place, subject, name, target, big, executor))
            bench.add(rows)


def _beside(
    place: tuple[str, str], subject: Subject, name: str, small: Target, big: Target, executor: Executor
) -> Row:
    """Probes for as long as the bodies take."""
    sending = executor.submit(send_in_turn, replace(big), _BODIES, _BODY_GAP)
    latencies: list[float] = []
    failed, own = 0, 0.0
    while not sending.done():
        looking: Future[Probed] = executor.submit(probe, small, _PROBES_A_SECOND, 1.0)
        some, wrong, lag = looking.result()
        latencies += some
        failed, own = failed + wrong, max(own, lag)
    sent = sending.result()
    note = f"{sent.completed} bodies, median {percentile(sent.latencies, 0.5) * 1e3:.0f} ms"
    note += f", {sent.failed} failed: {sorted(sent.reasons)[:1]}" if sent.failed else ""
    return _probe_row(place, subject.name, f"{name}, beside them", (latencies, failed, own), note)
