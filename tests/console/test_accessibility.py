"""What axe finds on every admin page in both themes, and the main flows by keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from access.models import ApiKey
from providers.models import Provider
from tests.console.browser import in_browser
from tests.console.looking import PACKAGES, listen, look, settle
from tests.console.test_browser import list_pages
from tests.e2e.npm import list_unpinned

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    # Django's live server leaves its threads' connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TABS = 200
"""More presses of Tab than any page has places to stop at."""


def open_filters(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("button", name="Apply").wait_for()


def choose_a_row(page: Page) -> None:
    page.locator("#result_list tbody input[type=checkbox]").first.check()


def open_account(page: Page) -> None:
    page.locator(".th-user").click()
    page.get_by_text("Log out").wait_for()


def add_rows(page: Page) -> None:
    page.get_by_text("Add another Endpoint").click()
    page.get_by_text("Add another Credential").click()


def send_nothing(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Please correct the errors below").wait_for()


def make_a_key(page: Page) -> None:
    page.fill("#id_name", "looked at")
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator("#secret").wait_for()


def wait_for_operations(page: Page) -> None:
    page.locator(".opblock").first.wait_for()


def verify_the_trail(page: Page) -> None:
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("The trail is unbroken").wait_for()


STATES: tuple[tuple[str, Callable[[Page], None]], ...] = (
    ("/admin/usage/usagerecord/", open_filters),
    ("/admin/access/team/", choose_a_row),
    ("/admin/", open_account),
    ("/admin/providers/provider/add/", add_rows),
    ("/admin/providers/provider/add/", send_nothing),
    ("/admin/access/apikey/add/", make_a_key),
    ("/admin/vault/auditentry/verify/", verify_the_trail),
)
"""Pages as they are after something was done on them."""

OUTSIDE = ("/admin/nowhere/", "/admin/usage/price/add/", "/admin/access/team/?q=nothing-like-it")
"""No such page, not allowed, nothing found."""


def test_no_page_has_anything_serious_in_either_theme(live_server: Any, session: str) -> None:
    """By axe; and nothing sticks out or is complained of on the console, as in `test_browser` at another width."""
    visits = [(path, wait_for_operations if path.endswith("/docs") else None) for path in list_pages()]

    def work(page: Page) -> dict[str, list[str]]:
        heard = listen(page)
        found: dict[str, list[str]] = {}
        for path, prepare in [*visits, *((path, None) for path in OUTSIDE), *STATES]:
            heard.clear()
            answer = page.goto(path)
            if prepare is not None:
                prepare(page)
            grave = look(page, frame=path == visits[0][0])
            if path not in OUTSIDE:
                grave += [*heard, *([] if answer and answer.status == 200 else [f"{answer}"])]
            if grave:
                name = prepare.__name__ if prepare is not None else ""
                found[f"{path} {name}"] = grave
        return found

    assert len(visits) > 50
    assert in_browser(live_server.url, session, work) == {}


def test_the_login_page_has_nothing_serious_either(live_server: Any) -> None:
    def work(page: Page) -> list[str]:
        page.goto("/admin/login/")
        return look(page)

    assert in_browser(live_server.url, "", work) == []


def test_what_axe_comes_from_is_pinned_by_a_digest() -> None:
    assert list_unpinned(PACKAGES / "package-lock.json") == []


def tab_to(page: Page, selector: str, key: str = "Tab") -> None:
    """Presses Tab until the focus is on what `selector` means. Fails where it never gets there."""
    for _ in range(TABS):
        page.keyboard.press(key)
        if page.evaluate("wanted => Boolean(document.activeElement?.matches(wanted))", selector):
            return
    pytest.fail(f"{selector} can't be reached by {key} on {page.url}")


def test_a_provider_is_added_by_keyboard_alone(live_server: Any, session: str) -> None:
    def work(page: Page) -> None:
        page.goto("/admin/providers/provider/")
        settle(page)
        tab_to(page, ".th-skip")
        tab_to(page, "a.addlink")
        page.keyboard.press("Enter")
        page.wait_for_url("**/provider/add/")
        settle(page)
        tab_to(page, "#id_name")
        page.keyboard.type("typed")
        tab_to(page, "#id_kind")
        page.keyboard.type("vLLM")
        tab_to(page, "#endpoints-group .add-row")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        tab_to(page, ".form-group:has(#id_endpoints-1-url) [role=button]", "Shift+Tab")
        page.keyboard.press("Enter")
        page.locator("#id_endpoints-1-url").wait_for(state="detached")
        page.evaluate("document.querySelector('#content').focus()")
        tab_to(page, "#id_endpoints-0-url")
        page.keyboard.type("http://vllm.example.com:8000")
        tab_to(page, "button[name=_save]")
        page.keyboard.press("Enter")
        page.wait_for_url("**/provider/")

    in_browser(live_server.url, session, work)
    provider = Provider.objects.get(name="typed")
    assert provider.kind == "vllm"
    assert [endpoint.url for endpoint in provider.endpoints.all()] == ["http://vllm.example.com:8000"]


def test_a_key_is_made_and_its_snippets_are_read_by_keyboard_alone(live_server: Any, session: str) -> None:
    def work(page: Page) -> bool:
        page.goto("/admin/access/apikey/add/")
        settle(page)
        tab_to(page, "#id_name")
        page.keyboard.type("typed")
        tab_to(page, "button[name=_save]")
        page.keyboard.press("Enter")
        page.locator("#secret").wait_for()
        tab_to(page, "[data-copy=secret]")
        tab_to(page, "#tab-curl")
        page.keyboard.press("ArrowRight")
        return page.locator("#panel-python").is_visible()

    assert in_browser(live_server.url, session, work)
    assert ApiKey.objects.filter(name="typed").count() == 1


def test_the_frame_s_controls_work_by_keyboard(live_server: Any, session: str) -> None:
    def work(page: Page) -> None:
        page.goto("/admin/usage/usagerecord/")
        settle(page)
        tab_to(page, "[aria-label='Show or hide the sidebar']")
        page.keyboard.press("Enter")
        page.locator("#nav-sidebar").wait_for(state="hidden")
        page.keyboard.press("Enter")
        page.locator("#nav-sidebar").wait_for(state="visible")
        tab_to(page, ".filter-open-button")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Apply").wait_for()
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        tab_to(page, ".th-user")
        page.keyboard.press("Enter")
        tab_to(page, "[x-on\\:click=\"switchTheme('dark')\"]")
        page.keyboard.press("Enter")
        page.locator("html.dark").wait_for(state="attached")

    in_browser(live_server.url, session, work)
