"""The admin pages: what they show with no, one and many rows, what they write, and what they never show."""

from __future__ import annotations

import html
import time

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey
from providers.models import Model, Provider
from tests.console.cast import HOSTILE, Cast, a_cast, a_person, a_worker, an_attempt, an_attempt_unsaved
from usage.models import Price, UsageRecord
from vault.models import AuditEntry

LISTS = (
    "providers/provider",
    "providers/model",
    "vault/credential",
    "vault/auditentry",
    "routing/alias",
    "routing/policy",
    "routing/decisionrecord",
    "access/modelgroup",
    "access/team",
    "access/project",
    "access/apikey",
    "access/admintoken",
    "usage/usagerecord",
    "usage/price",
    "snapshots/configrevision",
    "snapshots/workerstatus",
)

ENDPOINTS = {"endpoints-INITIAL_FORMS": "0", "endpoints-TOTAL_FORMS": "1", "endpoints-0-weight": "1"}
CREDENTIALS = {"credentials-INITIAL_FORMS": "0", "credentials-TOTAL_FORMS": "1", "credentials-0-weight": "1"}


def count_queries(browser: Client, url: str) -> int:
    browser.get(url)  # content types and the like are looked up once in a process
    with CaptureQueriesContext(connection) as caught:
        assert browser.get(url).status_code == 200
    return len(caught)


@pytest.fixture
def empty(db: None) -> Client:
    """A superuser's browser on an empty installation."""
    browser = Client()
    browser.force_login(a_person("superuser"))
    return browser


@pytest.mark.parametrize("page", ["", *(f"{name}/" for name in LISTS)])
def test_a_page_of_an_empty_installation_shows(empty: Client, page: str) -> None:
    assert empty.get(f"/admin/{page}").status_code == 200


@pytest.mark.parametrize("page", ["", *(f"{name}/" for name in LISTS)])
def test_a_page_asks_the_database_as_often_for_many_rows_as_for_few(superuser: Client, page: str) -> None:
    for number in range(2):
        an_attempt(10 + number)
        a_worker(10 + number)
        a_cast(f"early{number}")
    few = count_queries(superuser, f"/admin/{page}")
    for number in range(8):
        an_attempt(100 + number)
        a_worker(100 + number)
        a_cast(f"late{number}")
    assert count_queries(superuser, f"/admin/{page}") == few


def test_a_request_page_shows_all_of_its_attempts_with_constant_queries(superuser: Client) -> None:
    an_attempt(7, number=1, outcome="failed", error_class="upstream_5xx", error_detail=HOSTILE)
    url = "/admin/usage/usagerecord/request/request-7/"
    few = count_queries(superuser, url)
    for number in range(2, 12):
        an_attempt(7, number=number)
    assert count_queries(superuser, url) == few
    text = superuser.get(url).content.decode()
    assert "Attempt 11" in text
    assert "upstream_5xx" in text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_foreign_text_never_leaves_a_page_as_markup(superuser: Client, cast: Cast) -> None:
    an_attempt(3, model=HOSTILE, provider=HOSTILE, team=HOSTILE, asked_model=HOSTILE)
    a_worker(3, error=HOSTILE)
    for page in ("", *(f"{name}/" for name in LISTS), f"providers/provider/{cast.provider.pk}/delete/"):
        text = superuser.get(f"/admin/{page}").content.decode()
        assert "<script>alert" not in text, page
        assert "<b x-data" not in text, page


def test_the_totals_are_those_of_all_filtered_rows_not_of_the_page(superuser: Client) -> None:
    for number in range(100, 175):
        an_attempt(number, model="counted", cost_nanos=2_000_000)
    an_attempt(500, model="counted", cost_nanos=None)
    page = superuser.get("/admin/usage/usagerecord/?model=counted")
    totals = page.context_data["totals"]
    assert totals["attempts"] == 76
    assert totals["input_tokens"] == 7600
    assert totals["cost_nanos"] == 150_000_000
    assert totals["unpriced"] == 1
    assert "$0.15 exactly" in page.content.decode()


