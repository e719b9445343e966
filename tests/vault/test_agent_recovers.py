"""What agents do when nobody did anything wrong: a database that hangs or comes back, a KMS that was away, new keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection

from gateway.health import HealthBoard
from gateway.targets import TargetPicker
from routing.engine.decide import Ask, decide
from routing.engine.health import TargetHealth
from routing.engine.plan import Candidate, Plan
from tests.builders import a_model, a_provider
from tests.vault.vaults import ADMIN, PASSWORD, SECRET, a_credential, a_vault, the_vault
from tests.vault.workers import (
    Away,
    WhenAsked,
    WorkerCast,
    a_sealed_key,
    as_spec,
    first,
    go_round,
    several,
    to,
)
from tokenhub.core.specs import EndpointSpec, Snapshot
from vault.agent import AGAIN_SECONDS, SETTLE_SECONDS, Headless
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import KmsFailed, VaultLocked
from vault.engine.hierarchy import DataKey, wrap_data_key
from vault.engine.kms import KmsContext, SoftwareKms
from vault.engine.records import DataKeys
from vault.engine.slots import KmsSecret, SlotKind
from vault.headless import list_headless
from vault.new_keys import LONGEST_WAIT, fetch_keys
from vault.opened import VaultHolder, opened_vault
from vault.rotations import rotate_data_key, rotate_root
from vault.sealing import seal_secret
from vault.slot_secrets import Given
from vault.vault_actions import add_key_slot, add_slot, lock, unlock
from vault.vault_models import Vault, VaultDataKey, VaultSlot

pytestmark = pytest.mark.django_db


class Kms(SoftwareKms):
    """A KMS that may be away."""

    away = False

    def unwrap(self, wrapped: bytes, context: KmsContext) -> SecretBuffer:
        """Raises KmsFailed while it is away."""
        if self.away:
            raise KmsFailed("the KMS does not answer")
        return super().unwrap(wrapped, context)


@pytest.fixture
def kms() -> Kms:
    """A KMS with a slot in a vault, which is locked here."""
    made = Kms("stand-in", SecretBuffer.random())
    a_vault()
    add_slot(ADMIN, "KMS", KmsSecret(made))
    opened_vault.drop()
    return made


def in_thread(act: Callable[[], None]) -> bool:
    """Whether it came to its end in another thread within a second."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(1)
    return not thread.is_alive()


def test_keys_are_overwritten_while_the_poll_hangs_in_a_database_that_does_not_answer() -> None:
    a_vault()
    key = a_sealed_key()
    worker = first()
    worker.poll()
    held = opened_vault.get()
    worker.agent.check_overdue()
    assert worker.unlocked

    def time_passes() -> None:
        worker.clock.now += 180 + 6
        assert in_thread(worker.agent.check_overdue)

    with connection.execute_wrapper(WhenAsked('FROM "vault_vault"', time_passes)):
        worker.agent.poll(connection)
    assert held.root.key.wiped
    assert held.keys.versions == (1,)
    assert not worker.unlocked
    with pytest.raises(VaultLocked):
        worker.keyring.get_secret(key, to())


def test_a_drop_does_not_wait_for_a_put_that_hangs_and_nothing_is_held_afterwards() -> None:
    a_vault()
    root = opened_vault.get().root.copy()
    holder = VaultHolder()

    def dropped() -> None:
        assert in_thread(holder.drop), "it waited for the put"

    with connection.execute_wrapper(WhenAsked("vault_vaultdatakey", dropped)), pytest.raises(VaultLocked):
        holder.put(root, epoch=1)
    assert holder.find() is None
    assert root.key.wiped


def test_a_data_key_that_comes_too_late_for_a_wipe_is_wiped_too() -> None:
    keys = DataKeys("v", [DataKey.create("v", 1)], active=1)
    keys.wipe()
    late = DataKey.create("v", 2)
    with pytest.raises(VaultLocked):
        keys.add(late, activate=True)
    assert late.key.wiped


def test_a_worker_says_that_it_is_unlocked_only_once_it_gives_secrets() -> None:
    a_vault()
    worker = first()
    seen: list[str] = []
    write = WhenAsked('INTO "vault_vaultworker"', lambda: seen.append(worker.keyring.vault_state))
    with connection.execute_wrapper(write):
        worker.poll()
    assert (seen, worker.row.state) == (["unlocked"], "unlocked")


