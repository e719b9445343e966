"""A provider's key on its credential's pages: in, replaced, deleted, never out; and what a changed provider would take away."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.utils import timezone

from providers.actions import create_endpoint, create_provider
from providers.models import Provider
from tests.console.cast import HOSTILE, a_person_who_may, count_changes
from tests.vault.page_cast import VAULT_ADMIN, Visitor, plain
from tests.vault.vaults import ADMIN, OTHER_SECRET, SECRET, a_credential, a_vault, open_all
from vault.actions import create_credential
from vault.models import AuditEntry, Credential, SealedSecret
from vault.reach import find_losses, read_reach
from vault.sealing import seal_secret
from vault.vault_actions import lock

pytestmark = pytest.mark.django_db

EDITOR = (
    *VAULT_ADMIN,
    *(
        f"providers.{verb}_{model}"
        for verb in ("view", "add", "change", "delete")
        for model in ("provider", "endpoint")
    ),
)


@pytest.fixture
def vera(db: None) -> Visitor:
    """Who may change providers and credentials."""
    return Visitor(*EDITOR)


def page_of(row: Credential, page: str = "change") -> str:
    return f"credential/{row.pk}/{page}/"


# --- the key goes in ------------------------------------------------------------------------------------------------


def test_a_key_is_entered_and_never_comes_out(vera: Visitor) -> None:
    a_vault()
    row = a_credential("acme", "https://acme.example/v2", "https://eu.acme.example:8443")
    asked = plain(vera.get(page_of(row, "seal")))
    for words in ("https://acme.example:443", "https://eu.acme.example:8443", "authorization", "OpenAI"):
        assert words in asked
    assert "Minutes for which" not in asked
    text = plain(vera.post(page_of(row, "seal"), secret=SECRET))
    assert f"ends in …{SECRET[-4:]}" in text
    assert SealedSecret.objects.first().fingerprint in text  # type: ignore[union-attr]
    vera.get(page_of(row, "seal"))
    assert set(open_all()) == {SECRET}
    for kept in (vera.seen, vera.session_text(), repr(list(AuditEntry.objects.values()))):
        assert SECRET not in kept


def test_a_key_is_replaced_with_an_overlap_in_minutes(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    assert 'name="overlap_minutes" value="10"' in vera.get(page_of(row, "seal"))
    refused = vera.post(page_of(row, "seal"), expect=200, secret="line\nbreak", overlap_minutes=25)
    assert "control characters" in refused
    assert 'value="25"' in refused
    assert "break" not in re.sub(r"line breaks", "", refused.partition('id="content-main"')[2])
    assert "less than or equal to 43200" in vera.post(
        page_of(row, "seal"), expect=200, secret="x", overlap_minutes=43_201
    )
    text = plain(vera.post(page_of(row, "seal"), secret=OTHER_SECRET, overlap_minutes=25))
    assert "in use" in text
    assert "replaced, good until" in text
    old = SealedSecret.objects.exclude(good_until=None).get()
    assert timedelta(minutes=24) < old.good_until - timezone.now() <= timedelta(minutes=25)
    vera.post(page_of(row, "seal"), secret=OTHER_SECRET, overlap_minutes=0)
    assert SealedSecret.objects.count() == 1


def test_a_key_is_deleted_after_it_is_said_what_that_stops(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    assert "Delete key" not in vera.get(page_of(row))
    assert vera.client.get(f"/admin/vault/{page_of(row, 'delete-key')}").status_code == 302
    seal_secret(ADMIN, row, SECRET)
    asked = plain(vera.get(page_of(row, "delete-key")))
    assert "1 sealed key is deleted at once, at https://acme.example:443" in asked
    assert "no enabled credential is left" in asked
    assert "is deleted" in vera.post(page_of(row, "delete-key"))
    assert not SealedSecret.objects.exists()
    assert "not entered https://acme.example:443" in plain(vera.get(page_of(row)))


def test_a_new_credential_for_the_vault_leads_to_where_its_key_is_entered(vera: Visitor) -> None:
    a_vault()
    provider = create_provider(ADMIN, name="acme", kind="openai")
    fields = {
        "provider": provider.pk,
        "name": "main",
        "source": "vault",
        "reference": "",
        "weight": 1,
        "enabled": "on",
    }
    text = vera.post("credential/add/", **fields)
    assert "has no endpoint yet" in plain(text)
    assert f"/admin/providers/provider/{provider.pk}/change/" in text
    create_endpoint(ADMIN, provider=provider, url="https://acme.example")
    vera.post(page_of(Credential.objects.get(), "seal"), secret=SECRET)
    assert open_all() == [SECRET]


def test_a_reference_becomes_a_sealed_key(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    spare = create_credential(
        ADMIN, provider=row.provider, name="spare", source="env", reference="TOKENHUB_CRED_SPARE"
    )
    assert "TOKENHUB_CRED_SPARE is not read any more" in plain(vera.get(page_of(spare, "seal")))
    assert "Secret was replaced" in vera.get(page_of(spare))
    vera.post(page_of(spare, "seal"), secret=SECRET)
    spare.refresh_from_db()
    assert (spare.source, spare.reference) == ("vault", "")
    assert "Secret was replaced" not in vera.get(page_of(spare))


@pytest.mark.parametrize("page", ["seal", "delete-key"])
def test_while_locked_the_pages_lead_to_unlocking(page: str, vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    lock(ADMIN)
    assert "Unlock the vault first" in vera.get(page_of(row, page))
    vera.post(page_of(row, page), expect=200, secret=OTHER_SECRET)
    assert SealedSecret.objects.count() == 1
    assert "refused while the vault is locked" in plain(vera.get(page_of(row, "delete")))


def test_without_a_vault_sealing_leads_to_its_page(vera: Visitor) -> None:
    row = a_credential()
    assert "There is no vault yet" in vera.post(page_of(row, "seal"), secret=SECRET)


@pytest.mark.parametrize("page", ["seal", "delete-key"])
def test_who_may_not_change_credentials_seals_nothing(page: str) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    looker = Visitor("vault.view_credential", *(f"vault.{one}_vault" for one in ("view", "unlock", "manage")))
    looker.get(page_of(row, page), expect=403)
    looker.post(page_of(row, page), expect=403, secret=OTHER_SECRET)
    assert open_all() == [SECRET]


@pytest.mark.parametrize("page", ["seal", "delete-key"])
def test_sealing_asks_again_who_it_is(page: str, vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    vera.forget_confirmation()
    answer = vera.client.post(f"/admin/vault/{page_of(row, page)}", {"secret": OTHER_SECRET})
    assert answer["Location"].startswith("/admin/confirm/")
    assert open_all() == [SECRET]


# --- a changed provider ----------------------------------------------------------------------------------------------


def form_of(provider: Provider, **changes: Any) -> dict[str, Any]:
    """The provider's form as a browser sends it back."""
    client = Client()
    client.force_login(User.objects.create_superuser(f"reader{User.objects.count()}"))
    answer = client.get(f"/admin/providers/provider/{provider.pk}/change/")
    fields: dict[str, Any] = {}
    forms = [
        answer.context["adminform"].form,
        *(one.formset.management_form for one in answer.context["inline_admin_formsets"]),
    ]
    forms += [form for one in answer.context["inline_admin_formsets"] for form in one.formset.forms]
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is True:
                fields[bound.html_name] = "on"
            elif value is not None and value is not False:
                fields[bound.html_name] = value if isinstance(value, (str, int, float)) else str(value)
    return {**fields, **changes}


