"""What is wrong is refused with one clear message, which repeats no secret and tells an attacker nothing."""

from __future__ import annotations

import time as real_time
from pathlib import Path
from typing import Any

import pytest

from providers.actions import create_provider
from snapshots.compile import build_credential, build_sealed
from tests.vault.test_vault_api import Person
from tests.vault.vaults import ADMIN, PASSWORD, SECRET, Time, a_credential, a_key, a_vault
from tokenhub.control.actors import Actor
from tokenhub.core.errors import InvalidRequest
from vault.actions import create_credential
from vault.engine.errors import DoesNotOpen, ParametersRefused
from vault.engine.passwords import Argon2Parameters
from vault.keyring import CredentialUnavailable, Destination, Keyring
from vault.models import Credential, SealedSecret, Vault, VaultDataKey, VaultSlot
from vault.opened import opened_vault
from vault.sealing import seal_secret
from vault.slot_secrets import Given
from vault.tries import UnlockRefused
from vault.vault_actions import add_password_slot, initialise, unlock

pytestmark = pytest.mark.django_db

ABSENT = Path("absent")
PLACE = Destination("https://acme.example:443", "openai", "authorization")


@pytest.fixture
def boss() -> Person:
    """May look at the vault and change credentials."""
    return Person("view_vault", "manage_vault", "add_credential", "change_credential", "view_credential")


@pytest.mark.parametrize(
    "name",
    [
        "TOKENHUB_SECRET_KEY", "TOKENHUB_KEY_PEPPER", "TOKENHUB_CLUSTER_SECRET", "TOKENHUB_VAULT_KEY", "DJANGO_SECRET_KEY",
        "PATH", "AWS_SECRET_ACCESS_KEY", "tokenhub_cred_a", "TOKENHUB_CRED_", "TOKENHUB_CRED_A__ORIGIN",
        "XTOKENHUB_CRED_A", "sk-pasted-secret-0123456789",
    ],
)  # fmt: skip
def test_a_reference_to_a_variable_that_holds_no_credential_is_refused(name: str, boss: Person) -> None:
    provider = create_provider(ADMIN, name="acme", kind="openai")
    with pytest.raises(InvalidRequest) as refused:
        create_credential(ADMIN, provider=provider, name="main", source="env", reference=name)
    body = {"provider": provider.pk, "name": "main", "source": "env", "reference": name}
    told = boss.ask("post", "credentials", body, 400)
    for text in (refused.value.message, told["detail"]):
        assert "TOKENHUB_CRED_ and then capital letters" in text
        assert name.strip() not in text.replace("TOKENHUB_CRED_ and then", "")
    assert not Credential.objects.exists()
    # Also where somebody wrote it into the database.
    keyring = Keyring({name: SECRET, f"{name}__ORIGIN": "https://acme.example"}, ABSENT)
    row = Credential(pk=1, provider=provider, name="main", source="env", reference=name)
    with pytest.raises(CredentialUnavailable, match="not a variable that may hold one"):
        keyring.get_secret(build_credential(row), PLACE)


@pytest.mark.parametrize(
    "parameters",
    [
        Argon2Parameters(65_535, 3, 4),
        Argon2Parameters(65_536, 2, 4),
        Argon2Parameters(65_536, 3, 3),
        Argon2Parameters(0, 0, 0),
    ],
)
def test_parameters_below_the_floor_make_no_vault_and_no_slot(parameters: Argon2Parameters) -> None:
    with pytest.raises(
        ParametersRefused, match=r"Argon2id's (memory_kib|passes|lanes) is between"
    ) as refused:
        initialise(ADMIN, PASSWORD, parameters=parameters)
    assert (refused.value.code, refused.value.status) == ("vault_parameters_refused", 400)
    assert not Vault.objects.exists()
    a_vault()
    with pytest.raises(ParametersRefused):
        add_password_slot(ADMIN, "weak", "mosaic-thimble-harbor-walnut-8", parameters=parameters)
    assert VaultSlot.objects.count() == 2