@pytest.mark.parametrize("person", [False, True])
def test_after_an_outage_a_key_file_unlocks_again_but_never_against_a_persons_lock(
    person: bool, tmp_path: Path
) -> None:
    a_vault()
    (tmp_path / "key").write_bytes(key := SecretBuffer.random().reveal_bytes())
    add_key_slot(ADMIN, "Start", SlotKind.KEY_FILE, key)
    worker = first(secret=None, headless=list_headless({}, "NONE", tmp_path / "key"))
    worker.poll()
    with Away():
        worker.poll(181)
        assert not worker.unlocked
    if person:
        lock(ADMIN)
    worker.poll()
    assert worker.unlocked is not person


def test_an_environment_slot_unlocks_again_after_an_outage_too() -> None:
    a_vault()
    add_key_slot(ADMIN, "Start", SlotKind.ENVIRONMENT, key := SecretBuffer.random().reveal_bytes())
    worker = first(secret=None, headless=list_headless({"V": key.hex()}, "V", None))
    worker.poll()
    with Away():
        worker.poll(181)
    assert not worker.unlocked
    worker.poll()
    assert worker.unlocked


def test_a_database_that_fails_in_the_middle_of_the_unlock_at_the_start_is_asked_again(
    tmp_path: Path,
) -> None:
    a_vault()
    (tmp_path / "key").write_bytes(key := SecretBuffer.random().reveal_bytes())
    add_key_slot(ADMIN, "Start", SlotKind.KEY_FILE, key)
    opened_vault.drop()
    worker = first(secret=None, headless=list_headless({}, "NONE", tmp_path / "key"))

    def fail() -> None:
        raise DatabaseError("database is locked")

    with connection.execute_wrapper(WhenAsked('UPDATE "vault_vaultslot"', fail)):
        worker.poll()
    assert not worker.unlocked
    worker.poll(AGAIN_SECONDS)
    assert worker.unlocked


def test_a_look_in_the_middle_of_a_rotation_leaves_no_worker_on_the_old_data_key() -> None:
    a_vault()
    worker = first()
    worker.poll()
    made = DataKey.create(the_vault().vault_id, 2)

    def rotate() -> None:
        VaultDataKey.objects.create(version=2, wrapped=wrap_data_key(opened_vault.get().root, made))
        Vault.objects.update(active_key=2)

    with connection.execute_wrapper(WhenAsked('FROM "vault_vaultdatakey"', rotate)):
        opened_vault.refresh()
    assert opened_vault.get().keys.versions == (1, 2)
    worker.poll()
    assert opened_vault.get().keys.active == 2


def test_without_anything_that_unlocks_by_itself_a_worker_stays_locked_after_an_outage() -> None:
    a_vault()
    worker = first()
    worker.poll()
    with Away():
        worker.poll(181)
    go_round([worker], 3)
    assert not worker.unlocked
    assert worker.row.state == "locked"
    unlock(ADMIN, Given(password=PASSWORD))
    worker.poll()
    assert worker.unlocked


def test_after_an_outage_a_peer_that_kept_its_keys_unlocks_the_others() -> None:
    a_vault()
    kept, other = several(2)
    go_round([kept, other])
    with Away():
        other.poll(181)
        assert not other.unlocked
    go_round([other, kept, other], 1)
    assert other.unlocked


def test_a_kms_that_does_not_answer_at_the_start_is_asked_again(kms: Kms) -> None:
    kms.away = True
    worker = first(headless=list_headless({}, "NONE", None, kms))
    worker.poll()
    assert not worker.unlocked
    assert worker.row.problem == "the KMS: the KMS does not answer"
    kms.away = False
    worker.poll()
    assert not worker.unlocked, "not at each look"
    worker.poll(AGAIN_SECONDS)
    assert worker.unlocked
    assert worker.row.problem == ""


def test_a_key_that_opens_nothing_is_not_tried_again(kms: Kms) -> None:
    asked: list[int] = []

    def give() -> KmsSecret:
        asked.append(1)
        return KmsSecret(SoftwareKms("other", SecretBuffer.random()))

    worker = first(headless=[Headless("the KMS", give)])
    for _ in range(3):
        worker.poll(AGAIN_SECONDS)
    assert len(asked) == 1


# At the start


def test_a_worker_that_starts_beside_unlocked_peers_serves_once_it_is_unlocked() -> None:
    a_vault()
    peer = first()
    peer.poll()
    late = WorkerCast("late")
    late.agent.poll(connection)
    assert not late.agent.settled.is_set()
    go_round([peer, late], 1)
    assert late.unlocked
    assert late.agent.settled.is_set()


