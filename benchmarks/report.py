"""The figures of a run as CSV and as Markdown, with the machine, the versions and the commands. Benchmarks."""

from __future__ import annotations

import csv
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

_TITLES = {
    "subject": "what",
    "load": "load",
    "completed": "completed",
    "failed": "failed",
    "rate": "per second",
    "cpu_us": "µs CPU",
    "loop_us": "of it on the loop",
    "per": "of a",
    "to_echo": "to echo",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "added p99 ms",
    "seconds": "seconds",
    "memory_mb": "memory MB",
    "note": "note",
}
_PROGRAMS = (("nginx", "-v"), ("wrk", "-v"), ("node", "--version"), ("postgres", "--version"))
_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "Django", "psycopg")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure's surroundings. `cpu_us` is microseconds of CPU, `loop_us` those of first threads; `to_echo` is the median of
    the rounds' ratios to the echo's; latencies are milliseconds from the moment a request was due (open loops) or sent; memory
    is in 10^6 bytes.
    """

    section: str
    scenario: str
    subject: str
    load: str = ""
    completed: int | None = None
    failed: int | None = None
    rate: float | None = None
    cpu_us: float | None = None
    loop_us: float | None = None
    per: str = ""
    to_echo: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None
    seconds: float | None = None
    memory_mb: float | None = None
    note: str = ""


def _shown(value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "/").replace("\n", " ") if value is not None else ""


def render_table(rows: list[Row]) -> str:
    """A Markdown table with those columns that some row fills."""
    names = [name for name in _TITLES if any(getattr(row, name) not in (None, "") for row in rows)]
    lines = ["| " + " | ".join(_TITLES[name] for name in names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_shown(getattr(row, name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def render_sections(rows: list[Row]) -> str:
    """All tables, one for each scenario, in the order in which they were measured."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.section, row.scenario), []).append(row)
    return "\n\n".join(
        f"### {section}: {scenario}\n\n{render_table(found)}"
        for (section, scenario), found in grouped.items()
    )


def _told(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "absent"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "says nothing"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe_machine() -> list[str]:
    """Machine and versions, a line each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    programs = [f"{name}: {_told(name, flag)}" for name, flag in _PROGRAMS]
    return [
        f"{_processor()}, {os.cpu_count()} CPUs, {memory:.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {packages}",
        *programs,
        f"Tokenhub at {_told('git', 'describe', '--always', '--dirty')}",
    ]


def render_run(rows: list[Row], facts: list[str]) -> str:
    """The whole document."""
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    listed = "\n".join(f"- {fact}" for fact in [*describe_machine(), *facts, f"Command: `{command}`"])
    return f"# Benchmark\n\n{listed}\n\n{render_sections(rows)}\n"


def write_csv(rows: list[Row], path: Path) -> None:
    """One line a row, with all columns."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
