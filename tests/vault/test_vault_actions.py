"""Initialising, unlocking, locking, passwords and slots: what opens the vault, what does not, and what is written down."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection

from tests.vault.vaults import (
    ADMIN,
    NEW_PASSWORD,
    OTHER,
    PASSWORD,
    Time,
    a_key,
    a_vault,
    run_sql,
    the_vault,
)
from tests.vault.workers import WhenAsked
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest, PermissionDenied, RateLimited, TokenhubError
from vault.audit import add
from vault.engine.errors import DoesNotOpen, KeyMalformed, PasswordTooWeak, VaultLocked
from vault.engine.kms import SoftwareKms
from vault.engine.slots import KeySecret, KmsSecret, SlotKind
from vault.models import AuditEntry, Vault, VaultDataKey, VaultManifest, VaultSlot, VaultTry
from vault.opened import opened_vault
from vault.slot_secrets import Given
from vault.tries import MAX_TRIES, TRIES_PER_ACTOR, WINDOW, NoVault, UnlockRefused
from vault.vault_actions import (
    MAX_SLOTS,
    add_key_slot,
    add_password_slot,
    add_recovery_slot,
    add_slot,
    change_password,
    initialise,
    lock,
    remove_slot,
    rename_slot,
    unlock,
    unlock_headless,
    update_settings,
)

pytestmark = pytest.mark.django_db

READER = Actor("token", "rita", scopes=frozenset({"read"}))


def stored_text() -> str:
    """Everything that the vault's tables and the audit trail hold."""
    rows = [
        *Vault.objects.values(),
        *VaultSlot.objects.values(),
        *VaultDataKey.objects.values(),
        *VaultManifest.objects.values(),
        *AuditEntry.objects.values(),
    ]
    return repr(
        [{key: bytes(v) if isinstance(v, memoryview) else v for key, v in row.items()} for row in rows]
    )


def test_a_vault_is_made_once_and_opens_by_its_password_and_its_recovery_key(time: Time) -> None:
    recovery_key = a_vault()
    assert opened_vault.epoch == the_vault().lock_epoch == 1
    assert sorted(VaultSlot.objects.values_list("kind", flat=True)) == ["password", "recovery"]
    with pytest.raises(Conflict):
        initialise(ADMIN, PASSWORD)
    for given in (
        Given(password=PASSWORD),
        Given(recovery_key=recovery_key),
        Given(recovery_key=recovery_key.lower()),
    ):
        opened_vault.drop()
        unlock(ADMIN, given, clock=time.clock)
        assert opened_vault.get().keys.versions == (1,)
    assert PASSWORD not in stored_text()
    assert recovery_key not in stored_text()
    assert recovery_key.replace("-", "") not in stored_text()


def test_a_second_vault_in_the_same_moment_is_refused_by_the_database() -> None:
    a_vault()
    before = the_vault()
    with pytest.raises(Conflict):
        add(ADMIN, Vault(root_check=b"x"))
    assert (Vault.objects.count(), the_vault().vault_id) == (1, before.vault_id)


@pytest.mark.parametrize(
    "password", ["", "short", "password1234567", "aaaaaaaaaaaaaaaaaaaa", "x" * 2000 + "\ud800"]
)
def test_a_weak_password_makes_no_vault(password: str) -> None:
    with pytest.raises(PasswordTooWeak) as refused:
        initialise(ADMIN, password)
    assert not password or password not in refused.value.message
    assert not Vault.objects.exists()
    assert not VaultSlot.objects.exists()


def test_without_a_vault_nothing_is_unlocked_or_locked(time: Time) -> None:
    with pytest.raises(NoVault):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    with pytest.raises(NoVault):
        lock(ADMIN)
    with pytest.raises(VaultLocked):
        opened_vault.get()


