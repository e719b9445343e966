"""Reading one owner's journal files: pairing intents with finals, and how far each file is settled. No database here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from usage._journal_files import SegmentName, open_and_try_lock
from usage._journal_format import DamagedLine, SegmentEnd, decode_line, read_lines
from usage._plain_lines import Half, find_final_half, find_intent_half
from usage.quarantine import KeptAside
from usage.rows import LedgerRow, make_row, make_unsettled_row

GIVE_WAY_EVERY = 32
"""Lines or rows that are worked on in one go: some 0.2 ms."""


@dataclass(slots=True)
class Segment:
    """One file. `open` has each unsettled attempt's line start, in file order; `ended`: its owner writes no more into it."""

    name: SegmentName
    path: Path
    stream: BinaryIO
    read_offset: int = 0
    saved_offset: int = 0
    ended: bool = False
    open: dict[str, int] = field(default_factory=dict)

    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.stream.fileno()).st_size

    def start_at(self, offset: int) -> None:
        """What is before it is settled."""
        self.read_offset = self.saved_offset = min(offset, self.size())

    def settled_offset(self, settled: Container[str] = ()) -> int:
        """Everything before it is settled once the attempts in `settled` are committed."""
        return next(
            (start for attempt, start in self.open.items() if attempt not in settled), self.read_offset
        )


@dataclass(slots=True)
class Attempt:
    """An intent and where it stands. `final_line` None: not seen yet, or never to come. A half None: its line is not plain."""

    segment: Segment
    start: int
    intent_line: bytes
    intent_half: Half | None
    final_line: bytes | None = None
    final_half: Half | None = None

    def make_row(self) -> LedgerRow:
        """Its row. Raises ValueError, TypeError where no row can hold it."""
        if self.intent_half is not None and self.final_half is not None:
            return self.intent_half + self.final_half[1:]
        intent = self.decode_intent()
        if self.final_line is None:
            return make_unsettled_row(intent)
        final = decode_line(self.final_line)
        assert isinstance(final, AttemptFinal)
        return make_row(intent, final)

    def decode_intent(self) -> AttemptIntent:
        """The intent's record."""
        intent = decode_line(self.intent_line)
        assert isinstance(intent, AttemptIntent)
        return intent

    def kept_aside(self, reason: str) -> KeptAside:
        """The attempt's lines for the quarantine."""
        lines = (self.intent_line,) if self.final_line is None else (self.intent_line, self.final_line)
        return KeptAside(self.segment.path.name, self.start, reason, lines)


@dataclass(frozen=True, slots=True)
class Stray:
    """A final without an intent in reach."""

    segment: Segment
    start: int
    attempt_id: str
    line: bytes

    def kept_aside(self, reason: str) -> KeptAside:
        """Its line for the quarantine."""
        return KeptAside(self.segment.path.name, self.start, reason, (self.line,))


