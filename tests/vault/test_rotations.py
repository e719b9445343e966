"""Rotations of data key and root: nothing is lost, whichever statement a process is killed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from snapshots.models import WorkerStatus
from snapshots.publish import publish
from tests.vault.vaults import (
    ADMIN,
    NEW_PASSWORD,
    OTHER_SECRET,
    PASSWORD,
    SECRET,
    Time,
    a_credential,
    a_key,
    a_vault,
    open_all,
    run_sql,
    the_vault,
)
from tests.vault.workers import WhenAsked
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import VaultLocked
from vault.engine.passwords import encode_password
from vault.engine.slots import KeySecret, PasswordSecret, SlotKind
from vault.models import AuditEntry, SealedSecret, VaultDataKey, VaultManifest, VaultSlot, VaultWorker
from vault.opened import opened_vault
from vault.rotations import (
    MAX_DATA_KEYS,
    read_progress,
    reseal_some,
    retire_data_keys,
    rotate_data_key,
    rotate_root,
)
from vault.sealing import seal_secret
from vault.slot_secrets import Given
from vault.tries import UnlockRefused
from vault.vault_actions import add_key_slot, change_password, unlock
from vault.vault_manifest import RowsDiffer, accept_rows, check_manifest

pytestmark = pytest.mark.django_db

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRETS = [f"{SECRET}-{number}" for number in range(3)]


class Killed(BaseException):
    """The process is gone."""


def seal_all(secrets: list[str] = SECRETS) -> None:
    for number, secret in enumerate(secrets):
        seal_secret(ADMIN, a_credential(f"acme-{number}"), secret)


@contextmanager
def killed_at(statement: int) -> Iterator[list[str]]:
    """Raises in place of the given statement (from 0), which is not run. Collects the statements."""
    seen: list[str] = []

    def run(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        if len(seen) > statement:
            raise Killed
        return execute(sql, params, many, context)

    with connection.execute_wrapper(run):
        yield seen


def kill_everywhere(prepare: Callable[[], Callable[[], Any]], check: Callable[[], None]) -> int:
    """Runs what `prepare` returns once for each of its statements, killed there; checks the vault; how many statements.

    A killed process holds no keys: what is checked is opened by the password again.
    """
    at = 0
    while True:
        act = prepare()
        try:
            with killed_at(at):
                act()
        except Killed:
            opened_vault.drop()
            check()
            at += 1
        else:
            return at


def unlock_again(*passwords: str) -> str:
    """Unlocks by the first of these passwords that opens; which one."""
    for password in passwords:
        try:
            unlock(ADMIN, Given(password=password), clock=Time().clock)
        except UnlockRefused:
            continue
        return password
    raise AssertionError("no password opens the vault")


def check_all_opens(*passwords: str) -> None:
    unlock_again(*(passwords or (PASSWORD,)))
    assert open_all() == SECRETS
    assert check_manifest() == []


def test_a_new_data_key_seals_at_once_and_the_records_follow() -> None:
    a_vault()
    seal_all()
    assert rotate_data_key(ADMIN) == 2
    seal_secret(ADMIN, a_credential("late"), OTHER_SECRET)
    assert SealedSecret.objects.filter(key_version=2).count() == 1
    steps = []
    for _ in range(5):
        progress = reseal_some(2)
        steps.append((progress.done, progress.left, progress.finished))
    assert steps[:3] == [(3, 1, False), (4, 0, False), (4, 0, False)]
    assert open_all() == [*SECRETS, OTHER_SECRET]
    assert retire_data_keys() == (1,)
    assert read_progress().finished
    assert list(VaultDataKey.objects.values_list("version", flat=True)) == [2]
    assert opened_vault.get().keys.versions == (2,)
    assert open_all() == [*SECRETS, OTHER_SECRET]
    assert check_manifest() == []
    assert set(SealedSecret.objects.values_list("row_version", flat=True)) == {1, 2}
    assert rotate_data_key(ADMIN) == 3
    actions = list(AuditEntry.objects.filter(object_type="vault.vault").values_list("action", flat=True))
    assert actions.count("vault.reseal") == 2
    assert {"vault.rotate_data_key", "vault.retire_data_keys"} <= set(actions)


def test_a_key_that_any_live_worker_or_the_snapshot_in_force_needs_is_kept() -> None:
    a_vault()
    seal_all()
    publish("before", ADMIN, now=NOW)
    rotate_data_key(ADMIN)
    fields = {"boot_id": "b", "state": VaultWorker.State.UNLOCKED, "lock_epoch": opened_vault.epoch}
    VaultWorker.objects.create(
        instance="locked since", key_versions=[1], seen_at=NOW, **{**fields, "lock_epoch": 0}
    )
    slow = VaultWorker.objects.create(instance="slow", key_versions=[1], seen_at=NOW, **fields)
    VaultWorker.objects.create(instance="gone", key_versions=[1], seen_at=NOW - HOUR, **fields)
    assert reseal_some(now=NOW).waiting_for == ("slow",)
    assert read_progress(now=NOW).done == 0
    VaultWorker.objects.filter(pk=slow.pk).update(key_versions=[1, 2])
    assert reseal_some(now=NOW).left == 0
    assert retire_data_keys(now=NOW) == ()
    revision = publish("after", ADMIN, now=NOW).revision
    status = WorkerStatus.objects.create(instance="slow", pid=1, host="h", revision=revision - 1, seen_at=NOW)
    assert retire_data_keys(now=NOW) == ()
    WorkerStatus.objects.filter(pk=status.pk).update(revision=revision)
    assert retire_data_keys(now=NOW) == (1,)


def test_one_record_that_does_not_open_is_noted_and_the_others_go_on() -> None:
    a_vault()
    seal_all()
    broken = SealedSecret.objects.order_by("credential_id")[1]
    rotate_data_key(ADMIN)
    SealedSecret.objects.filter(pk=broken.pk).update(provider_kind="vllm")
    with pytest.raises(RowsDiffer):
        reseal_some()
    accept_rows(ADMIN)
    progress = reseal_some()
    assert (progress.done, progress.left, progress.unopenable) == (2, 1, 1)
    assert VaultManifest.objects.get().unopenable == [broken.pk]
    assert retire_data_keys() == ()
    assert reseal_some() == progress
    assert check_manifest() == []


def test_data_keys_are_bounded_and_need_the_vault_opened() -> None:
    a_vault()
    seal_all()
    for _ in range(MAX_DATA_KEYS - 1):
        rotate_data_key(ADMIN)
    with pytest.raises(Conflict):
        rotate_data_key(ADMIN)
    opened_vault.drop()
    for act in (lambda: rotate_data_key(ADMIN), reseal_some, retire_data_keys):
        with pytest.raises(VaultLocked):
            act()


def test_another_holder_takes_the_new_key_over_before_it_seals() -> None:
    a_vault()
    stale = opened_vault.get().root.copy()
    rotate_data_key(ADMIN)
    opened_vault.drop()
    run_sql("UPDATE vault_vault SET active_key = 1")
    opened_vault.put(stale, epoch=1)
    run_sql("UPDATE vault_vault SET active_key = 2")
    seal_secret(ADMIN, a_credential(), SECRET)
    assert open_all() == [SECRET]


def test_workers_that_come_at_once_move_and_sign_records_once(time: Time) -> None:
    a_vault()
    seal_all()
    rotate_data_key(ADMIN)
    signed = VaultManifest.objects.get().counter
    with connection.execute_wrapper(WhenAsked("vault_audithead", lambda: reseal_some() and None)):
        reseal_some()
    assert AuditEntry.objects.filter(action="vault.reseal").count() == 1
    assert VaultManifest.objects.get().counter == signed + 1
    assert open_all() == SECRETS


def test_a_new_root_keeps_secrets_fingerprints_and_the_slots_that_are_given(time: Time) -> None:
    recovery_key = a_vault()
    seal_all()
    key = a_key()
    mounted = add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, key.reveal_bytes())
    fingerprints = list(SealedSecret.objects.order_by("pk").values_list("fingerprint", flat=True))
    records = list(SealedSecret.objects.order_by("pk").values_list("record", flat=True))
    password, recovery = VaultSlot.objects.get(kind="password"), VaultSlot.objects.get(kind="recovery")
    keys = opened_vault.get().keys
    for expected in (2, 3):
        with encode_password(PASSWORD) as typed:
            secrets = {
                password.slot_id: PasswordSecret(typed),
                mounted.slot_id: KeySecret(SlotKind.KEY_FILE, key),
            }
            left = list(VaultSlot.objects.exclude(pk__in=secrets))
            assert left == ([recovery] if expected == 2 else [])
            if left:
                with pytest.raises(Conflict) as refused:
                    rotate_root(ADMIN, secrets, dropping=[], clock=time.clock)
                assert "Recovery key" in refused.value.message
            made = rotate_root(ADMIN, secrets, dropping=[row.slot_id for row in left], clock=time.clock)
        assert made == the_vault().root_version == opened_vault.get().root.version == expected
    after = VaultSlot.objects.get(kind="password")
    assert after.changed_at == password.changed_at, "the password itself is as old as before"
    assert after.opened_at is not None
    assert opened_vault.get().keys is keys
    assert open_all() == SECRETS
    assert list(SealedSecret.objects.order_by("pk").values_list("record", flat=True)) == records
    assert check_manifest() == []
    opened_vault.drop()
    with pytest.raises(UnlockRefused):
        unlock(ADMIN, Given(recovery_key=recovery_key), clock=time.clock)
    for given in (Given(password=PASSWORD), Given(key=key.reveal_bytes())):
        unlock(ADMIN, given, clock=time.clock)
        assert open_all() == SECRETS
    seal_secret(ADMIN, SealedSecret.objects.order_by("credential_id")[0].credential, SECRETS[0])
    after = list(SealedSecret.objects.values_list("fingerprint", flat=True))
    assert sorted(after) == sorted(fingerprints)
    assert len(the_vault().kept_subkeys) == 6


def test_a_wrong_secret_makes_no_new_root(time: Time) -> None:
    a_vault()
    password, recovery = VaultSlot.objects.get(kind="password"), VaultSlot.objects.get(kind="recovery")
    before = (the_vault().root_version, list(VaultSlot.objects.values()))
    with pytest.raises(UnlockRefused), encode_password("something else") as typed:
        rotate_root(
            ADMIN, {password.slot_id: PasswordSecret(typed)}, dropping=[recovery.slot_id], clock=time.clock
        )
    for secrets in ({}, {"0" * 32: KeySecret(SlotKind.RECOVERY, a_key())}):
        with pytest.raises(InvalidRequest):
            rotate_root(ADMIN, secrets, dropping=[password.slot_id, recovery.slot_id], clock=time.clock)
    assert (the_vault().root_version, list(VaultSlot.objects.values())) == before


def test_a_slot_of_the_root_before_opens_nothing(time: Time) -> None:
    a_vault()
    password, recovery = VaultSlot.objects.get(kind="password"), VaultSlot.objects.get(kind="recovery")
    with encode_password(PASSWORD) as typed:
        rotate_root(
            ADMIN, {password.slot_id: PasswordSecret(typed)}, dropping=[recovery.slot_id], clock=time.clock
        )
    password.save()
    opened_vault.drop()
    with pytest.raises(UnlockRefused):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert opened_vault.find() is None


def test_a_holder_of_the_root_before_seals_nothing_and_still_opens() -> None:
    a_vault()
    seal_all()
    stale = opened_vault.get().root.copy()
    password, recovery = VaultSlot.objects.get(kind="password"), VaultSlot.objects.get(kind="recovery")
    with encode_password(PASSWORD) as typed:
        rotate_root(ADMIN, {password.slot_id: PasswordSecret(typed)}, dropping=[recovery.slot_id])
    run_sql("UPDATE vault_vault SET root_version = 3")
    assert open_all() == SECRETS
    with pytest.raises(VaultLocked):
        seal_secret(ADMIN, a_credential("late"), SECRET)
    assert not stale.key.wiped
    stale.wipe()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_killed_at_any_statement_of_a_data_keys_rotation_everything_opens() -> None:
    a_vault()
    two = SECRETS[:2]  # One record and one more: what is killed grows with the square of their number.
    seal_all(two)
    root = opened_vault.get().root.copy()

    def rotate() -> Callable[[], Any]:
        if opened_vault.find() is None:
            opened_vault.put(root.copy(), epoch=1)

        def act() -> None:
            rotate_data_key(ADMIN)
            while reseal_some(1).left:
                pass
            retire_data_keys()

        while reseal_some().left:
            pass
        retire_data_keys()
        return act

    def check() -> None:
        # The root itself, since stretching a password at each statement would be most of the test.
        opened_vault.put(root.copy(), epoch=1)
        assert open_all() == two
        assert check_manifest() == []

    statements = kill_everywhere(rotate, check)
    print(f"killed at each of {statements} statements of a data key's rotation")
    assert statements > 40
    assert read_progress().finished
    unlock_again(PASSWORD)
    assert open_all() == two


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_killed_at_any_statement_of_a_roots_rotation_everything_opens() -> None:
    a_vault()
    seal_all()
    key = SecretBuffer.random()
    mounted = add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, key.reveal_bytes())
    VaultSlot.objects.exclude(pk=mounted.pk).delete()

    def rotate() -> Callable[[], Any]:
        if opened_vault.find() is None:
            unlock(ADMIN, Given(key=key.reveal_bytes()))
        secrets = {mounted.slot_id: KeySecret(SlotKind.KEY_FILE, key)}
        return lambda: rotate_root(ADMIN, secrets, dropping=[])

    def check() -> None:
        unlock(ADMIN, Given(key=key.reveal_bytes()))
        assert open_all() == SECRETS
        assert check_manifest() == []

    statements = kill_everywhere(rotate, check)
    print(f"killed at each of {statements} statements of a root's rotation")
    assert statements > 20
    check()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_killed_at_any_statement_of_a_replacement_everything_opens() -> None:
    a_vault()
    seal_all()
    credential = SealedSecret.objects.order_by("credential_id")[2].credential
    root = opened_vault.get().root.copy()

    def replace() -> Callable[[], Any]:
        if opened_vault.find() is None:
            opened_vault.put(root.copy(), epoch=1)
        return lambda: seal_secret(ADMIN, credential, SECRETS[2])

    def check() -> None:
        opened_vault.put(root.copy(), epoch=1)
        assert open_all() == SECRETS
        assert check_manifest() == []

    statements = kill_everywhere(replace, check)
    print(f"killed at each of {statements} statements of a provider key's replacement")
    assert statements > 15
    check()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_killed_at_any_statement_of_a_new_password_one_of_the_two_opens() -> None:
    a_vault()
    seal_all()

    def change() -> Callable[[], Any]:
        current = unlock_again(PASSWORD, NEW_PASSWORD)
        new = NEW_PASSWORD if current == PASSWORD else PASSWORD
        return lambda: change_password(ADMIN, Given(password=current), new, clock=Time().clock)

    def check() -> None:
        check_all_opens(PASSWORD, NEW_PASSWORD)

    statements = kill_everywhere(change, check)
    print(f"killed at each of {statements} statements of a password's change")
    assert statements > 8
    check()