def test_it_does_not_wait_for_ever_nor_for_nobody() -> None:
    nobody = WorkerCast("first-of-all")
    nobody.agent.poll(connection)
    assert nobody.agent.settled.is_set(), "there is no vault"
    a_vault()
    peer = first()
    peer.poll()
    unheard = WorkerCast("unheard")
    unheard.agent.poll(connection)
    assert not unheard.agent.settled.is_set()
    unheard.poll(SETTLE_SECONDS)
    assert unheard.agent.settled.is_set(), "no answer came"
    lock(ADMIN)
    peer.poll()
    locked = WorkerCast("locked")
    locked.agent.poll(connection)
    assert locked.agent.settled.is_set(), "nobody could answer"
    away = WorkerCast("away")
    with Away():
        away.agent.poll(connection)
    assert away.agent.settled.is_set(), "a start without the database is no slower"


def test_a_data_key_that_is_retired_meanwhile_does_not_keep_the_root_from_being_rotated() -> None:
    a_vault()
    rotate_data_key(ADMIN)
    slots = {row.kind: row.slot_id for row in VaultSlot.objects.all()}
    retire = WhenAsked(
        'INSERT INTO "vault_vaulttry"', lambda: VaultDataKey.objects.filter(version=1).delete()
    )
    with Given(password=PASSWORD).as_secrets() as (secret,), connection.execute_wrapper(retire):
        assert rotate_root(ADMIN, {slots["password"]: secret}, dropping=[slots["recovery"]]) == 2
    assert retire.done
    assert opened_vault.get().root.version == the_vault().root_version == 2


# New data keys and new secrets


def a_snapshot(*credentials: Any) -> Snapshot:
    """A snapshot of one provider with these credentials."""
    provider = a_provider("acme", "openai", 1, credentials=tuple(as_spec(one) for one in credentials))
    return Snapshot(revision=1, created_at=0.0, providers=(provider,))


def test_a_configuration_waits_for_the_data_key_of_its_newest_secret() -> None:
    a_vault()
    here, other = several(2)
    go_round([here, other])
    rotate_data_key(ADMIN)
    fresh = seal_secret(ADMIN, a_credential(), SECRET)
    assert other.holder.get().keys.versions == (1,)
    assert fetch_keys(a_snapshot(fresh), holder=other.holder)
    assert other.holder.get().keys.versions == (1, 2)
    assert other.keyring.get_secret(as_spec(fresh), to()) == SECRET.encode()


def test_it_waits_for_a_rotated_root_too_but_not_for_ever() -> None:
    a_vault()
    here, other = several(2)
    go_round([here, other])
    slots = {row.kind: row.slot_id for row in VaultSlot.objects.all()}
    with Given(password=PASSWORD).as_secrets() as (secret,):
        rotate_root(ADMIN, {slots["password"]: secret}, dropping=[slots["recovery"]])
    rotate_data_key(ADMIN)
    snapshot = a_snapshot(seal_secret(ADMIN, a_credential(), SECRET))
    waited: list[float] = []

    def passes(seconds: float) -> None:
        waited.append(seconds)
        other.clock.now += seconds

    assert not fetch_keys(snapshot, holder=other.holder, clock=other.clock, sleep=passes)
    assert sum(waited) == pytest.approx(LONGEST_WAIT, abs=0.2)

    def peers_answer(seconds: float) -> None:
        go_round([other, here, other], 1)

    assert fetch_keys(snapshot, holder=other.holder, clock=other.clock, sleep=peers_answer)


def test_nothing_is_waited_for_while_locked_and_nothing_asked_where_nothing_is_missing(
    django_assert_num_queries: Any,
) -> None:
    a_vault()
    snapshot = a_snapshot(seal_secret(ADMIN, a_credential(), SECRET))
    with django_assert_num_queries(0):
        assert fetch_keys(snapshot)
        assert not fetch_keys(snapshot, holder=VaultHolder())


def test_a_new_secret_that_is_not_to_be_had_yet_leaves_the_one_before_in_use() -> None:
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    here, other = several(2)
    go_round([here, other])
    rotate_data_key(ADMIN)
    seal_secret(ADMIN, credential, "sk-newer", overlap=timedelta(minutes=5))
    spec = as_spec(credential)
    endpoint = EndpointSpec("e", "https", "acme.example", 443)
    provider = a_provider("acme", "openai", 1, endpoints=(endpoint,), credentials=(spec,))
    plan = Plan((Candidate(provider, a_model(provider, "work")),), (), "asked")

    def choose(worker: WorkerCast) -> tuple[str, object]:
        decision = decide(plan, Ask(), [TargetHealth()], 0.0, lambda: 0.5)
        picker = TargetPicker(decision, HealthBoard(worker.clock), worker.keyring, lambda: 0.5)
        choice = picker.find_next()
        assert choice is not None
        return choice.credential.id, choice.target.secret

    newest, older = spec.sealed
    assert choose(other) == (f"{spec.id}@{older.version}", SECRET.encode())
    other.poll()
    assert choose(other) == (spec.id, b"sk-newer")
    assert newest.version > older.version
