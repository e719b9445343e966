"""Database triggers that refuse to change or delete audit entries, whoever asks. Control plane.

The head row may only count up by one. SQLite drops a table's triggers when a migration rebuilds the table: such a migration must
install them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TABLE = "vault_auditentry"
HEAD = "vault_audithead"
MESSAGE = "audit entries are append-only"
HEAD_MESSAGE = "the end of the audit trail only moves on"

_BACKWARDS = "NEW.id <> OLD.id OR NEW.seq <> OLD.seq + 1"


def _sqlite(table: str, message: str, name: str, condition: str) -> tuple[str, str]:
    """Statements that install and that lift one trigger."""
    trigger = f"{table}_no_{name}"
    return (
        f"CREATE TRIGGER IF NOT EXISTS {trigger} BEFORE {condition} BEGIN SELECT RAISE(ABORT, '{message}'); END",
        f"DROP TRIGGER IF EXISTS {trigger}",
    )


# `INSERT OR REPLACE` deletes without asking the triggers for DELETE; hence those for INSERT.
_TAKEN = f"EXISTS (SELECT 1 FROM {TABLE} WHERE id = NEW.id OR seq = NEW.seq)"  # noqa: S608 - the names are ours
_HEAD_TAKEN = f"EXISTS (SELECT 1 FROM {HEAD})"  # noqa: S608
_SQLITE_FIRST = (
    _sqlite(TABLE, MESSAGE, "update", f"UPDATE ON {TABLE}"),
    _sqlite(TABLE, MESSAGE, "delete", f"DELETE ON {TABLE}"),
)
_SQLITE_CHAIN = (
    _sqlite(TABLE, MESSAGE, "replace", f"INSERT ON {TABLE} WHEN {_TAKEN}"),
    _sqlite(HEAD, HEAD_MESSAGE, "update", f"UPDATE ON {HEAD} WHEN {_BACKWARDS}"),
    _sqlite(HEAD, HEAD_MESSAGE, "delete", f"DELETE ON {HEAD}"),
    _sqlite(HEAD, HEAD_MESSAGE, "replace", f"INSERT ON {HEAD} WHEN {_HEAD_TAKEN}"),
)


def _postgres(table: str, message: str, name: str, condition: str) -> tuple[str, str]:
    """Statements that install and that lift one trigger."""
    trigger, function = f"{table}_no_{name}", f"{TABLE}_refuse"
    return (
        f"CREATE OR REPLACE TRIGGER {trigger} BEFORE {condition} EXECUTE FUNCTION {function}('{message}')",
        f"DROP TRIGGER IF EXISTS {trigger} ON {table}",
    )


_POSTGRES_FUNCTION = (
    f"CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation'; END $$"
)
_POSTGRES_FIRST = (
    _postgres(TABLE, MESSAGE, "change", f"UPDATE OR DELETE ON {TABLE} FOR EACH ROW"),
    _postgres(TABLE, MESSAGE, "truncate", f"TRUNCATE ON {TABLE} FOR EACH STATEMENT"),
)
_POSTGRES_CHAIN = (
    _postgres(HEAD, HEAD_MESSAGE, "update", f"UPDATE ON {HEAD} FOR EACH ROW WHEN ({_BACKWARDS})"),
    _postgres(HEAD, HEAD_MESSAGE, "delete", f"DELETE ON {HEAD} FOR EACH ROW"),
    _postgres(HEAD, HEAD_MESSAGE, "truncate", f"TRUNCATE ON {HEAD} FOR EACH STATEMENT"),
)


def install(connection: Any) -> None:
    """Puts the triggers in place; again does nothing. Those of the chain too, once its table is there (migration 0003)."""
    if connection.vendor == "postgresql":
        _run(connection, [_POSTGRES_FUNCTION])
    _run(connection, [install for install, _ in _list(connection)])


def lift(connection: Any) -> None:
    """Removes the triggers."""
    _run(connection, [lift for _, lift in _list(connection)])


@contextmanager
def lifted(connection: Any) -> Iterator[None]:
    """Without the triggers for a while, for a command that empties the whole database."""
    if TABLE not in connection.introspection.table_names():
        yield
        return
    lift(connection)
    try:
        yield
    finally:
        install(connection)


def _list(connection: Any) -> tuple[tuple[str, str], ...]:
    postgres = connection.vendor == "postgresql"
    first, chain = (_POSTGRES_FIRST, _POSTGRES_CHAIN) if postgres else (_SQLITE_FIRST, _SQLITE_CHAIN)
    return (*first, *chain) if HEAD in connection.introspection.table_names() else first


def _run(connection: Any, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
