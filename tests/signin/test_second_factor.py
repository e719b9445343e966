"""The second factor, from setting it up to losing it: over the pages, with real codes."""

from __future__ import annotations

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from axes.models import AccessAttempt
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, override_settings
from django.utils import timezone

from signin import actions, totp
from signin.limits import PAIR_LIMIT
from signin.models import RecoveryCode, SignIn
from signin.sessions import CONFIRMED
from tests.console.cast import a_person_who_may
from tests.signin.conftest import PASSWORD
from tokenhub.control.actors import Actor
from vault.models import AuditEntry

SECRET = b"12345678901234567890"
ACTOR = Actor("user", "anna")


def code_at(moment: Any, secret: bytes = SECRET) -> str:
    return TOTP(secret, 6, SHA1(), 30).generate(int(moment.timestamp())).decode()


def enrolled(user: User, ago: timedelta = timedelta(minutes=10)) -> list[str]:
    """Gives a user a second factor, a while ago; the recovery codes."""
    then = timezone.now() - ago
    codes = actions.enrol(ACTOR, user, SECRET, code_at(then), then)
    user.refresh_from_db()
    return codes


def give_password(client: Client, name: str = "anna", next_url: str = "/admin/") -> Any:
    return client.post(f"/admin/login/?next={next_url}", {"username": name, "password": PASSWORD})


def give_code(client: Client, code: str) -> Any:
    return client.post("/admin/login/code/", {"code": code})


def is_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def test_it_is_set_up_with_a_picture_and_a_secret_and_shows_recovery_codes_once(anna: User) -> None:
    client = Client()
    give_password(client)
    page = client.get("/admin/second-factor/enrol/").text
    assert "<svg" in page
    assert "http://www.w3.org" not in page or "<img" not in page
    secret = re.search(r'id="secret">([A-Z2-7]+)<', page)
    assert secret
    raw = base64.b32decode(secret[1])
    wrong = client.post("/admin/second-factor/enrol/", {"code": "000000"})
    assert "does not fit" in wrong.text
    assert secret[1] in wrong.text
    shown = client.post("/admin/second-factor/enrol/", {"code": code_at(timezone.now(), raw)})
    codes = re.findall(r"[2-9a-z]{4}(?:-[2-9a-z]{4}){3}", shown.text)
    assert len(codes) == 10
    assert "no-store" in shown["Cache-Control"]
    later = (
        client.get("/admin/second-factor/").text + client.get("/admin/second-factor/enrol/", follow=True).text
    )
    assert secret[1] not in later
    assert not any(code in later for code in codes)
    assert "10 of 10" in later
    assert is_in(client)
    assert AuditEntry.objects.filter(action="second_factor.enrol", actor="anna").count() == 1


def test_nothing_that_is_kept_gives_the_codes_away(anna: User) -> None:
    codes = enrolled(anna)
    row = SignIn.objects.get(user=anna)
    kept = f"{row.__dict__} {list(RecoveryCode.objects.values())} {list(AuditEntry.objects.values())}"
    assert totp.write_secret(SECRET) not in kept
    assert not any(code in kept or code.replace("-", "") in kept for code in codes)


def test_a_password_alone_opens_nothing_once_there_is_a_second_factor(anna: User) -> None:
    enrolled(anna)
    client = Client()
    assert give_password(client)["Location"] == "/admin/login/code/"
    assert not is_in(client)
    assert client.get("/admin/v1/teams").status_code == 401


def test_a_code_ends_the_sign_in_where_the_person_wanted_to_go(anna: User) -> None:
    enrolled(anna)
    client = Client()
    give_password(client, next_url="/admin/access/team/")
    assert give_code(client, code_at(timezone.now()))["Location"] == "/admin/access/team/"
    assert is_in(client)
    assert client.get("/admin/v1/teams").status_code == 200


def test_nobody_is_sent_to_another_site(anna: User) -> None:
    enrolled(anna)
    client = Client()
    give_password(client, next_url="https://evil.example/")
    assert give_code(client, code_at(timezone.now()))["Location"] == "/admin/"


