"""The drain: every attempt once, whatever dies, repeats or refuses in between."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.usage.cast import RATES, STARTED, make_final, make_intent, settled_cost
from tests.usage.test_journal import open_journal, start_process
from tokenhub.core.usage import Usage
from usage._journal_files import list_segments
from usage._journal_format import encode_final, encode_intent
from usage.appendonly import open_ledger_door
from usage.drain import Drainer
from usage.journal import Journal
from usage.models import JournalFile, UsageRecord
from usage.quarantine import list_kept
from usage.rows import UNSETTLED_METHOD

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = open_journal(tmp_path)
    yield journal
    journal.close()


@pytest.fixture
def drainer(tmp_path: Path) -> Iterator[Drainer]:
    drainer = make_drainer(tmp_path)
    yield drainer
    drainer.close()


def make_drainer(directory: Path, **options: object) -> Drainer:
    values: dict[str, object] = {"instance": "node", "sleep": lambda seconds: None}
    return Drainer(directory, **(values | options))  # type: ignore[arg-type]


def close_connection() -> None:
    """Closes this thread's connection. Django itself never closes one to a database in memory."""
    if connection.connection is not None:
        connection.connection.close()
        connection.connection = None


def list_outcomes() -> dict[str, str]:
    return dict(UsageRecord.objects.values_list("attempt_id", "outcome"))


def write_dead_file(directory: Path, content: bytes, owner: str = "gone-99999-5", seq: int = 0) -> Path:
    """A file whose owner is no more."""
    path = directory / f"{owner}-{seq}.journal"
    path.write_bytes(content)
    return path


def test_a_settled_attempt_becomes_one_row_with_everything_on_it(journal: Journal, drainer: Drainer) -> None:
    journal.intent(make_intent(1))
    final = make_final(
        1,
        "truncated",
        error_class="StreamBroken",
        client_disconnected=True,
        served_model="small-2026-09",
        translated=True,
    )
    journal.final(final)
    report = drainer.drain_once()
    assert (report.rows, report.pending, report.error) == (1, 0, "")
    row = UsageRecord.objects.get()
    assert (row.attempt_id, row.request_id, row.number) == ("att-1", "req-0", 2)
    assert row.started_at == datetime.fromtimestamp(STARTED + 1, UTC)
    assert row.ended_at == datetime.fromtimestamp(STARTED + 2.5, UTC)
    assert (row.provider, row.model, row.team, row.key_id) == ("acme", "small", "research", "key-1")
    assert (row.outcome, row.error_class, row.client_disconnected) == ("truncated", "StreamBroken", True)
    assert (row.served_model, row.translated, row.first_token_ms) == ("small-2026-09", True, 120)
    assert (row.input, row.output, row.searches) == (1001, 10, 1)
    assert row.cost_nanos == settled_cost(1)
    assert (row.price_version, row.price_rates) == ("price-7", dict(RATES))
    assert (row.usage_source, row.raw_usage) == ("provider", {"prompt_tokens": 1001})


def test_an_attempt_without_a_first_token_or_a_price_says_so(journal: Journal, drainer: Drainer) -> None:
    journal.intent(make_intent(1, price_rates=None, price_version=""))
    journal.final(make_final(1, first_token_ms=-1, cost_nanos=None))
    drainer.drain_once()
    row = UsageRecord.objects.get()
    assert (row.first_token_ms, row.cost_nanos, row.price_rates) == (None, None, None)


def test_an_open_attempt_waits_for_its_final_and_others_do_not_wait_for_it(
    journal: Journal, drainer: Drainer
) -> None:
    for number in range(4):
        journal.intent(make_intent(number))
    journal.final(make_final(2))
    report = drainer.drain_once()
    assert (list_outcomes(), report.pending) == ({"att-2": "completed"}, 3)
    assert report.backlog_bytes > 0
    for number in (0, 1, 3):
        journal.final(make_final(number))
    assert drainer.drain_once().backlog_bytes == 0
    assert len(list_outcomes()) == 4


def test_the_oldest_open_attempt_is_told(tmp_path: Path, journal: Journal) -> None:
    drainer = make_drainer(tmp_path, clock=lambda: STARTED + 10)
    assert drainer.drain_once().oldest_pending_seconds == 0
    for number in range(3):
        journal.intent(make_intent(number, team="" if number else "\x00"))
    for oldest in (0, 1, 2):
        assert drainer.drain_once().oldest_pending_seconds == 10 - oldest
        journal.final(make_final(oldest))
    drainer.close()


