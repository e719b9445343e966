"""The journal: what it writes, when it refuses, and what survives its process."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.usage.cast import make_final, make_intent
from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.errors import NotReady
from tokenhub.core.usage import Usage
from usage._journal_files import find_name, list_segments, open_and_try_lock
from usage._journal_format import (
    MAX_LINE_BYTES,
    DamagedLine,
    SegmentEnd,
    decode_line,
    encode_final,
    encode_intent,
    read_lines,
)
from usage.journal import Journal, JournalUnavailable, read_records

DEADLINE = 30.0


def wait_until(condition: Callable[[], bool]) -> bool:
    """Polls a condition that another thread or process brings about; False after a long time."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def open_journal(directory: Path, **options: object) -> Journal:
    values: dict[str, object] = {"instance": "node", "min_free_bytes": 0}
    return Journal(directory, **(values | options))  # type: ignore[arg-type]


def read_all(directory: Path) -> list[object]:
    """Every record of a directory in order of writing."""
    return [
        record
        for name in list_segments(directory)
        for _, record in read_records(directory / name.file_name, 0)
    ]


def start_process(scene: str, directory: Path, *wrapper: str) -> subprocess.Popen[str]:
    command = [*wrapper, sys.executable, "-m", "tests.usage.journal_process", scene, str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.intent(make_intent(1))
    journal.final(make_final(1))
    assert read_all(tmp_path) == [make_intent(1), make_final(1)]
    journal.close()
    assert read_all(tmp_path) == [make_intent(1), make_final(1), SegmentEnd()]


def test_a_record_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, sync_interval=3600)
    path = tmp_path / list_segments(tmp_path)[0].file_name
    before = path.stat().st_size
    journal.intent(make_intent(1))
    assert path.stat().st_size == before + len(encode_intent(make_intent(1)))
    journal.close()