def test_the_overview_leads_through_the_set_up(empty: Client) -> None:
    text = empty.get("/admin/").content.decode()
    assert "7 steps left" in text
    assert "/admin/providers/provider/add/" in text
    a_cast()
    an_attempt(1)
    assert "complete" in empty.get("/admin/").content.decode()


def test_a_provider_is_saved_with_its_inlines_by_audited_actions(operator: Client) -> None:
    form = {
        "name": "fresh",
        "label": "",
        "kind": "openai",
        "enabled": "on",
        "notes": "",
        "profile": "{}",
        "connect_timeout": "5",
        "first_event_timeout": "60",
        "between_events_timeout": "60",
        "headers": "[]",
        "total_timeout": "600",
        "heartbeat_seconds": "0",
        "retention_days": "-1",
        "on_disconnect": "abort",
        **ENDPOINTS,
        "endpoints-0-url": "https://Fresh.example.com/",
        "endpoints-0-enabled": "on",
        **CREDENTIALS,
        "credentials-0-name": "main",
        "credentials-0-source": "env",
        "credentials-0-enabled": "on",
        "credentials-0-reference": "TOKENHUB_CRED_FRESH",
    }
    answer = operator.post("/admin/providers/provider/add/", form)
    assert answer.status_code == 302, answer.context_data["errors"]
    provider = Provider.objects.get(name="fresh")
    assert [row.url for row in provider.endpoints.all()] == ["https://fresh.example.com"]
    assert [row.reference for row in provider.credentials.all()] == ["TOKENHUB_CRED_FRESH"]
    written = AuditEntry.objects.filter(actor="operator", actor_kind="user").values_list("action", flat=True)
    assert set(written) - {"session.sign_in"} == {"provider.create", "endpoint.create", "credential.create"}


def test_what_an_action_refuses_is_said_on_the_form_and_nothing_is_saved(
    operator: Client, cast: Cast
) -> None:
    answer = operator.post(
        "/admin/providers/model/add/",
        {
            "provider": cast.provider.pk,
            "name": cast.alias.name,
            "upstream_name": "x",
            "weight": "5",
            "priority": "1",
            "expected_latency_ms": "0",
            "context_tokens": "0",
            "max_output_tokens": "0",
            "capabilities": ["chat"],
        },
    )
    assert answer.status_code == 200
    assert f"The name is taken by alias {cast.alias.name}" in answer.content.decode()
    assert not cast.provider.models.filter(name=cast.alias.name).exists()


def test_deleting_a_provider_says_first_what_breaks(operator: Client, cast: Cast) -> None:
    text = operator.get(f"/admin/providers/provider/{cast.provider.pk}/delete/").content.decode()
    assert cast.model.name in text
    assert f"Deletion is refused while these aliases use its models: {cast.alias.name}." in text


def test_a_priced_provider_is_deleted_once_no_alias_uses_it(operator: Client, cast: Cast) -> None:
    url = f"/admin/providers/provider/{cast.provider.pk}/delete/"
    operator.post(url, {"post": "yes"})
    assert Provider.objects.filter(pk=cast.provider.pk).exists()
    operator.post(f"/admin/routing/alias/{cast.alias.pk}/delete/", {"post": "yes"})
    assert operator.post(url, {"post": "yes"}).status_code == 302
    assert not Provider.objects.filter(pk=cast.provider.pk).exists()
    assert AuditEntry.objects.filter(action="provider.delete", actor="operator").count() == 1


def test_a_key_s_secret_is_shown_once_and_is_nowhere_afterwards(operator: Client, cast: Cast) -> None:
    form = {"name": "shown once", "team": cast.team.pk, "enabled": "on", "scopes": ["chat"], "note": ""}
    page = operator.post("/admin/access/apikey/add/", {**form, "allowed_models": ""})
    key = ApiKey.objects.get(name="shown once")
    secret = page.context_data["secret"]
    assert secret.startswith(f"thk_live_{key.key_id}_")
    assert page.content.decode().count(secret) == 4  # itself, and in each of three snippets
    assert "no-store" in page["Cache-Control"]
    for url in (
        "/admin/access/apikey/",
        f"/admin/access/apikey/{key.pk}/change/",
        "/admin/vault/auditentry/",
    ):
        text = operator.get(url).content.decode()
        assert secret not in text
        assert secret[:-6][-43:] not in text
    assert f"…{secret[-4:]}" in operator.get("/admin/access/apikey/").content.decode()
    assert all(secret not in str(entry.after) for entry in AuditEntry.objects.all())
    assert secret not in str(dict(operator.session))