def test_a_restarted_drain_remembers_open_attempts_by_reading_them_again(
    tmp_path: Path, journal: Journal
) -> None:
    journal.intent(make_intent(0))
    journal.intent(make_intent(1))
    journal.final(make_final(1))
    first = make_drainer(tmp_path)
    first.drain_once()
    first.close()
    journal.final(make_final(0))
    second = make_drainer(tmp_path)
    report = second.drain_once()
    second.close()
    assert (report.pending, report.quarantined) == (0, 0)
    assert list_outcomes() == {"att-0": "completed", "att-1": "completed"}


def test_draining_twice_changes_nothing(tmp_path: Path, journal: Journal) -> None:
    for number in range(10):
        journal.intent(make_intent(number))
        journal.final(make_final(number))
    for _ in range(3):
        JournalFile.objects.all().delete()
        drainer = make_drainer(tmp_path)
        assert drainer.drain_once().quarantined == 0
        drainer.close()
    assert UsageRecord.objects.count() == 10


def test_the_same_record_written_twice_is_one_row(journal: Journal, drainer: Drainer) -> None:
    for _ in range(2):
        journal.intent(make_intent(1))
        journal.final(make_final(1))
        journal.final(make_final(1))
    drainer.drain_once()
    assert list_outcomes() == {"att-1": "completed"}


def test_depth_falls_to_zero_when_everything_is_settled(tmp_path: Path, journal: Journal) -> None:
    drainer = make_drainer(tmp_path, on_drained=journal.note_drained)
    for number in range(5):
        journal.intent(make_intent(number))
    for number in range(4):
        journal.final(make_final(number))
    drainer.drain_once()
    assert journal.depth == 1
    journal.final(make_final(4))
    drainer.drain_once()
    drainer.close()
    assert journal.depth == 0


def test_what_a_closed_journal_left_open_is_settled_from_the_estimate(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    drainer = make_drainer(tmp_path)
    journal.intent(make_intent(1))
    assert drainer.drain_once().pending == 1
    journal.close()
    assert drainer.drain_until_empty(30)
    row = UsageRecord.objects.get()
    assert (row.outcome, row.usage_source, row.usage_method) == ("unsettled", "estimated", UNSETTLED_METHOD)
    assert (row.input, row.output, row.ended_at) == (101, 0, None)
    assert row.cost_nanos == 252_500  # 101 * 2,500,000,001 / 10^6 = 252,500.000101
    assert list(tmp_path.glob("*.journal")) == []
    assert JournalFile.objects.count() == 0
    drainer.close()


def test_rotated_segments_go_once_settled_and_pairs_meet_across_them(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segment_bytes=3000)
    drainer = make_drainer(tmp_path, batch=7)
    for number in range(40):
        journal.intent(make_intent(number))
        if number >= 5:
            journal.final(make_final(number - 5))
    segments = len(list_segments(tmp_path))
    report = drainer.drain_once()
    assert (report.rows, report.pending) == (35, 5)
    assert 0 < len(list_segments(tmp_path)) < segments
    for number in range(35, 40):
        journal.final(make_final(number))
    drainer.drain_once()
    assert len(list_segments(tmp_path)) == 1
    assert set(list_outcomes().values()) == {"completed"}
    journal.close()
    drainer.close()


def test_the_file_of_a_living_stranger_is_left_alone(tmp_path: Path, journal: Journal) -> None:
    journal.intent(make_intent(1))
    stranger = make_drainer(tmp_path, instance="other")
    report = stranger.drain_once()
    stranger.close()
    assert (report.rows, report.pending, UsageRecord.objects.count()) == (0, 0, 0)
    assert len(list_segments(tmp_path)) == 1


def test_a_torn_last_line_is_kept_aside_and_its_attempt_is_unsettled(
    tmp_path: Path, drainer: Drainer
) -> None:
    torn = encode_final(make_final(1))[:-20]
    write_dead_file(
        tmp_path,
        encode_intent(make_intent(0)) + encode_intent(make_intent(1)) + encode_final(make_final(0)) + torn,
    )
    report = drainer.drain_once()
    assert (report.rows, report.unsettled, report.quarantined, report.files_removed) == (2, 1, 1, 1)
    assert list_outcomes() == {"att-0": "completed", "att-1": "unsettled"}
    kept = list_kept(tmp_path / "gone-99999-5.quarantine")
    assert [(item.reason, item.lines) for item in kept] == [("torn last line", (torn,))]


def test_a_damaged_line_in_the_middle_is_kept_aside_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        encode_intent(make_intent(0)),
        encode_final(make_final(0)),
        encode_intent(make_intent(1)),
        encode_final(make_final(1)),
    ]
    damaged = lines[2].replace(b"acme", b"ACME")
    content = lines[0] + damaged + lines[1] + lines[3]
    path = write_dead_file(tmp_path, content)
    for _ in range(2):
        JournalFile.objects.all().delete()
        path.write_bytes(content)
        drainer = make_drainer(tmp_path)
        drainer.drain_once()
        drainer.close()
    assert list_outcomes() == {"att-0": "completed"}
    kept = list_kept(tmp_path / "gone-99999-5.quarantine")
    assert [item.reason for item in kept] == ["checksum differs", "a final without its intent"]
    assert [item.lines[0] + b"\n" for item in kept] == [damaged, lines[3]]