def test_a_code_is_good_once(anna: User) -> None:
    enrolled(anna)
    code = code_at(timezone.now())
    first, second = Client(), Client()
    give_password(first)
    give_password(second)
    give_code(first, code)
    assert "used already" in give_code(second, code).text
    assert not is_in(second)


@pytest.mark.django_db(transaction=True)
def test_of_those_who_send_the_same_code_at_once_one_gets_in(
    transactional_db: None, database_kind: str
) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite writes one after the other; in memory its threads refuse each other instead")
    anna = User.objects.create_superuser("anna", password=PASSWORD)
    enrolled(anna)
    now = timezone.now()

    def spend(number: int) -> bool:
        try:
            return actions.spend_code(ACTOR, anna, code_at(now), now)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(spend, range(4))) == 1


def test_a_recovery_code_stands_in_once_and_that_is_audited(anna: User) -> None:
    codes = enrolled(anna)
    for expected in (True, False):
        client = Client()
        give_password(client)
        give_code(client, codes[3].upper())
        assert is_in(client) is expected
    entry = AuditEntry.objects.get(action="second_factor.recovery_code_used")
    assert (entry.before, entry.after) == ({"recovery_codes": 10}, {"recovery_codes": 9})


def test_new_recovery_codes_replace_the_old_ones(anna: User) -> None:
    old = enrolled(anna)
    new = actions.renew_recovery_codes(ACTOR, anna)
    now = timezone.now()
    assert not actions.spend_code(ACTOR, anna, old[0], now)
    assert actions.spend_code(ACTOR, anna, new[0], now)


def test_wrong_codes_lock_the_pair_like_wrong_passwords(anna: User) -> None:
    enrolled(anna)
    client = Client()
    give_password(client)
    answers = [give_code(client, "000000").status_code for _ in range(PAIR_LIMIT)]
    assert answers == [200] * (PAIR_LIMIT - 1) + [429]
    assert give_code(client, code_at(timezone.now())).status_code == 429
    assert not is_in(client)


def test_ten_wrong_codes_from_anywhere_close_the_second_step_for_an_hour(anna: User) -> None:
    enrolled(anna)
    now = timezone.now()
    for _ in range(actions.CODE_LIMIT):
        assert not actions.spend_code(ACTOR, anna, "000000", now)
    assert not actions.spend_code(ACTOR, anna, code_at(now), now)
    client = Client()
    give_password(client)
    assert client.get("/admin/login/code/").status_code == 429
    later = now + actions.CODE_WINDOW
    assert actions.spend_code(ACTOR, anna, code_at(later), later)
    assert SignIn.objects.get(user=anna).wrong_codes == 0


def test_the_second_step_ends_with_the_password_and_after_five_minutes(anna: User) -> None:
    enrolled(anna)
    client = Client()
    give_password(client)
    session = client.session
    session["signin_pending"] = {**session["signin_pending"], "until": timezone.now().timestamp() - 1}
    session.save()
    assert give_code(client, code_at(timezone.now())).status_code == 302
    assert not is_in(client)
    give_password(client)
    anna.set_password("another pass phrase")
    anna.save()
    give_code(client, code_at(timezone.now()))
    assert not is_in(client)


def test_enrolling_ends_the_other_sessions_and_a_session_without_the_factor_is_over(anna: User) -> None:
    thief = Client()
    thief.force_login(anna)
    assert is_in(thief)
    enrolled(anna, timedelta(0))
    assert not is_in(thief)
    unproven = Client()
    unproven.force_login(anna)
    assert not is_in(unproven)


def test_after_a_new_signing_key_recovery_codes_still_open_the_door(anna: User) -> None:
    codes = enrolled(anna)
    now = timezone.now()
    with override_settings(SECRET_KEY="another signing key of forty characters.."):
        assert not actions.spend_code(ACTOR, anna, code_at(now), now)
        assert actions.spend_code(ACTOR, anna, codes[0], now)


def in_as(user: User, **session: Any) -> Client:
    client = Client()
    client.force_login(user)
    values = client.session
    values.update(session)
    values.save()
    return client


