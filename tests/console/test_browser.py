"""Every admin page in a real browser under the policy of production: nothing is blocked, nothing sticks out, clicks work."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from playwright.sync_api import Page

from tests.console.browser import in_browser, visit_all
from tests.console.cast import a_person, sample_ids
from tests.console.routes import fill
from tests.console.test_urls import DECLARED

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    # Django's live server leaves its threads' connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NO_PAGES = ("admin/jsi18n/", "admin/search/", "admin/autocomplete/", "admin/logout/")
"""Parts of pages, and the way out."""

DOWNLOADS = ("admin/vault/auditentry/export/csv/", "admin/vault/auditentry/export/jsonl/")


def list_pages() -> list[str]:
    """Every declared admin URL that a superuser sees as a page."""
    Group.objects.create(name="finance")
    ids = sample_ids()
    routes = [
        name for name, codes in DECLARED.items() if codes[3] == 200 and not name.startswith("admin/v1/")
    ]
    return [fill(route, ids) for route in routes if route not in (*NO_PAGES, *DOWNLOADS)] + ["/admin/v1/docs"]


def test_every_page_loads_without_a_complaint_on_a_narrow_dark_screen(live_server: Any, session: str) -> None:
    """On a wide and light one, too: `test_accessibility`, which looks closer."""
    paths = list_pages()
    visits = in_browser(
        live_server.url, session, lambda page: visit_all(page, paths), width=390, scheme="dark"
    )
    assert len(visits) > 50
    assert [visit for visit in visits if visit.status != 200 or visit.complaints] == []
    assert [(visit.path, visit.overflow) for visit in visits if visit.overflow > 0] == []


def test_the_policy_blocks_inline_scripts_and_eval(live_server: Any, session: str) -> None:
    def work(page: Page) -> tuple[bool, list[str]]:
        heard: list[str] = []
        page.on("console", lambda said: heard.append(said.text))
        page.goto("/admin/")
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1';"
            " document.body.append(s); const d = document.createElement('div');"
            " d.setAttribute('onclick', 'window.broken = 1'); document.body.append(d); d.click(); }"
        )
        return bool(page.evaluate("Boolean(window.broken)")), heard

    broken, heard = in_browser(live_server.url, session, work)
    assert not broken
    assert any("Content Security Policy" in text for text in heard)


def test_the_sidebar_the_theme_and_the_filters_open_by_clicks(live_server: Any, session: str) -> None:
    def work(page: Page) -> list[str]:
        heard: list[str] = []
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto("/admin/usage/usagerecord/")
        assert page.locator("#nav-sidebar").is_visible()
        page.locator("header, #header-inner").get_by_text("dock_to_right").first.click()
        page.locator("#nav-sidebar").wait_for(state="hidden")
        page.keyboard.press("[")
        page.locator("#nav-sidebar").wait_for(state="visible")
        page.get_by_text("unfold_more").click()
        page.get_by_text("Dark", exact=True).click()
        page.locator("html.dark").wait_for(state="attached")
        page.get_by_text("Filters").first.click()
        page.locator("input[name=provider]").fill("acme")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_url("**provider=acme**")
        return heard

    assert in_browser(live_server.url, session, work) == []


def test_an_endpoint_row_is_added_and_the_calendar_opens(live_server: Any, session: str) -> None:
    def work(page: Page) -> tuple[int, bool]:
        page.goto("/admin/providers/provider/add/")
        page.get_by_text("Add another Endpoint").click()
        rows = page.locator("input[name^='endpoints-'][name$='-url']:visible").count()
        page.goto("/admin/access/apikey/add/")
        page.locator(".date-icon, [id^=calendarlink]").first.click()
        return rows, page.locator(".calendarbox").first.is_visible()

    assert in_browser(live_server.url, session, work) == (1, True)


def test_a_key_is_made_copied_and_gone_after_loading_again(live_server: Any, session: str) -> None:
    def work(page: Page) -> tuple[str, str, bool, str]:
        page.goto("/admin/access/apikey/add/")
        page.fill("#id_name", "from the browser")
        page.get_by_role("button", name="Save", exact=True).click()
        secret = page.locator("#secret").text_content() or ""
        page.locator("[data-copy=secret]").click()
        page.locator("#tab-python").click()
        shown = page.locator("#panel-python").is_visible()
        page.reload()
        return secret, page.url, shown, page.content()

    secret, url, shown, text = in_browser(live_server.url, session, work)
    assert secret.startswith("thk_live_")
    assert shown
    assert url.endswith("/change/")
    assert secret not in text


def test_the_login_page_leads_to_the_overview(live_server: Any, transactional_db: None) -> None:
    a_person("superuser")

    def work(page: Page) -> str:
        page.goto("/admin/login/")
        page.fill("#id_username", "superuser")
        page.fill("#id_password", "a pass phrase")
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/")
        return page.title()

    assert in_browser(live_server.url, "", work).strip().startswith("Overview")
