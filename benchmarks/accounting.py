"""What the operating system says of a process and its children: CPU time, memory, descriptors. Linux's /proc. Benchmarks."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
"""CPU time comes in ticks, usually of 10 ms: a run must use many of them."""
_SETTLE_SECONDS = 0.3
_SETTLE_LOOKS = 17


def _stat_fields(place: str) -> list[str]:
    # The command's name may hold spaces and brackets; what follows its last bracket is fixed.
    return Path(f"/proc/{place}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except FileNotFoundError:
        return []
    return found


def process_tree(pid: int) -> list[int]:
    """The process and everything that it started, directly or not."""
    tree = [pid]
    for each in tree:
        tree += _children(each)
    return tree


@dataclass(frozen=True, slots=True)
class Cpu:
    """User and system seconds: of everything, and of the processes' first threads, which run the event loops."""

    total: float = 0.0
    loop: float = 0.0

    def __sub__(self, before: Cpu) -> Cpu:
        return Cpu(self.total - before.total, self.loop - before.loop)


def cpu_seconds(pid: int) -> Cpu:
    """What the whole tree used so far; children that ended count too. Nothing for pid 0."""
    total = loop = 0
    for each in process_tree(pid) if pid else ():
        try:
            fields = _stat_fields(f"{each}")
            first = _stat_fields(f"{each}/task/{each}")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
        loop += sum(map(int, first[11:13]))
    return Cpu(total / TICKS, loop / TICKS)


def cpu_when_settled(pid: int) -> Cpu:
    """As `cpu_seconds`, once the tree has come to rest: work that a load leaves behind belongs to it. Waits 5 s at most."""
    now = cpu_seconds(pid)
    for _ in range(_SETTLE_LOOKS):
        time.sleep(_SETTLE_SECONDS)
        before, now = now, cpu_seconds(pid)
        if (now - before).total <= 2 / TICKS:
            break
    return now


@dataclass(frozen=True, slots=True)
class Footprint:
    """Resident memory in bytes, open descriptors and threads, summed over a tree of processes."""

    resident_bytes: int
    descriptors: int
    threads: int
    processes: int

    @property
    def megabytes(self) -> float:
        """Resident memory in units of 10^6 bytes."""
        return self.resident_bytes / 1e6


def footprint(pid: int) -> Footprint:
    """What the tree holds now. Pages that processes share count once for each."""
    resident = descriptors = threads = 0
    tree = process_tree(pid)
    for each in tree:
        try:
            status = Path(f"/proc/{each}/status").read_text()
            descriptors += len(os.listdir(f"/proc/{each}/fd"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        resident += int(lines.get("VmRSS", "0 kB").split()[0]) * 1024
        threads += int(lines.get("Threads", "0"))
    return Footprint(resident, descriptors, threads, len(tree))
