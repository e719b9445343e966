"""Rotations while other threads seal: nothing is lost, whoever comes first."""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Callable

import pytest
from django.db import connection

from tests.vault.vaults import ADMIN, SECRET, Time, a_credential, a_key, a_vault, open_all
from vault.engine.errors import VaultLocked
from vault.engine.slots import KeySecret, SlotKind
from vault.models import SealedSecret, VaultDataKey, VaultSlot
from vault.rotations import reseal_some, retire_data_keys, rotate_data_key, rotate_root
from vault.sealing import seal_secret
from vault.vault_actions import add_key_slot
from vault.vault_manifest import check_manifest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

ROUNDS = 8


@pytest.fixture(autouse=True)
def a_database_with_many_writers(database_kind: str) -> None:
    """SQLite has one writer at a time, and its tests' database in memory lets no second connection wait for it."""
    if database_kind == "sqlite":
        pytest.skip("on SQLite transactions come one after another")


def run_together(*works: Callable[[], None]) -> None:
    """Runs each in a thread of its own with its own connection; raises what one raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def test_data_keys_rotate_while_others_seal_and_move() -> None:
    a_vault()
    credentials = [a_credential(f"acme-{number}") for number in range(3)]
    for credential in credentials:
        seal_secret(ADMIN, credential, SECRET)

    def seal(credential: object, name: str) -> Callable[[], None]:
        def work() -> None:
            for number in range(ROUNDS):
                seal_secret(ADMIN, credential, f"{SECRET}-{name}-{number}")  # type: ignore[arg-type]

        return work

    def rotate() -> None:
        for _ in range(4):
            rotate_data_key(ADMIN)
            reseal_some(1)

    def move() -> None:
        for _ in range(2 * ROUNDS):
            reseal_some(2)
            retire_data_keys()

    run_together(seal(credentials[0], "a"), seal(credentials[1], "b"), rotate, move)
    while reseal_some().left:
        pass
    retire_data_keys()
    assert open_all() == [f"{SECRET}-a-{ROUNDS - 1}", f"{SECRET}-b-{ROUNDS - 1}", SECRET]
    assert check_manifest() == []
    assert VaultDataKey.objects.count() == 1
    assert set(SealedSecret.objects.values_list("key_version", flat=True)) == {5}


def test_the_root_is_replaced_while_another_seals() -> None:
    a_vault()
    key = a_key()
    slot = add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, key.reveal_bytes())
    dropped = list(VaultSlot.objects.exclude(pk=slot.pk).values_list("pk", flat=True))
    credential = a_credential()

    def seal() -> None:
        for number in range(3 * ROUNDS):
            until = clock.monotonic() + 30
            while True:
                try:
                    seal_secret(ADMIN, credential, f"{SECRET}-{number}")
                    break
                except VaultLocked:
                    # Between the new root's commit and this process's taking it over: retryable, and nothing is half done.
                    assert clock.monotonic() < until

    def rotate() -> None:
        for number in range(4):
            secrets = {slot.pk: KeySecret(SlotKind.KEY_FILE, key)}
            rotate_root(ADMIN, secrets, dropping=[] if number else dropped, clock=Time().clock)

    run_together(seal, rotate)
    assert open_all() == [f"{SECRET}-{3 * ROUNDS - 1}"]
    assert check_manifest() == []
