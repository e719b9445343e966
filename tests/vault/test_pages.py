"""The vault's pages: what they tell, what they do, who may, and that nothing secret stays in them."""

from __future__ import annotations

import logging
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from signin.sessions import SEEN
from tests.console.cast import a_person
from tests.vault.page_cast import Visitor, plain, workers_of
from tests.vault.vaults import (
    ADMIN,
    NEW_PASSWORD,
    PASSWORD,
    SECRET,
    a_credential,
    a_key,
    a_vault,
    run_sql,
    the_vault,
)
from vault.engine.slots import SlotKind
from vault.models import AuditEntry, Vault, VaultSlot, VaultTry, VaultWorker
from vault.opened import opened_vault
from vault.rotations import reseal_some, retire_data_keys
from vault.sealing import seal_secret
from vault.vault_actions import add_key_slot, add_password_slot, lock, remove_slot
from vault.vault_manifest import check_manifest

pytestmark = pytest.mark.django_db

RECOVERY = re.compile(r"[0-9A-HJKMNP-TV-Z]{5}(?:-[0-9A-HJKMNP-TV-Z]{5}){11}")

OTHER_KEY = "5f1c9a03e7d24b8866104ffd37b2c9ae81d05c72f3964eab1207be98a4d36c5f"


@pytest.fixture
def vera(db: None) -> Visitor:
    """A vault admin."""
    return Visitor()


def slot_of(kind: str) -> VaultSlot:
    return VaultSlot.objects.get(kind=kind)


# --- from none to open ---------------------------------------------------------------------------------------------


def test_without_a_vault_the_page_offers_to_initialise_one(vera: Visitor) -> None:
    assert "There is no vault yet" in vera.get("")
    assert "/admin/vault/initialise/" in vera.get("")
    assert "/admin/vault/initialise/" not in Visitor("vault.view_vault", username="looker").get("")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("short", "short", "too weak"),
        ("passwordpassword", "passwordpassword", "too weak"),
        (PASSWORD, PASSWORD + "x", "not the same"),
        ("", "", "This field is required"),
    ],
)
def test_a_weak_or_mistyped_first_password_is_refused_in_words(
    first: str, second: str, words: str, vera: Visitor
) -> None:
    text = vera.post("initialise/", expect=200, new_password=first, again=second)
    assert words in text
    assert not Vault.objects.exists()
    assert not first or f'value="{first}"' not in text


