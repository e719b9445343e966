"""Database triggers that refuse to change or delete audit entries, whoever asks. Control plane.

SQLite drops a table's triggers when a migration rebuilds the table: such a migration must install them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TABLE = "vault_auditentry"
MESSAGE = "audit entries are append-only"

_SQLITE_INSTALL = tuple(
    f"CREATE TRIGGER IF NOT EXISTS {TABLE}_no_{verb} BEFORE {verb.upper()} ON {TABLE} "
    f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    for verb in ("update", "delete")
)
_SQLITE_LIFT = tuple(f"DROP TRIGGER IF EXISTS {TABLE}_no_{verb}" for verb in ("update", "delete"))

_POSTGRES_INSTALL = (
    f"CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation'; END $$",
    f"DROP TRIGGER IF EXISTS {TABLE}_no_change ON {TABLE}",
    f"DROP TRIGGER IF EXISTS {TABLE}_no_truncate ON {TABLE}",
    f"CREATE TRIGGER {TABLE}_no_change BEFORE UPDATE OR DELETE ON {TABLE} "
    f"FOR EACH ROW EXECUTE FUNCTION {TABLE}_refuse()",
    f"CREATE TRIGGER {TABLE}_no_truncate BEFORE TRUNCATE ON {TABLE} "
    f"FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_refuse()",
)
_POSTGRES_LIFT = (
    f"DROP TRIGGER IF EXISTS {TABLE}_no_change ON {TABLE}",
    f"DROP TRIGGER IF EXISTS {TABLE}_no_truncate ON {TABLE}",
)


def install(connection: Any) -> None:
    """Puts the triggers in place; again does nothing."""
    _run(connection, _POSTGRES_INSTALL if connection.vendor == "postgresql" else _SQLITE_INSTALL)


def lift(connection: Any) -> None:
    """Removes the triggers."""
    _run(connection, _POSTGRES_LIFT if connection.vendor == "postgresql" else _SQLITE_LIFT)


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


def _run(connection: Any, statements: tuple[str, ...]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