def save(vera: Visitor, provider: Provider, fields: dict[str, Any]) -> Any:
    answer = vera.client.post(f"/admin/providers/provider/{provider.pk}/change/", fields)
    vera.seen += answer.content.decode()
    return answer


def hidden_fields(text: str) -> dict[str, str]:
    """What the question's page would send again."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', text)
    return {
        name: value.replace("&quot;", '"').replace("&amp;", "&")
        for name, value in found
        if "csrf" not in name
    }


def confirmation(text: str) -> dict[str, str]:
    found = re.search(r'name="(_keys_lost)" value="([0-9a-f]+)"', text)
    assert found is not None
    return {found[1]: found[2]}


CHANGES = [
    (
        {"endpoints-0-url": "https://elsewhere.example"},
        "can’t be used at https://elsewhere.example:443 until it is entered",
    ),
    (
        {"endpoints-0-url": "https://acme.example:444/v2"},
        "can’t be used at https://acme.example:444 until it is entered",
    ),
    ({"kind": "anthropic"}, "can’t be used at https://acme.example:443 until it is entered again"),
    (
        {"profile": '{"auth_header": "api-key"}'},
        "can’t be used at https://acme.example:443 until it is entered again",
    ),
    ({"credentials-0-source": "none"}, "sealed in the vault, is deleted"),
    ({"credentials-0-DELETE": "on"}, "sealed in the vault, is deleted"),
]


@pytest.mark.parametrize(("changes", "words"), CHANGES)
def test_the_page_says_before_saving_which_keys_become_unusable(
    changes: dict[str, str], words: str, vera: Visitor
) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    provider: Any = row.provider
    before = (
        count_changes(),
        provider.endpoints.get().url,
        provider.kind,
        SealedSecret.objects.count(),
    )
    fields = form_of(provider, notes="kept & typed", **changes)
    text = save(vera, provider, fields).content.decode()
    assert "The key main" in plain(text)
    assert words in plain(text)
    provider.refresh_from_db()
    after = (
        count_changes(),
        provider.endpoints.get().url,
        provider.kind,
        SealedSecret.objects.count(),
    )
    assert after == before
    sent = hidden_fields(text)
    assert {name: sent.get(name) for name in changes} == changes
    answer = save(vera, provider, {**sent, **confirmation(text)})
    assert answer.status_code == 302, plain(answer.content.decode())
    provider.refresh_from_db()
    assert provider.notes == "kept & typed"


def test_going_back_keeps_what_was_typed_and_saves_nothing(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    fields = form_of(row.provider, **{"endpoints-0-url": "https://elsewhere.example"})
    sent = hidden_fields(save(vera, row.provider, fields).content.decode())
    answer = save(vera, row.provider, {**sent, "_edit_again": "yes"})
    assert answer.status_code == 200
    assert "Nothing is saved yet." in plain(answer.content.decode())
    assert 'value="https://elsewhere.example"' in answer.content.decode()
    assert row.provider.endpoints.get().url == "https://acme.example/v2"


def test_what_was_confirmed_is_not_what_came_meanwhile(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    fields = form_of(row.provider, **{"endpoints-0-url": "https://elsewhere.example"})
    text = save(vera, row.provider, fields).content.decode()
    other = hidden_fields(text) | {"endpoints-0-url": "https://third.example"} | confirmation(text)
    answer = save(vera, row.provider, other)
    assert "https://third.example:443" in plain(answer.content.decode())
    assert row.provider.endpoints.get().url == "https://acme.example/v2"


@pytest.mark.parametrize(
    "changes", [{"notes": "only this"}, {"endpoints-0-url": "https://acme.example/another/path"}]
)
def test_what_takes_no_key_away_is_saved_without_a_question(changes: dict[str, str], vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    assert save(vera, row.provider, form_of(row.provider, **changes)).status_code == 302


def test_who_may_not_see_credentials_is_told_without_their_names() -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    names = [name for name in EDITOR if "credential" not in name]
    other = Visitor(*names, username="other")
    fields = {
        name: value for name, value in form_of(row.provider).items() if not name.startswith("credentials")
    }
    text = plain(
        save(other, row.provider, {**fields, "endpoints-0-url": "https://elsewhere.example"}).content.decode()
    )
    assert "A key can’t be used at https://elsewhere.example:443 until it is set up" in text
    assert "key main" not in text


def test_the_question_shows_foreign_text_as_text(vera: Visitor) -> None:
    a_vault()
    row = a_credential("acme", label=HOSTILE)
    seal_secret(ADMIN, row, SECRET)
    answer = save(
        vera, row.provider, form_of(row.provider, notes=HOSTILE, **{"endpoints-0-url": "https://e.example"})
    )
    assert "Save it all the same?" in answer.content.decode()
    assert HOSTILE not in answer.content.decode()


def test_a_credential_pointed_elsewhere_on_its_own_form_asks_too(vera: Visitor) -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    fields = {"name": "main", "source": "env", "reference": "TOKENHUB_CRED_X", "weight": 1, "enabled": "on"}
    text = vera.post(page_of(row), expect=200, **fields)
    assert "is deleted" in plain(text)
    assert open_all() == [SECRET]
    vera.post(page_of(row), **fields, **confirmation(text))
    assert not SealedSecret.objects.exists()


def test_a_variable_or_file_that_is_not_meant_for_the_new_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vera: Visitor
) -> None:
    monkeypatch.setenv("TOKENHUB_CRED_REACH", SECRET)
    monkeypatch.setenv("TOKENHUB_CRED_REACH__ORIGIN", "https://acme.example, https://spare.example")
    row = a_credential()
    provider: Any = row.provider
    create_credential(ADMIN, provider=provider, name="env", source="env", reference="TOKENHUB_CRED_REACH")
    create_credential(ADMIN, provider=provider, name="unset", source="env", reference="TOKENHUB_CRED_UNSET")
    before = read_reach(provider.pk)
    provider.endpoints.update(url="https://spare.example")
    assert find_losses(before, read_reach(provider.pk)) == []
    provider.endpoints.update(url="https://acme.example/v2")
    text = plain(
        save(
            vera, provider, form_of(provider, **{"endpoints-0-url": "https://other.example"})
        ).content.decode()
    )
    assert (
        "The key env can’t be used at https://other.example:443 until TOKENHUB_CRED_REACH__ORIGIN names that address"
        in text
    )
    assert "unset" not in text.partition("Nothing is saved yet")[2].partition("Requests that have")[0]
    assert SECRET not in vera.seen


def test_deleting_a_provider_says_that_sealed_keys_go_with_it() -> None:
    a_vault()
    row = a_credential()
    seal_secret(ADMIN, row, SECRET)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    text = plain(client.get(f"/admin/providers/provider/{row.provider.pk}/delete/").content.decode())
    assert "1 key that is sealed in the vault for it would be deleted" in text


# --- the API asks the same ---------------------------------------------------------------------------------------------


def test_a_session_confirms_before_it_seals_or_mints_over_the_api() -> None:
    a_vault()
    row = a_credential()
    user = a_person_who_may(*EDITOR, "access.add_admintoken", "access.view_admintoken", username="vera")
    vera = Visitor(user=user)
    calls = [
        ("patch", f"credentials/{row.pk}", {"secret": SECRET}),
        (
            "post",
            "credentials",
            {"provider": row.provider.pk, "name": "new", "source": "vault", "secret": SECRET},
        ),
        ("post", "vault/unlock", {"password": "x"}),
        ("post", "vault/rotate-data-key", {}),
        ("post", "vault/slots", {"kind": "recovery", "label": "Safe"}),
        ("patch", "vault/settings", {"max_hours": 0}),
        ("post", "admin-tokens", {"name": "t", "user": user.pk, "scopes": ["read"]}),
    ]
    vera.forget_confirmation()
    for method, path, body in calls:
        answer = getattr(vera.client, method)(f"/admin/v1/{path}", body, content_type="application/json")
        assert (answer.status_code, answer.json().get("code")) == (403, "confirmation_needed"), path
    free = vera.client.patch(
        f"/admin/v1/credentials/{row.pk}", {"weight": 5}, content_type="application/json"
    )
    assert free.status_code == 200
    assert vera.client.post("/admin/v1/vault/lock", {}, content_type="application/json").status_code == 200
    assert not SealedSecret.objects.exists()


def test_the_file_beside_a_mounted_secret_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(SECRET)
    (tmp_path / "acme.origin").write_text("https://acme.example")
    row = a_credential()
    provider: Any = row.provider
    create_credential(ADMIN, provider=provider, name="file", source="file", reference="acme")
    with override_settings(TOKENHUB=replace(settings.TOKENHUB, credentials_dir=tmp_path)):
        before = read_reach(provider.pk)
        provider.endpoints.update(url="https://other.example")
        told = [loss.tell() for loss in find_losses(before, read_reach(provider.pk))]
    assert told == [
        "The key file can’t be used at https://other.example:443 until the file acme.origin names that address too."
    ]


# --- what deletes a sealed key asks who it is ---------------------------------------------------------------------------


def test_whatever_deletes_a_sealed_key_asks_who_it_is(vera: Visitor) -> None:
    a_vault()
    row = seal_secret(ADMIN, a_credential(), SECRET)
    user = User.objects.create_superuser("root")
    root = Visitor(user=user)
    root.forget_confirmation()
    elsewhere = {
        "name": "main",
        "source": "env",
        "reference": "TOKENHUB_CRED_X",
        "weight": 1,
        "enabled": "on",
    }
    for kind, pk in (("vault/credential", row.pk), ("providers/provider", row.provider_id)):
        for method in (root.client.get, root.client.post):
            answer = method(f"/admin/{kind}/{pk}/delete/", {"post": "yes"})
            assert "/confirm" in answer["Location"], kind
        chosen = {"action": "delete_selected", "_selected_action": pk, "post": "yes"}
        listed = root.client.post(f"/admin/{kind}/", chosen, follow=True).content.decode()
        assert "confirm that it is you first" in listed.casefold(), kind
    text = root.post(page_of(row), expect=200, **elsewhere)
    assert "confirm that it is you first" in text.casefold()
    assert 'value="TOKENHUB_CRED_X"' in text
    for method, path, body in (
        ("delete", f"credentials/{row.pk}", None),
        ("delete", f"providers/{row.provider_id}", None),
        ("patch", f"credentials/{row.pk}", {"source": "env", "reference": "TOKENHUB_CRED_X"}),
    ):
        answer = getattr(root.client, method)(f"/admin/v1/{path}", body, content_type="application/json")
        assert (answer.status_code, answer.json().get("code")) == (403, "confirmation_needed"), path
    assert open_all() == [SECRET]
    bare = create_credential(
        ADMIN, provider=row.provider, name="bare", source="env", reference="TOKENHUB_CRED_Y"
    )
    root.post(page_of(bare, "delete"), post="yes")
    assert not Credential.objects.filter(pk=bare.pk).exists()


def test_after_a_proof_a_credential_is_deleted_with_its_key(vera: Visitor) -> None:
    a_vault()
    row = seal_secret(ADMIN, a_credential(), SECRET)
    vera.post(page_of(row, "delete"), post="yes")
    assert not SealedSecret.objects.exists()


def test_the_api_tells_of_a_new_urls_consequences_by_the_pages_rule(
    monkeypatch: pytest.MonkeyPatch, vera: Visitor
) -> None:
    a_vault()
    monkeypatch.setenv("TOKENHUB_CRED_REACH", SECRET)
    monkeypatch.setenv("TOKENHUB_CRED_REACH__ORIGIN", "https://acme.example")
    row = seal_secret(ADMIN, a_credential(), SECRET)
    provider: Any = row.provider
    create_credential(ADMIN, provider=provider, name="env", source="env", reference="TOKENHUB_CRED_REACH")
    endpoint = provider.endpoints.get()

    def told(url: str) -> list[str]:
        answer = vera.client.get(f"/admin/v1/endpoints/{endpoint.pk}/consequences", {"url": url})
        return list(answer.json()["consequences"])

    assert told("https://acme.example/elsewhere") == []
    assert told("https://eu.acme.example") == [
        "The key env can’t be used at https://eu.acme.example:443 until TOKENHUB_CRED_REACH__ORIGIN names that address"
        " too and Tokenhub was started again.",
        "The key main can’t be used at https://eu.acme.example:443 until it is entered again.",
    ]
    endpoint.enabled = False
    endpoint.save()
    assert told("https://eu.acme.example") == []
