"""Several processes over one journal directory and one database: each attempt is settled once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.usage.cast import make_final, make_intent
from tests.usage.conftest import SharedDatabase, read_totals
from tests.usage.test_drain import write_dead_file
from tests.usage.test_journal import wait_until
from usage._journal_files import list_segments
from usage._journal_format import encode_final, encode_intent


def test_two_processes_racing_to_adopt_settle_each_attempt_once(
    tmp_path: Path, shared_database: SharedDatabase
) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    expected: dict[str, str] = {}
    for owner in range(6):
        numbers = range(owner * 100, owner * 100 + 60)
        lines = [
            encode_intent(make_intent(n)) + (encode_final(make_final(n)) if n % 10 else b"") for n in numbers
        ]
        write_dead_file(directory, b"".join(lines[:30]), owner=f"gone-{owner}-7", seq=0)
        write_dead_file(directory, b"".join(lines[30:]), owner=f"gone-{owner}-7", seq=1)
        expected |= {f"att-{n}": "completed" if n % 10 else "unsettled" for n in numbers}
    racers = [shared_database.start_drain(directory) for _ in range(2)]
    race(racers)
    totals = [read_totals(racer) for racer in racers]
    leftover = shared_database.start_drain(directory)
    race([leftover])
    read_totals(leftover)
    assert shared_database.list_outcomes() == expected
    assert sum(total["quarantined"] for total in totals) == 0
    assert sum(total["files_removed"] for total in totals) == 12
    assert list(directory.iterdir()) == []


def race(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "ready\n", process.communicate(timeout=30)[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_a_drain_killed_before_it_could_delete_is_continued_by_another_process(
    tmp_path: Path, shared_database: SharedDatabase
) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    write_dead_file(
        directory, encode_intent(make_intent(1)) + encode_final(make_final(1)) + encode_intent(make_intent(2))
    )
    crashing = shared_database.start_drain(directory, "crash")
    _, errors = crashing.communicate(timeout=90)
    assert crashing.returncode == -9, errors
    assert len(list_segments(directory)) == 1
    totals = read_totals(shared_database.start_drain(directory))
    assert (totals["rows"], totals["files_removed"], totals["quarantined"]) == (0, 1, 0)
    assert shared_database.list_outcomes() == {"att-1": "completed", "att-2": "unsettled"}


def test_an_idle_drain_holds_no_file_of_the_database(
    tmp_path: Path, shared_database: SharedDatabase, database_kind: str
) -> None:
    """While passes find rows the thread keeps its connection to SQLite, which is dear to open."""
    if database_kind == "postgres":
        pytest.skip("on Postgres connections go back to the pool after each pass")
    directory = tmp_path / "journal"
    directory.mkdir()
    drain = shared_database.start_drain(directory, "run")
    write_dead_file(directory, encode_intent(make_intent(1)) + encode_final(make_final(1)))
    assert wait_until(lambda: shared_database.list_outcomes() == {"att-1": "completed"})
    assert wait_until(lambda: not list_open_files(drain.pid, "shared.sqlite3"))
    output, errors = drain.communicate("", timeout=60)
    assert drain.returncode == 0, errors
    assert "ResourceWarning" not in errors
    assert '"rows": 1' in output


def list_open_files(pid: int, name: str) -> list[str]:
    places = [str(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [target for target in map(read_link, places) if name in target]


def read_link(place: str) -> str:
    """Where a descriptor points; nowhere if it was closed meanwhile."""
    try:
        return os.readlink(place)
    except FileNotFoundError:
        return ""