def test_a_key_is_rotated_with_an_overlap_that_can_be_ended(operator: Client, cast: Cast) -> None:
    url = f"/admin/access/apikey/{cast.key.pk}"
    page = operator.post(f"{url}/rotate/", {"overlap_seconds": "3600"})
    assert page.context_data["secret"] != cast.secret
    assert cast.key.secrets.filter(revoked_at=None).count() == 2
    assert "are refused within seconds" in operator.get(f"{url}/end-overlap/").content.decode()
    operator.post(f"{url}/end-overlap/")
    assert cast.key.secrets.filter(revoked_at=None).count() == 1


def test_revoking_asks_first(operator: Client, cast: Cast) -> None:
    url = f"/admin/access/apikey/{cast.key.pk}/revoke/"
    assert operator.get(url).status_code == 200
    cast.key.refresh_from_db()
    assert cast.key.revoked_at is None
    operator.post(url)
    cast.key.refresh_from_db()
    assert cast.key.revoked_at is not None


def test_a_price_is_entered_in_usd_and_kept_in_nano_dollars(operator: Client, cast: Cast) -> None:
    form = {"input": "2.5", "output": "10", "searches": "0.01", "note": "spring"}
    answer = operator.post(f"/admin/providers/model/{cast.model.pk}/price/", form)
    assert answer.status_code == 302
    newest = Price.objects.filter(model=cast.model).first()
    assert newest is not None
    assert newest.rates == {"input": 2_500_000_000, "output": 10_000_000_000, "searches": 10_000_000}
    assert newest.created_by == "operator"


def test_an_operator_mints_admin_tokens_for_himself_only(operator: Client, cast: Cast) -> None:
    form = {"name": "wide", "service": "deploy", "user": "", "scopes": ["read", "write"]}
    refused = operator.post("/admin/access/admintoken/add/", form)
    assert "Only superusers" in refused.content.decode()
    own = {**form, "service": "", "user": User.objects.get(username="operator").pk}
    minted = operator.post("/admin/access/admintoken/add/", own)
    assert minted.context_data["secret"].startswith("tha_live_")


