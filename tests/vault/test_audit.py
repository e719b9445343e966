"""The audit trail: in the same transaction as the change, append-only, without secrets."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from access.actions import create_team, update_team
from access.models import Team
from providers.actions import delete_provider, update_provider
from providers.models import Provider
from tests.snapshots.cast import OPERATOR, make_key, make_provider
from tokenhub.control.actors import Actor
from tokenhub.core.errors import PermissionDenied
from vault.audit import change, describe
from vault.models import AppendOnly, AuditEntry

pytestmark = pytest.mark.django_db


class Interrupted(Exception):
    """Ends a transaction from outside."""


def test_a_change_leaves_one_row_with_actor_address_before_and_after() -> None:
    provider = make_provider(models=())
    update_provider(OPERATOR, provider, label="Acme", draining=True)
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.action, entry.actor, entry.actor_kind, entry.address) == (
        "provider.update",
        "olga",
        "user",
        "192.0.2.7",
    )
    assert (entry.object_type, entry.object_id, entry.object_label) == (
        "providers.provider",
        str(provider.pk),
        "Acme",
    )
    assert (entry.before["label"], entry.after["label"]) == ("", "Acme")
    assert (entry.before["draining"], entry.after["draining"]) == (False, True)


def test_a_rollback_leaves_neither_change_nor_row() -> None:
    provider = make_provider(models=())
    rows = AuditEntry.objects.count()

    def change_and_fail() -> None:
        with transaction.atomic():
            update_provider(OPERATOR, provider, label="Acme")
            assert AuditEntry.objects.count() == rows + 1
            raise Interrupted

    with pytest.raises(Interrupted):
        change_and_fail()
    assert AuditEntry.objects.count() == rows
    assert Provider.objects.get().label == ""


def test_a_failure_inside_the_change_leaves_neither() -> None:
    team = create_team(OPERATOR, name="Team", slug="team")
    rows = AuditEntry.objects.count()

    def fail_inside() -> None:
        with change(OPERATOR, "team.update", team):
            Team.objects.update(name="Other")
            raise Interrupted

    with pytest.raises(Interrupted):
        fail_inside()
    assert Team.objects.get().name == "Team"
    assert AuditEntry.objects.count() == rows


def test_nothing_is_recorded_where_nothing_changed() -> None:
    team = create_team(OPERATOR, name="Team", slug="team")
    rows = AuditEntry.objects.count()
    update_team(OPERATOR, team, name="Team")
    assert AuditEntry.objects.count() == rows


def test_a_deleted_object_is_recorded_with_what_went_with_it() -> None:
    provider = make_provider()
    delete_provider(OPERATOR, provider)
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert entry.action == "provider.delete"
    assert entry.after is None
    assert entry.before["models"] == ["large", "small"]
    assert entry.before["credentials"] == ["main"]
    assert entry.object_id == str(entry.before["id"])


def test_a_key_is_recorded_without_its_secret_or_digest() -> None:
    key, plaintext = make_key()
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert entry.action == "apikey.create"
    shown = f"{entry.before} {entry.after} {entry.object_label}"
    secret = key.secrets.get()
    assert plaintext not in shown
    assert plaintext[22:65] not in shown
    assert secret.digest not in shown
    assert describe(secret)["digest"].startswith("fingerprint:")
    assert secret.digest not in str(describe(secret))


def test_a_read_only_actor_changes_nothing() -> None:
    reader = Actor("token", "ci", scopes=frozenset({"read"}))
    with pytest.raises(PermissionDenied, match="token ci may not write"):
        create_team(reader, name="Team", slug="team")
    assert not Team.objects.exists()
    assert not AuditEntry.objects.exists()


def test_the_orm_refuses_to_change_or_delete_entries() -> None:
    create_team(OPERATOR, name="Team", slug="team")
    entry = AuditEntry.objects.get()
    entry.actor = "someone else"
    for attempt in (
        entry.save,
        entry.delete,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(actor="x"),
        lambda: AuditEntry.objects.bulk_update([entry], ["actor"]),
    ):
        with pytest.raises(AppendOnly):
            attempt()
    assert AuditEntry.objects.get().actor == "olga"


@pytest.mark.parametrize(
    "statement", ["UPDATE vault_auditentry SET actor = 'someone else'", "DELETE FROM vault_auditentry"]
)
def test_the_database_refuses_to_change_or_delete_entries(statement: str) -> None:
    create_team(OPERATOR, name="Team", slug="team")
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert AuditEntry.objects.get().actor == "olga"


def test_postgres_refuses_to_truncate_entries() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no TRUNCATE")
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("TRUNCATE vault_auditentry")


@pytest.mark.django_db(transaction=True)
def test_flush_empties_the_trail_and_leaves_the_triggers_in_place() -> None:
    create_team(OPERATOR, name="Team", slug="team")
    call_command("flush", interactive=False, verbosity=0)
    assert not AuditEntry.objects.exists()
    create_team(OPERATOR, name="Team", slug="team")
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("DELETE FROM vault_auditentry")
