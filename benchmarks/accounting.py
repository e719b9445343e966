"""What the operating system says of a process and its children: CPU time, memory, descriptors. Linux's /proc. Benchmarks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
"""CPU time comes in ticks, usually of 10 ms: a run must use many of them."""


def _stat_fields(pid: int) -> list[str]:
    # The command's name may hold spaces and brackets; what follows its last bracket is fixed.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


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


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole tree so far, in seconds; of children that ended too."""
    ticks = 0
    for each in process_tree(pid):
        try:
            fields = _stat_fields(each)
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


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
