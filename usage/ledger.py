"""Writing the ledger: rows and file offsets in one transaction, each attempt once. Control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import msgspec
from django.db import DataError, IntegrityError, connection, transaction

from usage.models import JournalFile, UsageRecord
from usage.rows import ATTEMPT_ID, COLUMNS, LedgerRow

REFUSALS = (DataError, IntegrityError, OverflowError, TypeError, ValueError)
"""What a database or its driver raises for a row that it will never take, as opposed to one that it can't take now."""

_ROWS_A_QUERY = 500
_SHORT_NAMES = [f"c{place}" for place in range(len(COLUMNS))]
_JsonRow = msgspec.defstruct("_JsonRow", _SHORT_NAMES, gc=False)
_encode = msgspec.json.Encoder().encode
_SAVE_POSITION = """
INSERT INTO usage_journalfile (name, instance, "offset", updated_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (name) DO UPDATE SET "offset" = excluded."offset", updated_at = excluded.updated_at
"""


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
    positions = list(positions)
    _ask_for_durable_commits()
    try:
        with transaction.atomic():
            _ask_for_durable_commit()
            _insert_all(rows)
            _save_positions(positions, now)
        return
    except REFUSALS:  # rare: once more, with a savepoint for each part
        if connection.needs_rollback:
            raise
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
    if not rows:
        return
    statement = _make_statement(connection.vendor)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(statement, [_encode_rows(rows)])
        else:
            cursor.executemany(statement, rows)
        if cursor.rowcount == len(rows):
            return
    wanted = {row[ATTEMPT_ID] for row in rows}
    stored = UsageRecord.objects.filter(attempt_id__in=wanted).count()
    if stored != len(wanted):
        raise NotStored(f"{len(wanted) - stored} of {len(wanted)} rows are not there after their insert")


def _encode_rows(rows: Sequence[LedgerRow]) -> str:
    """The rows as a JSON array of objects with short names. In steps of one row, for each holds the interpreter's lock."""
    return f"[{b','.join([_encode(_JsonRow(*row)) for row in rows]).decode()}]"


@cache
def _make_statement(vendor: str) -> str:
    """The insert of any number of rows: one by one on SQLite; on Postgres from JSON, which takes a quarter of both sides' CPU."""
    quote = connection.ops.quote_name
    table = quote(UsageRecord._meta.db_table)
    names = ", ".join(map(quote, COLUMNS))
    places = ", ".join(["%s"] * len(COLUMNS))
    source = _make_json_source() if vendor == "postgresql" else f"VALUES ({places})"
    return f"INSERT INTO {table} ({names}) {source} ON CONFLICT (attempt_id) DO NOTHING"


def _make_json_source() -> str:
    """The parameter's rows with the columns' types. What JSON has no type for comes as text."""
    given, taken = [], []
    for short, name in zip(_SHORT_NAMES, COLUMNS, strict=True):
        kind = UsageRecord._meta.get_field(name).db_type(connection)
        if kind == "jsonb":
            given.append(f"{short} text")
            taken.append(f"{short}::jsonb")
        elif kind == "timestamp with time zone":
            given.append(f"{short} timestamp")
            taken.append(f"{short} AT TIME ZONE 'UTC'")
        else:  # a text that is too long for its column is refused by the insert, not cut by the reading
            given.append(f"{short} {'text' if kind.startswith('varchar') else kind}")
            taken.append(short)
    return f"SELECT {', '.join(taken)} FROM json_to_recordset(%s::json) AS row ({', '.join(given)})"  # noqa: S608 - our names


def _reason(error: Exception) -> str:
    """The database's words without the row's values, which it may append on further lines."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _save_positions(positions: Sequence[Position], now: datetime) -> None:
    if not positions:
        return
    moment = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        for item in positions:
            cursor.execute(_SAVE_POSITION, [item.name, item.instance, item.offset, moment])