def test_the_recovery_key_is_shown_once_and_nowhere_kept(
    vera: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = vera.post("initialise/", expect=200, new_password=PASSWORD, again=PASSWORD)
    found = RECOVERY.search(made)
    assert found is not None
    key = found[0]
    assert 'data-replace-url="/admin/vault/"' in made
    answer = vera.client.get("/admin/vault/initialise/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/vault/")
    vera.seen = ""
    vera.get("")
    vera.post("recovery-kept/", slot=slot_of("recovery").slot_id, kept="on")
    for kept in (vera.seen, vera.session_text(), caplog.text, repr(list(AuditEntry.objects.values()))):
        assert key not in kept
        assert key.replace("-", "") not in kept
        assert PASSWORD not in kept
    assert AuditEntry.objects.filter(action="vaultslot.kept", actor="vera").exists()
    vera.post("lock/", reason="tea")
    assert "is unlocked" in vera.post("unlock/", recovery_key=key.lower().replace("-", " "))


def test_pages_are_never_kept_by_a_cache(vera: Visitor) -> None:
    a_vault()
    for path in ("", "live/", "unlock/", "change-password/", "rotate-root/"):
        assert "no-store" in vera.client.get(f"/admin/vault/{path}")["Cache-Control"]
    answer = vera.client.post("/admin/vault/slots/add/recovery/", {"label": "Safe"})
    assert "no-store" in answer["Cache-Control"]


def test_nobody_said_that_the_key_was_kept_is_said_again(vera: Visitor) -> None:
    a_vault()
    text = vera.post("recovery-kept/", slot=slot_of("recovery").slot_id)
    assert "make another one" in text
    assert not AuditEntry.objects.filter(action="vaultslot.kept").exists()


def test_the_meter_says_what_the_server_thinks_and_keeps_nothing(vera: Visitor) -> None:
    weak = vera.client.post("/admin/vault/strength/", {"new_password": "password2024"}).content.decode()
    assert "Too weak" in weak
    assert "password2024" not in weak
    strong = vera.client.post("/admin/vault/strength/", {"new_password": PASSWORD}).content.decode()
    assert "Strong enough" in strong
    assert PASSWORD not in strong
    assert vera.client.post("/admin/vault/strength/", {}).content.decode().strip() == ""


# --- unlocking and locking -----------------------------------------------------------------------------------------


def test_unlocking_and_locking_by_page(vera: Visitor) -> None:
    a_vault()
    text = vera.post("lock/", reason="the <b>audit</b>")
    assert "The vault is locked" in text
    assert "the &lt;b&gt;audit&lt;/b&gt;" in text
    assert not opened_vault.epoch
    assert "The vault is unlocked" in vera.post("unlock/", password=PASSWORD)
    assert opened_vault.epoch == the_vault().lock_epoch


@pytest.mark.parametrize(
    "given",
    [
        {"password": "wrong-horse-battery-9"},
        {"recovery_key": "04002-0G30G-2GC1R-81450-P30D1-R7H04-8J2CA-1A5GQ-30CHM-6RW3M-F1ZH5-2G5CG"},
        {"key": OTHER_KEY},
        {"password": PASSWORD, "key": OTHER_KEY},
    ],
)
def test_whatever_opens_no_slot_is_refused_alike(given: dict[str, str], vera: Visitor) -> None:
    a_vault()
    lock(ADMIN)
    text = vera.post("unlock/", expect=200, **given)
    assert "This opens no slot of the vault." in plain(text)
    assert not opened_vault.epoch
    for typed in given.values():
        assert typed not in vera.seen


def test_a_mistyped_recovery_key_says_so_and_is_not_counted(vera: Visitor) -> None:
    recovery_key = a_vault()
    text = vera.post("unlock/", expect=200, recovery_key="Z" + recovery_key[1:])
    assert "mistyped" in text
    assert '<details class="th-more" open>' in text
    assert "this has 3" in vera.post("unlock/", expect=200, recovery_key="ABC")
    assert recovery_key[6:] not in vera.seen
    assert not VaultTry.objects.exists()


def test_nothing_or_two_ways_at_once_is_refused(vera: Visitor) -> None:
    a_vault()
    for given in ({}, {"password": PASSWORD, "recovery_key": "x"}):
        assert "Give a password, a recovery key, or a key" in vera.post("unlock/", expect=200, **given)


def test_too_many_tries_say_how_long_to_wait(vera: Visitor) -> None:
    a_vault()
    now = timezone.now()
    for _ in range(5):
        VaultTry.objects.create(actor="user:vera", at=now - timedelta(minutes=3))
    text = plain(vera.post("unlock/", expect=200, password=PASSWORD))
    assert "Too many tries in vain" in text
    assert re.search(r"Try again in 1[12] min", text)


@pytest.mark.parametrize(
    ("to", "leads"), [("/admin/vault/rotate-root/", True), ("https://elsewhere.example/", False)]
)
def test_unlocking_leads_back_to_where_it_was_needed_and_nowhere_else(
    to: str, leads: bool, vera: Visitor
) -> None:
    a_vault()
    answer = vera.client.post(f"/admin/vault/unlock/?next={to}", {"password": PASSWORD})
    assert answer["Location"] == (to if leads else "/admin/vault/")


def test_locking_says_which_providers_stop(vera: Visitor) -> None:
    a_vault()
    seal_secret(ADMIN, a_credential("acme"), SECRET)
    mixed = a_credential("mixed")
    mixed.provider.credentials.create(name="spare", source="env", reference="TOKENHUB_CRED_SPARE")
    text = plain(vera.get("lock/"))
    assert "1 provider with 0 models stops until somebody unlocks it again: acme." in text
    assert "1 provider goes on with a key from a variable or file: mixed." in text


# --- what the status tells -----------------------------------------------------------------------------------------


def test_the_status_counts_the_workers_and_marks_stale_ones(vera: Visitor) -> None:
    a_vault()
    workers_of(12, unlocked=11)
    workers_of(1, unlocked=1, name="gone", seen_at=timezone.now() - timedelta(minutes=2))
    VaultWorker.objects.filter(instance="gateway-12").update(problem="waits <b>for</b> a grant")
    text = vera.get("")
    assert "11 of 12" in plain(text)
    assert "1 more stale" in plain(text)
    assert "waits &lt;b&gt;for&lt;/b&gt; a grant" in text
    assert "Some workers are locked" in text


def test_a_worker_of_an_earlier_epoch_does_not_count_as_unlocked(vera: Visitor) -> None:
    a_vault()
    workers_of(2, unlocked=2)
    assert "2 of 2" in plain(vera.get(""))
    lock(ADMIN)
    assert "0 of 2" in plain(vera.get(""))
    assert "The vault is locked" in vera.get("")


def test_the_numbers_refresh_by_themselves_and_the_page_when_more_changed(vera: Visitor) -> None:
    a_vault()
    workers_of(2, unlocked=2)
    found = re.search(r'hx-get="/admin/vault/live/\?key=([^"]+)"', vera.get(""))
    assert found is not None
    assert "2 of 2" in plain(vera.get(f"live/?key={found[1]}"))
    lock(ADMIN)
    answer = vera.client.get(f"/admin/vault/live/?key={found[1]}")
    assert (answer.status_code, answer["HX-Refresh"]) == (204, "true")


def test_an_open_page_does_not_keep_its_session_alive(vera: Visitor) -> None:
    a_vault()
    session = vera.client.session
    session[SEEN] = before = (timezone.now() - timedelta(minutes=10)).timestamp()
    session.save()
    vera.client.get("/admin/vault/live/", headers={"X-Tokenhub-Watching": "1"})
    assert vera.client.session[SEEN] == before
    vera.client.get("/admin/vault/")
    assert vera.client.session[SEEN] > before


def test_the_pages_queries_do_not_grow_with_their_rows(vera: Visitor) -> None:
    a_vault()
    seal_secret(ADMIN, a_credential("acme"), SECRET)
    workers_of(1, unlocked=1)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            vera.get("")
        return len(queries)

    count()
    few = count()
    for number in range(8):
        seal_secret(ADMIN, a_credential(f"more{number}"), SECRET)
    workers_of(20, unlocked=5, name="more")
    assert count() <= few


def test_rows_changed_by_other_hands_are_named_in_red_until_accepted(vera: Visitor) -> None:
    a_vault()
    seal_secret(ADMIN, a_credential("acme"), SECRET)
    run_sql("UPDATE vault_sealedsecret SET last4 = 'evil', good_until = '2099-01-01'")
    assert "1 sealed secret differs" in vera.post("check/")
    text = plain(vera.get(""))
    assert "Sealed keys are not as they were signed" in text
    assert "acme, main, at https://acme.example:443 was changed by other hands" in text
    assert "acme, main" in plain(vera.get("accept-rows/"))
    assert "signed as they are now" in vera.post("accept-rows/")
    assert "in order" in vera.get("")
    assert AuditEntry.objects.filter(action="vault.accept_rows", actor="vera").exists()
    run_sql("DELETE FROM vault_sealedsecret")
    check_manifest()
    assert "was deleted by other hands" in plain(vera.get(""))


def test_a_check_that_finds_nothing_says_so(vera: Visitor) -> None:
    a_vault()
    assert "Compare the sealed secrets" in vera.get("check/")
    assert "is as it was signed" in vera.post("check/")


def test_the_status_reminds_of_what_was_left_undone(vera: Visitor) -> None:
    recovery_key = a_vault()
    seal_secret(ADMIN, a_credential("acme"), SECRET)
    assert "The recovery key was never tried" in vera.get("")
    assert "opens the vault" in vera.post("try-recovery-key/", recovery_key=recovery_key)
    text = vera.get("")
    assert "never tried" not in text
    assert "To do" not in text
    run_sql("UPDATE vault_vaultslot SET changed_at = '2020-01-01'")
    run_sql("UPDATE vault_vaultdatakey SET created_at = '2020-01-01'")
    run_sql("UPDATE vault_vault SET created_at = '2020-01-01'")
    run_sql("UPDATE vault_sealedsecret SET created_at = '2020-01-01'")
    remove_slot(ADMIN, slot_of("recovery"))
    text = plain(vera.get(""))
    for words in (
        "There is one way to unlock",
        "There is no recovery key",
        "The password of Password is",
        "The data key is",
        "The root key is",
        "1 provider key was not replaced",
    ):
        assert words in text


def test_a_recovery_key_that_opens_nothing_stays_untried(vera: Visitor) -> None:
    a_vault()
    other = "04002-0G30G-2GC1R-81450-P30D1-R7H04-8J2CA-1A5GQ-30CHM-6RW3M-F1ZH5-2G5CG"
    assert "This opens no slot" in vera.post("try-recovery-key/", expect=200, recovery_key=other)
    assert slot_of("recovery").opened_at is None
    assert opened_vault.epoch != 0


# --- slots ---------------------------------------------------------------------------------------------------------


def test_a_password_is_changed_by_page(vera: Visitor) -> None:
    a_vault()
    fields = {"old_password": PASSWORD, "new_password": NEW_PASSWORD, "again": NEW_PASSWORD}
    assert "too weak" in vera.post(
        "change-password/", expect=200, **{**fields, "new_password": "x", "again": "x"}
    )
    refused = vera.post("change-password/", expect=200, **{**fields, "old_password": "wrong-horse-battery-9"})
    assert "This opens no slot" in refused
    assert "has a new password" in vera.post("change-password/", **fields)
    lock(ADMIN)
    assert "This opens no slot" in vera.post("unlock/", expect=200, password=PASSWORD)
    assert "is unlocked" in vera.post("unlock/", password=NEW_PASSWORD)
    assert PASSWORD not in vera.seen
    assert NEW_PASSWORD not in vera.seen


def test_slots_are_added_renamed_and_removed(vera: Visitor) -> None:
    a_vault()
    assert "Key file" in vera.get("slots/add/")
    text = vera.post("slots/add/password/", label="Otto & co", new_password=NEW_PASSWORD, again=NEW_PASSWORD)
    assert "Otto &amp; co is a way to unlock the vault now." in text
    slot = VaultSlot.objects.get(label="Otto & co")
    assert "called Night shift" in vera.post(f"slots/{slot.pk}/rename/", label="Night shift")
    asked = plain(vera.get(f"slots/{slot.pk}/remove/"))
    assert "Remove Night shift?" in asked
    assert "Password (password)" in asked
    assert "opens nothing any more" in vera.post(f"slots/{slot.pk}/remove/")
    assert not VaultSlot.objects.filter(pk=slot.pk).exists()
    vera.get(f"slots/{slot.pk}/remove/", expect=404)
    vera.get("slots/add/kms/", expect=404)


def test_what_was_typed_that_is_no_secret_is_kept_after_a_refusal(vera: Visitor) -> None:
    a_vault()
    text = vera.post(
        "slots/add/password/", expect=200, label="Night shift", new_password="weak", again="weak"
    )
    assert 'value="Night shift"' in text
    assert 'weak"' not in text
    text = vera.post("slots/add/key_file/", expect=200, label="Cluster", key="no key at all")
    assert 'value="Cluster"' in text
    assert "no key at all" not in text
    assert "64 hex digits" in text


@pytest.mark.parametrize(
    ("kind", "names"), [("key_file", "TOKENHUB_VAULT_KEY_FILE"), ("environment", "TOKENHUB_VAULT_KEY")]
)
def test_a_made_key_is_shown_once_and_opens_the_vault(kind: str, names: str, vera: Visitor) -> None:
    a_vault()
    text = vera.post(f"slots/add/{kind}/", expect=200, label="Cluster")
    found = re.search(r'id="secret"[^>]*>([A-Za-z0-9+/]{43}=)<', text)
    assert found is not None
    assert names in text
    vera.seen = ""
    page = vera.get("")
    assert "Off: a slot unlocks the vault without anyone" in plain(page)
    lock(ADMIN)
    assert "is unlocked" in vera.post("unlock/", key=found[1])
    assert found[1] not in vera.seen + vera.session_text() + repr(list(AuditEntry.objects.values()))


def test_the_last_slots_are_kept(vera: Visitor) -> None:
    a_vault()
    add_key_slot(ADMIN, "Mounted", SlotKind.KEY_FILE, a_key().reveal_bytes().hex())
    vera.post(f"slots/{slot_of('recovery').pk}/remove/")
    password = slot_of("password")
    assert "Only slots without anyone would be left" in vera.get(f"slots/{password.pk}/remove/")
    vera.post(f"slots/{password.pk}/remove/", expect=200)
    assert VaultSlot.objects.filter(pk=password.pk).exists()
    vera.post(f"slots/{password.pk}/remove/", leave_headless_only="yes")
    last = VaultSlot.objects.get()
    assert "is the last way to unlock" in vera.get(f"slots/{last.pk}/remove/")
    assert "last slot" in vera.post(f"slots/{last.pk}/remove/")
    assert VaultSlot.objects.count() == 1


def test_settings_are_changed_and_bad_ones_kept_on_the_form(vera: Visitor) -> None:
    a_vault()
    vera.post("settings/", idle_minutes=7, max_hours=0, coast_seconds=60)
    assert "after 7 min" in vera.get("")
    assert "never" in vera.get("")
    text = vera.post("settings/", expect=200, idle_minutes=7, max_hours=9_999_999, coast_seconds=60)
    assert "9999999" in text
    assert "less than or equal to 100000" in text


# --- rotations -----------------------------------------------------------------------------------------------------


def test_a_data_key_is_rotated_with_progress(vera: Visitor) -> None:
    a_vault()
    credential = a_credential("acme")
    seal_secret(ADMIN, credential, SECRET)
    assert "finished" in vera.get("rotate-data-key/")
    text = vera.post("rotate-data-key/")
    assert "Data key 2 seals from now on" in text
    assert "running" in text
    found = re.search(r'hx-get="(/admin/vault/rotate-data-key/progress/\?key=[^"]+)"', text)
    assert found is not None
    assert "0 of 1 sealed key under data key 2; 1 left" in plain(vera.client.get(found[1]).content.decode())
    reseal_some()
    assert "1 of 1 sealed key under data key 2" in plain(vera.client.get(found[1]).content.decode())
    retire_data_keys()
    assert the_vault().active_key == 2


def test_a_root_key_is_rotated_for_the_slots_whose_secrets_are_typed(vera: Visitor) -> None:
    recovery_key = a_vault()
    seal_secret(ADMIN, a_credential("acme"), SECRET)
    other = add_password_slot(ADMIN, "Otto", NEW_PASSWORD)
    password, recovery = VaultSlot.objects.get(label="Password"), slot_of("recovery")
    assert "Drop this slot: Otto" in vera.get("rotate-root/")
    fields = {f"password_{password.pk}": PASSWORD, f"recovery_key_{recovery.pk}": recovery_key}
    text = vera.post("rotate-root/", expect=200, **fields)
    assert "Give its secret, or say that it is dropped." in text
    both = {**fields, f"password_{other.pk}": NEW_PASSWORD, f"drop_{other.pk}": "on"}
    assert "not both" in vera.post("rotate-root/", expect=200, **both)
    wrong = {**fields, f"password_{other.pk}": "wrong-horse-battery-9"}
    assert "This opens no slot" in vera.post("rotate-root/", expect=200, **wrong)
    dropped = {f"drop_{slot.pk}": "on" for slot in (password, recovery, other)}
    assert "At least one slot has to stay" in vera.post("rotate-root/", expect=200, **dropped)
    assert the_vault().root_version == 1
    assert "Root key 2 is in force" in vera.post("rotate-root/", **fields, **{f"drop_{other.pk}": "on"})
    assert set(VaultSlot.objects.values_list("label", flat=True)) == {"Password", "Recovery key"}
    lock(ADMIN)
    vera.post("unlock/", expect=200, password=NEW_PASSWORD)
    assert "is unlocked" in vera.post("unlock/", password=PASSWORD)
    for typed in (PASSWORD, NEW_PASSWORD, recovery_key):
        assert typed not in vera.seen


# --- who may, and when ---------------------------------------------------------------------------------------------

OPEN_PAGES = {
    "": "view", "live/": "view", "rotate-data-key/progress/": "view",
    "unlock/": "unlock", "lock/": "unlock",
    "settings/": "manage", "check/": "manage", "accept-rows/": "manage", "change-password/": "manage",
    "try-recovery-key/": "manage", "slots/add/": "manage", "slots/add/password/": "manage", "slots/add/recovery/": "manage",
    "slots/add/key_file/": "manage", "slots/add/environment/": "manage", "slots/SLOT/rename/": "manage",
    "slots/SLOT/remove/": "manage", "rotate-data-key/": "manage", "rotate-root/": "manage",
}  # fmt: skip
"""Each page of a vault that is open, and the one permission that it needs."""

FREE = {"", "live/", "rotate-data-key/progress/", "lock/", "check/"}
"""Those that do not ask again who it is: looking, and locking in a hurry."""


@pytest.mark.parametrize("verb", ["view", "unlock", "manage"])
def test_each_page_opens_with_its_own_permission_and_no_other(verb: str) -> None:
    a_vault()
    person = Visitor(f"vault.{verb}_vault")
    slot = slot_of("password").pk
    for path, needed in OPEN_PAGES.items():
        status = person.client.get(f"/admin/vault/{path.replace('SLOT', slot)}").status_code
        assert (status in (200, 204)) is (needed == verb), (path, status)
        posted = person.client.post(f"/admin/vault/{path.replace('SLOT', 'no-slot')}", {}).status_code
        assert (posted != 403) is (needed == verb), (path, posted)


def test_what_is_grave_asks_again_who_it_is(vera: Visitor) -> None:
    a_vault()
    vera.forget_confirmation()
    slot = slot_of("password").pk
    before = AuditEntry.objects.count()
    for path in OPEN_PAGES:
        real = path.replace("SLOT", slot)
        for answer in (
            vera.client.get(f"/admin/vault/{real}"),
            *([] if path in FREE else [vera.client.post(f"/admin/vault/{real}")]),
        ):
            asked = answer.status_code == 302 and answer["Location"].startswith("/admin/confirm/")
            assert asked is (path not in FREE), path
    assert AuditEntry.objects.count() == before


def test_who_only_looks_sees_no_button(vera: Visitor) -> None:
    a_vault()
    workers_of(2, unlocked=1)
    text = Visitor("vault.view_vault", username="looker").get("")
    for path in ("unlock/", "lock/", "rotate-root/", "slots/add/", "settings/"):
        assert f'href="/admin/vault/{path}"' in vera.get("")
        assert f'href="/admin/vault/{path}"' not in text


def test_pages_that_need_an_open_vault_lead_to_unlocking_and_back(vera: Visitor) -> None:
    a_vault()
    lock(ADMIN)
    for path in (
        "check/",
        "accept-rows/",
        "slots/add/",
        "slots/add/password/",
        "rotate-data-key/",
        "rotate-root/",
    ):
        text = vera.get(path)
        assert "Unlock the vault first" in text
        assert (
            f'href="/admin/vault/unlock/?next=%2Fadmin%2Fvault%2F{path[:-1].replace("/", "%2F")}%2F"' in text
        )
    for path in ("change-password/", "settings/", "try-recovery-key/"):
        assert "Unlock the vault first" not in vera.get(path)


def test_the_sidebar_shows_the_vault_to_those_who_may_look(vera: Visitor) -> None:
    link = 'href="/admin/vault/"'
    assert link in vera.client.get("/admin/").content.decode()
    other = Visitor("providers.view_provider", username="other")
    assert link not in other.client.get("/admin/").content.decode()


def test_posting_from_another_site_is_refused() -> None:
    a_vault()
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(a_person("superuser"))
    for path in ("lock/", "unlock/", "rotate-data-key/", "strength/", "recovery-kept/"):
        assert client.post(f"/admin/vault/{path}", {"password": PASSWORD}).status_code == 403
    assert the_vault().locked_at is None
