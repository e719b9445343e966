"""The data plane's own counters and histograms, in memory, and their Prometheus text. Data plane.

Every label value comes from the snapshot or a closed set, never from a caller, so the series are bounded. Workers of one
machine leave their counts in files of one folder; whichever is scraped adds them up, so a scrape sees the whole service.
"""

from __future__ import annotations

import fcntl
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

Labels = tuple[str, ...]

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)

COUNTERS: Mapping[str, tuple[str, Labels]] = {
    "requests": ("Requests by operation and status.", ("operation", "status")),
    "attempts": ("Upstream attempts by outcome.", ("provider", "model", "outcome")),
    "tokens": ("Tokens by bucket.", ("provider", "model", "bucket")),
    "cost_nanodollars": ("Cost of priced attempts, in 10^-9 USD.", ("provider", "model")),
    "unpriced_attempts": ("Attempts whose model has no price.", ("provider", "model")),
    "upstream_errors": ("Failed attempts by class.", ("provider", "class")),
    "stream_events": ("Relayed stream events.", ("provider",)),
    "malformed_events": ("Stream events that could not be read.", ("provider",)),
    "client_disconnects": ("Callers that went away before their answer was complete.", ("operation",)),
    "hedges": (
        "Second attempts beside a slow first one: won, lost, or failed like it.",
        ("provider", "result"),
    ),
    "heartbeats": ("Heartbeats sent on slow streams.", ("provider",)),
    "idempotent_replays": ("Answers given again for an Idempotency-Key.", ("operation",)),
    "guards": ("Finds of guards in requests (before) and answers (after).", ("guard", "side", "kind")),
    "answer_cache": (
        "Requests of projects that keep answers: given again (hit), kept (miss), or neither (bypass).",
        ("operation", "result"),
    ),
    "decisions_dropped": ("Routing decisions that found too many waiting to be stored.", ()),
    "journal_refusals": ("Requests refused since the journal could not be written.", ()),
}
HISTOGRAMS: Mapping[str, tuple[str, Labels, tuple[float, ...]]] = {
    "request_seconds": ("Whole request.", ("operation",), SECONDS),
    "first_token_seconds": ("Dispatch to first content.", ("provider", "model"), SECONDS),
    "overhead_seconds": (
        "Our own part of a request before it is dispatched.",
        ("operation",),
        OVERHEAD_SECONDS,
    ),
}
GAUGES: Mapping[str, str] = {
    "in_flight_attempts": "Upstream attempts under way.",
    "journal_depth": "Journal records not yet in the ledger.",
    "snapshot_revision": "Configuration revision in force (the lowest of all workers).",
    "vault_unlocked": "1 where the vault is unlocked in all of these workers.",
    "vault_workers_unlocked": "Workers in which the vault is unlocked.",
    "workers": "Workers whose counts are in this answer.",
}
STALE_AFTER = 15.0


