"""`manage.py vault`: the state without a secret, and a deliberate end, after which a new vault can be made."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.vault.vaults import (
    ADMIN,
    NEW_PASSWORD,
    OTHER_SECRET,
    PASSWORD,
    SECRET,
    a_credential,
    a_vault,
    open_all,
    run_sql,
    the_vault,
)
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, PermissionDenied
from vault.destruction import destroy_vault
from vault.engine.errors import VaultLocked
from vault.models import (
    AuditEntry,
    Credential,
    SealedSecret,
    Vault,
    VaultDataKey,
    VaultManifest,
    VaultSlot,
    VaultWorker,
)
from vault.opened import opened_vault
from vault.sealing import seal_secret
from vault.tries import NoVault
from vault.vault_actions import initialise, lock
from vault.vault_manifest import check_manifest

pytestmark = pytest.mark.django_db


def manage(*command: Any) -> str:
    """The command's output."""
    written = StringIO()
    call_command("vault", *command, stdout=written)
    return written.getvalue()


def a_lost_vault() -> Credential:
    """A locked vault with one secret, whose slots are gone."""
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    lock(ADMIN)
    run_sql("DELETE FROM vault_vaultslot")
    return credential


def count_everything() -> list[int]:
    tables = (Vault, VaultSlot, VaultDataKey, VaultManifest, SealedSecret)
    return [table.objects.count() for table in tables]


def test_a_lost_vault_ends_when_somebody_says_how_much_goes_with_it() -> None:
    credential = a_lost_vault()
    before = count_everything()
    with pytest.raises(CommandError, match="--yes-lose-secrets 1"):
        manage("destroy")
    for wrong in (0, 2):
        with pytest.raises(CommandError, match=f"1 sealed secrets would be lost, not {wrong}"):
            manage("destroy", "--yes-lose-secrets", wrong)
    assert count_everything() == before
    assert "the vault is gone" in manage("destroy", "--yes-lose-secrets", 1)
    assert count_everything() == [0] * 5
    entry = AuditEntry.objects.filter(action="vault.destroy").get()
    assert (entry.actor, entry.before["lost"]) == ("vault destroy", 1)
    assert "acme/main version 2 for https://acme.example:443" in entry.before["secrets"][0]
    assert SECRET not in json.dumps(entry.before)
    assert Credential.objects.get(pk=credential.pk).source == "vault"


def test_what_would_be_lost_is_said_before(capsys: pytest.CaptureFixture[str]) -> None:
    a_lost_vault()
    written = StringIO()
    with pytest.raises(CommandError):
        call_command("vault", "destroy", stdout=written)
    assert "lost: acme/main version 2 for https://acme.example:443" in written.getvalue()
    assert "with these slots: none" in written.getvalue()
    assert SECRET not in written.getvalue()


def test_a_new_vault_takes_its_place_and_nothing_old_gets_into_it() -> None:
    credential = a_lost_vault()
    old_rows, old_manifest = list(SealedSecret.objects.values()), VaultManifest.objects.get()
    destroy_vault(ADMIN, losing=1)
    initialise(ADMIN, NEW_PASSWORD)
    assert VaultManifest.objects.get().counter > old_manifest.counter
    seal_secret(ADMIN, credential, OTHER_SECRET)
    assert open_all() == [OTHER_SECRET]
    assert check_manifest() == []
    SealedSecret.objects.all().delete()
    SealedSecret.objects.bulk_create([SealedSecret(**row) for row in old_rows])
    old_manifest.save()
    assert check_manifest() != []


def test_a_worker_that_holds_the_old_vaults_keys_seals_nothing_in_the_new_one() -> None:
    credential = a_lost_vault()
    run_sql("UPDATE vault_vault SET lock_epoch = 1")
    destroy_vault(ADMIN, losing=1)
    a_vault()
    held = opened_vault._opened
    destroyed = the_vault().vault_id
    Vault.objects.update(vault_id="f" * 32)
    assert held is not None
    for act in (opened_vault.refresh, lambda: seal_secret(ADMIN, credential, SECRET)):
        opened_vault._opened = held
        with pytest.raises(VaultLocked):
            act()
        assert opened_vault.find() is None
    assert destroyed != the_vault().vault_id
    assert not SealedSecret.objects.exists()


def test_a_vault_that_is_open_somewhere_is_not_destroyed() -> None:
    a_lost_vault()
    VaultWorker.objects.create(
        instance="one", boot_id="b", state=VaultWorker.State.UNLOCKED, seen_at=timezone.now()
    )
    with pytest.raises(Conflict, match="unlocked in one"):
        destroy_vault(ADMIN, losing=1)
    VaultWorker.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    destroy_vault(ADMIN, losing=1)
    with pytest.raises(NoVault):
        destroy_vault(ADMIN, losing=0)


def test_who_may_only_read_destroys_nothing() -> None:
    a_lost_vault()
    with pytest.raises(PermissionDenied):
        destroy_vault(Actor("token", "rita", scopes=frozenset({"read"})), losing=1)
    assert Vault.objects.exists()


def test_the_status_is_read_only_and_tells_what_is_wrong() -> None:
    assert manage("status") == "there is no vault\n"
    with pytest.raises(CommandError, match="there is no vault yet"):
        manage("destroy")
    a_lost_vault()
    run_sql("UPDATE vault_sealedsecret SET version = version + 1")
    VaultManifest.objects.update(differs_since=timezone.now(), differences=[{}], unopenable=["a"])
    entries = AuditEntry.objects.count()
    told = manage("status")
    for line in (
        "no slot is left",
        "1 sealed rows were changed",
        "1 sealed secrets do not open",
        "1 sealed secrets, ",
    ):
        assert line in told, line
    found = json.loads(manage("status", "--json"))
    assert (found["exists"], found["slots"], found["sealed_secrets"]) == (True, [], 1)
    assert AuditEntry.objects.count() == entries
    for text in (told, json.dumps(found)):
        assert SECRET not in text
        assert PASSWORD not in text
