"""The vault over the admin API: who may do what, and that no secret ever comes back."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from providers.actions import create_endpoint, create_provider
from tests.vault.vaults import ADMIN, NEW_PASSWORD, OTHER_SECRET, PASSWORD, SECRET, a_key, a_vault, open_all
from vault.models import AuditEntry, Credential, SealedSecret, VaultSlot, VaultWorker
from vault.opened import opened_vault

pytestmark = pytest.mark.django_db

PERMISSIONS = ("view_vault", "unlock_vault", "manage_vault", "change_credential")


class Person:
    """Somebody signed in with some permissions, who asks the API and keeps all answers."""

    def __init__(self, *permissions: str) -> None:
        user = User.objects.create_user("-".join(permissions) or "nobody", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        self.client = Client(raise_request_exception=False)
        self.client.force_login(user)
        self.seen = ""

    def ask(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """The answer's JSON, after a look at its status."""
        extra = {} if method == "get" else {"data": body or {}, "content_type": "application/json"}
        answer = getattr(self.client, method)(f"/admin/v1/{path}", **extra)
        assert answer.status_code == expect, answer.content
        self.seen += answer.content.decode()
        return answer.json() if answer.content else None


@pytest.fixture
def boss() -> Person:
    """May do everything here."""
    return Person(
        *PERMISSIONS,
        "view_credential",
        "add_credential",
        "delete_credential",
        "view_sealedsecret",
        "view_endpoint",
    )


@pytest.mark.parametrize(
    ("path", "method", "needed"),
    [
        ("vault", "get", "view_vault"),
        ("vault/rotate-data-key", "get", "view_vault"),
        ("vault/slots", "get", "view_vault"),
        ("vault/unlock", "post", "unlock_vault"),
        ("vault/lock", "post", "unlock_vault"),
        ("vault/initialise", "post", "manage_vault"),
        ("vault/change-password", "post", "manage_vault"),
        ("vault/settings", "patch", "manage_vault"),
        ("vault/slots", "post", "manage_vault"),
        ("vault/rotate-data-key", "post", "manage_vault"),
        ("vault/rotate-root", "post", "manage_vault"),
        ("vault/check", "post", "manage_vault"),
        ("vault/accept-rows", "post", "manage_vault"),
    ],
)
def test_each_call_needs_its_own_permission(path: str, method: str, needed: str) -> None:
    a_vault()
    others = Person(*(one for one in PERMISSIONS if one != needed))
    others.ask(method, path, expect=403)
    person = Person(needed)
    answer = getattr(person.client, method)(
        f"/admin/v1/{path}", **({} if method == "get" else {"data": {}, "content_type": "application/json"})
    )
    assert answer.status_code != 403