def test_an_operator_gives_nobody_powers_and_touches_no_superuser(operator: Client) -> None:
    root = User.objects.create_superuser("root", password="a pass phrase")
    me = User.objects.get(username="operator")
    form = {"username": "operator", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    operator.post(f"/admin/auth/user/{me.pk}/change/", form)
    me.refresh_from_db()
    assert not me.is_superuser
    assert operator.post(f"/admin/auth/user/{root.pk}/change/", form).status_code == 403
    assert operator.get(f"/admin/auth/user/{root.pk}/password/").status_code == 403


def test_a_password_change_is_audited_without_the_password(superuser: Client) -> None:
    person = User.objects.create_user("someone", password="the old pass phrase")
    form = {"password1": "the new pass phrase", "password2": "the new pass phrase", "usable_password": "true"}
    superuser.post(f"/admin/auth/user/{person.pk}/password/", form)
    person.refresh_from_db()
    assert person.check_password("the new pass phrase")
    entry = AuditEntry.objects.get(action="user.set_password")
    assert "pass phrase" not in str((entry.before, entry.after))


def test_the_audit_trail_shows_before_and_after(operator: Client, cast: Cast) -> None:
    operator.post(
        f"/admin/access/team/{cast.team.pk}/change/", {"name": "Renamed", "slug": "acme", "enabled": "on"}
    )
    entry = AuditEntry.objects.get(action="team.update")
    page = operator.get(f"/admin/vault/auditentry/{entry.pk}/change/")
    changed = [row["name"] for row in page.context_data["differences"] if row["changed"]]
    assert changed == ["name"]
    assert "Renamed" in page.content.decode()


def test_the_list_of_many_attempts_stays_fast(superuser: Client) -> None:
    rows = (an_attempt_unsaved(number) for number in range(10_000, 15_000))
    few = count_queries(superuser, "/admin/usage/usagerecord/")
    UsageRecord.objects.bulk_create(rows, batch_size=500)
    assert count_queries(superuser, "/admin/usage/usagerecord/") == few
    begun = time.monotonic()
    page = superuser.get("/admin/usage/usagerecord/")
    taken = time.monotonic() - begun
    assert page.context_data["totals"]["attempts"] == 5001
    assert taken < 1.5


def test_a_user_is_added_in_the_form(superuser: Client) -> None:
    assert 'name="username"' in superuser.get("/admin/auth/user/add/").content.decode()
    form = {"username": "newcomer", "password1": "a long pass phrase", "password2": "a long pass phrase"}
    assert superuser.post("/admin/auth/user/add/", form).status_code == 302
    assert User.objects.get(username="newcomer").check_password("a long pass phrase")


def test_what_can_t_be_deleted_now_has_no_button_for_it(operator: Client, cast: Cast) -> None:
    text = operator.get(f"/admin/access/apikey/{cast.key.pk}/delete/").content.decode()
    assert "can’t be deleted now" in text
    assert "Revoke it first" in text
    assert "Delete it" not in text
    operator.post(f"/admin/access/apikey/{cast.key.pk}/revoke/")
    assert "Delete it" in operator.get(f"/admin/access/apikey/{cast.key.pk}/delete/").content.decode()


def test_of_chosen_rows_all_are_deleted_or_none(operator: Client, cast: Cast) -> None:
    free = Model.objects.create(provider=cast.provider, name="free", upstream_name="free")
    form = {"action": "delete_selected", "post": "yes", "_selected_action": [free.pk, cast.model.pk]}
    operator.post("/admin/providers/model/", form)
    assert Model.objects.filter(pk__in=(free.pk, cast.model.pk)).count() == 2
    operator.post("/admin/providers/model/", {**form, "_selected_action": [free.pk]})
    assert not Model.objects.filter(pk=free.pk).exists()


def test_the_first_snippet_works_as_it_stands(operator: Client, cast: Cast) -> None:
    form = {"name": "ready", "team": cast.team.pk, "enabled": "on", "scopes": ["chat"], "note": ""}
    page = operator.post("/admin/access/apikey/add/", {**form, "allowed_models": ""})
    assert f'"model": "{cast.model.name}"' in html.unescape(page.content.decode())
    narrow = operator.post("/admin/access/apikey/add/", {**form, "allowed_models": cast.alias.name})
    assert f'"model": "{cast.alias.name}"' in html.unescape(narrow.content.decode())


def test_headings_say_what_the_sidebar_says_and_names_stay_as_they_are(superuser: Client, cast: Cast) -> None:
    assert ">Requests</h1>" in superuser.get("/admin/usage/usagerecord/").content.decode()
    model = superuser.get(f"/admin/providers/model/{cast.model.pk}/change/").content.decode()
    assert f">{cast.model.name}</h1>" in model
    assert ">Add model</h1>" in superuser.get("/admin/providers/model/add/").content.decode()


@pytest.mark.parametrize(
    ("path", "status", "heading"),
    [
        ("/admin/nowhere/", 404, "There is no such page"),
        ("/admin/usage/price/add/", 403, "You may not do this"),
    ],
)
def test_an_error_has_a_page_with_a_way_back(superuser: Client, path: str, status: int, heading: str) -> None:
    answer = superuser.get(path)
    assert answer.status_code == status
    assert heading in answer.content.decode()
    assert 'href="/admin/"' in answer.content.decode()


def test_a_form_without_its_token_and_a_fault_have_pages_too(cast: Cast) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(a_person("superuser"))
    refused = browser.post("/admin/access/team/add/", {"name": "x", "slug": "x"})
    assert refused.status_code == 403
    assert "Nothing was changed" in refused.content.decode()
    assert "Something broke on our side" in render_to_string("500.html")
    assert "can’t be understood" in render_to_string("400.html")


def test_a_time_that_django_writes_has_its_zone(superuser: Client) -> None:
    attempt = UsageRecord.objects.get()
    text = superuser.get(f"/admin/usage/usagerecord/{attempt.pk}/change/").content.decode()
    assert "2026-03-01 12:00:01 UTC" in text
