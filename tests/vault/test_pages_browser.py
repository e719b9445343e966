"""A vault's life in a real browser under the policy of production: by clicks and keys, in both themes and widths."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from playwright.sync_api import Page

from tests.console.browser import in_browser
from tests.console.cast import a_person
from tests.console.looking import listen, look, settle
from tests.vault.page_cast import workers_of
from tests.vault.vaults import ADMIN, NEW_PASSWORD, PASSWORD, SECRET, a_credential, a_vault, run_sql
from vault.engine.slots import SlotKind
from vault.models import SealedSecret, VaultSlot, VaultWorker
from vault.sealing import seal_secret
from vault.vault_actions import add_generated_key_slot, lock
from vault.vault_manifest import check_manifest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    # Django's live server leaves its threads' connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def owner(transactional_db: None) -> Iterator[str]:
    """An owner's session."""
    client = Client()
    client.force_login(a_person("superuser"))
    yield str(client.cookies["sessionid"].value)
    gc.collect()


def test_a_vault_is_made_locked_and_unlocked_by_keyboard(live_server: Any, owner: str) -> None:
    def work(page: Page) -> tuple[str, list[str]]:
        heard = listen(page)
        page.goto("/admin/vault/")
        page.get_by_role("link", name="Initialise the vault").click()
        page.locator("#id_new_password:focus").type("passwordpassword")
        page.get_by_text("Too weak").wait_for()
        page.fill("#id_new_password", "")
        page.locator("#id_new_password").type(PASSWORD)
        page.get_by_text("Strong enough").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Recovery key", level=2).wait_for()
        key = page.locator("#recovery-text").text_content() or ""
        assert page.url.endswith("/admin/vault/")
        page.check("#id_kept")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("heading", name="The vault is unlocked").wait_for()
        page.go_back()
        settle(page)
        assert key not in page.content()
        page.goto("/admin/vault/try-recovery-key/")
        page.locator("#id_recovery_key:focus").fill(key.lower())
        page.keyboard.press("Enter")
        page.get_by_text("opens the vault. Put it back").wait_for()
        page.get_by_role("link", name="Lock…").click()
        page.fill("#id_reason", "to see what happens")
        page.get_by_role("button", name="Lock the vault").click()
        page.get_by_text("to see what happens").first.wait_for()
        page.get_by_role("link", name="Unlock", exact=True).click()
        page.locator("#id_password:focus").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The vault is unlocked").wait_for()
        return key, heard

    key, heard = in_browser(live_server.url, owner, work)
    assert re.fullmatch(r"(?:[0-9A-Z]{5}-){11}[0-9A-Z]{5}", key)
    assert heard == []


def test_the_recovery_key_is_all_that_is_printed(live_server: Any, owner: str) -> None:
    a_vault()

    def work(page: Page) -> tuple[list[bool], bool]:
        page.goto("/admin/vault/slots/add/recovery/")
        page.fill("#id_label", "Safe")
        page.get_by_role("button", name="Add the slot").click()
        page.locator(".th-key").wait_for()
        page.emulate_media(media="print")
        hidden = ["#nav-sidebar", "header", "#kept", "[data-replace-url]"]
        return [page.locator(one).first.is_visible() for one in hidden], page.locator(
            ".th-key li"
        ).last.is_visible()

    hidden, shown = in_browser(live_server.url, owner, work)
    assert (hidden, shown) == ([False] * 4, True)


def test_the_status_follows_the_workers_without_being_loaded_again(live_server: Any, owner: str) -> None:
    a_vault()
    workers_of(3, unlocked=1)

    def change() -> None:
        VaultWorker.objects.filter(instance="gateway-3").update(problem="the grant did not come")

    def follow() -> None:
        workers = VaultWorker.objects.filter(state="locked")
        first = VaultWorker.objects.get(state="unlocked")
        workers.update(state="unlocked", lock_epoch=first.lock_epoch, key_versions=[1], root_version=1)

    def work(page: Page) -> list[str]:
        heard = listen(page)
        page.goto("/admin/vault/")
        page.get_by_role("heading", name="Some workers are locked").wait_for()
        page.get_by_role("region", name="Table: Workers").focus()
        run_elsewhere(change)
        page.get_by_text("the grant did not come").wait_for(timeout=10_000)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Table: Workers"
        run_elsewhere(follow)
        page.get_by_role("heading", name="The vault is unlocked").wait_for(timeout=10_000)
        return heard

    assert in_browser(live_server.url, owner, work) == []


def run_elsewhere(change: Callable[[], None]) -> None:
    """In a thread without Playwright's event loop, in which Django works."""

    def run() -> None:
        try:
            change()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result(timeout=30)


