"""Entries that were there before the chain are chained by its migration, in their order, and stay under the triggers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from tests.snapshots.cast import OPERATOR
from vault.models import AuditEntry, AuditHead
from vault.trail import append, verify

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE = [("vault", "0002_audit_entries_are_append_only")]
ROWS = 2_050


def migrate(targets: list[tuple[str, str]]) -> Any:
    executor = MigrationExecutor(connection)
    executor.migrate(targets)
    return MigrationExecutor(connection).loader.project_state(targets).apps


def leaves() -> list[tuple[str, str]]:
    return MigrationExecutor(connection).loader.graph.leaf_nodes()


@pytest.fixture
def old_entry() -> Iterator[Any]:
    """The model as it was before the chain; afterwards the schema is the newest again."""
    targets = leaves()
    yield migrate(BEFORE).get_model("vault", "AuditEntry")
    migrate(targets)


def fields(number: int) -> dict[str, Any]:
    return {
        "at": datetime(2026, 3, 1, 12, 0, number % 60, number, tzinfo=UTC),
        "actor": "olga",
        "actor_kind": "user",
        "action": "team.update",
        "object_type": "access.team",
        "object_id": str(number),
        "object_label": f"Team {number}",
        "before": {"number": number, "share": 0.1 * number, "huge": 1e22},
        "after": None,
    }


def test_what_was_there_is_chained_and_what_comes_goes_on(old_entry: Any) -> None:
    old_entry.objects.bulk_create(old_entry(**fields(number)) for number in range(ROWS))
    migrate(leaves())
    assert AuditHead.objects.get().seq == ROWS
    numbers = list(AuditEntry.objects.order_by("seq").values_list("object_id", flat=True))
    assert numbers == [str(number) for number in range(ROWS)]
    append(actor=OPERATOR, action="x.y", object_type="x")
    outcome = verify()
    assert (outcome.broken, outcome.checked) == (None, ROWS + 1)
    for statement in ("UPDATE vault_auditentry SET actor = 'x'", "DELETE FROM vault_audithead"):
        with (
            pytest.raises(DatabaseError, match=r"append-only|only moves on"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


def test_the_way_back_leaves_the_entries_and_their_triggers(old_entry: Any) -> None:
    old_entry.objects.create(**fields(1))
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("DELETE FROM vault_auditentry")