def test_a_vaults_life_over_the_api(boss: Person) -> None:
    assert boss.ask("get", "vault") == {"exists": False, "unlocked": False}
    boss.ask("post", "vault/unlock", {"password": PASSWORD}, 404)
    refused = boss.ask("post", "vault/initialise", {"password": "short"}, 400)
    assert refused["code"] == "password_too_weak"
    made = boss.ask("post", "vault/initialise", {"password": PASSWORD}, 201)
    recovery_key = made["recovery_key"]
    boss.seen = ""
    boss.ask("post", "vault/initialise", {"password": PASSWORD}, 409)
    assert boss.ask("post", "vault/lock", {"reason": "lunch"})["locked_because"] == "lunch"
    assert boss.ask("get", "vault")["unlocked"] is False
    assert (
        boss.ask("post", "vault/unlock", {"password": PASSWORD + "x"}, 403)["code"] == "vault_unlock_refused"
    )
    assert boss.ask("post", "vault/unlock", {"recovery_key": recovery_key})["unlocked"] is True
    changed = {"old_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert boss.ask("post", "vault/change-password", changed)["kind"] == "password"
    boss.ask("post", "vault/unlock", {"password": PASSWORD}, 403)
    boss.ask("post", "vault/unlock", {"password": NEW_PASSWORD})
    assert boss.ask("patch", "vault/settings", {"idle_minutes": 7})["settings"]["idle_minutes"] == 7
    boss.ask("patch", "vault/settings", {"idle_minutes": -7}, 400)
    assert boss.ask("post", "vault/rotate-data-key")["active_key"] == 2
    assert boss.ask("get", "vault/rotate-data-key")["old_keys"] == [1]
    assert boss.ask("post", "vault/check")["manifest"]["differences"] == []
    boss.ask("post", "vault/accept-rows")
    for canary in (PASSWORD, NEW_PASSWORD, recovery_key):
        assert canary not in boss.seen
        assert canary not in repr(list(AuditEntry.objects.values()))


def test_slots_over_the_api(boss: Person) -> None:
    a_vault()
    key = a_key().reveal_bytes().hex()
    added = boss.ask("post", "vault/slots", {"kind": "key_file", "label": "Mounted", "key": key}, 201)
    printed = boss.ask("post", "vault/slots", {"kind": "recovery", "label": "Safe"}, 201)["recovery_key"]
    boss.ask("post", "vault/slots", {"kind": "password", "label": "Otto", "password": NEW_PASSWORD}, 201)
    boss.ask("post", "vault/slots", {"kind": "kms", "label": "KMS"}, 400)
    boss.ask("post", "vault/slots", {"kind": "key_file", "label": "x", "key": "short"}, 400)
    boss.ask("patch", f"vault/slots/{added['slot_id']}", {"label": "File", "kind": "password"})
    assert VaultSlot.objects.get(pk=added["slot_id"]).label == "File"
    listed = boss.ask("get", "vault/slots")
    assert listed["count"] == 5
    assert "document" not in listed["results"][0]
    boss.ask("post", "vault/unlock", {"key": key})
    boss.ask("post", "vault/unlock", {"recovery_key": printed})
    slots = {slot.label: slot for slot in VaultSlot.objects.all()}
    secrets = {slots["File"].slot_id: {"key": key}, slots["Otto"].slot_id: {"password": NEW_PASSWORD}}
    boss.ask("post", "vault/rotate-root", {"secrets": secrets}, 409)
    boss.ask("post", "vault/rotate-root", {"secrets": {slots["File"].slot_id: {"password": "x"}}}, 400)
    dropping = [slot.slot_id for slot in slots.values() if slot.slot_id not in secrets]
    assert (
        boss.ask("post", "vault/rotate-root", {"secrets": secrets, "dropping": dropping})["root_version"] == 2
    )
    boss.ask("delete", f"vault/slots/{slots['Otto'].slot_id}", expect=409)
    boss.ask("delete", f"vault/slots/{slots['Otto'].slot_id}?leave_headless_only=true", expect=204)
    boss.ask("delete", f"vault/slots/{slots['File'].slot_id}?leave_headless_only=true", expect=409)
    assert key not in boss.seen


def test_a_credentials_secret_goes_in_and_never_comes_out(boss: Person) -> None:
    a_vault()
    provider = create_provider(ADMIN, name="acme", kind="openai")
    endpoint = create_endpoint(ADMIN, provider=provider, url="https://acme.example")
    body = {"provider": provider.pk, "name": "main", "secret": SECRET}
    boss.ask("post", "credentials", {**body, "source": "env", "reference": "TOKENHUB_CRED_A"}, 400)
    assert not Credential.objects.exists()
    made = boss.ask("post", "credentials", {**body, "source": "vault"}, 201)
    assert (made["source"], made["version"], made["sealed"][0]["last4"]) == ("vault", 2, SECRET[-4:])
    path = f"credentials/{made['id']}"
    changed = boss.ask("patch", path, {"secret": OTHER_SECRET, "overlap_seconds": 60, "weight": 3})
    assert ([one["version"] for one in changed["sealed"]], changed["weight"]) == ([3, 2], 3)
    boss.ask("patch", path, {"secret": OTHER_SECRET, "overlap_seconds": 10**8}, 400)
    boss.ask("patch", path, {"secret": "line\nbreak"}, 400)
    boss.ask("patch", path, {"secret": f" {SECRET}"}, 400)
    assert open_all() == [SECRET, OTHER_SECRET]
    assert boss.ask("get", "vault/secrets")["count"] == 2
    boss.ask("get", f"vault/secrets/{SealedSecret.objects.first().pk}")
    boss.ask("get", "credentials")
    boss.ask("get", path)
    told = boss.ask("get", f"endpoints/{endpoint.pk}/consequences?url=https://evil.example")
    assert len(told["consequences"]) == 1
    opened_vault.drop()
    assert boss.ask("patch", path, {"secret": SECRET}, 503)["code"] == "vault_locked"
    boss.ask("delete", path, expect=503)
    for canary in (SECRET, OTHER_SECRET, "line\\nbreak"):
        assert canary not in boss.seen
        assert canary not in repr(list(AuditEntry.objects.values()))


def test_a_worker_that_has_not_looked_since_a_lock_is_not_counted_as_unlocked(boss: Person) -> None:
    a_vault()
    VaultWorker.objects.create(
        instance="one", boot_id="1", state="unlocked", lock_epoch=opened_vault.epoch, seen_at=timezone.now()
    )
    assert boss.ask("get", "vault")["workers_unlocked"] == 1
    boss.ask("post", "vault/lock", {"reason": "lunch"})
    assert boss.ask("get", "vault")["workers_unlocked"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("unlock", {"password": PASSWORD}),
        ("change-password", {"old_password": PASSWORD, "new_password": NEW_PASSWORD}),
    ],
)
def test_a_request_with_something_typed_does_not_live_on_in_the_process(
    boss: Person, path: str, body: dict[str, str]
) -> None:
    a_vault()
    mark = f"one of {path}"
    answer = boss.client.post(
        f"/admin/v1/vault/{path}", body, content_type="application/json", headers={"x-mark": mark}
    )
    assert answer.status_code == 200
    # The answer of the test's client, and the client by its last one, keep their request.
    del answer
    boss.ask("get", "vault")
    gc.collect()
    requests = [one for one in gc.get_objects() if isinstance(one, HttpRequest)]
    assert [one.path for one in requests if one.headers.get("x-mark") == mark] == []