@pytest.mark.parametrize(
    "argon2",
    [
        {"memory_kib": 8, "passes": 1, "lanes": 1},
        {"memory_kib": 2**40, "passes": 3, "lanes": 4},
        {"memory_kib": 65_536, "passes": 10**9, "lanes": 4},
        {"memory_kib": -1, "passes": 3, "lanes": 4},
        {"memory_kib": 65_536.5, "passes": 3, "lanes": 4},
        None,
    ],
)
def test_parameters_that_somebody_wrote_into_the_database_are_not_computed_with(
    argon2: Any, time: Time
) -> None:
    a_vault()
    opened_vault.drop()
    slot = VaultSlot.objects.get(kind="password")
    VaultSlot.objects.filter(pk=slot.pk).update(document={**slot.document, "argon2": argon2})
    begun = real_time.process_time()
    with pytest.raises(UnlockRefused) as refused:
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert real_time.process_time() - begun < 1
    assert refused.value.message == "this opens no slot of the vault"


def test_whatever_is_wrong_with_a_try_the_answer_is_the_same(time: Time) -> None:
    a_vault()
    opened_vault.drop()
    slot = VaultSlot.objects.get(kind="password")
    good = slot.document
    tries: list[tuple[Given, Any]] = [
        (Given(password="not the password at all"), good),
        (Given(key=a_key().reveal_bytes()), good),
        (Given(password=PASSWORD, key=a_key().reveal_bytes()), good),
        (Given(password=PASSWORD), {**good, "sealed": good["sealed"][:-8] + "AAAAAAA="}),
        (Given(password=PASSWORD), {**good, "root_version": 9}),
        (Given(password=PASSWORD), {}),
    ]
    told = set()
    for number, (given, document) in enumerate(tries):
        VaultSlot.objects.filter(pk=slot.pk).update(document=document)
        with pytest.raises(UnlockRefused) as refused:
            unlock(Actor("user", f"somebody {number}"), given, clock=time.clock)
        error = refused.value
        told.add((error.code, error.status, error.message, error.hint, error.param, str(error.details)))
    assert len(told) == 1
    assert time.waits == [0.25] * len(tries)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "alter",
    [
        lambda record: record[:-1],
        lambda record: record[:40],
        lambda record: b"",
        lambda record: record + b"\0",
        lambda record: b"THV2" + record[4:],
        lambda record: record[:4] + b"\x02" + record[5:],
        lambda record: record[:80] + bytes([record[80] ^ 1]) + record[81:],
    ],
    ids=["a byte short", "cut", "empty", "longer", "format 2", "algorithm 2", "altered"],
)
def test_a_record_that_was_cut_or_altered_is_one_error_and_a_mark_in_the_console(
    alter: Any, boss: Person
) -> None:
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    row = SealedSecret.objects.get()
    SealedSecret.objects.update(record=alter(bytes(row.record)))
    keyring = Keyring({}, ABSENT)
    keyring.unlock(opened_vault.get().keys)
    spec = build_credential(credential, (build_sealed(SealedSecret.objects.get()),))
    with pytest.raises(DoesNotOpen) as refused:
        keyring.get_secret(spec, PLACE)
    assert (refused.value.message, refused.value.hint) == (
        "this does not open with this key in this place",
        None,
    )
    assert keyring.list_broken() == ("main",)
    assert boss.ask("get", "vault")["manifest"]["differences"] == []
    state = boss.ask("post", "vault/check")["manifest"]
    assert state["differs_since"] is not None
    assert state["differences"] == [{"change": "changed", "table": "vault_sealedsecret", "row_id": row.pk}]
    assert boss.ask("get", "vault")["manifest"] == state
    told = boss.ask("patch", f"credentials/{credential.pk}", {"secret": "sk-another-secret"}, 409)
    assert told["code"] == "vault_rows_differ"
    assert "look at the differences under Vault" in told["hint"]
    assert SECRET not in boss.seen


def test_a_record_of_a_data_key_that_nobody_has_is_not_taken_for_altered(boss: Person) -> None:
    a_vault()
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    record = bytes(SealedSecret.objects.get().record)
    SealedSecret.objects.update(record=record[:5] + (77).to_bytes(4, "big") + record[9:])
    keyring = Keyring({}, ABSENT)
    keyring.unlock(opened_vault.get().keys)
    spec = build_credential(credential, (build_sealed(SealedSecret.objects.get()),))
    with pytest.raises(CredentialUnavailable, match="data key has not arrived"):
        keyring.get_secret(spec, PLACE)


def test_a_data_key_that_was_altered_unlocks_nothing(time: Time) -> None:
    a_vault()
    opened_vault.drop()
    key = VaultDataKey.objects.get()
    VaultDataKey.objects.update(wrapped=bytes(key.wrapped)[:-1] + b"\0")
    with pytest.raises(DoesNotOpen):
        unlock(ADMIN, Given(password=PASSWORD), clock=time.clock)
    assert opened_vault.find() is None