def test_a_row_that_the_database_refuses_does_not_block_the_others(tmp_path: Path, drainer: Drainer) -> None:
    poison = {
        3: make_final(3, usage=Usage(input=2**70)),
        5: make_final(5, usage=Usage(output=-1)),
        8: make_final(8, ended_at=1e300),
        9: make_final(9, cost_nanos=-5),
    }
    content = b"".join(
        encode_intent(make_intent(number)) + encode_final(poison.get(number) or make_final(number))
        for number in range(20)
    )
    write_dead_file(tmp_path, content + encode_intent(make_intent(50, attempt_id="x" * 100)))
    report = drainer.drain_once()
    assert (report.error, report.quarantined, report.rows) == ("", 5, 16)
    assert set(list_outcomes()) == {f"att-{number}" for number in range(20) if number not in poison}
    kept = list_kept(tmp_path / "gone-99999-5.quarantine")
    held = {item.lines[0] + b"\n" for item in kept}
    assert held == {encode_intent(make_intent(n)) for n in poison} | {
        encode_intent(make_intent(50, attempt_id="x" * 100))
    }
    assert list_segments(tmp_path) == []


def test_a_vendors_strange_usage_object_is_stored_clean(journal: Journal, drainer: Drainer) -> None:
    raw = {
        "nul\x00": "a\x00b",
        "half": "\ud83d",
        "pair": "\ud83d\ude00",
        "huge": 10**40,
        "inf": float("inf"),
        "deep": [[1]],
    }
    journal.intent(make_intent(1))
    journal.final(make_final(1, error_detail="x\x00\udc00" + "y" * 2000, usage=Usage(input=1, raw=raw)))
    report = drainer.drain_once()
    assert (report.rows, report.quarantined) == (1, 0)
    row = UsageRecord.objects.get()
    assert row.raw_usage is not None
    assert row.raw_usage["nul\ufffd"] == "a\ufffdb"
    assert row.raw_usage["half"] == "\ufffd"
    assert row.raw_usage["pair"] == "\U0001f600"
    assert row.raw_usage["huge"] == hex(10**40)
    assert row.raw_usage["deep"] == [[1]]
    assert row.error_detail == "x\ufffd\ufffd" + "y" * 497


def test_what_is_valid_json_but_not_valid_in_a_database_is_cleaned_too(
    journal: Journal, drainer: Drainer
) -> None:
    journal.intent(make_intent(1))
    journal.final(make_final(1, usage=Usage(input=1, raw={"nul\x00": "a\x00b", "huge": 10**40})))
    assert drainer.drain_once().quarantined == 0
    assert UsageRecord.objects.get().raw_usage == {"nul\ufffd": "a\ufffdb", "huge": hex(10**40)}


def test_a_crash_between_commit_and_deletion_changes_nothing(tmp_path: Path) -> None:
    write_dead_file(
        tmp_path, encode_intent(make_intent(0)) + encode_intent(make_intent(1)) + encode_final(make_final(0))
    )

    def fail(path: Path) -> None:
        raise OSError("the process dies here")

    crashed = make_drainer(tmp_path, remove=fail)
    assert "dies here" in crashed.drain_once().error
    crashed.close()
    assert list_outcomes() == {"att-0": "completed", "att-1": "unsettled"}
    assert len(list_segments(tmp_path)) == 1
    drainer = make_drainer(tmp_path)
    report = drainer.drain_once()
    drainer.close()
    assert (report.rows, report.quarantined, report.files_removed) == (0, 0, 1)
    assert list_outcomes() == {"att-0": "completed", "att-1": "unsettled"}
    assert JournalFile.objects.count() == 0


def test_an_unusable_ledger_loses_nothing_and_is_used_again_by_itself(
    journal: Journal, drainer: Drainer
) -> None:
    journal.intent(make_intent(0))
    journal.final(make_final(0))
    rename_table("usage_journalfile", "usage_journalfile_away")
    try:
        for number in range(1, 4):
            report = drainer.drain_once()
            assert (bool(report.error), report.rows) == (True, 0)
            journal.intent(make_intent(number))
            journal.final(make_final(number))
    finally:
        rename_table("usage_journalfile_away", "usage_journalfile")
    report = drainer.drain_once()
    assert (report.error, report.rows, len(list_outcomes())) == ("", 4, 4)


