"""Several processes over one journal directory and one database: each attempt is settled once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.usage.cast import make_final, make_intent
from tests.usage.conftest import SharedDatabase, read_totals
from tests.usage.test_drain import write_dead_file
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
