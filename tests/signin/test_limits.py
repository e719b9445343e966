"""Failed sign-ins: who is refused when, for how long, and who is not."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from access.actions import create_admin_token
from signin.limits import (
    ACCOUNT_LIMIT,
    ADDRESS_LIMIT,
    KNOWN_FOR,
    PAIR_LIMIT,
    TOKEN_LIMIT,
    WINDOW,
    address_of_client,
    find_lock,
)
from tests.console.cast import CAST, a_failed_sign_in, a_person_who_may
from tests.signin.conftest import PASSWORD
from vault.models import AuditEntry

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"


def sign_in(browser: Client, name: str = "anna", password: str = PASSWORD, **headers: str) -> Any:
    return browser.post("/admin/login/?next=/admin/", {"username": name, "password": password}, **headers)


def fail(browser: Client, times: int, name: str = "anna") -> list[int]:
    return [sign_in(browser, name, "wrong").status_code for _ in range(times)]


def test_the_fifth_failure_closes_the_door_and_says_for_how_long_and_whom_to_ask(anna: User, at: Any) -> None:
    assert fail(at(HERE), PAIR_LIMIT) == [200, 200, 200, 200, 429]
    answer = sign_in(at(HERE))
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= WINDOW.total_seconds()
    assert "Try again in 15 minutes" in answer.text
    assert "An owner" in answer.text
    assert "anna" not in answer.text


def test_her_own_address_lets_her_in_while_someone_else_is_locked_out(anna: User, at: Any) -> None:
    fail(at(ELSEWHERE), PAIR_LIMIT)
    assert sign_in(at(HERE)).status_code == 302
    assert sign_in(at(ELSEWHERE)).status_code == 429


def test_an_account_that_does_not_exist_is_answered_alike(anna: User, at: Any) -> None:
    known, unknown = at(HERE), at(ELSEWHERE)
    for _ in range(PAIR_LIMIT + 1):
        one, other = sign_in(known, "anna", "wrong"), sign_in(unknown, "nobody", "wrong")
        assert one.status_code == other.status_code
        if one.status_code == 429:
            assert one.content == other.content


def test_an_account_that_does_not_exist_takes_as_long(at: Any, db: None, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    User.objects.create_superuser("anna", password=PASSWORD)

    def seconds(name: str, address: str) -> float:
        began = time.perf_counter()
        fail(at(address), 1, name)
        return time.perf_counter() - began

    known = min(seconds("anna", HERE) for _ in range(3))
    unknown = min(seconds("nobody", ELSEWHERE) for _ in range(3))
    assert 0.4 < known / unknown < 2.5


def test_a_lock_ends_by_itself_and_trying_meanwhile_does_not_prolong_it(anna: User, at: Any) -> None:
    fail(at(HERE), PAIR_LIMIT)
    before = AccessAttempt.objects.get()
    assert fail(at(HERE), 3) == [429, 429, 429]
    after = AccessAttempt.objects.get()
    assert (after.attempt_time, after.failures_since_start) == (before.attempt_time, PAIR_LIMIT)
    assert find_lock("anna", HERE, before.attempt_time + WINDOW - timedelta(seconds=1)) is not None
    assert find_lock("anna", HERE, before.attempt_time + WINDOW) is None
    AccessAttempt.objects.update(attempt_time=timezone.now() - WINDOW)
    assert sign_in(at(HERE)).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_a_success_forgets_the_failures_of_that_account_at_that_address_only(anna: User, at: Any) -> None:
    fail(at(HERE), PAIR_LIMIT - 1)
    fail(at(HERE), 2, "ben")
    sign_in(at(HERE))
    assert set(AccessAttempt.objects.values_list("username", flat=True)) == {"ben"}


def test_one_password_tried_on_many_accounts_closes_the_address(anna: User, at: Any) -> None:
    answers = [fail(at(HERE), 1, f"person{number}")[0] for number in range(ADDRESS_LIMIT)]
    assert answers == [200] * (ADDRESS_LIMIT - 1) + [429]
    assert sign_in(at(HERE)).status_code == 429
    assert sign_in(at(ELSEWHERE)).status_code == 302


def test_guesses_from_everywhere_close_the_account_but_not_where_it_is_known(anna: User, at: Any) -> None:
    assert sign_in(at(HERE)).status_code == 302
    for number in range(ACCOUNT_LIMIT // 4):
        a_failed_sign_in("anna", f"203.0.113.{number}", 4)
    assert sign_in(at(ELSEWHERE)).status_code == 429
    assert sign_in(at(HERE)).status_code == 302
    AccessLog.objects.update(attempt_time=timezone.now() - KNOWN_FOR)
    assert sign_in(at(HERE)).status_code == 429


def test_sign_ins_too_long_ago_to_count_are_not_kept(anna: User, at: Any) -> None:
    sign_in(at(HERE))
    AccessLog.objects.update(attempt_time=timezone.now() - KNOWN_FOR)
    sign_in(at(ELSEWHERE))
    assert list(AccessLog.objects.values_list("ip_address", flat=True)) == [ELSEWHERE]


def test_forwarded_addresses_of_strangers_are_not_believed(anna: User, at: Any) -> None:
    answers = [
        sign_in(at(HERE), password="wrong", HTTP_X_FORWARDED_FOR=f"203.0.113.{number}").status_code
        for number in range(PAIR_LIMIT)
    ]
    assert answers[-1] == 429


@pytest.mark.parametrize(
    ("stated", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_client_is_counted_by_its_address_or_its_network(stated: str, counted: str | None) -> None:
    assert address_of_client(RequestFactory().get("/", REMOTE_ADDR=stated)) == counted


def test_neither_password_nor_name_nor_code_is_kept_from_the_form(anna: User, at: Any) -> None:
    at(HERE).post("/admin/login/", {"username": "anna", "password": "hunter-2-wrong", "code": "123456"})
    row = AccessAttempt.objects.get()
    assert "hunter-2" not in f"{row.get_data}{row.post_data}"
    assert "123456" not in f"{row.get_data}{row.post_data}"


def test_an_owner_lets_people_in_again_and_that_is_audited(anna: User, at: Any) -> None:
    fail(at(HERE), PAIR_LIMIT)
    owner = at(ELSEWHERE)
    owner.force_login(anna)
    page = owner.get("/admin/axes/accessattempt/")
    assert "locked: here" in page.text
    chosen = {"action": "let_in", "_selected_action": [AccessAttempt.objects.get().pk]}
    owner.post("/admin/axes/accessattempt/", chosen)
    assert sign_in(at(HERE)).status_code == 302
    entry = AuditEntry.objects.get(action="sign_in.unlock")
    assert (entry.actor, entry.before) == (
        "anna",
        {"account": "anna", "address": HERE, "failures": PAIR_LIMIT},
    )


def test_the_list_says_which_limit_is_reached_in_as_many_queries_for_many_rows(anna: User, at: Any) -> None:
    owner = at(HERE)
    owner.force_login(anna)
    a_failed_sign_in("ben", ELSEWHERE, 1)
    owner.get("/admin/axes/accessattempt/")
    with CaptureQueriesContext(connection) as few:
        assert "may try" in owner.get("/admin/axes/accessattempt/").text
    for number in range(ADDRESS_LIMIT):
        a_failed_sign_in(f"person{number}", ELSEWHERE, 1)
        a_failed_sign_in("carl", f"203.0.113.{number}", 4)
    with CaptureQueriesContext(connection) as many:
        page = owner.get("/admin/axes/accessattempt/").text
    assert "locked: all accounts here" in page
    assert "locked: from new addresses" in page
    assert len(many) == len(few)


def test_nobody_but_an_owner_lets_people_in_again(anna: User, at: Any) -> None:
    fail(at(HERE), PAIR_LIMIT)
    browser = at(ELSEWHERE)
    browser.force_login(a_person_who_may("axes.view_accessattempt", "axes.delete_accessattempt"))
    chosen = {"action": "let_in", "_selected_action": [AccessAttempt.objects.get().pk]}
    browser.post("/admin/axes/accessattempt/", chosen)
    assert AccessAttempt.objects.exists()


def bearing(token: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


def test_wrong_tokens_are_slowed_down_but_lock_nobody_else_out(anna: User, at: Any) -> None:
    _, good = create_admin_token(CAST, name="deploy", service="deploy", scopes=["read"])
    job = at(HERE)
    answers = [job.get("/admin/v1/teams", **bearing("wrong" * 6)) for _ in range(TOKEN_LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [401] * TOKEN_LIMIT + [429]
    assert answers[-1]["Content-Type"] == "application/problem+json"
    assert int(answers[-1]["Retry-After"]) > 0
    assert job.get("/admin/v1/teams", **bearing(good)).status_code == 200
    assert sign_in(at(HERE)).status_code == 302