class Metrics:
    """This worker's counts. `add` and `observe` are a dictionary update each."""

    def __init__(self) -> None:
        self.counters: dict[str, dict[Labels, int]] = {name: {} for name in COUNTERS}
        self.histograms: dict[str, dict[Labels, list[float]]] = {name: {} for name in HISTOGRAMS}
        self.gauges: dict[str, float] = dict.fromkeys(GAUGES, 0.0)

    def add(self, name: str, labels: Labels, count: int = 1) -> None:
        """Adds to a counter."""
        series = self.counters[name]
        series[labels] = series.get(labels, 0) + count

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Counts a value (seconds) into a histogram: one cell a bound, then the rest, then the sum."""
        series = self.histograms[name]
        cells = series.get(labels)
        if cells is None:
            cells = series[labels] = [0.0] * (len(HISTOGRAMS[name][2]) + 2)
        cells[bisect_left(HISTOGRAMS[name][2], value)] += 1
        cells[-1] += value

    def dump(self) -> bytes:
        """All counts as JSON, for the other workers."""
        return msgspec.json.encode(
            {
                "written_at": time.time(),
                "counters": [[n, list(k), v] for n, s in self.counters.items() for k, v in s.items()],
                "histograms": [[n, list(k), v] for n, s in self.histograms.items() for k, v in s.items()],
                "gauges": self.gauges,
            }
        )

    def merge(self, dumped: bytes, *, live: bool) -> None:
        """Adds another worker's counts. Its gauges count only while it lives."""
        data = msgspec.json.decode(dumped)
        for name, labels, count in data["counters"]:
            self.add(name, tuple(labels), count)
        for name, labels, cells in data["histograms"]:
            mine = self.histograms[name].setdefault(tuple(labels), [0.0] * len(cells))
            for index, cell in enumerate(cells):
                mine[index] += cell
        if live:
            for name, value in data["gauges"].items():
                if name == "snapshot_revision":
                    self.gauges[name] = min(self.gauges[name] or value, value)
                else:
                    self.gauges[name] += value

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        for name, (about, label_names) in COUNTERS.items():
            lines += _head(f"tokenhub_{name}_total", about, "counter")
            for labels, count in sorted(self.counters[name].items()):
                lines.append(f"tokenhub_{name}_total{_braces(label_names, labels)} {count}")
        for name, (about, label_names, bounds) in HISTOGRAMS.items():
            lines += _head(f"tokenhub_{name}", about, "histogram")
            for labels, cells in sorted(self.histograms[name].items()):
                lines += _histogram_lines(f"tokenhub_{name}", label_names, labels, bounds, cells)
        for name, about in GAUGES.items():
            lines += _head(f"tokenhub_{name}", about, "gauge")
            lines.append(f"tokenhub_{name} {self.gauges[name]:g}")
        return ("\n".join(lines) + "\n").encode()


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _braces(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram_lines(
    name: str, label_names: Labels, labels: Labels, bounds: tuple[float, ...], cells: list[float]
) -> list[str]:
    lines, running = [], 0.0
    for bound, cell in zip((*bounds, float("inf")), cells, strict=False):
        running += cell
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f"{name}_bucket{_braces((*label_names, 'le'), (*labels, edge))} {running:g}")
    lines.append(f"{name}_sum{_braces(label_names, labels)} {cells[-1]:.9g}")
    lines.append(f"{name}_count{_braces(label_names, labels)} {running:g}")
    return lines


class SharedCounts:
    """The folder where workers leave their counts. A dead worker's counts are kept in one file, so totals never fall."""

    def __init__(self, folder: Path, instance: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / f"{instance}-{os.getpid()}.json"

    def leave(self, dumped: bytes) -> None:
        """Writes this worker's counts, whole or not at all."""
        temporary = self._own.with_suffix(".new")
        temporary.write_bytes(dumped)
        temporary.replace(self._own)

    def retire(self) -> None:
        """Adds the counts of workers that are gone to one file, so that the folder stays small. One process at a time."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self._folder / "retired.json"
            total = Metrics()
            gone = [path for path in self._folder.glob("*.json") if path != kept and not _is_alive(path)]
            if not gone:
                return
            for path in [*gone, kept]:
                try:
                    total.merge(path.read_bytes(), live=False)
                except (OSError, msgspec.DecodeError, KeyError):
                    continue  # Not there yet, or left by another version.
            temporary = kept.with_suffix(".new")
            temporary.write_bytes(total.dump())
            temporary.replace(kept)
            for path in gone:
                path.unlink(missing_ok=True)

    def gather(self, own: Metrics) -> Metrics:
        """This worker's counts and all the others'."""
        total = Metrics()
        total.merge(own.dump(), live=True)
        workers = 1
        for path in sorted(self._folder.glob("*.json")):
            if path == self._own:
                continue
            try:
                data = path.read_bytes()
                live = path.name != "retired.json" and time.time() - path.stat().st_mtime < STALE_AFTER
                total.merge(data, live=live)
                workers += live
            except (OSError, msgspec.DecodeError, KeyError):
                continue  # It is being replaced or was left by another version; the next scrape sees it.
        total.gauges["workers"] = workers
        total.gauges["vault_unlocked"] = float(total.gauges["vault_workers_unlocked"] >= workers)
        return total


def _is_alive(path: Path) -> bool:
    """Whether the process that a counts file is named after still runs on this machine."""
    pid = path.stem.rpartition("-")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
