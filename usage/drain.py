"""The drain: carries settled attempts from journal files into the ledger, on a thread of its own. Control plane.

It drains the files of its own process, and those of owners that died, which the first process to get their locks adopts.
A file's offset moves in the transaction that inserts the rows, and only up to the first attempt that is still open: what
is pending lives in memory and is found again by reading from the offset. Whatever is read twice is ignored the second time,
because the attempt's id is the ledger's key. Files go after the commit.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

from django.db import Error as DatabaseError
from django.db import OperationalError, close_old_connections, connection

from usage._drain_owners import GIVE_WAY_EVERY, Owner, find_owner, open_segment
from usage._journal_files import SegmentName, clean_instance, list_segments
from usage.ledger import Position, Refused, find_settled, forget_file, forget_old_files, load_offsets, settle
from usage.models import UsageRecord
from usage.quarantine import KeptAside, Quarantine
from usage.rows import ATTEMPT_ID, OUTCOME, LedgerRow

logger = logging.getLogger(__name__)

_BATCHES_A_PASS = 200
_GENTLE_BATCHES = 4
"""So many batches of a pass give way to the loop; what is more than that is a backlog, which is worked off."""
_GIVE_WAY_SECONDS = 0.001
_TRIES = 4
_LONGEST_WAIT = 4.0
_STALE_OFFSETS = timedelta(days=7)
_PASSING_STATES = frozenset({"40001", "40P01", "55P03"})
"""Postgres: serialization failure, deadlock, lock not available. The same statements succeed a moment later."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """One pass. `rows` were committed, of which `unsettled` for attempts of dead processes; `quarantined` lines or rows
    were kept aside; `files_removed` are done. `pending` attempts are open, the oldest for `oldest_pending_seconds`;
    `backlog_bytes` are not settled. `more`: there is more to do at once. `error`: why the pass ended early, "" = it did not.
    """

    rows: int = 0
    unsettled: int = 0
    quarantined: int = 0
    files_removed: int = 0
    pending: int = 0
    oldest_pending_seconds: float = 0.0
    backlog_bytes: int = 0
    more: bool = False
    error: str = ""


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    unsettled: int = 0
    quarantined: int = 0
    files_removed: int = 0
    batches: int = 0
    more: bool = False
    problems: list[str] = field(default_factory=list)


class Drainer:
    """Drains one directory. One thread at a time may use it; any number of processes may drain the same directory.

    `clock` gives Unix seconds, `rand` numbers in [0, 1) for jitter; `interval` is seconds; `remove` deletes a file.
    `on_drained` hears how many lines of this process's own journal were settled (`Journal.note_drained`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        instance: str,
        batch: int = 500,
        interval: float = 0.5,
        clock: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
        remove: Callable[[Path], None] = os.unlink,
        on_drained: Callable[[int], None] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.instance = clean_instance(instance)
        self.batch = batch
        self.interval = interval
        self._clock = clock
        self._rand = rand
        self._sleep = sleep
        self._remove = remove
        self._on_drained = on_drained
        self._owners: dict[str, Owner] = {}
        self._quarantines: dict[str, Quarantine] = {}
        self._forgot_old = False
        self._failures = 0
        self._gentle = False
        self._totals = DrainReport()

    @property
    def totals(self) -> DrainReport:
        """Counters since the start, and the state after the latest pass."""
        return self._totals

    def drain_once(self) -> DrainReport:
        """One pass over everything that is complete now. Never raises for the database's or the disk's sake."""
        close_old_connections()
        try:
            return self._pass()
        finally:
            close_old_connections()

    def run(self, stop: threading.Event) -> None:
        """Passes until `stop`, every `interval`; after a failure with growing, jittered waits of at most 4 s.

        Between small pieces of work it sleeps for a moment. The loop, which lets go of the interpreter's lock at every
        write to a socket, would else wait for it each time, as long as a pass takes.
        """
        self._gentle = True
        try:
            while not stop.is_set():
                stop.wait(self._pass_and_wait())
        finally:
            self._gentle = False
            close_old_connections()

    def _pass_and_wait(self) -> float:
        """One pass of `run`; returns the seconds until the next."""
        try:
            report = self._pass()
            failed, wait = bool(report.error), 0.0 if report.more else self.interval
        except Exception:  # broad: the thread must outlive any fault, without it nothing is accounted for
            logger.exception("The drain failed; it goes on.")
            report, failed, wait = DrainReport(), True, self.interval
        if not (report.rows and _is_cheaper_kept()):
            close_old_connections()
        self._failures = self._failures + 1 if failed else 0
        return self._backoff() if failed else wait

    def _pass(self) -> DrainReport:
        tally = _Tally()
        try:
            with _own_connection():
                self._drain(tally)
        except (DatabaseError, OSError) as error:
            tally.problems.append(_describe(error))
        report = self._report(tally)
        self._totals = _add(self._totals, report)
        self._note_state(report.error)
        return report

    def drain_until_empty(self, timeout: float) -> bool:
        """Passes until nothing is left in this process's reach or `timeout` seconds went by; True if nothing is left.

        For the end of a process: close the journal first, then what it left open is settled as well.
        """
        deadline = self._clock() + timeout
        while True:
            report = self.drain_once()
            if not (report.error or report.more or report.backlog_bytes):
                return True
            if self._clock() >= deadline:
                return False
            if not report.more:
                self._sleep(min(0.1, self.interval))

    def close(self) -> None:
        """Gives up files and locks; whoever drains next goes on where the last commit was."""
        for owner in self._owners.values():
            owner.close()
        self._owners.clear()
        self._quarantines.clear()

    def _drain(self, tally: _Tally) -> None:
        self._find_owners()
        for owner in list(self._owners.values()):
            try:
                self._drain_owner(owner, tally)
            except OSError as error:  # one unreadable file does not hold up the others
                tally.problems.append(_describe(error))

    def _find_owners(self) -> None:
        if not self.directory.is_dir():
            return
        names = list_segments(self.directory)
        if not self._forgot_old:
            stale = datetime.fromtimestamp(self._clock(), UTC) - _STALE_OFFSETS
            forget_old_files(stale, [name.file_name for name in names])
            self._forgot_old = True
        for owner_name, group in groupby(names, key=lambda name: name.owner):
            self._refresh_owner(owner_name, list(group))
        self._drop_vanished({name.owner for name in names})

    def _refresh_owner(self, owner_name: str, names: list[SegmentName]) -> None:
        owner = self._owners.get(owner_name)
        if owner is not None:
            known = {segment.name for segment in owner.segments}
            for name in names:
                opened = None if name in known else open_segment(self.directory, name)
                if opened is not None:
                    owner.add(opened[0])
            owner.try_to_adopt()
            return
        owner = find_owner(self.directory, names, self._is_own, load_offsets)
        if owner is not None:
            self._owners[owner_name] = owner

    def _is_own(self, name: SegmentName) -> bool:
        return name.instance == self.instance and name.pid == os.getpid()

    def _drop_vanished(self, present: set[str]) -> None:
        """An owner whose files another process adopted, settled and deleted."""
        for owner_name in [name for name in self._owners if name not in present]:
            self._forget_owner(owner_name)

    def _forget_owner(self, owner_name: str) -> None:
        self._owners.pop(owner_name).close()
        self._quarantines.pop(owner_name, None)

    def _drain_owner(self, owner: Owner, tally: _Tally) -> None:
        while tally.batches < _BATCHES_A_PASS:
            give_way = self._give_way if self._gentle and tally.batches < _GENTLE_BATCHES else _go_on
            at_end = owner.read(self.batch, give_way)
            if at_end and owner.dead:
                at_end = owner.finish(self.batch)
            self._commit(owner, tally, give_way)
            if at_end:
                self._remove_finished(owner, tally)
                return
        tally.more = True

    def _give_way(self) -> None:
        self._sleep(_GIVE_WAY_SECONDS)

    def _commit(self, owner: Owner, tally: _Tally, give_way: Callable[[], None]) -> None:
        """Rows, offsets and quarantine of what waits; afterwards it waits no more. Raises django.db.Error, OSError."""
        positions = [
            Position(segment.path.name, segment.name.instance, offset)
            for segment in owner.segments
            if (offset := segment.settled_offset(owner.ready)) != segment.saved_offset
        ]
        if not positions and not owner.waiting():
            owner.repeats = 0
            return
        refused: list[KeptAside] = list(owner.damaged)
        rows = list(_make_rows(owner, refused, give_way))
        refused += self._find_strays(owner)
        self._settle(owner, rows, positions, refused, tally)
        tally.batches += 1
        tally.rows += len(rows)
        tally.unsettled += sum(row[OUTCOME] == UsageRecord.Outcome.UNSETTLED for row in rows)
        lines = owner.forget_settled()
        if self._on_drained is not None and not owner.dead:
            self._on_drained(lines)

    def _settle(
        self,
        owner: Owner,
        rows: list[LedgerRow],
        positions: list[Position],
        aside: list[KeptAside],
        tally: _Tally,
    ) -> None:
        """One transaction, repeated when it lost a race for locks. Rows that were refused leave `rows`."""
        self._keep(owner, aside, tally)

        def keep_refused(refused: Refused) -> None:
            kept = [owner.ready[row[ATTEMPT_ID]].kept_aside(reason) for row, reason in refused]
            self._keep(owner, kept, tally)
            for row, _ in refused:
                rows.remove(row)

        for attempt in range(_TRIES):
            try:
                now = datetime.fromtimestamp(self._clock(), UTC)
                settle(list(rows), positions, now=now, on_refused=keep_refused)
                return
            except OperationalError as error:
                if not _is_passing(error) or attempt == _TRIES - 1:
                    raise
                self._sleep(0.02 * 2**attempt * (0.5 + self._rand()))

    def _keep(self, owner: Owner, items: list[KeptAside], tally: _Tally) -> None:
        if not items:
            return
        quarantine = self._quarantines.get(owner.name)
        if quarantine is None:
            quarantine = self._quarantines[owner.name] = Quarantine(self.directory, owner.name)
        kept = quarantine.keep(items)
        tally.quarantined += kept
        if kept:
            logger.error(
                "The drain kept %d journal lines aside in %s: %s", kept, quarantine.path.name, items[0].reason
            )

    def _find_strays(self, owner: Owner) -> list[KeptAside]:
        """Finals without an intent in reach: after a restart their rows are there; otherwise they are kept aside."""
        if not owner.strays:
            return []
        settled = find_settled(stray.attempt_id for stray in owner.strays)
        return [
            stray.kept_aside("a final without its intent")
            for stray in owner.strays
            if stray.attempt_id not in settled
        ]

    def _remove_finished(self, owner: Owner, tally: _Tally) -> None:
        """Deletes what is settled to the end, the oldest first. The offset is forgotten after the file, never before."""
        for segment in owner.list_finished():
            with suppress(FileNotFoundError):  # another process had adopted and finished it
                self._remove(segment.path)
            owner.segments.remove(segment)
            segment.stream.close()
            tally.files_removed += 1
            forget_file(segment.path.name)
        if owner.dead and not owner.segments:
            self._forget_owner(owner.name)

    def _report(self, tally: _Tally) -> DrainReport:
        now = self._clock()
        oldest = min((owner.oldest_start(now) for owner in self._owners.values()), default=now)
        return DrainReport(
            rows=tally.rows,
            unsettled=tally.unsettled,
            quarantined=tally.quarantined,
            files_removed=tally.files_removed,
            pending=sum(len(owner.pending) for owner in self._owners.values()),
            oldest_pending_seconds=max(0.0, now - oldest),
            backlog_bytes=sum(owner.backlog_bytes() for owner in self._owners.values()),
            more=tally.more,
            error="; ".join(tally.problems),
        )

    def _note_state(self, error: str) -> None:
        """Logs a change between working and not working once."""
        if error and not self._totals.error:
            logger.error(
                "The drain can't write the ledger; the journal keeps everything meanwhile: %s", error
            )
        elif self._totals.error and not error:
            logger.warning("The drain writes the ledger again.")

    def _backoff(self) -> float:
        longest: float = min(_LONGEST_WAIT, 0.25 * 2 ** min(self._failures, 10))
        return longest * (0.5 + self._rand() / 2)


