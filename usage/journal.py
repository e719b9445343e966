"""The journal: what the data plane writes before and after every upstream attempt, into local files. Pure; no Django.

`intent()` and `final()` are called on the event loop: each is one `os.write` into the page cache, so a killed process loses
nothing that it wrote. A thread syncs to the disk in groups, so a power cut loses at most the sync interval. If the disk takes
no more, intents are refused (admission stops) and finals wait in memory, bounded and counted.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.errors import NotReady
from usage._journal_files import clean_instance, create_locked, free_bytes, make_name
from usage._journal_format import (
    DamagedLine,
    Record,
    SegmentEnd,
    encode_final,
    encode_intent,
    encode_mark,
    read_records,
)

__all__ = [
    "DamagedLine",
    "Journal",
    "JournalStats",
    "JournalUnavailable",
    "Record",
    "SegmentEnd",
    "read_records",
]

SEGMENT_BYTES = 64 << 20
MIN_FREE_BYTES = 128 << 20
"""Intents stop while the disk has less than this left; the reserve is for the finals of what is in flight."""

MAX_WAITING_FINALS = 10_000
_IDLE_SECONDS = 0.25
_FLUSH_AT_ONCE = 100
_OPEN_TRIES = 100
_CLOSE_SECONDS = 10.0


class JournalUnavailable(NotReady):
    """The journal takes no intents now: the disk is full or failing, or the journal is closed."""


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counters of one process since its journal opened; `depth` and `finals_waiting` are of this moment.

    `depth` is lines written but not yet reported as drained; `finals_lost` did not fit into memory while the disk was full
    (their intents become unsettled rows).
    """

    lines: int
    bytes: int
    syncs: int
    errors: int
    segments: int
    depth: int
    finals_waiting: int
    finals_lost: int
    unavailable_seconds: float


