"""What is measured, section by section. Rounds alternate between the subjects, so that all meet the same machine. Benchmarks."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import httpx

from benchmarks.accounting import Cpu, cpu_seconds, cpu_when_settled
from benchmarks.load import (
    Tally,
    Target,
    closed_loop,
    load_with_wrk,
    open_loop,
    percentile,
    run_exact,
    run_fast,
)
from benchmarks.report import Row, render_table
from benchmarks.subjects import Subject
from benchmarks.upstreams import Upstreams
from benchmarks.workload import Kind

CONCURRENCY = 64
MOST_RATE = 2000.0
"""What the open loop's client can send in time on one core, with room to spare."""
_OPEN_SHARE = 0.5
_MIXED_SHARE = 0.25
_MIXED_STREAMS = 16
_ABANDON_AFTER = 10
_WARMING_SECONDS = 0.3
_WARMING_CALLERS = 4

Load = Callable[[Target], Tally]


@dataclass(slots=True)
class Bench:
    """One run: its subjects, its bounds (seconds a measurement, rounds), what was found, and where it is told."""

    subjects: list[Subject]
    upstreams: Upstreams
    seconds: float
    rounds: int
    tell: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    capacity: dict[str, float] = field(default_factory=dict)

    def add(self, rows: list[Row]) -> None:
        """Keeps a scenario's rows and shows them."""
        self.rows += rows
        if rows:
            self.tell(f"{rows[0].section}: {rows[0].scenario}\n{render_table(rows)}\n")


@dataclass(slots=True)
class _Found:
    """The rounds of one subject in one scenario."""

    cpu: list[tuple[float, float]] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)


def measure(subject: Subject, target: Target, load: Load) -> tuple[Tally, Cpu]:
    """A load, and the CPU seconds that the subject used for it, to the last row in the ledger."""
    before = cpu_seconds(subject.pid)
    tally = load(target)
    after = cpu_when_settled(subject.pid) if subject.service else cpu_seconds(subject.pid)
    return tally, after - before


def compare(
    bench: Bench,
    place: tuple[str, str],
    kind: Kind,
    load: Load,
    told: str,
    *,
    translated: bool = False,
    rounds: int | None = None,
) -> list[Row]:
    """The rows of one scenario for every subject that does it; CPU is the best round's, a ratio the median round's."""
    streamed = kind == "stream"
    echo = bench.subjects[0]
    taking_part = [
        (subject, target)
        for subject in bench.subjects[1:]
        if (target := subject.target(kind, translated=translated)) is not None
    ]
    yardstick = echo.target("stream" if streamed else "text")
    assert yardstick is not None
    found = {subject.name: _Found() for subject, _ in [(echo, yardstick), *taking_part]}
    for _, target in taking_part:
        # The first call of a path may build or load what the others then use; LiteLLM's takes a second.
        _closed(target, _WARMING_SECONDS, _WARMING_CALLERS)
    for _ in range(rounds or bench.rounds):
        unit = 0.0
        for subject, target in [(echo, yardstick), *taking_part]:
            tally, cpu = measure(subject, target, load)
            count = tally.events if streamed else tally.completed
            mine = cpu.total / count * 1e6 if count else float("nan")
            unit = unit or mine
            one = found[subject.name]
            one.tallies.append(tally)
            if subject.pid:
                one.cpu.append((mine, cpu.loop / count * 1e6 if count else float("nan")))
                one.ratios.append(mine / unit)
    return [
        _make_row(place, name, one, told, "event" if streamed else "request") for name, one in found.items()
    ]


def _make_row(place: tuple[str, str], name: str, found: _Found, told: str, unit: str) -> Row:
    tallies = found.tallies
    reasons = sorted(reason for tally in tallies for reason in tally.reasons)
    first = [percentile(tally.firsts, 0.99) for tally in tallies if tally.firsts]
    notes = [f"first event p99 {statistics.median(first) * 1e3:.1f} ms"] if first and unit == "event" else []
    return Row(
        *place,
        name,
        told,
        sum(tally.completed for tally in tallies),
        sum(tally.failed for tally in tallies),
        sum(tally.events if unit == "event" else tally.completed for tally in tallies)
        / sum(tally.seconds for tally in tallies),
        min(found.cpu)[0] if found.cpu else None,
        min(found.cpu)[1] if found.cpu else None,
        unit if found.cpu else "",
        statistics.median(found.ratios) if found.ratios else None,
        statistics.median(percentile(tally.latencies, 0.495) for tally in tallies) * 1e3,
        statistics.median(percentile(tally.latencies, 0.99) for tally in tallies) * 1e3,
        note="; ".join(notes + reasons[:1]),
    )


