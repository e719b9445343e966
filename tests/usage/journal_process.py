"""Processes that write a journal, for tests to kill, starve of disk and race. Run as `python -m tests.usage.journal_process`.

Every write that returned is acknowledged on standard output, one line each: `intent N`, `final N`, `refused N`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.usage.cast import make_final, make_intent
from usage.journal import Journal, JournalUnavailable

IN_FLIGHT = 8


def say(text: str) -> None:
    """One acknowledgement, past every buffer."""
    os.write(1, f"{text}\n".encode())


def write_until_killed(directory: Path) -> None:
    """Attempts without end, each settled when eight later ones have begun; small segments, so that they rotate."""
    journal = Journal(directory, instance="victim", segment_bytes=20_000, min_free_bytes=0)
    number = 0
    while True:
        journal.intent(make_intent(number))
        say(f"intent {number}")
        if number >= IN_FLIGHT:
            journal.final(make_final(number - IN_FLIGHT))
            say(f"final {number - IN_FLIGHT}")
        number += 1


def fork_and_die(directory: Path) -> None:
    """Leaves a child behind that inherited the journal and writes into its own; says the child's pid."""
    journal = Journal(directory, instance="parent", min_free_bytes=0)
    journal.intent(make_intent(1))
    child = os.fork()
    if not child:
        journal.intent(make_intent(2))
        say(f"child {os.getpid()}")
        time.sleep(60)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    time.sleep(0.5)
    os._exit(0)


def fill_file_size_limit(directory: Path) -> None:
    """The kernel refuses to let files grow past 8 KiB, in the middle of a line, and later allows it again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    journal = Journal(directory, instance="limited", min_free_bytes=0)
    _play_full_disk(journal, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))


def fill_disk(directory: Path) -> None:
    """A file system of 128 KiB in a mount namespace of this process, filled by someone else and later freed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", directory], check=True, timeout=10)
    ballast = directory / "ballast"
    journal = Journal(directory, instance="full", min_free_bytes=0)
    ballast.write_bytes(b"x" * 100_000)
    _play_full_disk(journal, ballast.unlink)
    for path in directory.glob("*.journal"):
        sys.stdout.write(path.read_text())


def _play_full_disk(journal: Journal, free: object) -> None:
    assert callable(free)
    number = 0
    while True:
        try:
            journal.intent(make_intent(number))
        except JournalUnavailable:
            break
        say(f"intent {number}")
        number += 1
    say(f"refused {number}")
    for earlier in range(number):
        journal.final(make_final(earlier))
    say(f"waiting {journal.stats().finals_waiting} available {journal.available} errors {journal.last_error}")
    free()
    deadline = time.monotonic() + 30
    while not journal.available and time.monotonic() < deadline:
        time.sleep(0.01)
    journal.intent(make_intent(number))
    say(f"intent {number}")
    stats = journal.stats()
    say(
        f"recovered waiting {stats.finals_waiting} lost {stats.finals_lost} unavailable {stats.unavailable_seconds > 0}"
    )
    journal.close()
    say("end")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