def test_a_key_is_sealed_and_a_changed_address_asks_first(live_server: Any, owner: str) -> None:
    a_vault()
    row = a_credential()
    provider: Any = row.provider

    def work(page: Page) -> list[str]:
        heard = listen(page)
        page.goto(f"/admin/vault/credential/{row.pk}/change/")
        page.get_by_role("link", name="Enter key").click()
        page.locator("#id_secret:focus").fill(SECRET)
        page.keyboard.press("Enter")
        page.get_by_text(f"ends in …{SECRET[-4:]}").wait_for()
        assert SECRET not in page.content()
        page.goto(f"/admin/providers/provider/{provider.pk}/change/")
        page.fill("#id_endpoints-0-url", "https://elsewhere.example")
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_role("heading", name="Save it all the same?").wait_for()
        page.get_by_role("button", name="Back to the form").click()
        assert page.input_value("#id_endpoints-0-url") == "https://elsewhere.example"
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_role("button", name="Save all the same").click()
        page.wait_for_url("**/providers/provider/")
        return heard

    assert in_browser(live_server.url, owner, work) == []
    assert provider.endpoints.get().url == "https://elsewhere.example"
    assert SealedSecret.objects.get().origin == "https://acme.example:443"


def prepare_pages() -> list[tuple[str, str, Callable[[Page], None] | None]]:
    """Every page of a vault with something in it: a name, its path, and what is done on it."""
    a_vault()
    row = a_credential("acme")
    seal_secret(ADMIN, row, SECRET)
    seal_secret(ADMIN, a_credential("other"), SECRET)
    add_generated_key_slot(ADMIN, "Key file of the cluster", SlotKind.KEY_FILE)
    workers_of(4, unlocked=3)
    workers_of(1, unlocked=1, name="stale", seen_at="2026-01-01T00:00:00Z")
    VaultWorker.objects.filter(instance="gateway-4").update(problem="waits for the rotated root key")
    slot = VaultSlot.objects.earliest("created_at").pk

    def submit(name: str, **fields: str) -> Callable[[Page], None]:
        def act(page: Page) -> None:
            for field, text in fields.items():
                page.fill(f"#id_{field}", text)
            page.evaluate("for (const form of document.forms) form.noValidate = true")
            with page.expect_navigation():
                page.get_by_role("button", name=name, exact=True).click()

        return act

    def lose(page: Page) -> None:
        page.fill("#id_endpoints-0-url", "https://elsewhere.example")
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_role("heading", name="Save it all the same?").wait_for()

    def unfold(page: Page) -> None:
        for summary in page.locator("details summary").all():
            summary.click()

    provider: Any = row.provider
    return [
        ("status", "/admin/vault/", None),
        ("unlock", "/admin/vault/unlock/", unfold),
        ("unlock-refused", "/admin/vault/unlock/", submit("Unlock", password="wrong")),
        ("lock", "/admin/vault/lock/", None),
        (
            "password",
            "/admin/vault/change-password/",
            submit("Change the password", new_password="weak", again="weaker"),
        ),
        ("try", "/admin/vault/try-recovery-key/", submit("Try it", recovery_key="ABC")),
        ("settings", "/admin/vault/settings/", None),
        ("check", "/admin/vault/check/", None),
        ("accept", "/admin/vault/accept-rows/", None),
        ("kinds", "/admin/vault/slots/add/", None),
        (
            "add-password",
            "/admin/vault/slots/add/password/",
            submit("Add the slot", label="Otto", new_password=NEW_PASSWORD),
        ),
        ("new-recovery", "/admin/vault/slots/add/recovery/", submit("Add the slot", label="Safe")),
        ("new-key", "/admin/vault/slots/add/environment/", submit("Add the slot", label="Cluster")),
        ("rename", f"/admin/vault/slots/{slot}/rename/", None),
        ("remove", f"/admin/vault/slots/{slot}/remove/", None),
        ("rotate-root", "/admin/vault/rotate-root/", submit("Rotate the root key")),
        ("rotate-data-key", "/admin/vault/rotate-data-key/", submit("Make data key 2")),
        ("credential", f"/admin/vault/credential/{row.pk}/change/", None),
        ("seal", f"/admin/vault/credential/{row.pk}/seal/", submit("Replace it", secret="two words\u00e9")),
        ("delete-key", f"/admin/vault/credential/{row.pk}/delete-key/", None),
        ("keys-lost", f"/admin/providers/provider/{provider.pk}/change/", lose),
    ]


def prepare_troubles() -> None:
    """Rows changed by other hands, and a locked vault."""
    run_sql("UPDATE vault_sealedsecret SET last4 = 'evil', good_until = '2099-01-01 00:00:00+00'")
    check_manifest()
    lock(ADMIN, "somebody changed the database")


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(live_server: Any, owner: str, width: int) -> None:
    pages = prepare_pages()

    def work(page: Page) -> dict[str, list[str]]:
        heard = listen(page)
        found: dict[str, list[str]] = {}
        for name, path, act in pages:
            page.goto(path)
            settle(page)
            if act is not None:
                act(page)
            found[name] = look(page, frame=name == pages[0][0])
        run_elsewhere(prepare_troubles)
        for name, path in (("troubles", "/admin/vault/"), ("locked", "/admin/vault/rotate-root/")):
            page.goto(path)
            found[name] = look(page, frame=name == pages[0][0])
        return {name: texts for name, texts in [*found.items(), ("console", heard)] if texts}

    assert in_browser(live_server.url, owner, work, width=width) == {}
