"""Searches the whole memory of other processes, as root does: what is found there, and where. Linux only.

Serving processes are undumpable, so that this takes CAP_SYS_PTRACE; without it `search_memory` raises PermissionError.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

_CHUNK = 8 * 1024 * 1024
_KERNEL_MAPS = ("[vvar]", "[vsyscall]", "[vvar_vclock]")


def forms(secret: bytes) -> dict[str, bytes]:
    """The ways in which a secret may lie somewhere: as it is, as hex, as base64 at each of its three alignments.

    Of base64 the part that does not depend on what stands around it.
    """
    found = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret + b"\0" * ((-shift - len(secret)) % 3))
        first = -(-shift * 4 // 3)
        last = (shift + len(secret)) * 4 // 3
        found[f"base64+{shift}"] = encoded[first:last]
    return found


def search_memory(pid: int, needles: Mapping[str, bytes]) -> dict[str, int]:
    """How often each needle stands in any readable memory of a process, by name; only those that were found.

    Raises PermissionError where this process may not read it.
    """
    longest = max(map(len, needles.values()))
    counts = dict.fromkeys(needles, 0)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _readable(pid):
            before = b""
            at = start
            while at < end:
                try:
                    memory.seek(at)
                    piece = memory.read(min(_CHUNK, end - at))
                except (OSError, ValueError):
                    break  # Unmapped meanwhile, or a device's memory.
                if not piece:
                    break
                at += len(piece)
                data = before + piece
                for name, needle in needles.items():
                    # What lay wholly in the part kept of the piece before was counted there.
                    counts[name] += data.count(needle) - before.count(needle)
                before = data[-(longest - 1) :]
    return {name: count for name, count in counts.items() if count}


def _readable(pid: int) -> Iterator[tuple[int, int]]:
    """The readable mappings that have pages in memory or swapped out."""
    place: tuple[int, int] | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        fields = line.split()
        if fields[0].endswith(":"):
            if fields[0] in ("Rss:", "Swap:") and place is not None and int(fields[1]):
                yield place
                place = None
            continue
        low, _, high = fields[0].partition("-")
        readable = fields[1].startswith("r") and not any(name in line for name in _KERNEL_MAPS)
        place = (int(low, 16), int(high, 16)) if readable else None