def _closed(target: Target, seconds: float, concurrency: int = CONCURRENCY) -> Tally:
    return run_fast(closed_loop(target, seconds, concurrency))


def measure_start(bench: Bench) -> None:
    """From the process's start to its first whole answer, and what it holds then."""
    bench.add(
        [
            Row(
                "start",
                "from the process's start to its first answer; memory then",
                subject.name,
                seconds=subject.start_seconds,
                memory_mb=subject.idle.megabytes,
                note=f"{subject.idle.processes} processes, {subject.idle.threads} threads, {subject.idle.descriptors} descriptors",
            )
            for subject in bench.subjects
            if subject.idle is not None
        ]
    )


def measure_plain(bench: Bench) -> None:
    """Whole answers, closed loop at 64, 16 and 1 in flight."""
    for concurrency in (CONCURRENCY, 16, 1):
        load = partial(load_with_wrk, seconds=bench.seconds, concurrency=concurrency)
        rounds = bench.rounds if concurrency == CONCURRENCY else 1
        place = ("plain", f"300-byte request, whole answer, {concurrency} in flight")
        rows = compare(bench, place, "text", load, "closed, wrk", rounds=rounds)
        bench.add(rows)
        if concurrency == CONCURRENCY:
            bench.capacity |= {row.subject: row.rate or 0.0 for row in rows}


def measure_stream(bench: Bench) -> None:
    """Streams of 100 events at 10 ms, 64 at a time."""
    load = partial(_closed, seconds=bench.seconds)
    place = ("stream", "100 events at 10 ms, 64 at a time; latency of the whole stream")
    bench.add(compare(bench, place, "stream", load, "closed"))


def measure_translated(bench: Bench) -> None:
    """The caller speaks OpenAI's format, the provider Anthropic's."""
    whole = partial(load_with_wrk, seconds=bench.seconds, concurrency=CONCURRENCY)
    load = partial(_closed, seconds=bench.seconds)
    bench.add(
        compare(
            bench, ("translated", "whole answer, 64 in flight"), "text", whole, "closed, wrk", translated=True
        )
    )
    bench.add(
        compare(
            bench,
            ("translated", "100 events at 10 ms, 64 at a time"),
            "stream",
            load,
            "closed",
            translated=True,
        )
    )


def measure_tools(bench: Bench) -> None:
    """Eight tools declared, one called."""
    load = partial(load_with_wrk, seconds=bench.seconds, concurrency=CONCURRENCY)
    for translated in (False, True):
        scenario = f"eight declared, one called, 64 in flight{', translated' if translated else ''}"
        place = ("tools", scenario)
        bench.add(compare(bench, place, "tools", load, "closed, wrk", translated=translated, rounds=1))


def measure_prompt(bench: Bench) -> None:
    """A prompt of 10,000 tokens."""
    load = partial(load_with_wrk, seconds=bench.seconds, concurrency=CONCURRENCY)
    place = ("prompt", "10,000 tokens (46 kB), whole answer, 64 in flight; ratio to the short echo")
    bench.add(compare(bench, place, "prompt", load, "closed, wrk", rounds=1))


def _find_capacity(bench: Bench, subject: Subject, target: Target) -> float:
    if subject.name not in bench.capacity:
        tally = load_with_wrk(target, min(bench.seconds, 2.0), CONCURRENCY)
        bench.capacity[subject.name] = tally.completed / tally.seconds
    return bench.capacity[subject.name]


def measure_open(bench: Bench) -> None:
    """Whole answers at half of what the subject can do, beside the upstream itself at the same rate."""
    direct = next(subject for subject in bench.subjects if subject.name == "direct")
    straight = direct.target("text")
    rows: list[Row] = []
    for subject in bench.subjects:
        target = subject.target("text")
        if subject is direct or target is None or straight is None:
            continue
        wanted = _find_capacity(bench, subject, target) * _OPEN_SHARE
        rate = min(wanted, MOST_RATE)
        rows.append(_compare_open(bench, subject, target, straight, rate, capped=wanted > rate))
    bench.add(rows)


