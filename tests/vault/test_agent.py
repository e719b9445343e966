"""Workers' agents: one unlock reaches all of them, a lock too; grants go to our own only; what is away too long is locked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from snapshots.compile import build_credential, build_sealed
from tests.vault.vaults import (
    ADMIN,
    PASSWORD,
    SECRET,
    a_credential,
    a_vault,
    run_sql,
    the_vault,
)
from tests.vault.workers import Away, WorkerCast, a_sealed_key, as_spec, first, go_round, several, to
from vault.agent import Headless
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.slots import KeySecret, SlotKind
from vault.headless import list_headless
from vault.keyring import CredentialUnavailable, list_older
from vault.models import SealedSecret, VaultGrant, VaultWorker
from vault.opened import opened_vault
from vault.rotations import rotate_data_key, rotate_root
from vault.sealing import seal_secret
from vault.slot_secrets import Given
from vault.vault_actions import add_key_slot, lock, unlock, update_settings
from vault.vault_models import VaultSlot

pytestmark = pytest.mark.django_db


def test_one_unlock_reaches_every_worker_and_a_lock_too() -> None:
    a_vault()
    opened_vault.drop()
    workers = several()
    assert not any(worker.unlocked for worker in workers)
    assert {worker.row.state for worker in workers} == {"locked"}
    unlock(ADMIN, Given(password=PASSWORD))
    go_round(workers)
    assert all(worker.unlocked for worker in workers)
    assert {worker.row.state for worker in workers} == {"unlocked"}
    assert not VaultGrant.objects.exists(), "a grant is deleted when it is taken"
    roots = {worker.holder.get().root.key.reveal_bytes() for worker in workers}
    assert len(roots) == 1
    lock(ADMIN, "the end of the day")
    go_round(workers, 1)
    assert not any(worker.unlocked for worker in workers)
    assert {worker.row.state for worker in workers} == {"locked"}


def test_a_late_worker_joins_by_itself() -> None:
    a_vault()
    workers = several(2)
    late = WorkerCast("late")
    go_round([late, *workers, late], 1)
    assert late.unlocked
    assert late.row.announced_at == 0


def test_without_a_vault_there_is_nothing_to_do() -> None:
    worker = first()
    worker.poll()
    assert (worker.row.state, worker.row.problem, worker.keyring.vault_state) == ("none", "", "none")


def test_without_a_cluster_secret_each_worker_says_that_it_is_alone() -> None:
    a_vault()
    workers = several(2, secret=None)
    go_round(workers)
    assert [worker.unlocked for worker in workers] == [True, False]
    assert "TOKENHUB_CLUSTER_SECRET" in workers[1].row.problem
    assert not VaultGrant.objects.exists()


def test_who_has_another_cluster_secret_gets_nothing_and_is_named() -> None:
    a_vault()
    stranger = WorkerCast("stranger", secret="some other secret of enough characters")
    stranger.poll()
    worker = first()
    worker.poll()
    assert not VaultGrant.objects.exists()
    assert worker.row.problem.startswith("stranger is refused")


@pytest.mark.parametrize("field", ["public_key", "boot_id", "instance", "announced_at"])
def test_an_announcement_that_somebody_changed_gets_nothing(field: str) -> None:
    a_vault()
    WorkerCast("late").poll()
    row = VaultWorker.objects.get()
    changed = {
        "public_key": b"\x07" * 32,
        "boot_id": "other",
        "instance": "x",
        "announced_at": row.announced_at + 1,
    }
    VaultWorker.objects.filter(instance="late").update(**{field: changed[field]})
    first().poll()
    assert not VaultGrant.objects.exists()


def test_a_grant_of_an_earlier_epoch_is_thrown_away() -> None:
    a_vault()
    late, worker = WorkerCast("late"), first()
    go_round([late, worker], 1)
    kept = VaultGrant.objects.get()
    lock(ADMIN)
    kept.pk = None
    kept.save(force_insert=True)
    late.poll()
    assert not late.unlocked
    assert not VaultGrant.objects.exists()


def test_a_grant_that_was_altered_does_not_open_and_is_told() -> None:
    a_vault()
    late, worker = WorkerCast("late"), first()
    go_round([late, worker], 1)
    grant = VaultGrant.objects.get()
    VaultGrant.objects.update(grant=bytes(grant.grant)[:-1] + bytes([bytes(grant.grant)[-1] ^ 1]))
    late.poll()
    assert not late.unlocked
    assert "does not open" in late.row.problem


def test_a_worker_that_waits_announces_itself_again_before_it_is_too_old() -> None:
    a_vault()
    opened_vault.drop()
    late = WorkerCast("late")
    late.poll()
    run_sql("UPDATE vault_vaultworker SET announced_at = announced_at - 100")
    late.poll(31)
    assert late.row.announced_at > 0
    unlock(ADMIN, Given(password=PASSWORD))
    go_round([first(), late], 1)
    assert late.unlocked


def test_a_new_data_key_is_picked_up() -> None:
    a_vault()
    workers = several(2)
    go_round(workers)
    rotate_data_key(ADMIN)
    go_round(workers, 1)
    assert [worker.row.key_versions for worker in workers] == [[1, 2], [1, 2]]
    assert workers[1].holder.get().keys.active == 2


def test_a_rotated_root_is_followed_and_nobody_loses_a_key_meanwhile() -> None:
    a_vault()
    key = a_sealed_key()
    workers = several(2)
    go_round(workers)
    other = workers[1]
    assert other.keyring.get_secret(key, to()) == SECRET.encode()
    slots = {row.kind: row.slot_id for row in VaultSlot.objects.all()}
    with Given(password=PASSWORD).as_secrets() as (secret,):
        rotate_root(ADMIN, {slots["password"]: secret}, dropping=[slots["recovery"]])
    for _ in range(3):
        for worker in reversed(workers):
            worker.poll()
            assert other.keyring.get_secret(key, to()) == SECRET.encode()
    assert other.holder.get().root.version == 2
    assert other.row.root_version == 2


def test_a_rotated_root_that_can_not_be_followed_locks() -> None:
    a_vault()
    workers = several(2)
    go_round(workers)
    run_sql("UPDATE vault_vault SET root_version = 9")
    workers[1].poll()
    assert workers[1].unlocked
    workers[1].poll(31)
    assert not workers[1].unlocked


@pytest.mark.parametrize("coast", [0, 180])
def test_a_database_that_is_away_for_too_long_locks(coast: int) -> None:
    a_vault()
    update_settings(ADMIN, coast_seconds=coast)
    key = a_sealed_key()
    worker = first()
    worker.poll()
    assert worker.keyring.get_secret(key, to()) == SECRET.encode()
    with Away():
        if coast:
            worker.poll()
            assert worker.keyring.get_secret(key, to()) == SECRET.encode()
            worker.poll(coast - 2)
            assert worker.unlocked
        worker.poll()
        assert not worker.unlocked
        with pytest.raises(VaultLocked):
            worker.keyring.get_secret(key, to())
    assert "database" in worker.keyring.vault_reason


def test_an_agent_that_hangs_does_not_keep_the_keyring_open() -> None:
    a_vault()
    key = a_sealed_key()
    worker = first()
    worker.poll()
    worker.clock.now += the_vault().coast_seconds + 10
    with pytest.raises(VaultLocked):
        worker.keyring.get_secret(key, to())


def test_an_idle_vault_is_locked_for_all_and_a_used_one_is_not() -> None:
    a_vault()
    key = a_sealed_key()
    workers = several(2)
    go_round(workers)
    run_sql("UPDATE vault_vault SET unlocked_at = %s", timezone.now() - timedelta(minutes=31))
    workers[1].keyring.get_secret(key, to())
    workers[1].poll()
    workers[1].poll(5)
    go_round(workers, 1)
    assert workers[0].unlocked
    VaultWorker.objects.update(used_at=timezone.now() - timedelta(minutes=31))
    workers[0].poll()
    assert not workers[0].unlocked
    assert the_vault().locked_because == "idle for 30 min"
    workers[1].poll()
    assert not workers[1].unlocked


@pytest.mark.parametrize("headless", [False, True])
def test_the_longest_time_locks_unless_something_unlocks_by_itself(headless: bool) -> None:
    a_vault()
    if headless:
        add_key_slot(ADMIN, "Key file", SlotKind.KEY_FILE, SecretBuffer.random().reveal_bytes())
    worker = first()
    worker.poll()
    run_sql("UPDATE vault_vault SET unlocked_at = %s", timezone.now() - timedelta(hours=13))
    worker.poll()
    assert worker.unlocked is headless


def key_ways(kind: SlotKind, key: bytes, folder: Path) -> list[Headless]:
    """As the start finds them."""
    if kind is SlotKind.KEY_FILE:
        (folder / "key").write_bytes(key)
        return list_headless({}, "TOKENHUB_VAULT_KEY", folder / "key")
    environ = {"TOKENHUB_VAULT_KEY": key.hex()}
    ways = list_headless(environ, "TOKENHUB_VAULT_KEY", None)
    assert environ == {}
    return ways


@pytest.mark.parametrize("kind", [SlotKind.KEY_FILE, SlotKind.ENVIRONMENT])
def test_a_worker_with_a_key_unlocks_at_its_start_but_never_against_a_lock(
    kind: SlotKind, tmp_path: Path
) -> None:
    a_vault()
    key = SecretBuffer.random().reveal_bytes()
    add_key_slot(ADMIN, "Start", kind, key)
    opened_vault.drop()
    worker = first(headless=key_ways(kind, key, tmp_path))
    worker.poll()
    assert worker.unlocked
    lock(ADMIN)
    worker.poll()
    assert not worker.unlocked
    again = first(headless=key_ways(kind, key, tmp_path))
    again.poll()
    assert not again.unlocked
    unlock(ADMIN, Given(password=PASSWORD))
    opened_vault.drop()
    replaced = first(headless=key_ways(kind, key, tmp_path))
    replaced.poll()
    assert replaced.unlocked


def test_a_wrong_or_missing_key_is_told_and_the_next_way_is_tried(tmp_path: Path) -> None:
    a_vault()
    key = SecretBuffer.random().reveal_bytes()
    add_key_slot(ADMIN, "Start", SlotKind.ENVIRONMENT, key)
    opened_vault.drop()
    wrong = KeySecret(SlotKind.KEY_FILE, SecretBuffer.random())
    worker = first(secret=None, headless=[Headless("the KMS", lambda: wrong)])
    worker.poll()
    assert not worker.unlocked
    assert "the KMS" in worker.row.problem
    assert wrong.key.wiped
    ways = list_headless({"V": key.hex()}, "V", tmp_path / "absent")
    other = first(headless=ways)
    other.poll()
    assert other.unlocked


def test_the_end_of_a_worker_takes_its_row_and_keys_away() -> None:
    import threading  # noqa: PLC0415

    a_vault()
    worker = first(poll_seconds=0.01)
    worker.poll()
    root = opened_vault.get().root
    stop = threading.Event()
    stop.set()
    worker.agent.run(stop)
    assert root.key.wiped
    assert not VaultWorker.objects.exists()


def test_workers_and_grants_that_are_gone_are_tidied_away() -> None:
    a_vault()
    several(2)
    VaultWorker.objects.update(seen_at=timezone.now() - timedelta(minutes=2))
    VaultGrant.objects.create(
        instance="gone", boot_id="b", lock_epoch=1, root_version=1, nonce=b"", grant=b"",
        created_at=timezone.now() - timedelta(minutes=2),
    )  # fmt: skip
    worker = WorkerCast("new")
    worker.poll()
    assert [row.instance for row in VaultWorker.objects.all()] == ["new"]
    assert not VaultGrant.objects.exists()


# The keyring


def test_a_sealed_key_goes_only_where_it_was_entered_for() -> None:
    a_vault()
    key = a_sealed_key()
    worker = first()
    worker.poll()
    assert worker.keyring.get_secret(key, to("https://ACME.example")) == SECRET.encode()
    with pytest.raises(CredentialUnavailable, match="was not entered for this endpoint"):
        worker.keyring.get_secret(key, to("https://evil.example"))
    for elsewhere in (to(kind="anthropic"), to(header="x-api-key")):
        with pytest.raises(DoesNotOpen):
            worker.keyring.get_secret(key, elsewhere)
    # The row says that it is for there, but was sealed for here.
    lying = build_credential(SealedSecret.objects.get().credential, (
        build_sealed(SealedSecret(**{**vars_of(SealedSecret.objects.get()), "origin": "https://evil.example:443"})),
    ))  # fmt: skip
    with pytest.raises(DoesNotOpen):
        worker.keyring.get_secret(lying, to("https://evil.example"))
    worker.poll(6)
    assert worker.row.problem == "does not open: the sealed key of main"


def vars_of(row: SealedSecret) -> dict[str, Any]:
    """A row's columns."""
    return {name: value for name, value in vars(row).items() if not name.startswith("_")}