class Journal:
    """One process's append-only journal in `directory`. `intent` and `final` are thread-safe and don't wait for the disk.

    `clock` gives Unix seconds; `sync_interval` is seconds; a segment is replaced after `segment_bytes`. Opening never raises:
    a directory that can't be written makes the journal unavailable, and it recovers by itself.
    """

    def __init__(
        self,
        directory: Path,
        *,
        instance: str,
        clock: Callable[[], float] = time.time,
        sync_interval: float = 0.05,
        segment_bytes: int = SEGMENT_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
        max_waiting: int = MAX_WAITING_FINALS,
    ) -> None:
        self.directory = Path(directory)
        self.instance = clean_instance(instance)
        self._clock = clock
        self._sync_interval = sync_interval
        self._segment_bytes = segment_bytes
        self._min_free_bytes = min_free_bytes
        self._max_waiting = max_waiting
        self._last_error = ""
        self._lines = self._bytes = self._drained = self._errors = self._syncs = self._segments = (
            self._lost
        ) = 0
        self._unavailable_seconds = 0.0
        self._become_owner()
        _open_journals.add(self)
        with self._lock, self._failing_on_error():
            self._rotate()
        self._check_space()

    def _become_owner(self) -> None:
        """The state that belongs to one process: a forked child starts again from here."""
        self._epoch = int(self._clock() * 1e9)
        self._seq = 0
        self._fd = -1
        self._size = 0
        self._retired: list[int] = []
        self._unsynced: list[int] = []
        self._waiting: deque[bytes] = deque()
        self._dirty = self._directory_dirty = self._broken_line = self._suspect = self._closed = False
        self._failure = self._low_space = ""
        self._unavailable_since: float | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def available(self) -> bool:
        """Whether `intent` would be taken now."""
        return not (self._failure or self._low_space or self._closed)

    @property
    def last_error(self) -> str:
        """The latest reason for being unavailable or for a failed write; stays after recovery. Empty: none yet."""
        return self._last_error

    @property
    def depth(self) -> int:
        """Lines written by this process and not yet reported by `note_drained`."""
        return self._lines - self._drained

    def note_drained(self, lines: int) -> None:
        """The drain of this process says how many more of its lines are settled in the ledger."""
        self._drained += lines

    def stats(self) -> JournalStats:
        """The counters of this moment."""
        since = self._unavailable_since
        current = max(0.0, self._clock() - since) if since is not None else 0.0
        return JournalStats(
            lines=self._lines,
            bytes=self._bytes,
            syncs=self._syncs,
            errors=self._errors,
            segments=self._segments,
            depth=self.depth,
            finals_waiting=len(self._waiting),
            finals_lost=self._lost,
            unavailable_seconds=self._unavailable_seconds + current,
        )

    def intent(self, intent: AttemptIntent) -> None:
        """Writes the intent. Raises JournalUnavailable: then nothing may be sent upstream."""
        line = encode_intent(intent)
        with self._lock:
            if self._failure or self._low_space or self._closed:
                raise self._refusal()
            try:
                self._write(line)
            except OSError as error:
                self._fail(error)
                raise self._refusal() from error

    def final(self, final: AttemptFinal) -> None:
        """Writes the final, or keeps it in memory until the disk takes it. Never raises for the disk's sake."""
        line = encode_final(final)
        with self._lock:
            if not (self._failure or self._closed):
                try:
                    self._write(line)
                    return
                except OSError as error:
                    self._fail(error)
            if self._closed or len(self._waiting) >= self._max_waiting:
                self._lost += 1
            else:
                self._waiting.append(line)

    def close(self) -> None:
        """Writes what waits, syncs, ends the segment and gives up the lock; what is still open may now be adopted."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        with self._lock, self._failing_on_error():
            self._flush_waiting(len(self._waiting))
            self._write(encode_mark(b"E"), 0)
        self._lost += len(self._waiting)
        self._waiting.clear()
        self._sync()
        for fd in [self._fd, *self._retired]:
            if fd >= 0:
                os.close(fd)
        self._fd, self._retired = -1, []

    def _refusal(self) -> JournalUnavailable:
        reason = "it is closed" if self._closed else self._failure or self._low_space
        return JournalUnavailable(
            f"Accounting is not available: {reason}.",
            hint="No request is sent that could not be accounted for. Free disk space in the journal's directory.",
            retry_after=1.0,
        )

    @contextlib.contextmanager
    def _failing_on_error(self) -> Iterator[None]:
        """Turns an OSError into the unavailable state instead of raising it. The lock is held."""
        try:
            yield
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._errors += 1
        self._failure = self._last_error = f"the journal can't be written ({error.strerror or error})"
        self._note_availability()
        self._wake.set()

    def _note_availability(self) -> None:
        """Keeps the time spent unavailable, across overlapping reasons."""
        if self._failure or self._low_space:
            if self._unavailable_since is None:
                self._unavailable_since = self._clock()
        elif self._unavailable_since is not None:
            self._unavailable_seconds += max(0.0, self._clock() - self._unavailable_since)
            self._unavailable_since = None

    def _write(self, line: bytes, records: int = 1) -> None:
        """Appends one line whole, or raises OSError and leaves the file parseable. The lock is held."""
        if self._fd < 0 or self._size >= self._segment_bytes or self._suspect:
            self._rotate()
        if self._broken_line:
            line = b"\n" + line
        written = os.write(self._fd, line)
        if written != len(line):
            self._write_rest(line, written)
        self._broken_line = False
        self._size += len(line)
        self._bytes += len(line)
        self._lines += records
        if not self._dirty:
            self._dirty = True
            self._wake.set()

    def _write_rest(self, line: bytes, written: int) -> None:
        """After a short write: the rest, or the line is taken back. A reader meanwhile sees a line without its end."""
        try:
            while written < len(line):
                more = os.write(self._fd, line[written:])
                if not more:
                    raise OSError(f"the disk took {written} of {len(line)} bytes")
                written += more
        except OSError:
            self._take_back()
            raise

    def _take_back(self) -> None:
        """Cuts a partial line off; where that fails too, the next write begins with a newline, which makes it damage."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken_line = True

    def _rotate(self) -> None:
        """Opens the next segment and retires the one before, whose lock is kept until the drain has deleted it.

        Were it given up now, another process could adopt it and settle attempts whose finals are still to come.
        """
        if self._thread is None:
            self._start_thread()
        before, broken = self._fd, self._broken_line
        self._open_segment()
        if before < 0:
            return
        self._retired.append(before)
        self._unsynced.append(before)
        with contextlib.suppress(
            OSError
        ):  # without its end mark the drain keeps the file until this process is gone
            os.write(before, (b"\n" if broken else b"") + encode_mark(b"E"))

    def _open_segment(self) -> None:
        """Creates the next file of this owner, locked. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(_OPEN_TRIES):
            name = make_name(self.instance, os.getpid(), self._epoch, self._seq)
            try:
                self._fd = create_locked(self.directory / name.file_name)
            except FileExistsError:
                # Under a clock that stood still another owner has this name: an owner's first file decides its name.
                self._epoch += not self._seq
                continue
            self._seq += 1
            self._size = 0
            self._segments += 1
            self._directory_dirty = self._dirty = True
            self._broken_line = self._suspect = False
            return
        raise FileExistsError(f"no free file name after {_OPEN_TRIES} tries")

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tokenhub-journal-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """The sync thread: syncs at most once per interval, watches the disk's space, and brings the journal back."""
        while not self._stop.is_set():
            self._wake.wait(_IDLE_SECONDS)
            self._wake.clear()
            self._sync()
            self._check_space()
            self._recover()
            self._close_deleted()
            self._stop.wait(self._sync_interval)

    def _sync(self) -> None:
        """Makes everything written so far durable. Only this thread closes descriptors, so they stay valid unlocked."""
        with self._lock:
            dirty, self._dirty = self._dirty, False
            directory_dirty, self._directory_dirty = self._directory_dirty, False
            descriptors, self._unsynced = self._unsynced, []
            if dirty and self._fd >= 0:
                descriptors.append(self._fd)
        try:
            for fd in descriptors:
                os.fdatasync(fd)
                self._syncs += 1
            if directory_dirty:
                self._sync_directory()
        except OSError as error:
            with self._lock:
                # After a failed sync the kernel may have dropped pages: later records go to a new file.
                self._suspect = True
                self._fail(error)

    def _sync_directory(self) -> None:
        """A new file's name is durable only when its directory is synced."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _check_space(self) -> None:
        """Refuses intents while the disk is nearly full, with room left for the finals."""
        try:
            free = free_bytes(self.directory)
        except OSError:
            return  # a directory that is not there yet or gone: the next write says so, or makes it
        low = f"the journal's disk has {free} bytes left, under {self._min_free_bytes}"
        with self._lock:
            self._low_space = low if free < self._min_free_bytes else ""
            self._last_error = self._low_space or self._last_error
            self._note_availability()

    def _recover(self) -> None:
        """After a failed write: probes the disk, writes the waiting finals, takes intents again."""
        while self._failure or self._waiting:
            with self._lock:
                if self._closed:
                    return
                try:
                    if self._failure:
                        self._write(encode_mark(b"N"), 0)
                    self._flush_waiting(_FLUSH_AT_ONCE)
                except OSError as error:
                    self._fail_again(error)
                    return
                if not self._waiting:
                    self._failure = ""
                    self._note_availability()

    def _fail_again(self, error: OSError) -> None:
        """A retry that failed is counted and does not wake the thread, which would spin."""
        self._fail(error)
        self._wake.clear()

    def _flush_waiting(self, count: int) -> None:
        """Writes up to `count` waiting finals, the oldest first. Raises OSError; what was not written stays."""
        for _ in range(min(count, len(self._waiting))):
            self._write(self._waiting[0])
            self._waiting.popleft()

    def _close_deleted(self) -> None:
        """Gives up retired segments that the drain has deleted."""
        with self._lock:
            gone = [fd for fd in self._retired if not os.fstat(fd).st_nlink]
            self._retired = [fd for fd in self._retired if fd not in gone]
            self._unsynced = [fd for fd in self._unsynced if fd not in gone]
        for fd in gone:
            os.close(fd)

    def _forget_parent(self) -> None:
        """In a forked child: the parent's files are not ours. Closing our copies leaves its locks alone.

        Were they kept, the parent's files would stay locked after its death for as long as the child lives.
        """
        for fd in [self._fd, *self._retired]:
            if fd >= 0:
                os.close(fd)
        closed = self._closed
        self._become_owner()
        self._closed = closed
        self._lines = self._bytes = self._drained = 0


_open_journals: WeakSet[Journal] = WeakSet()


def _forget_parents() -> None:
    for journal in list(_open_journals):
        journal._forget_parent()


os.register_at_fork(after_in_child=_forget_parents)