def rename_table(before: str, after: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {before} RENAME TO {after}")


def test_drains_at_the_same_time_make_no_duplicates(tmp_path: Path) -> None:
    numbers = range(120)
    for part in range(4):
        content = b"".join(
            encode_intent(make_intent(number)) + encode_final(make_final(number))
            for number in numbers
            if number % 4 == part
        )
        write_dead_file(tmp_path, content, owner=f"gone-{part}-5")
    drainers = [make_drainer(tmp_path, batch=9) for _ in range(3)]

    def drain(drainer: Drainer) -> None:
        drainer.drain_until_empty(30)
        drainer.close()
        close_connection()

    threads = [threading.Thread(target=drain, args=(drainer,)) for drainer in drainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    last = make_drainer(tmp_path)
    assert last.drain_until_empty(30)
    last.close()
    assert list_outcomes() == {f"att-{number}": "completed" for number in numbers}
    assert list_segments(tmp_path) == []


def test_the_thread_drains_until_it_is_stopped(tmp_path: Path, journal: Journal) -> None:
    drainer = make_drainer(tmp_path, interval=0.01, on_drained=journal.note_drained)
    stop = threading.Event()

    def run() -> None:
        drainer.run(stop)
        drainer.close()
        close_connection()

    thread = threading.Thread(target=run)
    thread.start()
    for number in range(30):
        journal.intent(make_intent(number))
        journal.final(make_final(number))
    wait = threading.Event()
    for _ in range(3000):
        if journal.depth == 0:
            break
        wait.wait(0.01)
    stop.set()
    thread.join(30)
    assert UsageRecord.objects.count() == 30


@pytest.mark.parametrize(("attempts", "least", "most"), [(100, 9, 9), (3000, 60, 250)])
def test_the_thread_gives_way_between_small_pieces_of_work_unless_there_is_a_backlog(
    tmp_path: Path, journal: Journal, attempts: int, least: int, most: int
) -> None:
    for number in range(attempts):
        journal.intent(make_intent(number))
        journal.final(make_final(number))
    stop, pauses = threading.Event(), []
    drainer = make_drainer(tmp_path, sleep=pauses.append, on_drained=lambda _: stop.set())
    drainer.run(stop)
    assert UsageRecord.objects.count() == attempts
    assert least <= len(pauses) <= most, "six of 200 lines and three of 100 rows; none in what is a backlog"
    assert set(pauses) == {0.001}

    pauses.clear()
    journal.intent(make_intent(attempts))
    journal.final(make_final(attempts))
    assert drainer.drain_until_empty(5)
    drainer.close()
    assert pauses == [], "nobody is served any more when the rest is drained at the end"


def test_killed_writers_leave_exactly_one_row_for_each_attempt(tmp_path: Path, drainer: Drainer) -> None:
    for lines in (1, 40, 333):
        directory = tmp_path / f"after-{lines}"
        directory.mkdir()
        process = start_process("write_until_killed", directory)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.read().splitlines()
        process.communicate(timeout=30)
        _check_killed(directory, [line.split() for line in said if line.strip()])


def _check_killed(directory: Path, said: list[list[str]]) -> None:
    intents = {f"att-{number}" for word, number in said if word == "intent"}
    finals = {f"att-{number}" for word, number in said if word == "final"}
    before = set(list_outcomes())
    drainer = make_drainer(directory)
    assert drainer.drain_until_empty(30)
    drainer.close()
    outcomes = list_outcomes()
    assert intents <= set(outcomes)
    assert len(set(outcomes) - intents - before) <= 1  # written, but killed before it could say so
    assert {outcomes[attempt] for attempt in finals} <= {"completed"}
    assert list(directory.glob("*.journal")) == []
    assert UsageRecord.objects.filter(outcome="completed").exclude(cost_nanos__gt=0).count() == 0
    with open_ledger_door("the next kill begins with an empty ledger"):
        UsageRecord.objects.all()._raw_delete("default")


def test_the_command_settles_what_dead_processes_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dead_file(
        tmp_path, encode_intent(make_intent(1)) + encode_final(make_final(1)) + encode_intent(make_intent(2))
    )
    call_command("usage_drain", str(tmp_path))
    assert capsys.readouterr().out == "2 rows (1 unsettled), 0 kept aside, 1 files done\n"
    assert list_outcomes() == {"att-1": "completed", "att-2": "unsettled"}


def test_the_command_refuses_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no directory"):
        call_command("usage_drain", str(tmp_path / "absent"))


def test_a_copy_of_a_drained_file_put_back_changes_nothing(tmp_path: Path, drainer: Drainer) -> None:
    path = write_dead_file(tmp_path, encode_intent(make_intent(1)) + encode_final(make_final(1)))
    copy = shutil.copy(path, tmp_path / "copy")
    drainer.drain_once()
    os.rename(copy, path)
    drainer.drain_once()
    assert UsageRecord.objects.count() == 1
