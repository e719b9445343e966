"""Sealed secrets: bound to their origin, replaced with overlap, signed by the manifest, and never readable in a row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from providers.actions import delete_provider, update_endpoint, update_provider
from providers.models import Endpoint, Provider
from snapshots.compile import compile_snapshot, find_due
from tests.vault.vaults import (
    ADMIN,
    OTHER_SECRET,
    SECRET,
    a_credential,
    a_vault,
    open_all,
    open_row,
    opens,
    run_sql,
)
from tests.vault.workers import WhenAsked
from tokenhub.core.errors import InvalidRequest
from vault.actions import create_credential, delete_credential, update_credential
from vault.engine.errors import VaultLocked
from vault.engine.origins import origin_of
from vault.models import AuditEntry, Credential, SealedSecret, VaultManifest
from vault.opened import opened_vault
from vault.reach import read_reach
from vault.rotations import reseal_some, rotate_data_key
from vault.sealing import (
    auth_header_of,
    delete_expired,
    delete_secrets,
    seal_secret,
)
from vault.tending import tend_vault
from vault.vault_manifest import MANIFEST_TABLE, RowsDiffer, accept_rows, check_manifest

pytestmark = pytest.mark.django_db

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def vault() -> str:
    """Every test has a vault that is open here."""
    return a_vault()


def test_a_secret_is_sealed_for_each_origin_once_and_shown_by_its_last_four() -> None:
    credential = a_credential(
        "acme", "https://acme.example/a", "https://acme.example:443/b", "http://127.0.0.7:8080"
    )
    before = credential.version
    seal_secret(ADMIN, credential, SECRET)
    rows = list(credential.sealed_secrets.all())
    assert [row.origin for row in rows] == ["http://127.0.0.7:8080", "https://acme.example:443"]
    assert {(row.last4, row.version, row.auth_header, row.key_version) for row in rows} == {
        (SECRET[-4:], before + 1, "authorization", 1)
    }
    assert len({row.fingerprint for row in rows}) == 1
    assert open_all() == [SECRET, SECRET]
    assert SECRET.encode() not in bytes(rows[0].record)
    assert SECRET not in repr(list(AuditEntry.objects.values()))
    assert (credential.source, credential.reference) == ("vault", "")


def test_a_variables_credential_becomes_a_sealed_one() -> None:
    credential = a_credential()
    update_credential(ADMIN, credential, source="env", reference="TOKENHUB_CRED_ACME")
    seal_secret(ADMIN, credential, "short-secret")
    assert (credential.source, credential.reference) == ("vault", "")
    assert SealedSecret.objects.get().last4 == ""


@pytest.mark.parametrize(
    "secret", ["", "a\nb", "a\x00b", " padded", "padded ", "schlüssel", "x" * 20_000, "a\r\nx: y", "\ud800"]
)
def test_what_can_not_stand_in_a_header_is_refused_without_being_shown(secret: str) -> None:
    credential = a_credential()
    with pytest.raises(InvalidRequest) as refused:
        seal_secret(ADMIN, credential, secret)
    assert refused.value.param == "secret"
    assert not secret or secret not in refused.value.message
    assert not SealedSecret.objects.exists()
    assert Credential.objects.get().version == credential.version


def test_without_an_endpoint_or_an_open_vault_nothing_is_sealed() -> None:
    credential = a_credential()
    opened_vault_epoch = opened_vault.epoch
    Endpoint.objects.all().delete()
    with pytest.raises(InvalidRequest):
        seal_secret(ADMIN, credential, SECRET)
    Endpoint.objects.create(
        provider=credential.provider, url="https://acme.example."
    )  # As an older version took it.
    with pytest.raises(InvalidRequest):
        seal_secret(ADMIN, credential, SECRET)
    opened_vault.drop()
    with pytest.raises(VaultLocked):
        seal_secret(ADMIN, credential, SECRET)
    assert (opened_vault_epoch, SealedSecret.objects.count()) == (1, 0)


def by_action(endpoint: Endpoint, url: str) -> None:
    update_endpoint(ADMIN, endpoint, url=url)


def by_orm(endpoint: Endpoint, url: str) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(url=url)


def by_sql(endpoint: Endpoint, url: str) -> None:
    run_sql("UPDATE providers_endpoint SET url = %s WHERE id = %s", url, endpoint.pk)


def by_sql_with_its_row(endpoint: Endpoint, url: str) -> None:
    by_sql(endpoint, url)
    run_sql("UPDATE vault_sealedsecret SET origin = %s", origin_of(url))


@pytest.mark.parametrize("repoint", [by_action, by_orm, by_sql, by_sql_with_its_row])
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example",
        "http://acme.example",
        "https://acme.example:8443",
        "https://acme.example.evil.example",
    ],
)
def test_a_provider_pointed_elsewhere_has_no_key(repoint: Callable[[Endpoint, str], None], url: str) -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    repoint(credential.provider.endpoints.get(), url)
    row = SealedSecret.objects.get()
    assert opens(row, origin="https://acme.example:443")
    assert not opens(row, origin=origin_of(url))


def test_another_kind_header_or_path_is_told_apart() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    row, provider = SealedSecret.objects.get(), credential.provider
    update_endpoint(ADMIN, provider.endpoints.get(), url="https://acme.example/other")
    assert barred_origins(credential) == []
    update_provider(ADMIN, provider, profile={"auth_header": "X-Log"})
    assert not opens(row, auth_header=auth_header_of(provider))
    update_provider(ADMIN, provider, profile={}, kind="anthropic")
    assert auth_header_of(provider) == "x-api-key"
    assert not opens(row, provider_kind="anthropic")
    assert barred_origins(credential) == ["https://acme.example:443"]


def barred_origins(credential: Credential) -> list[str]:
    """Where the credential's provider is, and its key can't be used."""
    return sorted(read_reach(credential.provider_id)[credential.pk].barred)


def test_a_key_is_barred_where_the_provider_is_now_until_it_is_entered_again() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    update_endpoint(ADMIN, credential.provider.endpoints.get(), url="https://eu.acme.example")
    assert barred_origins(credential) == ["https://eu.acme.example:443"]
    seal_secret(ADMIN, credential, SECRET)
    assert barred_origins(credential) == []


def test_a_manifest_that_was_deleted_is_told_of_and_accepting_mends_it() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    run_sql("DELETE FROM vault_vaultmanifest")
    (found,) = check_manifest()
    assert found.table == MANIFEST_TABLE
    with pytest.raises(RowsDiffer):
        seal_secret(ADMIN, credential, OTHER_SECRET)
    tend_vault(NOW)
    accept_rows(ADMIN)
    assert check_manifest() == []
    seal_secret(ADMIN, credential, OTHER_SECRET)
    assert open_all() == [OTHER_SECRET]


def test_a_secret_that_did_not_open_is_forgotten_once_it_is_entered_again() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    record = bytes(SealedSecret.objects.get().record)
    run_sql("UPDATE vault_sealedsecret SET record = %s", record[:-1] + bytes([record[-1] ^ 1]))
    accept_rows(ADMIN)
    rotate_data_key(ADMIN)
    assert reseal_some().unopenable == 1
    seal_secret(ADMIN, credential, OTHER_SECRET)
    assert VaultManifest.objects.get().unopenable == []


def test_workers_that_come_at_once_delete_what_expired_once() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    seal_secret(ADMIN, credential, OTHER_SECRET, overlap=HOUR, now=NOW)
    counts = []
    # The other worker comes first while this one waits for the trail.
    meanwhile = WhenAsked("vault_audithead", lambda: counts.append(delete_expired(now=NOW + HOUR)))
    with connection.execute_wrapper(meanwhile):
        counts.append(delete_expired(now=NOW + HOUR))
    assert counts == [1, 0]
    assert AuditEntry.objects.filter(action="credential.delete_expired").count() == 1
    assert check_manifest() == []


def test_a_replaced_secret_is_good_for_its_overlap() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    seal_secret(ADMIN, credential, OTHER_SECRET, overlap=HOUR, now=NOW)
    assert open_all() == [SECRET, OTHER_SECRET]
    (spec,) = compile_snapshot(NOW).providers[0].credentials
    assert [(one.version, one.good_until) for one in spec.sealed] == [
        (3, 0.0),
        (2, (NOW + HOUR).timestamp()),
    ]
    assert find_due(compile_snapshot(NOW), NOW) == NOW + HOUR
    (spec,) = compile_snapshot(NOW + HOUR).providers[0].credentials
    assert [one.version for one in spec.sealed] == [3]
    assert delete_expired(now=NOW + HOUR - timedelta(seconds=1)) == 0
    assert delete_expired(now=NOW + HOUR) == 1
    assert open_all() == [OTHER_SECRET]
    assert check_manifest() == []
    seal_secret(ADMIN, credential, SECRET)
    assert open_all() == [SECRET]
    for wrong in (timedelta(days=31), timedelta(seconds=-1)):
        with pytest.raises(InvalidRequest):
            seal_secret(ADMIN, credential, SECRET, overlap=wrong)


def test_equal_secrets_have_equal_fingerprints_and_the_snapshot_holds_ciphertext_only() -> None:
    first, second = a_credential("acme"), a_credential("emca")
    for credential in (first, second):
        seal_secret(ADMIN, credential, SECRET)
    assert len(set(SealedSecret.objects.values_list("fingerprint", flat=True))) == 1
    snapshot = compile_snapshot(NOW)
    assert snapshot.vault_id == opened_vault.get().vault_id
    assert SECRET not in repr(snapshot)
    assert all(
        SECRET.encode() not in one.record
        for p in snapshot.providers
        for c in p.credentials
        for one in c.sealed
    )


def test_swapped_rows_and_fields_do_not_open() -> None:
    for name in ("acme", "emca"):
        credential = a_credential(name, "https://shared.example")
        seal_secret(
            ADMIN, seal_secret(ADMIN, credential, f"{SECRET}-{name}"), f"{OTHER_SECRET}-{name}", overlap=HOUR
        )
    rows = list(SealedSecret.objects.order_by("credential_id", "version"))
    opened = tried = 0
    for one in rows:
        for other in rows:
            if one.pk != other.pk:
                SealedSecret.objects.filter(pk=one.pk).update(record=other.record)
                opened += opens(SealedSecret.objects.get(pk=one.pk))
                tried += 1
        SealedSecret.objects.filter(pk=one.pk).update(record=one.record)
        for row_version in (0, 2, 7):
            one.row_version, true = row_version, one.row_version
            tried += 1
            with contextlib.suppress(ValueError):
                opened += opens(one)
            one.row_version = true
    assert (opened, tried) == (0, 24)
    assert len(open_all()) == 4


def test_every_altered_byte_and_truncation_of_a_record_opens_nothing() -> None:
    row = seal_secret(ADMIN, a_credential(), SECRET).sealed_secrets.get()
    record = bytes(row.record)
    altered = [record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :] for at in range(len(record))]
    altered += [record[:at] for at in range(len(record))]
    for one in altered:
        row.record = one
        assert not opens(row)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vault_sealedsecret SET record = record || record",
        "UPDATE vault_sealedsecret SET good_until = NULL",
        "UPDATE vault_sealedsecret SET version = version + 10",
        "UPDATE vault_sealedsecret SET origin = 'https://evil.example:443' WHERE good_until IS NULL",
        "UPDATE vault_sealedsecret SET row_version = row_version + 1",
        "UPDATE vault_sealedsecret SET credential_id = (SELECT MAX(id) FROM vault_credential)",
        "UPDATE vault_sealedsecret SET key_version = 5",
        "DELETE FROM vault_sealedsecret",
        "UPDATE vault_vaultmanifest SET counter = counter + 1",
        "UPDATE vault_vaultmanifest SET counter = counter - 1",
        "UPDATE vault_vaultmanifest SET rows = 0",
    ],
)
def test_what_other_hands_change_is_noticed_and_not_signed_over(statement: str) -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    seal_secret(ADMIN, credential, OTHER_SECRET, overlap=HOUR, now=NOW)
    other = a_credential("emca")
    assert check_manifest() == []
    if "record ||" in statement:
        row = SealedSecret.objects.first()
        assert row is not None
        SealedSecret.objects.filter(pk=row.pk).update(record=bytes(row.record) * 2)
    else:
        assert run_sql(statement.replace("rows =", '"rows" =')) > 0
    assert check_manifest(now=NOW) != []
    with pytest.raises(RowsDiffer):
        seal_secret(ADMIN, other, SECRET)
    check_manifest(now=NOW + HOUR)
    manifest = VaultManifest.objects.get()
    assert (manifest.differs_since, manifest.checked_at) == (NOW, NOW + HOUR)
    assert manifest.differences != []
    assert AuditEntry.objects.filter(action="vault.rows_differ").count() == 1
    accept_rows(ADMIN)
    assert check_manifest() == []
    seal_secret(ADMIN, other, SECRET)
    assert VaultManifest.objects.get().differs_since is None


def test_an_old_row_put_back_is_noticed_even_with_its_manifest() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    old_rows, old_manifest = list(SealedSecret.objects.values()), VaultManifest.objects.get()
    seal_secret(ADMIN, credential, OTHER_SECRET)
    SealedSecret.objects.all().delete()
    SealedSecret.objects.bulk_create([SealedSecret(**row) for row in old_rows])
    assert [one.change.value for one in check_manifest()] == ["missing", "unknown"] or len(
        check_manifest()
    ) == 2
    old_manifest.save()
    assert [one.table for one in check_manifest()] == ["vault_vaultmanifest"]


def test_old_rows_put_back_with_their_manifest_are_not_signed_by_the_next_change() -> None:
    """The hourly check may come later than the change that would make the old rows the newest signed ones."""
    credential, other = a_credential(), a_credential("emca")
    seal_secret(ADMIN, credential, SECRET)
    old_rows, old_manifest = list(SealedSecret.objects.values()), VaultManifest.objects.get()
    seal_secret(ADMIN, credential, OTHER_SECRET)
    SealedSecret.objects.all().delete()
    SealedSecret.objects.bulk_create([SealedSecret(**row) for row in old_rows])
    old_manifest.save()
    # Entries of the time after tell of the counter that was put back.
    update_credential(ADMIN, other, weight=2)
    update_credential(ADMIN, credential, weight=2)
    with pytest.raises(RowsDiffer):
        seal_secret(ADMIN, other, SECRET)
    assert check_manifest() != []


@pytest.mark.parametrize("whole", [True, False])
def test_deleted_rows_put_back_with_their_manifest_are_noticed(whole: bool) -> None:
    seal_secret(ADMIN, a_credential("kept"), SECRET)
    credential = seal_secret(ADMIN, a_credential(), OTHER_SECRET)
    old_rows, old_manifest = list(SealedSecret.objects.values()), VaultManifest.objects.get()
    if whole:
        delete_credential(ADMIN, credential)
        Credential.objects.create(
            pk=old_rows[-1]["credential_id"], provider=credential.provider, name="again", source="vault"
        )
    else:
        delete_secrets(ADMIN, Credential.objects.filter(pk=credential.pk))
    SealedSecret.objects.all().delete()
    SealedSecret.objects.bulk_create([SealedSecret(**row) for row in old_rows])
    old_manifest.save()
    assert [one.table for one in check_manifest()] == ["vault_vaultmanifest"]


def test_what_is_sealed_goes_with_its_credential_and_its_provider() -> None:
    first, second, third = (
        seal_secret(ADMIN, a_credential(name), SECRET) for name in ("one", "two", "three")
    )
    opened = opened_vault.get().root.copy()
    opened_vault.drop()
    for act in (
        lambda: delete_credential(ADMIN, first),
        lambda: delete_provider(ADMIN, second.provider),
        lambda: update_credential(ADMIN, third, source="none"),
    ):
        with pytest.raises(VaultLocked):
            act()
    assert (Provider.objects.count(), SealedSecret.objects.count()) == (3, 3)
    assert Credential.objects.get(pk=third.pk).source == "vault"
    opened_vault.put(opened, epoch=1)
    delete_credential(ADMIN, first)
    assert check_manifest() == []
    delete_provider(ADMIN, second.provider)
    assert check_manifest() == []
    update_credential(ADMIN, third, source="none")
    assert check_manifest() == []
    assert not SealedSecret.objects.exists()


def test_without_anything_sealed_a_locked_vault_is_in_nobodys_way() -> None:
    credential = a_credential()
    opened_vault.drop()
    create_credential(ADMIN, provider=credential.provider, name="second", source="vault")
    delete_credential(ADMIN, credential)
    delete_provider(ADMIN, credential.provider)
    assert not Provider.objects.exists()


def test_tending_deletes_what_expired_and_checks_each_hour() -> None:
    credential = seal_secret(ADMIN, a_credential(), SECRET)
    seal_secret(ADMIN, credential, OTHER_SECRET, overlap=HOUR, now=NOW)
    tend_vault(NOW)
    assert (SealedSecret.objects.count(), VaultManifest.objects.get().checked_at) == (2, NOW)
    tend_vault(NOW + HOUR - timedelta(seconds=1))
    assert VaultManifest.objects.get().checked_at == NOW
    tend_vault(NOW + HOUR)
    assert (SealedSecret.objects.count(), VaultManifest.objects.get().checked_at) == (1, NOW + HOUR)
    opened_vault.drop()
    tend_vault(NOW + 3 * HOUR)
    assert VaultManifest.objects.get().checked_at == NOW + HOUR


def test_the_place_is_the_rows_own() -> None:
    row = seal_secret(ADMIN, a_credential(), SECRET).sealed_secrets.get()
    assert open_row(row) == SECRET