def test_who_may_only_read_changes_nothing(time: Time) -> None:
    with pytest.raises(PermissionDenied):
        initialise(READER, PASSWORD)
    a_vault()
    for act in (lambda: unlock(READER, Given(password=PASSWORD), clock=time.clock), lambda: lock(READER)):
        with pytest.raises(PermissionDenied):
            act()
    assert opened_vault.epoch == the_vault().lock_epoch == 1


@pytest.mark.parametrize(
    "given",
    [
        Given(password="not the password at all"),
        Given(password=PASSWORD + " "),
        Given(password="x" * 5000),
        Given(password=PASSWORD, key=bytes(range(32))),
        Given(key=bytes(range(32))),
        Given(key=base64.b64encode(bytes(range(32))).decode()),
    ],
)
def test_what_is_wrong_gives_one_error_and_is_written_down(given: Given, time: Time) -> None:
    a_vault()
    opened_vault.drop()
    with pytest.raises(UnlockRefused) as refused:
        unlock(OTHER, given, clock=time.clock)
    assert (refused.value.message, refused.value.hint) == ("this opens no slot of the vault", None)
    assert opened_vault.find() is None
    assert time.waits == [0.25]
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.action, entry.actor, entry.after) == (
        "vault.unlock_refused",
        "otto",
        {"what": "unlock", "tries": 1},
    )


def test_what_can_be_no_key_is_said_and_not_counted(time: Time) -> None:
    a_vault()
    for given, error in (
        (Given(), InvalidRequest),
        (Given(password="a", recovery_key="b"), InvalidRequest),
        (Given(recovery_key="ABCDE"), KeyMalformed),
        (Given(key=b"short"), KeyMalformed),
    ):
        with pytest.raises(error):
            unlock(ADMIN, given, clock=time.clock)
    assert not VaultTry.objects.exists()


def test_tries_are_limited_for_each_actor_and_in_all(time: Time) -> None:
    a_vault()
    opened_vault.drop()
    wrong = Given(key=bytes(range(32)))
    for _ in range(TRIES_PER_ACTOR):
        with pytest.raises(UnlockRefused):
            unlock(OTHER, wrong, clock=time.clock)
    assert time.waits == [0.25, 0.5, 1.0, 2.0, 4.0]
    with pytest.raises(RateLimited) as limited:
        unlock(OTHER, Given(password=PASSWORD), clock=time.clock)
    assert limited.value.retry_after == WINDOW.total_seconds()
    for number in range((MAX_TRIES - TRIES_PER_ACTOR) // 3):
        for _ in range(3):
            with pytest.raises(UnlockRefused):
                unlock(Actor("user", f"someone {number}"), wrong, clock=time.clock)
    with pytest.raises(RateLimited):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert VaultTry.objects.count() == MAX_TRIES
    time.forward(WINDOW - timedelta(seconds=1))
    with pytest.raises(RateLimited):
        unlock(OTHER, Given(password=PASSWORD), clock=time.clock)
    time.forward(timedelta(seconds=1))
    unlock(OTHER, Given(password=PASSWORD), clock=time.clock)
    assert not VaultTry.objects.exists()


def test_a_success_clears_only_the_actors_own_tries(time: Time) -> None:
    a_vault()
    for actor in (ADMIN, OTHER):
        with pytest.raises(UnlockRefused):
            unlock(actor, Given(key=bytes(range(32))), clock=time.clock)
    unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert list(VaultTry.objects.values_list("actor", flat=True)) == ["user:otto"]


def test_locking_counts_the_epoch_up_and_drops_the_keys_here(time: Time) -> None:
    a_vault()
    held = opened_vault.get()
    lock(ADMIN, "the visitors are here")
    assert opened_vault.find() is None
    assert held.root.key.wiped
    assert held.fingerprint_key.wiped
    vault = the_vault()
    assert (vault.lock_epoch, vault.locked_because, vault.unlocked_at) == (2, "the visitors are here", None)
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.action, entry.after["lock_epoch"]) == ("vault.lock", 2)
    unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert the_vault().unlocked_at == time.moment
    assert opened_vault.epoch == 2


