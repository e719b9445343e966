"""The door in a real browser: a second factor set up and used by keyboard; what axe finds on pages nobody is signed in on."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, Route

from tests.console.browser import in_browser
from tests.console.looking import listen, look
from tests.signin.conftest import PASSWORD
from tests.signin.test_second_factor import code_at, enrolled

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    # Django's live server leaves its threads' connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def sign_in(page: Page, password: str = PASSWORD) -> None:
    page.goto("/admin/login/")
    page.fill("#id_username", "anna")
    page.fill("#id_password", password)
    page.keyboard.press("Enter")


def test_a_second_factor_is_set_up_and_used(live_server: Any, transactional_db: None) -> None:
    User.objects.create_superuser("anna", password=PASSWORD)

    def work(page: Page) -> tuple[str, list[str]]:
        heard = listen(page)
        sign_in(page)
        page.wait_for_url("**/admin/")
        page.goto("/admin/second-factor/")
        page.get_by_role("link", name="Set it up").click()
        page.get_by_role("img", name="QR code").wait_for()
        secret = base64.b32decode((page.locator("#secret").text_content() or "").strip())
        page.locator("#id_code:focus").fill(code_at(timezone.now(), secret))
        page.keyboard.press("Enter")
        recovery = (page.locator("#codes").text_content() or "").split()[0]
        page.reload()
        assert recovery not in page.content()
        page.locator(".th-user").click()
        with page.expect_navigation():
            page.get_by_text("Log out").click()
        sign_in(page)
        page.wait_for_url("**/login/code/")
        page.locator("#id_code:focus").fill(recovery)
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/")
        return page.title(), heard

    title, heard = in_browser(live_server.url, "", work)
    assert title.strip().startswith("Overview")
    assert heard == []


def test_the_first_field_has_the_focus_however_late_the_scripts_come(
    live_server: Any, transactional_db: None
) -> None:
    def work(page: Page) -> str:
        def wait(route: Route) -> None:
            page.wait_for_timeout(700)
            route.continue_()

        page.route("**/alpine-csp-*.js", wait)
        page.goto("/admin/login/")
        page.locator("#id_username:focus").fill("anna", timeout=5_000)
        return page.input_value("#id_username")

    assert in_browser(live_server.url, "", work) == "anna"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_second_step_and_the_closed_door_have_nothing_serious(
    live_server: Any, transactional_db: None, width: int
) -> None:
    anna = User.objects.create_superuser("anna", password=PASSWORD)
    enrolled(anna)

    def work(page: Page) -> list[str]:
        sign_in(page)
        page.wait_for_url("**/login/code/")
        found = look(page)
        for _ in range(5):
            page.goto("/admin/login/code/")
            if page.locator("#id_code").count():
                page.fill("#id_code", "000000")
                with page.expect_navigation():
                    page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Too many failed sign-ins").wait_for()
        return found + look(page)

    assert in_browser(live_server.url, "", work, width=width) == []