def test_an_owner_removes_it_for_someone_and_that_is_audited(anna: User) -> None:
    ben = a_person_who_may("access.view_team", username="ben")
    actions.enrol(Actor("user", "ben"), ben, SECRET, code_at(timezone.now()), timezone.now())
    page = f"/admin/auth/user/{ben.pk}/remove-second-factor/"
    operator = in_as(a_person_who_may("auth.view_user", "auth.change_user", username="operator"))
    assert operator.post(page).status_code == 403
    assert SignIn.objects.get(user=ben).is_enrolled
    assert in_as(anna).post(page).status_code == 302
    assert not SignIn.objects.get(user=ben).is_enrolled
    assert not RecoveryCode.objects.exists()
    entry = AuditEntry.objects.get(action="second_factor.remove")
    assert (entry.actor, entry.object_label, entry.after) == ("anna", "ben", {"second_factor": False})


def test_one_s_own_is_removed_after_confirming(anna: User) -> None:
    enrolled(anna)
    client = in_as(anna, signin_second_factor=True)
    assert client.post("/admin/second-factor/remove/").status_code == 302
    assert is_in(client)
    assert not SignIn.objects.get(user=anna).is_enrolled


def test_a_rule_leads_those_without_one_to_setting_it_up(anna: User, settings: Any) -> None:
    settings.TOKENHUB = replace(settings.TOKENHUB, require_mfa="superusers")
    client = in_as(anna)
    assert client.get("/admin/access/team/")["Location"] == "/admin/second-factor/enrol/"
    assert client.get("/admin/second-factor/enrol/").status_code == 200
    answer = client.get("/admin/v1/teams")
    assert (answer.status_code, answer["Content-Type"]) == (403, "application/problem+json")
    for scheme in ("x", "Basic eA==", "Bearerx y"):
        assert client.get("/admin/v1/teams", headers={"Authorization": scheme}).status_code == 403
    assert client.get("/admin/v1/teams", headers={"Authorization": "Bearer x"}).status_code == 401
    assert client.post("/admin/logout/").status_code == 200
    staff = in_as(a_person_who_may("access.view_team"))
    assert is_in(staff)
    settings.TOKENHUB = replace(settings.TOKENHUB, require_mfa="staff")
    assert not is_in(staff)


def test_what_is_grave_asks_again_after_five_minutes(anna: User) -> None:
    enrolled(anna)
    client = in_as(anna, signin_second_factor=True, **{CONFIRMED: timezone.now().timestamp() - 300})
    page = f"/admin/auth/user/{anna.pk}/change/"
    confirm = f"/admin/confirm/?{urlencode({'next': page})}"
    for answer in (client.get(page), client.post(page, {"username": "other"})):
        assert answer["Location"] == confirm
    assert User.objects.get().username == "anna"
    now = timezone.now()
    assert "not your password" in client.post(confirm, {"password": "x", "code": code_at(now)}).text
    assert "not right" in client.post(confirm, {"password": PASSWORD, "code": "000000"}).text
    assert client.get(page).status_code == 302
    assert client.post(confirm, {"password": PASSWORD, "code": code_at(now)})["Location"] == page
    assert client.get(page).status_code == 200
    assert client.post(confirm, {"password": PASSWORD, "code": code_at(now)}).status_code == 200


def test_guessing_at_the_confirmation_is_limited_too(anna: User) -> None:
    client = in_as(anna)
    answers = [client.post("/admin/confirm/", {"password": "x"}).status_code for _ in range(PAIR_LIMIT)]
    assert answers[-1] == 429
    assert AccessAttempt.objects.get().username == "anna"


def test_confirming_leads_to_no_other_site(anna: User) -> None:
    answer = in_as(anna).post("/admin/confirm/?next=//evil.example/", {"password": PASSWORD})
    assert answer["Location"] == "/admin/"


def test_someone_with_a_shell_removes_it_too(anna: User) -> None:
    enrolled(anna)
    call_command("reset_second_factor", "anna", stdout=StringIO())
    assert not SignIn.objects.get(user=anna).is_enrolled
    assert AuditEntry.objects.get(action="second_factor.remove").actor_kind == "command"
    for name in ("anna", "nobody"):
        with pytest.raises(CommandError):
            call_command("reset_second_factor", name)