def test_a_root_of_before_a_lock_is_not_taken() -> None:
    a_vault()
    root = opened_vault.get().root.copy()
    lock(ADMIN)
    with pytest.raises(VaultLocked):
        opened_vault.put(root, epoch=1)
    assert root.key.wiped
    assert opened_vault.find() is None


def test_a_worker_that_missed_a_lock_drops_its_keys_when_it_looks() -> None:
    a_vault()
    held = opened_vault.get()
    run_sql("UPDATE vault_vault SET lock_epoch = lock_epoch + 1")
    with pytest.raises(VaultLocked):
        opened_vault.refresh()
    assert held.root.key.wiped


def test_another_password_for_one_slot_only(time: Time) -> None:
    recovery_key = a_vault()
    keys = list(VaultDataKey.objects.values())
    others = list(VaultSlot.objects.exclude(kind="password").values())
    opened_vault.drop()
    with pytest.raises(PasswordTooWeak):
        change_password(ADMIN, Given(password=PASSWORD), "short", clock=time.clock)
    with pytest.raises(UnlockRefused):
        change_password(ADMIN, Given(password="not the password"), NEW_PASSWORD, clock=time.clock)
    with pytest.raises(InvalidRequest):
        change_password(ADMIN, Given(recovery_key=recovery_key), NEW_PASSWORD, clock=time.clock)
    change_password(ADMIN, Given(password=PASSWORD), NEW_PASSWORD, clock=time.clock)
    assert opened_vault.find() is None
    with pytest.raises(UnlockRefused):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    unlock(ADMIN, Given(password=NEW_PASSWORD), clock=time.clock)
    unlock(ADMIN, Given(recovery_key=recovery_key), clock=time.clock)
    assert list(VaultDataKey.objects.values()) == keys
    unchanged = VaultSlot.objects.exclude(kind="password").values("slot_id", "document")
    assert list(unchanged) == [{key: row[key] for key in ("slot_id", "document")} for row in others]
    assert "vaultslot.change_secret" in AuditEntry.objects.values_list("action", flat=True)


def test_further_slots_of_every_kind_open_it(time: Time) -> None:
    a_vault()
    add_password_slot(ADMIN, "Otto", NEW_PASSWORD)
    _, printed = add_recovery_slot(ADMIN, "Second print")
    file_key, variable_key, kms_key = a_key(), a_key(), a_key()
    add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, file_key.reveal_bytes())
    add_key_slot(ADMIN, "Variable", SlotKind.ENVIRONMENT, variable_key.reveal_bytes().hex())
    kms = KmsSecret(SoftwareKms("soft", kms_key))
    add_slot(ADMIN, "KMS", kms)
    for given in (
        Given(password=NEW_PASSWORD),
        Given(recovery_key=printed),
        Given(key=file_key.reveal_bytes()),
        Given(key=variable_key.reveal_bytes().hex()),
    ):
        opened_vault.drop()
        unlock(ADMIN, given, clock=time.clock)
        assert opened_vault.epoch == 1
    for secret in (kms, KeySecret(SlotKind.KEY_FILE, file_key)):
        opened_vault.drop()
        unlock_headless(Actor.system(), secret, clock=time.clock)
        assert opened_vault.epoch == 1
    with pytest.raises(DoesNotOpen):
        unlock_headless(Actor.system(), KeySecret(SlotKind.KEY_FILE, a_key()), clock=time.clock)
    assert VaultSlot.objects.count() == 7


def test_slots_need_the_vault_opened_and_are_bounded() -> None:
    a_vault()
    with pytest.raises(InvalidRequest):
        add_key_slot(ADMIN, " ", SlotKind.KEY_FILE, a_key().reveal_bytes())
    for number in range(MAX_SLOTS - 2):
        add_key_slot(ADMIN, f"key {number}", SlotKind.KEY_FILE, a_key().reveal_bytes())
    with pytest.raises(Conflict):
        add_key_slot(ADMIN, "one more", SlotKind.KEY_FILE, a_key().reveal_bytes())
    opened_vault.drop()
    with pytest.raises(VaultLocked):
        add_password_slot(ADMIN, "locked", NEW_PASSWORD)


