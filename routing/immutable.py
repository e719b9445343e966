"""Database triggers that keep a published version of a policy as it is, whoever asks. Control plane.

All that may still happen to it is that it is retired, and that it goes with its policy. SQLite drops a table's triggers when a
migration rebuilds the table: such a migration must install them again.
"""

from __future__ import annotations

from typing import Any

TABLE = "routing_policyversion"
MESSAGE = "a published version of a policy never changes"
_TRIGGER = f"{TABLE}_no_change"
_FUNCTION = f"{TABLE}_refuse"
_KEPT = ("id", "policy_id", "number", "document", "note", "author", "approver", "created_at", "published_at")


def _changes(differs: str) -> str:
    """The condition of a change that is refused; `differs` is the database's own `<>` that takes NULL for a value."""
    kept = " OR ".join(f"NEW.{name} {differs} OLD.{name}" for name in _KEPT)
    moves = "NEW.state NOT IN (OLD.state, 'retired')"
    return f"OLD.state IN ('published', 'retired') AND ({kept} OR {moves})"


_SQLITE = (
    f"CREATE TRIGGER IF NOT EXISTS {_TRIGGER} BEFORE UPDATE ON {TABLE} WHEN {_changes('IS NOT')} "
    f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
)
_POSTGRES = (
    f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation'; END $$",
    f"CREATE OR REPLACE TRIGGER {_TRIGGER} BEFORE UPDATE ON {TABLE} FOR EACH ROW "
    f"WHEN ({_changes('IS DISTINCT FROM')}) EXECUTE FUNCTION {_FUNCTION}()",
)


def install(connection: Any) -> None:
    """Puts the trigger in place; again does nothing."""
    _run(connection, _POSTGRES if connection.vendor == "postgresql" else _SQLITE)


def lift(connection: Any) -> None:
    """Removes the trigger."""
    if connection.vendor == "postgresql":
        _run(
            connection,
            (f"DROP TRIGGER IF EXISTS {_TRIGGER} ON {TABLE}", f"DROP FUNCTION IF EXISTS {_FUNCTION}()"),
        )
    else:
        _run(connection, (f"DROP TRIGGER IF EXISTS {_TRIGGER}",))


def _run(connection: Any, statements: tuple[str, ...]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