@dataclass(slots=True)
class Owner:
    """One owner's files in order of writing. `dead`: nobody writes them any more, and their locks are ours.

    `ready` are attempts whose end is known, `strays` finals without an intent in reach, `damaged` lines to keep aside:
    all of them wait for the commit that lets the offsets pass.
    """

    name: str
    segments: list[Segment]
    dead: bool
    pending: dict[str, Attempt] = field(default_factory=dict)
    ready: dict[str, Attempt] = field(default_factory=dict)
    strays: list[Stray] = field(default_factory=list)
    damaged: list[KeptAside] = field(default_factory=list)
    repeats: int = 0

    def waiting(self) -> int:
        """How much waits for a commit."""
        return len(self.ready) + len(self.strays) + len(self.damaged)

    def backlog_bytes(self) -> int:
        """Bytes on disk that are not settled."""
        return sum(segment.size() - segment.saved_offset for segment in self.segments)

    def oldest_start(self, now: float) -> float:
        """When the open attempt that was written first began, in Unix seconds; `now` if none is open."""
        first = next(iter(self.pending.values()), None)
        return now if first is None else first.decode_intent().started_at

    def read(self, limit: int, give_way: Callable[[], None]) -> bool:
        """Reads until `limit` things wait for a commit; True at the end of all files. Raises OSError.

        `give_way` is called every GIVE_WAY_EVERY lines.
        """
        for segment in self.segments:
            lines = read_lines(segment.stream, segment.read_offset)
            for number, (after, line) in enumerate(lines, 1):
                start, segment.read_offset = segment.read_offset, after
                self._take(segment, start, line)
                if self.waiting() >= limit:
                    return False
                if number % GIVE_WAY_EVERY == 0:
                    give_way()
            segment.ended = segment.ended or self.dead
        return True

    def finish(self, limit: int) -> bool:
        """Of a dead owner read to its end: torn ends are damage, open intents become ready without a final.

        True when nothing was left to take within `limit`.
        """
        for segment in self.segments:
            self._take_torn_end(segment)
        for attempt in list(self.pending):
            if self.waiting() >= limit:
                return False
            self.ready[attempt] = self.pending.pop(attempt)
        return True

    def _take(self, segment: Segment, start: int, line: bytes | DamagedLine) -> None:
        if isinstance(line, DamagedLine):
            self._take_damage(segment, start, line)
        elif (final := find_final_half(line)) is not None:
            self._take_final(segment, start, final[0], line, final)
        elif (intent := find_intent_half(line)) is not None:
            self._take_intent(intent[0], Attempt(segment, start, line, intent))
        else:
            self._take_other(segment, start, line)

    def _take_other(self, segment: Segment, start: int, line: bytes) -> None:
        """Marks, damage, and records that are to be cleaned."""
        record = decode_line(line)
        if isinstance(record, AttemptIntent):
            self._take_intent(record.attempt_id, Attempt(segment, start, line, None))
        elif isinstance(record, AttemptFinal):
            self._take_final(segment, start, record.attempt_id, line, None)
        elif isinstance(record, SegmentEnd):
            segment.ended = True
        elif record is not None:
            self._take_damage(segment, start, record)

    def _take_intent(self, identity: str, attempt: Attempt) -> None:
        """The first line of an attempt counts; a repeated one says nothing new."""
        if identity in self.pending or identity in self.ready:
            self.repeats += 1
            return
        self.pending[identity] = attempt
        attempt.segment.open[identity] = attempt.start

    def _take_final(
        self, segment: Segment, start: int, identity: str, line: bytes, half: Half | None
    ) -> None:
        attempt = self.pending.pop(identity, None)
        if attempt is not None:
            attempt.final_line, attempt.final_half = line, half
            self.ready[identity] = attempt
        elif identity in self.ready:
            self.repeats += 1
        else:
            self.strays.append(Stray(segment, start, identity, line))

    def _take_damage(self, segment: Segment, start: int, record: DamagedLine) -> None:
        self.damaged.append(KeptAside(segment.path.name, start, record.reason, (record.line,)))

    def _take_torn_end(self, segment: Segment) -> None:
        size = segment.size()
        if size > segment.read_offset:
            rest = os.pread(segment.stream.fileno(), size - segment.read_offset, segment.read_offset)
            self._take_damage(segment, segment.read_offset, DamagedLine(rest, "torn last line"))
            segment.read_offset = size

    def forget_settled(self) -> int:
        """After the commit: drops what waited; returns how many lines of the journal that settled."""
        lines = self.repeats + len(self.strays)
        for identity, attempt in self.ready.items():
            attempt.segment.open.pop(identity, None)
            lines += 1 if attempt.final_line is None else 2
        for segment in self.segments:
            segment.saved_offset = segment.settled_offset()
        self.ready.clear()
        self.strays.clear()
        self.damaged.clear()
        self.repeats = 0
        return lines

    def list_finished(self) -> list[Segment]:
        """The files that hold nothing unsettled and get nothing more, the oldest first, up to the first that is not."""
        finished = []
        for segment in self.segments:
            if not segment.ended or segment.open or segment.saved_offset < segment.size():
                break
            finished.append(segment)
        return finished

    def try_to_adopt(self) -> None:
        """Of a live owner: takes all locks if it has given them up meanwhile. Raises OSError."""
        if not self.dead:
            self.dead = _lock_all(self.segments)

    def add(self, segment: Segment) -> None:
        """A file that the owner began after the others. Of a dead owner none is expected: one that is locked is left."""
        if self.dead and not _lock_all([segment]):
            segment.stream.close()
            return
        if not self.dead:
            _unlock([segment])
        self.segments.append(segment)

    def close(self) -> None:
        """Gives up files and locks; what was not committed is read again by the next."""
        for segment in self.segments:
            segment.stream.close()


def _lock_all(segments: list[Segment]) -> bool:
    """All locks or none, in order of writing, so that of two adopters the one with the first file wins."""
    for position, segment in enumerate(segments):
        try:
            fcntl.flock(segment.stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for locked in segments[:position]:
                fcntl.flock(locked.stream.fileno(), fcntl.LOCK_UN)
            return False
    return True


def open_segment(directory: Path, name: SegmentName) -> tuple[Segment, bool] | None:
    """The file from its start on and whether it is locked now; None if it is gone. Raises OSError."""
    path = directory / name.file_name
    opened = open_and_try_lock(path)
    if opened is None:
        return None
    fd, locked = opened
    stream = os.fdopen(fd, "rb")
    return Segment(name, path, stream), locked


def find_owner(
    directory: Path,
    names: list[SegmentName],
    is_own: Callable[[SegmentName], bool],
    load_offsets: Callable[[], Mapping[str, int]],
) -> Owner | None:
    """Opens an owner's files if they are this process's or nobody's; None if they are another's.

    `load_offsets`, by file name, is called for the former only, once their locks are held. Raises OSError, and what it raises.
    """
    segments: list[Segment] = []
    own = is_own(names[0])
    all_locked = True
    for name in names:
        opened = open_segment(directory, name)
        if opened is None:
            continue
        segments.append(opened[0])
        all_locked = all_locked and opened[1]
        if not all_locked and not own:
            break
    owner = Owner(names[0].owner, segments, dead=all_locked)
    if segments and (own or all_locked):
        if not all_locked:
            _unlock(segments)
        try:
            offsets = load_offsets()
        except BaseException:
            owner.close()
            raise
        for segment in segments:
            segment.start_at(offsets.get(segment.name.file_name, 0))
        return owner
    owner.close()
    return None


def _unlock(segments: list[Segment]) -> None:
    for segment in segments:
        fcntl.flock(segment.stream.fileno(), fcntl.LOCK_UN)