def _compare_open(
    bench: Bench, subject: Subject, target: Target, straight: Target, rate: float, *, capped: bool
) -> Row:
    """The best of the rounds for each percentile of both: what else runs on the machine only adds."""
    ours: list[Tally] = []
    theirs: list[Tally] = []
    for _ in range(min(bench.rounds, 2)):
        theirs.append(run_exact(open_loop(straight, rate, bench.seconds)))
        ours.append(run_exact(open_loop(target, rate, bench.seconds)))

    def best(tallies: list[Tally], share: float) -> float:
        return min(percentile(tally.latencies, share) for tally in tallies) * 1e3

    middle, late = best(ours, 0.5), best(ours, 0.99)
    reasons = sorted(reason for tally in ours for reason in tally.reasons)
    return Row(
        "open",
        "whole answers at half of the capacity; added: less the upstream's own at the same rate",
        subject.name,
        f"{rate:.0f}/s{' (capped)' if capped else ''}",
        sum(tally.completed for tally in ours),
        sum(tally.failed for tally in ours),
        p50_ms=middle,
        p99_ms=late,
        added_p50_ms=middle - best(theirs, 0.5),
        added_p99_ms=late - best(theirs, 0.99),
        note="; ".join(reasons[:1]),
    )


def measure_mixed(bench: Bench) -> None:
    """Whole answers at a fixed rate beside streams that end and streams whose callers leave."""
    rows = []
    for subject in bench.subjects:
        whole, stream = subject.target("text"), subject.target("stream")
        if whole is None or stream is None:
            continue
        rate = min(_find_capacity(bench, subject, whole) * _MIXED_SHARE, MOST_RATE)
        counted = subject.pid and "Tokenhub" in subject.name
        before = _mock_stats(bench.upstreams.stream) if counted else {}
        cpu, began = cpu_seconds(subject.pid), time.monotonic()
        answers, whole_streams, left = run_fast(_mix(whole, stream, rate, bench.seconds))
        used = (cpu_seconds(subject.pid) - cpu).total / (time.monotonic() - began)
        notes = [
            f"{whole_streams.completed} whole streams, {left.abandoned} left after {_ABANDON_AFTER} events"
        ]
        notes += [f"{used:.0%} of a CPU"] if subject.pid else []
        notes += [_told_of_leaving(bench, before)] if counted else []
        failed = answers.failed + whole_streams.failed + left.failed
        reasons = sorted(answers.reasons | whole_streams.reasons | left.reasons)
        rows.append(
            Row(
                "mixed",
                "whole answers at a quarter of the capacity, 16 streams, 16 streams whose callers leave",
                subject.name,
                f"{rate:.0f}/s + 32",
                answers.completed,
                failed,
                p50_ms=percentile(answers.latencies, 0.5) * 1e3,
                p99_ms=percentile(answers.latencies, 0.99) * 1e3,
                note="; ".join(notes + reasons[:1]),
            )
        )
    bench.add(rows)


async def _mix(whole: Target, stream: Target, rate: float, seconds: float) -> tuple[Tally, Tally, Tally]:
    return await asyncio.gather(
        open_loop(whole, rate, seconds),
        closed_loop(stream, seconds, _MIXED_STREAMS),
        closed_loop(stream, seconds, _MIXED_STREAMS, _ABANDON_AFTER),
    )


def _mock_stats(port: int) -> dict[str, int]:
    found = httpx.get(f"http://127.0.0.1:{port}/_stats?limit=0", timeout=20).json()
    return {name: int(found[name]) for name in ("closed_by_client", "in_progress")}


def _told_of_leaving(bench: Bench, before: dict[str, int]) -> str:
    deadline = time.monotonic() + 2
    while (now := _mock_stats(bench.upstreams.stream))["in_progress"] and time.monotonic() < deadline:
        time.sleep(0.05)
    closed = now["closed_by_client"] - before["closed_by_client"]
    return f"upstream saw {closed} closed early, {now['in_progress']} left open"
