"""The KMS that a setting names: real calls to a local server that checks the signature, and the stand-in in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from tests.fakes.aws_kms import FakeAwsKms, fake_aws_kms
from tests.vault.test_vault_api import Person
from tests.vault.vaults import ADMIN, PASSWORD, a_vault, the_vault
from tests.vault.workers import first
from tokenhub.core.addresses import read_private_origins
from tokenhub.environment import load_settings
from tokenhub.redaction import redact
from tokenhub.setting_values import KmsSetting
from vault.configured_kms import FileKms, find_kms, get_kms, make_kms, read_aws_credentials
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, KmsFailed
from vault.engine.kms import Kms
from vault.headless import list_headless
from vault.opened import opened_vault
from vault.vault_actions import lock
from vault.vault_models import VaultSlot

CONTEXT = {"tokenhub:purpose": "vault slot", "tokenhub:slot": "s"}


@pytest.fixture
def aws() -> Iterator[FakeAwsKms]:
    """The local server."""
    with fake_aws_kms() as served:
        yield served


def ask_as(aws: FakeAwsKms, **changes: str) -> Kms:
    """A client of it whose variables are changed."""
    setting = KmsSetting("aws", changes.pop("key", aws.key_id), changes.pop("region", aws.region))
    return make_kms(setting, endpoint=aws.url, environ={**aws.variables, **changes})


def test_a_key_goes_there_and_back_and_the_context_is_bound(aws: FakeAwsKms) -> None:
    kms = ask_as(aws)
    key = SecretBuffer.random()
    wrapped = kms.wrap(key, CONTEXT)
    assert kms.unwrap(wrapped, CONTEXT) == key
    assert [operation for operation, _ in aws.asked] == ["Encrypt", "Decrypt"]
    with pytest.raises(DoesNotOpen):
        kms.unwrap(wrapped, {**CONTEXT, "tokenhub:slot": "other"})


def test_a_roles_temporary_credentials_are_sent_and_signed() -> None:
    with fake_aws_kms(session_token="a-roles-token") as aws:
        assert ask_as(aws).wrap(SecretBuffer.random(), CONTEXT)
        with pytest.raises(KmsFailed, match="UnrecognizedClientException"):
            ask_as(aws, AWS_SESSION_TOKEN="").wrap(SecretBuffer.random(), CONTEXT)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another-secret-canary"}, "InvalidSignatureException"),
        ({"AWS_ACCESS_KEY_ID": "AKIDSOMEBODY"}, "UnrecognizedClientException"),
        ({"region": "us-east-1"}, "InvalidSignatureException"),
        ({"key": "alias/other"}, "NotFoundException"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY not set"),
        (
            {"AWS_ACCESS_KEY_ID": " ", "AWS_SECRET_ACCESS_KEY": ""},
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
    ],
)
def test_what_the_service_refuses_is_told_by_name(
    aws: FakeAwsKms, changes: dict[str, str], problem: str
) -> None:
    with pytest.raises(KmsFailed, match=problem) as caught:
        ask_as(aws, **changes).wrap(SecretBuffer.random(), CONTEXT)
    assert "canary" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert caught.value.retryable


def test_calls_go_out_by_the_one_guarded_way(aws: FakeAwsKms) -> None:
    nowhere = make_kms(
        KmsSetting("aws", aws.key_id, aws.region),
        endpoint=aws.url,
        private=read_private_origins(["none"]),
        environ=aws.variables,
    )
    with pytest.raises(KmsFailed, match="loopback") as caught:
        nowhere.wrap(SecretBuffer.random(), CONTEXT)
    assert "TOKENHUB_ALLOW_PRIVATE_ORIGINS" in str(caught.value.hint)
    assert aws.asked == aws.refused == []


def test_the_secrets_of_the_variables_are_taken_out_of_what_is_written() -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": "AKIDLOCALEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalr/XUtnFEMI+K7MDENG",
        "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2Vj//of-a-role",
    }
    read_aws_credentials(variables)
    written = redact("it said wJalr/XUtnFEMI+K7MDENG and IQoJb3JpZ2luX2Vj//of-a-role")
    assert "wJalr" not in written
    assert "IQoJ" not in written


def test_a_service_that_is_not_there_is_told_so() -> None:
    gone = make_kms(
        KmsSetting("aws", "k", "eu-central-1"),
        endpoint="http://127.0.0.1:9/",
        environ={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    )
    with pytest.raises(KmsFailed, match="does not answer: ConnectError") as caught:
        gone.wrap(SecretBuffer.random(), CONTEXT)
    assert caught.value.__cause__ is None


def test_the_stand_in_reads_its_file_at_each_call(tmp_path: Path) -> None:
    kms = make_kms(KmsSetting("software", str(tmp_path / "kms.key")))
    assert isinstance(kms, FileKms)
    with pytest.raises(KmsFailed, match="can't be read"):
        kms.wrap(SecretBuffer.random(), CONTEXT)
    (tmp_path / "kms.key").write_bytes(SecretBuffer.random().reveal_bytes())
    key = SecretBuffer.random()
    wrapped = kms.wrap(key, CONTEXT)
    assert kms.unwrap(wrapped, CONTEXT) == key
    (tmp_path / "kms.key").write_bytes(SecretBuffer.random().reveal_bytes())
    with pytest.raises(DoesNotOpen):
        kms.unwrap(wrapped, CONTEXT)


# The slot


@pytest.fixture
def boss(db: Any) -> Person:
    """May manage the vault."""
    return Person("view_vault", "unlock_vault", "manage_vault")


def settings_of(path: Path) -> Any:
    """The settings with the stand-in in that file."""
    path.write_bytes(SecretBuffer.random().reveal_bytes())
    return override_settings(TOKENHUB=load_settings({"TOKENHUB_VAULT_KMS": f"software:{path}"}))


def test_a_kms_slot_is_added_by_the_api_and_opens_the_vault_at_a_start(boss: Person, tmp_path: Path) -> None:
    a_vault()
    boss.ask("post", "vault/slots", {"kind": "kms", "label": "Cloud"}, expect=400)
    assert find_kms() is None
    with settings_of(tmp_path / "kms.key"):
        made = boss.ask("post", "vault/slots", {"kind": "kms", "label": "Cloud"}, expect=201)
        assert (made["kind"], made["label"]) == ("kms", "Cloud")
        assert boss.ask("get", "vault")["headless"] is True
        opened_vault.drop()
        worker = first(headless=list_headless({}, "NONE", tmp_path / "absent", find_kms()))
        worker.poll()
    assert worker.unlocked
    assert VaultSlot.objects.get(kind="kms").opened_at is not None


def test_a_new_root_takes_the_kms_slot_along(boss: Person, tmp_path: Path) -> None:
    a_vault()
    with settings_of(tmp_path / "kms.key"):
        boss.ask("post", "vault/slots", {"kind": "kms", "label": "Cloud"}, expect=201)
        slots = {row.kind: row.slot_id for row in VaultSlot.objects.all()}
        given = {slots["kms"]: {}, slots["password"]: {"password": PASSWORD}}
        boss.ask("post", "vault/rotate-root", {"secrets": given, "dropping": [slots["recovery"]]})
        opened_vault.drop()
        worker = first(headless=list_headless({}, "NONE", None, get_kms()))
        worker.poll()
    assert worker.unlocked
    assert worker.holder.get().root.version == the_vault().root_version == 2


def test_a_kms_opens_nothing_that_somebody_locked(boss: Person, tmp_path: Path) -> None:
    a_vault()
    with settings_of(tmp_path / "kms.key"):
        boss.ask("post", "vault/slots", {"kind": "kms", "label": "Cloud"}, expect=201)
        lock(ADMIN)
        worker = first(headless=list_headless({}, "NONE", None, find_kms()))
        worker.poll()
    assert not worker.unlocked
