"""Sessions: how they end, what their cookies are, and what goes with every page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from signin.actions import end_sessions
from signin.models import SignIn
from signin.sessions import ABSOLUTE, IDLE, SEEN, STARTED, why_ended
from tests.signin.conftest import PASSWORD

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Store = import_module(settings.SESSION_ENGINE).SessionStore


@pytest.fixture
def browser(anna: User) -> Client:
    """A browser in which anna is signed in."""
    client = Client(headers={"accept": "text/html, */*"})
    client.post("/admin/login/?next=/admin/", {"username": "anna", "password": PASSWORD})
    return client


def is_in(browser: Client) -> bool:
    return browser.get("/admin/").status_code == 200


def age(browser: Client, **by: timedelta) -> None:
    """Makes the session older, as if time had passed."""
    session = browser.session
    for name, period in by.items():
        session[name] = session[name] - period.total_seconds()
    session.save()


@pytest.mark.parametrize(
    ("started", "seen", "reason"),
    [
        (timedelta(hours=1), timedelta(minutes=29, seconds=59), ""),
        (timedelta(hours=1), IDLE, "idle"),
        (ABSOLUTE - timedelta(seconds=1), timedelta(0), ""),
        (ABSOLUTE, timedelta(0), "absolute"),
    ],
)
def test_a_session_ends_by_idling_and_by_age(started: timedelta, seen: timedelta, reason: str) -> None:
    session = {STARTED: (NOON - started).timestamp(), SEEN: (NOON - seen).timestamp()}
    assert why_ended(session, None, NOON) == reason


def test_a_session_without_stamps_is_over() -> None:
    assert why_ended({}, None, NOON) == "absolute"


def test_a_session_that_began_before_its_user_s_sessions_were_ended_is_over() -> None:
    session = {STARTED: (NOON - timedelta(minutes=1)).timestamp(), SEEN: NOON.timestamp()}
    assert why_ended(session, SignIn(sessions_from=NOON), NOON) == "ended"
    assert why_ended(session, SignIn(sessions_from=NOON - timedelta(minutes=1)), NOON) == ""


@pytest.mark.parametrize("by", [{SEEN: IDLE}, {STARTED: ABSOLUTE}])
def test_a_session_that_is_over_is_gone_from_the_server_and_the_page_says_why(
    browser: Client, by: dict[str, timedelta]
) -> None:
    key = browser.session.session_key
    age(browser, **by)
    answer = browser.get("/admin/", follow=True)
    assert answer.redirect_chain[0][0].startswith("/admin/login/")
    assert "You were signed out" in answer.text
    assert not Session.objects.filter(session_key=key).exists()


def test_the_admin_api_ends_with_the_session(browser: Client) -> None:
    assert browser.get("/admin/v1/teams").status_code == 200
    age(browser, **{SEEN: IDLE})
    assert browser.get("/admin/v1/teams").status_code == 401


def test_idle_time_is_not_written_with_every_request(browser: Client) -> None:
    before = browser.session[SEEN]
    assert is_in(browser)
    assert browser.session[SEEN] == before
    age(browser, **{SEEN: timedelta(minutes=2)})
    assert is_in(browser)
    assert browser.session[SEEN] >= before


def test_signing_out_ends_the_session_at_the_server(browser: Client) -> None:
    cookie = browser.cookies["sessionid"].value
    browser.post("/admin/logout/")
    thief = Client()
    thief.cookies["sessionid"] = cookie
    assert not is_in(thief)
    assert not Store().exists(cookie)


def test_a_disabled_user_s_sessions_end_and_stay_ended(browser: Client, anna: User, db: None) -> None:
    owner = Client()
    owner.force_login(User.objects.create_superuser("owner", password=PASSWORD))
    page = f"/admin/auth/user/{anna.pk}/change/"
    form = {"username": "anna", "is_staff": "on", "is_superuser": "on"}
    assert owner.post(page, form).status_code == 302
    assert owner.post(page, {**form, "is_active": "on"}).status_code == 302
    assert User.objects.get(pk=anna.pk).is_active
    assert not is_in(browser)


def test_a_new_password_ends_every_other_session(browser: Client, anna: User) -> None:
    elsewhere = Client()
    elsewhere.post("/admin/login/?next=/admin/", {"username": "anna", "password": PASSWORD})
    new = "another pass phrase"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert browser.post("/admin/password_change/", form).status_code == 302
    assert is_in(browser)
    assert not is_in(elsewhere)


def test_ending_sessions_ends_those_of_one_user(browser: Client, anna: User) -> None:
    other = Client()
    other.force_login(User.objects.create_superuser("owner", password=PASSWORD))
    end_sessions(anna, datetime.now(UTC))
    assert not is_in(browser)
    assert is_in(other)


def test_a_session_gets_a_new_key_at_signing_in(anna: User) -> None:
    client = Client()
    client.session.save()
    planted = client.session.session_key
    client.post("/admin/login/?next=/admin/", {"username": "anna", "password": PASSWORD})
    assert client.session.session_key != planted


def test_every_page_carries_the_headers(browser: Client) -> None:
    for path in ("/admin/", "/admin/login/", "/admin/v1/teams", "/admin/nowhere/"):
        headers = browser.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Referrer-Policy"] == "same-origin", path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert headers["X-Frame-Options"] == "DENY", path
        assert "camera=()" in headers["Permissions-Policy"], path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
        assert "script-src 'self';" in headers["Content-Security-Policy"], path


def test_under_https_cookies_are_bound_to_the_host_and_transport_is_strict(
    tmp_path: Path, repository: Path
) -> None:
    script = (
        "import json, django; django.setup(); from django.test import Client;"
        "answer = Client().get('/admin/login/', secure=True, headers={'host': 'localhost'});"
        "print(json.dumps([answer.headers['Strict-Transport-Security'],"
        "[morsel.OutputString() for morsel in answer.cookies.values()]]));"
        "from django.conf import settings;"
        "print(settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_SECURE, settings.SESSION_COOKIE_HTTPONLY,"
        " settings.SESSION_COOKIE_SAMESITE, settings.SESSION_COOKIE_DOMAIN, settings.SESSION_COOKIE_PATH)"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "tokenhub.settings",
        "TOKENHUB_DATA_DIR": str(tmp_path),
        "TOKENHUB_HTTPS": "true",
        "PYTHONPATH": str(repository),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    transport, cookies = json.loads(first)
    assert int(transport.split(";")[0].removeprefix("max-age=")) >= 365 * 86_400
    (csrf,) = cookies
    assert csrf.startswith("__Host-csrftoken=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(csrf.split("; "))
    assert "Domain" not in csrf
    assert second == "__Host-sessionid True True Lax None /"