TEXT = st.text(alphabet=st.characters(codec=None), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(detail=TEXT, raw=st.dictionaries(TEXT, JSON, max_size=4), tokens=st.integers(0, 2**62))
def test_any_text_and_any_vendor_object_makes_one_readable_line(
    detail: str, raw: dict[str, object], tokens: int
) -> None:
    final = make_final(1, error_detail=detail, usage=Usage(input=tokens, raw=raw))
    line = encode_final(final)
    record = decode_line(line.rstrip(b"\n"))
    assert line.count(b"\n") == 1
    assert isinstance(record, AttemptFinal)
    assert (record.attempt_id, record.usage.input) == (final.attempt_id, tokens)


def test_a_giant_vendor_object_is_left_out_and_the_figures_stay(tmp_path: Path) -> None:
    final = make_final(1, usage=Usage(input=5, raw={"x": "y" * 5_000_000}), error_detail="z" * 5_000_000)
    record = decode_line(encode_final(final).rstrip(b"\n"))
    assert isinstance(record, AttemptFinal)
    assert (record.usage.input, len(record.error_detail)) == (5, 1000)
    assert record.usage.raw is not None
    assert record.usage.raw["tokenhub_dropped_bytes"] > 10_000_000


def test_a_deeply_nested_vendor_object_does_not_break_the_line() -> None:
    nested: dict[str, object] = {}
    for _ in range(5000):
        nested = {"in": nested}
    record = decode_line(encode_final(make_final(1, usage=Usage(input=5, raw=nested))).rstrip(b"\n"))
    assert isinstance(record, AttemptFinal)
    assert record.usage.input == 5


@given(st.data())
def test_one_changed_byte_is_noticed(data: st.DataObject) -> None:
    line = encode_intent(make_intent(1)).rstrip(b"\n")
    place = data.draw(st.integers(0, len(line) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda item: item not in (line[place], 10)))
    assert isinstance(decode_line(line[:place] + bytes([value]) + line[place + 1 :]), DamagedLine)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise(line: bytes) -> None:
    assert isinstance(decode_line(line), DamagedLine)


def test_a_field_of_a_newer_version_is_set_aside_not_dropped() -> None:
    payload = b'{"attempt_id":"a","outcome":"completed","ended_at":1.0,"surcharge_nanos":5}'
    crc = crc32(b"F1 " + payload)
    record = decode_line(b"F1 %08x %b" % (crc, payload))
    assert isinstance(record, DamagedLine)
    assert "surcharge_nanos" in record.reason


def test_an_unfinished_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    first, second = encode_intent(make_intent(1)), encode_intent(make_intent(2))
    path.write_bytes(first + second[:-5])
    assert list(read_records(path, 0)) == [(len(first), make_intent(1))]
    path.write_bytes(first + second)
    assert list(read_records(path, len(first))) == [(len(first) + len(second), make_intent(2))]


def test_a_line_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long"
    lines = [b"a" * 10, b"b" * 300_000, b"c" * (MAX_LINE_BYTES - 1), b"d" * 10]
    path.write_bytes(b"\n".join(lines) + b"\nunfinished")
    with path.open("rb") as stream:
        found = list(read_lines(stream, 0))
    assert [line for _, line in found] == lines
    assert found[-1][0] == path.stat().st_size - len(b"unfinished")


def test_damage_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(encode_intent(make_intent(1)) + b"\x00" * 500 + b"\n" + encode_intent(make_intent(2)))
    records = [record for _, record in read_records(path, 0)]
    assert records == [
        make_intent(1),
        DamagedLine(b"\x00" * 500, "no known kind and version"),
        make_intent(2),
    ]


def test_megabytes_without_a_newline_are_damage_in_bounded_pieces(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"\x00" * (2 * MAX_LINE_BYTES + 10) + b"\n" + encode_intent(make_intent(2)))
    records = [record for _, record in read_records(path, 0)]
    assert [type(record) for record in records] == [DamagedLine, DamagedLine, DamagedLine, AttemptIntent]


def test_segments_rotate_and_the_old_one_stays_locked_until_it_is_deleted(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segment_bytes=2000, sync_interval=0.001)
    for number in range(5):
        journal.intent(make_intent(number))
    names = list_segments(tmp_path)
    assert len(names) >= 2
    assert [record for record in read_all(tmp_path) if record != SegmentEnd()] == [
        make_intent(n) for n in range(5)
    ]
    path = tmp_path / names[0].file_name
    opened = open_and_try_lock(path)
    assert opened is not None
    assert opened[1] is False
    path.unlink()
    assert wait_until(lambda: _can_lock(opened[0]))
    os.close(opened[0])
    journal.close()


def _can_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_closed_journal_refuses_intents_and_gives_its_lock_up(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.close()
    with pytest.raises(JournalUnavailable) as caught:
        journal.intent(make_intent(1))
    assert isinstance(caught.value, NotReady)
    assert caught.value.retry_after
    journal.final(make_final(1))
    assert journal.stats().finals_lost == 1
    opened = open_and_try_lock(tmp_path / list_segments(tmp_path)[0].file_name)
    assert opened is not None
    assert opened[1] is True
    os.close(opened[0])


def test_what_was_written_is_synced_within_the_interval(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, sync_interval=0.01)
    assert wait_until(lambda: journal.stats().syncs >= 1)
    before = journal.stats().syncs
    for number in range(50):
        journal.intent(make_intent(number))
    assert wait_until(lambda: journal.stats().syncs > before)
    assert journal.stats().syncs - before < 50
    journal.close()


def test_intents_stop_while_the_disk_is_nearly_full_and_finals_do_not(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, min_free_bytes=2**62)
    assert not journal.available
    with pytest.raises(JournalUnavailable, match="bytes left"):
        journal.intent(make_intent(1))
    journal.final(make_final(1))
    assert read_all(tmp_path) == [make_final(1)]
    assert journal.stats().unavailable_seconds > 0
    journal.close()


def test_a_directory_that_can_not_be_made_stops_admission_until_it_can(tmp_path: Path) -> None:
    blocker = tmp_path / "blocked"
    blocker.write_text("a file stands in the way")
    journal = open_journal(blocker / "journal", sync_interval=0.001)
    with pytest.raises(JournalUnavailable):
        journal.intent(make_intent(1))
    assert journal.last_error
    blocker.unlink()
    assert wait_until(lambda: journal.available)
    journal.intent(make_intent(1))
    assert read_all(blocker / "journal") == [make_intent(1)]
    journal.close()


def test_finals_wait_in_bounded_memory_and_overflow_is_counted(tmp_path: Path) -> None:
    blocker = tmp_path / "blocked"
    blocker.write_text("a file stands in the way")
    journal = open_journal(blocker / "journal", max_waiting=3)
    for number in range(5):
        journal.final(make_final(number))
    stats = journal.stats()
    assert (stats.finals_waiting, stats.finals_lost) == (3, 2)
    blocker.unlink()
    journal.close()
    assert read_all(blocker / "journal") == [*[make_final(n) for n in range(3)], SegmentEnd()]


def test_depth_counts_lines_until_they_are_drained(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.intent(make_intent(1))
    journal.final(make_final(1))
    journal.note_drained(1)
    assert journal.depth == 1
    journal.close()


def test_a_file_size_limit_hit_inside_a_line_leaves_whole_lines_and_loses_no_final(tmp_path: Path) -> None:
    process = start_process("fill_file_size_limit", tmp_path)
    output, errors = process.communicate(timeout=DEADLINE * 2)
    assert process.returncode == 0, errors
    _check_full_disk(output.splitlines(), read_all(tmp_path))


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare to mount a small tmpfs",
)
def test_a_full_disk_stops_admission_and_loses_no_final(tmp_path: Path) -> None:
    process = start_process("fill_disk", tmp_path, "unshare", "-m")
    output, errors = process.communicate(timeout=DEADLINE * 2)
    if "permission denied" in errors.lower() or "not permitted" in errors.lower():
        pytest.skip(f"mounting a tmpfs is not allowed here: {errors.strip()[-200:]}")
    assert process.returncode == 0, errors
    said, _, content = output.partition("end\n")
    records = [record for line in content.encode().splitlines() if (record := decode_line(line)) is not None]
    _check_full_disk([*said.splitlines(), "end"], records)


def _check_full_disk(said: list[str], records: Sequence[object]) -> None:
    """Intents that were taken are there, the refused one is not, every final is, and no line is damaged."""
    taken = {int(line.split()[1]) for line in said if line.startswith("intent")}
    refused = next(int(line.split()[1]) for line in said if line.startswith("refused"))
    waiting = next(line for line in said if line.startswith("waiting"))
    assert said[-2:] == ["recovered waiting 0 lost 0 unavailable True", "end"]
    assert waiting.split()[1] != "0"
    assert "available False" in waiting
    assert [record for record in records if isinstance(record, DamagedLine)] == []
    intents = [record.attempt_id for record in records if isinstance(record, AttemptIntent)]
    finals = [record.attempt_id for record in records if isinstance(record, AttemptFinal)]
    assert sorted(intents) == sorted(f"att-{number}" for number in taken)
    assert sorted(finals) == sorted(f"att-{number}" for number in range(refused))
    assert refused in taken


def test_a_forked_child_writes_its_own_file_and_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    process = start_process("fork_and_die", tmp_path)
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    try:
        process.wait(DEADLINE)
        by_pid = {name.pid: name for name in list_segments(tmp_path)}
        assert set(by_pid) == {process.pid, child}
        locks = {}
        for pid, name in by_pid.items():
            opened = open_and_try_lock(tmp_path / name.file_name)
            assert opened is not None
            locks[pid] = opened[1]
            os.close(opened[0])
        assert locks == {process.pid: True, child: False}
        assert next(iter(read_records(tmp_path / by_pid[child].file_name, 0)))[1] == make_intent(2)
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def test_two_journals_of_one_process_are_two_owners(tmp_path: Path) -> None:
    clock = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    journals = [open_journal(tmp_path, clock=lambda: next(clock, 1.0)) for _ in range(2)]
    owners = {name.owner for name in list_segments(tmp_path)}
    assert len(owners) == 2
    for journal in journals:
        journal.close()


def test_other_files_in_the_directory_are_no_segments() -> None:
    assert find_name("node-1-2-3.quarantine") is None
    assert find_name("node-1.journal") is None
    name = find_name("my-node-1-22-3.journal")
    assert name is not None
    assert (name.owner, name.instance, name.pid, name.epoch, name.seq) == (
        "my-node-1-22",
        "my-node",
        1,
        22,
        3,
    )


def test_importing_the_journal_loads_no_django() -> None:
    code = "import sys, usage.journal; sys.exit(any(name.split('.')[0] == 'django' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