def _go_on() -> None:
    """Gives way to nobody."""


def _make_rows(owner: Owner, refused: list[KeptAside], give_way: Callable[[], None]) -> Iterator[LedgerRow]:
    """The rows of what is ready; an attempt that no row can hold goes to `refused`."""
    for number, attempt in enumerate(owner.ready.values(), 1):
        if number % GIVE_WAY_EVERY == 0:
            give_way()
        try:
            yield attempt.make_row()
        except (ValueError, TypeError) as error:
            refused.append(attempt.kept_aside(f"no row can hold it: {error}"[:300]))


@contextmanager
def _own_connection() -> Iterator[None]:
    """This thread serves no request, so nobody else closes its connection after a failure."""
    try:
        yield
    except DatabaseError as error:
        if not connection.in_atomic_block:
            connection.close()
            if isinstance(error, OperationalError):
                _leave_pool()
        raise


def _is_cheaper_kept() -> bool:
    """Whether a connection is to be kept between passes that find rows.

    SQLite's costs 1.3 ms to open and, where it is the only one, to close, for that writes the whole WAL back: as much as
    fifty rows. Postgres's goes back to its pool, which checks it before each use.
    """
    return bool(connection.vendor == "sqlite")


def _leave_pool() -> None:
    """After a minute without a server a pool tries again only every half minute or so; a new pool tries at once.

    Connections of other threads that are in use stay usable, and are closed when they are given back.
    """
    if connection.vendor == "postgresql" and connection.settings_dict["OPTIONS"].get("pool"):
        connection.close_pool()


def _is_passing(error: OperationalError) -> bool:
    """Whether the same transaction may succeed a moment later: lost locks, not a lost server."""
    state = getattr(error.__cause__, "sqlstate", None)
    return state in _PASSING_STATES or "database is locked" in str(error) or "table is locked" in str(error)


def _describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


_COUNTERS = ("rows", "unsettled", "quarantined", "files_removed")


def _add(totals: DrainReport, report: DrainReport) -> DrainReport:
    values = {item.name: getattr(report, item.name) for item in fields(report)}
    for name in _COUNTERS:
        values[name] += getattr(totals, name)
    return DrainReport(**values)