def test_the_last_ways_in_stay() -> None:
    a_vault()
    password, recovery = VaultSlot.objects.get(kind="password"), VaultSlot.objects.get(kind="recovery")
    mounted = add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, a_key().reveal_bytes())
    remove_slot(ADMIN, password)
    with pytest.raises(Conflict) as refused:
        remove_slot(ADMIN, recovery)
    assert refused.value.param == "leave_headless_only"
    remove_slot(ADMIN, recovery, leave_headless_only=True)
    with pytest.raises(Conflict):
        remove_slot(ADMIN, mounted, leave_headless_only=True)
    assert list(VaultSlot.objects.all()) == [mounted]


def test_a_slot_is_renamed_and_the_settings_change() -> None:
    a_vault()
    slot = VaultSlot.objects.get(kind="password")
    assert rename_slot(ADMIN, slot, "Vera's").label == "Vera's"
    with pytest.raises(InvalidRequest):
        rename_slot(ADMIN, slot, "")
    assert update_settings(ADMIN, idle_minutes=5, max_hours=0).idle_minutes == 5
    for wrong in ({"idle_minutes": -1}, {"max_hours": "soon"}, {"lock_epoch": 1}, {"coast_seconds": 10**9}):
        with pytest.raises(InvalidRequest):
            update_settings(ADMIN, **wrong)


def test_every_altered_field_of_a_slots_row_opens_nothing(time: Time) -> None:
    a_vault()
    opened_vault.drop()
    slot = VaultSlot.objects.get(kind="password")
    true = dict(slot.document)
    weaker = dict(true["argon2"], memory_kib=1024)
    altered = [
        {**true, "argon2": weaker},
        {**true, "argon2": dict(true["argon2"], passes=4)},
        {**true, "vault_id": "0" * 32},
        {**true, "slot_id": "0" * 32},
        {**true, "root_version": 2},
        {**true, "kind": "recovery"},
        {**true, "kdf": "none"},
        {**true, "sealed": true["sealed"][:-8] + "AAAAAAA="},
        {**true, "sealed": ""},
        {**true, "more": 1},
        {},
        [],
        "text",
    ]
    for number, document in enumerate(altered):
        VaultSlot.objects.filter(pk=slot.pk).update(document=document)
        with pytest.raises(UnlockRefused):
            unlock(Actor("user", f"try {number}"), Given(password=PASSWORD), clock=time.clock)
    VaultSlot.objects.filter(pk=slot.pk).update(document=true)
    unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)


def test_changed_meta_data_does_not_unlock(time: Time) -> None:
    a_vault()
    opened_vault.drop()
    good = bytes(the_vault().root_check)
    for statement, values in (
        ("UPDATE vault_vault SET root_check = %s", (good[:-1] + bytes([good[-1] ^ 1]),)),
        ("UPDATE vault_vault SET root_check = %s", (b"",)),
    ):
        run_sql(statement, *values)
        with pytest.raises(UnlockRefused):
            unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    run_sql("UPDATE vault_vault SET root_check = %s", good)
    run_sql("UPDATE vault_vaultdatakey SET wrapped = %s", b"THV1")
    with pytest.raises(TokenhubError):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert opened_vault.find() is None


def test_the_recovery_key_is_shown_though_the_database_goes_away_after_the_vault_was_made() -> None:
    def fail() -> None:
        raise DatabaseError("the server has gone")

    # The first look at the data keys is the opening's, after the commit.
    with connection.execute_wrapper(WhenAsked('SELECT "vault_vaultdatakey"', fail)):
        recovery_key = initialise(ADMIN, PASSWORD)
    assert opened_vault.find() is None
    unlock(ADMIN, Given(recovery_key=recovery_key))
    assert opened_vault.find() is not None