def test_a_lock_overwrites_what_was_opened() -> None:
    a_vault()
    key = a_sealed_key()
    worker = first()
    worker.poll()
    worker.keyring.get_secret(key, to())
    (opened,) = worker.keyring._unsealed.values()
    lock(ADMIN)
    worker.poll()
    assert opened.value.wiped
    with pytest.raises(VaultLocked):
        worker.keyring.get_secret(key, to())


def test_a_record_that_moved_to_a_data_key_not_here_yet_serves_on() -> None:
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    workers = several(2)
    go_round(workers)
    other = workers[1]
    assert other.keyring.get_secret(as_spec(credential), to()) == SECRET.encode()
    rotate_data_key(ADMIN)
    from vault.rotations import reseal_some  # noqa: PLC0415

    VaultWorker.objects.all().delete()
    reseal_some()
    moved = as_spec(credential)
    assert moved.sealed[0].row_version == 2
    assert other.keyring.get_secret(moved, to()) == SECRET.encode()
    fresh = seal_secret(ADMIN, a_credential("globex"), "sk-other")
    with pytest.raises(CredentialUnavailable, match="has not arrived"):
        other.keyring.get_secret(as_spec(fresh), to("https://globex.example"))
    other.poll()
    assert other.keyring.get_secret(as_spec(fresh), to("https://globex.example")) == b"sk-other"


def test_the_secret_before_is_a_credential_of_its_own_while_both_are_good() -> None:
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    seal_secret(ADMIN, credential, "sk-newer", overlap=timedelta(minutes=5))
    key = as_spec(credential)
    worker = first()
    worker.poll()
    (older,) = list_older(key, "https://acme.example")
    assert (older.weight, older.id) == (0, f"{key.id}@{older.version}")
    assert worker.keyring.get_secret(key, to()) == b"sk-newer"
    assert worker.keyring.get_secret(older, to()) == SECRET.encode()
