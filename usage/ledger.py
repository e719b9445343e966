"""Writing the ledger: rows and file offsets in one transaction, each attempt once. Control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import DataError, IntegrityError, connection, transaction

from usage.models import JournalFile, UsageRecord
from usage.rows import LedgerRow

REFUSALS = (DataError, IntegrityError, OverflowError, TypeError, ValueError)
"""What a database or its driver raises for a row that it will never take, as opposed to one that it can't take now."""

_ROWS_A_QUERY = 500


class NotStored(ValueError):
    """A row is not there after its insert, though no error came."""


@dataclass(frozen=True, slots=True)
class Position:
    """A journal file is settled up to `offset` bytes."""

    name: str
    instance: str
    offset: int


Refused = list[tuple[LedgerRow, str]]


def settle(
    rows: Sequence[LedgerRow],
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


def _insert(rows: Sequence[LedgerRow]) -> Refused:
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


def _insert_all(rows: Sequence[LedgerRow]) -> None:
    """By SQL of our own: `bulk_create` costs three times the CPU, which the requests of the same process would pay.

    Only a second row of an attempt is ignored; every other conflict is an error, unlike under SQLite's `INSERT OR IGNORE`.
    """
    columns = _list_columns()
    names = ", ".join(connection.ops.quote_name(name) for name, _ in columns)
    places = ", ".join(["%s"] * len(columns))
    table = connection.ops.quote_name(UsageRecord._meta.db_table)
    statement = f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT (attempt_id) DO NOTHING"  # noqa: S608 - our names
    with connection.cursor() as cursor:
        cursor.executemany(statement, [_list_values(row, columns) for row in rows])
    wanted = {row.attempt_id for row in rows}
    stored = UsageRecord.objects.filter(attempt_id__in=wanted).count()
    if stored != len(wanted):
        raise NotStored(f"{len(wanted) - stored} of {len(wanted)} rows are not there after their insert")


def _list_columns() -> list[tuple[str, Callable[[Any], Any] | None]]:
    """Each column and what turns its values into the database's, where they need it."""
    ops = connection.ops
    adapters = {
        "DateTimeField": ops.adapt_datetimefield_value,
        "JSONField": lambda value: None if value is None else ops.adapt_json_value(value, None),
    }
    fields = [field for field in UsageRecord._meta.concrete_fields if not field.primary_key]
    return [(field.attname, adapters.get(field.get_internal_type())) for field in fields]


def _list_values(row: LedgerRow, columns: list[tuple[str, Callable[[Any], Any] | None]]) -> list[Any]:
    values = row.values
    return [values[name] if adapt is None else adapt(values[name]) for name, adapt in columns]


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
