"""Writing the ledger: rows and file offsets in one transaction, each attempt once. Control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import DataError, IntegrityError, connection, transaction

from usage.models import JournalFile, UsageRecord

REFUSALS = (DataError, IntegrityError, OverflowError, TypeError, ValueError)
"""What a database or its driver raises for a row that it will never take, as opposed to one that it can't take now."""

_ROWS_A_QUERY = 500


class NotStored(ValueError):
    """A row is not there after its insert: SQLite's `INSERT OR IGNORE` drops rows that break any constraint, silently."""


@dataclass(frozen=True, slots=True)
class Position:
    """A journal file is settled up to `offset` bytes."""

    name: str
    instance: str
    offset: int


Refused = list[tuple[UsageRecord, str]]


def settle(
    rows: Sequence[UsageRecord],
    positions: Iterable[Position],
    *,
    now: datetime,
    on_refused: Callable[[Refused], None],
) -> None:
    """Inserts the rows and moves the offsets, in one transaction. An attempt that has its row already keeps that one.

    A row that the database refuses is handed to `on_refused`, before the commit, and does not hold up the others: the
    batch is halved until it stands alone. Raises django.db.Error if the database is away; then nothing has changed.
    """
    _ask_for_durable_commits()
    with transaction.atomic():
        _ask_for_durable_commit()
        refused = _insert(rows)
        if refused:
            on_refused(refused)
        _save_positions(positions, now)


def find_settled(attempt_ids: Iterable[str]) -> set[str]:
    """Those of the attempts that have a row."""
    wanted = list(attempt_ids)
    found: set[str] = set()
    for start in range(0, len(wanted), _ROWS_A_QUERY):
        part = wanted[start : start + _ROWS_A_QUERY]
        found.update(UsageRecord.objects.filter(attempt_id__in=part).values_list("attempt_id", flat=True))
    return found


def load_offsets() -> dict[str, int]:
    """The settled offset of every known journal file."""
    return dict(JournalFile.objects.values_list("name", "offset"))


def forget_file(name: str) -> None:
    """The file is deleted; its offset goes."""
    JournalFile.objects.filter(name=name).delete()


def forget_old_files(before: datetime, keep: Iterable[str]) -> int:
    """Offsets of files that nobody moved since `before` and that are not in `keep`; returns how many went.

    They stay behind when a process dies between deleting a file and forgetting it. An offset forgotten too early only has
    its file read again, which changes nothing.
    """
    stale = JournalFile.objects.filter(updated_at__lt=before).exclude(name__in=list(keep))
    return int(stale.delete()[0])


def _ask_for_durable_commits() -> None:
    """SQLite in WAL mode with `synchronous=NORMAL` may lose its last commits in a power cut, when the journal file that
    they came from is deleted already. The setting is the connection's and can't be changed within a transaction.
    """
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous=FULL")


def _ask_for_durable_commit() -> None:
    """Postgres with `synchronous_commit=off` may lose its last commits in a crash; this transaction's are waited for."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = on")


def _insert(rows: Sequence[UsageRecord]) -> Refused:
    if not rows:
        return []
    try:
        with transaction.atomic():
            _insert_all(rows)
        return []
    except REFUSALS as error:
        if connection.needs_rollback:
            raise
        if len(rows) == 1:
            return [(rows[0], _reason(error))]
    middle = len(rows) // 2
    return _insert(rows[:middle]) + _insert(rows[middle:])


def _insert_all(rows: Sequence[UsageRecord]) -> None:
    UsageRecord.objects.bulk_create(rows, batch_size=_ROWS_A_QUERY, ignore_conflicts=True)
    wanted = {row.attempt_id for row in rows}
    stored = UsageRecord.objects.filter(attempt_id__in=wanted).count()
    if stored != len(wanted):
        raise NotStored(f"{len(wanted) - stored} of {len(wanted)} rows break a constraint of the ledger")


def _reason(error: Exception) -> str:
    """The database's words without the row's values, which it may append on further lines."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _save_positions(positions: Iterable[Position], now: datetime) -> None:
    files = [
        JournalFile(name=item.name, instance=item.instance, offset=item.offset, updated_at=now)
        for item in positions
    ]
    if files:
        JournalFile.objects.bulk_create(
            files, update_conflicts=True, unique_fields=["name"], update_fields=["offset", "updated_at"]
        )
