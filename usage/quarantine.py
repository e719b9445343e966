"""Journal lines that could not become ledger rows, kept aside for a person, never dropped. Control plane; local files.

One file an owner, `<owner>.quarantine`, JSON lines: `{"file", "offset", "reason", "lines": [base64, …]}`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

SUFFIX = ".quarantine"


@dataclass(frozen=True, slots=True)
class KeptAside:
    """What is kept: the journal file, the offset where the damage begins, why, and the lines as bytes."""

    file: str
    offset: int
    reason: str
    lines: tuple[bytes, ...]


class Quarantine:
    """The quarantine of one owner. What is in it already is not added again, so that a restart doubles nothing."""

    def __init__(self, directory: Path, owner: str) -> None:
        self.path = directory / f"{owner}{SUFFIX}"
        self._known = {(item.file, item.offset) for item in list_kept(self.path)}

    def keep(self, items: Sequence[KeptAside]) -> int:
        """Appends what is new, durably; returns how many. Raises OSError: then the journal must not be passed over."""
        new = [item for item in items if (item.file, item.offset) not in self._known]
        if not new:
            return 0
        text = b"".join(msgspec.json.encode(item) + b"\n" for item in new)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(fd)
        self._known.update((item.file, item.offset) for item in new)
        return len(new)


def list_kept(path: Path) -> list[KeptAside]:
    """What a quarantine file holds; empty if there is none. A line broken by a full disk is skipped: it is kept again."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    kept = []
    for line in lines:
        try:
            kept.append(msgspec.json.decode(line, type=KeptAside))
        except msgspec.DecodeError:
            continue
    return kept
