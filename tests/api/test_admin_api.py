"""The admin API: who gets in, CRUD by audited actions, secrets once, errors as problems."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone

from access import actions as access
from access.models import ApiKey
from tests.api.conftest import Ask
from tests.console.cast import CAST, Cast, a_cast, a_person, an_attempt
from vault.models import AuditEntry

PROBLEM = "application/problem+json"


def bearer(token: str) -> Client:
    return Client(headers={"authorization": f"Bearer {token}"})


def test_without_a_token_the_answer_is_a_problem_with_a_challenge(cast: Cast) -> None:
    answer = Client().get("/admin/v1/teams")
    body = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (401, PROBLEM)
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert (body["status"], body["code"]) == (401, "invalid_api_key")
    assert body["request_id"] == answer["x-tokenhub-request-id"]


@pytest.mark.parametrize("depth", [65, 5_000, 100_000])
def test_a_deeply_nested_body_is_refused_as_a_problem(ask: Ask, depth: int) -> None:
    answer = ask("post", "teams", '{"name":' + "[" * depth + "]" * depth + "}")
    body = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (400, PROBLEM)
    assert (body["code"], body["detail"]) == (
        "invalid_request",
        "The body is nested deeper than 64 levels.",
    )


def test_a_body_of_64_levels_is_read(ask: Ask) -> None:
    answer = ask("post", "teams", '{"name":' + "[" * 63 + "]" * 63 + "}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"].startswith("name")


def test_a_body_over_django_s_limit_is_a_413_problem(ask: Ask) -> None:
    answer = ask("post", "teams", '{"name":"' + "a" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE + '"}')
    body = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (413, PROBLEM)
    assert (body["code"], body["status"]) == ("payload_too_large", 413)


def test_wrong_revoked_and_expired_tokens_are_refused_and_never_repeated(cast: Cast) -> None:
    revoked, revoked_secret = access.create_admin_token(CAST, name="r", service="s")
    access.revoke_admin_token(CAST, revoked)
    early = timezone.now() - timedelta(days=2)
    _, expired = access.create_admin_token(
        CAST, name="e", service="s", expires_at=early + timedelta(days=1), now=early
    )
    swapped = cast.token_secret[:-7] + ("0" if cast.token_secret[-7] != "0" else "1") + cast.token_secret[-6:]
    for token in (revoked_secret, expired, swapped, cast.secret, "tha_", "x" * 5000):
        answer = bearer(token).get("/admin/v1/teams")
        assert answer.status_code == 401
        assert token not in answer.content.decode()


def test_a_wrong_token_is_not_saved_by_a_good_session(cast: Cast) -> None:
    browser = bearer("wrong")
    browser.force_login(a_person("superuser"))
    assert browser.get("/admin/v1/teams").status_code == 401


def test_the_bootstrap_token_works_only_where_it_is_set(cast: Cast) -> None:
    assert bearer("").get("/admin/v1/teams").status_code == 401
    token = "a bootstrap token of enough length"
    with override_settings(TOKENHUB=replace(settings.TOKENHUB, admin_token=token)):
        assert bearer(token).get("/admin/v1/teams").status_code == 200
        assert bearer(token + "x").get("/admin/v1/teams").status_code == 401
        made = bearer(token).post(
            "/admin/v1/teams", {"name": "B", "slug": "b"}, content_type="application/json"
        )
    assert made.status_code == 201
    entry = AuditEntry.objects.get(action="team.create", object_label="B")
    assert (entry.actor_kind, entry.actor) == ("bootstrap", "TOKENHUB_ADMIN_TOKEN")


def test_a_session_needs_its_csrf_token_to_write(cast: Cast) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(a_person("superuser"))
    assert browser.get("/admin/v1/teams").status_code == 200
    answer = browser.post("/admin/v1/teams", {"name": "B", "slug": "b"}, content_type="application/json")
    assert answer.status_code == 403


def test_a_read_token_reads_and_writes_nothing(cast: Cast) -> None:
    _, secret = access.create_admin_token(CAST, name="r", service="s", scopes=["read"])
    assert bearer(secret).get("/admin/v1/teams").status_code == 200
    answer = bearer(secret).post(
        "/admin/v1/teams", {"name": "B", "slug": "b"}, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


def test_a_user_s_token_may_do_what_that_user_may(cast: Cast) -> None:
    viewer = a_person("viewer")
    _, secret = access.create_admin_token(CAST, name="v", user=viewer, scopes=["read", "write"])
    assert bearer(secret).get("/admin/v1/teams").status_code == 200
    answer = bearer(secret).post(
        "/admin/v1/teams", {"name": "B", "slug": "b"}, content_type="application/json"
    )
    assert answer.status_code == 403
    viewer.is_staff = False
    viewer.save()
    assert bearer(secret).get("/admin/v1/teams").status_code == 403


def test_nobody_mints_tokens_of_others(cast: Cast) -> None:
    operator = a_person("operator")
    _, secret = access.create_admin_token(CAST, name="o", user=operator, scopes=["read", "write"])
    body = {"name": "wide", "service": "s", "scopes": ["read", "write"]}
    answer = bearer(secret).post("/admin/v1/admin-tokens", body, content_type="application/json")
    assert answer.status_code == 403
    own = {"name": "mine", "user": operator.pk, "scopes": ["read"]}
    assert (
        bearer(secret).post("/admin/v1/admin-tokens", own, content_type="application/json").status_code == 201
    )


CRUD: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("providers", {"name": "fresh", "kind": "openai"}, {"label": "Fresh"}),
    ("endpoints", {"provider": "provider", "url": "https://two.example.com"}, {"weight": 7}),
    ("credentials", {"provider": "provider", "name": "second", "source": "none"}, {"weight": 7}),
    ("models", {"provider": "provider", "name": "small", "capabilities": ["chat"]}, {"weight": 7}),
    ("aliases", {"name": "quick", "targets": [{"model": "model", "priority": 1}]}, {"name": "quicker"}),
    ("policies", {"name": "fresh", "priority": 5}, {"priority": 7, "enabled": False}),
    ("model-groups", {"name": "fresh"}, {"name": "fresher"}),
    ("teams", {"name": "B", "slug": "b"}, {"name": "C"}),
    ("projects", {"team": "team", "name": "B", "slug": "b"}, {"name": "C"}),
)


def with_ids(value: Any, cast: Cast) -> Any:
    """The body with names of the cast replaced by their ids."""
    if isinstance(value, dict):
        return {
            name: getattr(cast, inner).pk if inner == name and hasattr(cast, inner) else with_ids(inner, cast)
            for name, inner in value.items()
        }
    return [with_ids(inner, cast) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("path", "body", "changes"), CRUD, ids=[row[0] for row in CRUD])
def test_rows_are_created_read_changed_and_deleted_by_audited_actions(
    path: str, body: dict[str, Any], changes: dict[str, Any], ask: Ask, cast: Cast
) -> None:
    seen = AuditEntry.objects.count()
    made = ask("post", path, with_ids(body, cast))
    assert made.status_code == 201, made.content
    row = f"{path}/{made.json()['id']}"
    assert ask("get", row).json() == made.json()
    changed = ask("patch", row, changes)
    assert changed.status_code == 200, changed.content
    assert changes.items() <= changed.json().items()
    assert ask("delete", row).status_code == 204
    assert ask("get", row).status_code == 404
    entries = AuditEntry.objects.order_by("id")[seen:]
    assert [entry.action.split(".")[1] for entry in entries] == ["create", "update", "delete"]
    assert {entry.actor for entry in entries} == {f"deploy:{cast.token.key_id}"}
    assert {entry.actor_kind for entry in entries} == {"token"}
    assert {entry.address for entry in entries} == {"127.0.0.1"}


def test_lists_are_filtered_searched_ordered_and_paged(ask: Ask, cast: Cast) -> None:
    for name in ("b", "c", "d"):
        ask("post", "teams", {"name": name, "slug": name, "enabled": name != "c"})
    assert [row["slug"] for row in ask("get", "teams?enabled=false").json()["results"]] == ["c"]
    assert next(row["slug"] for row in ask("get", "teams?search=d&ordering=-slug").json()["results"]) == "d"
    page = ask("get", "teams?page_size=2&page=2&ordering=slug").json()
    assert (page["count"], [row["slug"] for row in page["results"]]) == (4, ["c", "d"])


@pytest.mark.parametrize(
    "path",
    [
        "providers",
        "models",
        "aliases",
        "policies",
        "model-groups",
        "api-keys",
        "admin-tokens",
        "audit",
        "projects",
    ],
)
def test_a_list_asks_the_database_as_often_for_many_rows_as_for_one(path: str, ask: Ask) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as caught:
            assert ask("get", path).status_code == 200
        return len(caught)

    few = count()
    for number in range(6):
        a_cast(f"more{number}")
    assert count() == few


def test_errors_name_the_fields(ask: Ask, cast: Cast) -> None:
    answer = ask(
        "post", "aliases", {"name": "bad name!", "targets": [{"model": cast.model.pk}, {"model": 999}]}
    )
    body = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (400, PROBLEM)
    assert {row["path"] for row in body["errors"]} == {"name", "targets[1].model"}
    assert answer.json()["code"] == "invalid_request"


def test_what_an_action_refuses_is_a_problem_with_its_code_and_hint(ask: Ask, cast: Cast) -> None:
    taken = ask("post", "aliases", {"name": cast.model.name})
    assert (taken.status_code, taken.json()["code"], taken.json()["param"]) == (409, "conflict", "name")
    assert taken.json()["hint"]
    used = ask("delete", f"models/{cast.model.pk}")
    assert used.status_code == 409
    assert cast.alias.name in used.json()["detail"]


def test_a_secret_pasted_as_a_reference_is_refused_and_not_repeated(ask: Ask, cast: Cast) -> None:
    pasted = "sk-live-0123456789abcdef"
    body = {"provider": cast.provider.pk, "name": "x", "source": "env", "reference": pasted}
    answer = ask("post", "credentials", body)
    assert answer.status_code == 400
    assert pasted not in answer.content.decode()


@pytest.mark.parametrize("body", ["{", "[1]", '"x"', "null", '{"name": {"a": 1}, "slug": []}'])
def test_a_broken_body_is_a_400(ask: Ask, cast: Cast, body: str) -> None:
    answer = bearer(cast.token_secret).post("/admin/v1/teams", body, content_type="application/json")
    assert (answer.status_code, answer["Content-Type"]) == (400, PROBLEM)


def test_another_content_type_is_a_415(cast: Cast) -> None:
    answer = bearer(cast.token_secret).post("/admin/v1/teams", "a=1", content_type="text/plain")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_key_s_secret_is_in_the_answer_that_made_it_only(ask: Ask, cast: Cast) -> None:
    made = ask("post", "api-keys", {"name": "mine", "team": cast.team.pk, "scopes": ["chat"]})
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    secret = made.json()["secret"]
    row = f"api-keys/{made.json()['id']}"
    shown = ask("get", row).json()
    assert "secret" not in shown
    assert shown["secrets"][0]["last4"] == secret[-4:]
    digest = ApiKey.objects.get(pk=made.json()["id"]).secrets.get().digest
    for path in (row, "api-keys", "audit", "admin-tokens", "revisions"):
        text = ask("get", path).content.decode()
        assert secret not in text
        assert digest not in text
        assert cast.token_secret not in text


def test_a_key_is_rotated_with_overlap_and_revoked(ask: Ask, cast: Cast) -> None:
    row = f"api-keys/{cast.key.pk}"
    rotated = ask("post", f"{row}/rotate", {"overlap_seconds": 600})
    assert rotated.status_code == 200
    assert rotated.json()["secret"].split("_")[2] == cast.key.key_id
    assert len(rotated.json()["secrets"]) == 2
    assert ask("post", f"{row}/rotate", {"overlap_seconds": 600}).status_code == 409
    assert ask("post", f"{row}/rotate", {"overlap_seconds": -1}).status_code == 400
    assert ask("post", f"{row}/end-overlap").json()["secrets"][1]["revoked_at"] is not None
    assert ask("post", f"{row}/revoke").json()["revoked_at"] is not None


def test_prices_are_appended_to_a_model(ask: Ask, cast: Cast) -> None:
    path = f"models/{cast.model.pk}"
    made = ask("post", f"{path}/prices", {"rates": {"input": 1, "output": 2}, "note": "n"})
    assert made.status_code == 201
    assert ask("get", path).json()["current_rates"] == {"input": 1, "output": 2}
    assert ask("get", f"{path}/prices").json()["count"] == 2
    assert ask("post", f"{path}/prices", {"rates": {"nonsense": 1}}).status_code == 400


def test_usage_is_listed_totalled_and_found_by_request(ask: Ask, cast: Cast) -> None:
    an_attempt(1, outcome="failed", cost_nanos=None)
    an_attempt(1, number=2)
    an_attempt(2, model="other", team="b")
    window = "from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z"
    assert ask("get", f"usage?model=other&{window}").json()["count"] == 1
    totals = ask("get", f"usage/totals?group=model&{window}").json()
    assert {row["key"]: row["attempts"] for row in totals["groups"]} == {"acme-large": 2, "other": 1}
    assert (totals["total"]["cost_nanos"], totals["total"]["unpriced"]) == (2_000_000, 1)
    assert ask("get", "usage/totals?group=nonsense").status_code == 400
    assert ask("get", "usage/totals?from=yesterday").json()["param"] == "from"
    attempts = ask("get", "requests/request-1").json()["attempts"]
    assert [row["number"] for row in attempts] == [1, 2]
    assert ask("get", "requests/unknown").status_code == 404


def test_publishing_by_hand_says_the_revision(ask: Ask, cast: Cast) -> None:
    first = ask("post", "snapshot/publish", {"note": "by a test"}).json()
    assert first["failure"] == ""
    assert first["revision"] >= 1
    again = ask("post", "snapshot/publish").json()
    assert (again["revision"], again["created"]) == (first["revision"], False)
    assert "payload" not in ask("get", f"revisions/{first['revision']}").json()


def test_the_openapi_document_names_every_route_and_the_viewer_is_local(ask: Ask, cast: Cast) -> None:
    document = ask("get", "schema?format=json").json()
    assert {"/admin/v1/api-keys/{id}/rotate", "/admin/v1/usage/totals"} <= set(document["paths"])
    viewer = ask("get", "docs").content.decode()
    assert "https://" not in viewer
    assert "<script>" not in viewer
