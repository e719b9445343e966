"""Policies through the admin API: drafts, publishing, approving, going back, versions and differences; each by its permission."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from routing import policy_actions
from routing.models import Policy
from tests.api.conftest import Ask
from tests.console.cast import CAST, Cast, a_person_who_may
from tokenhub.control.actors import Actor

PUBLIC = ("routing.view_policy",)


@pytest.fixture
def row(ask: Ask, cast: Cast) -> str:
    """A policy without a version: its path in the API."""
    made = ask("post", "policies", {"name": "night", "priority": 5})
    assert made.status_code == 201, made.content
    return f"policies/{made.json()['id']}"


def a_browser(*permissions: str, username: str = "person") -> Client:
    client = Client()
    client.force_login(a_person_who_may(*permissions, username=username))
    return client


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    return getattr(client, method)(f"/admin/v1/{path}", body or {}, content_type="application/json")


def test_a_policy_is_drafted_published_compared_and_rolled_back(ask: Ask, row: str, cast: Cast) -> None:
    document = {"targets": [cast.model.name], "bounds": {"max_cost_usd": "0.05"}}
    drafted = ask("put", f"{row}/draft", {"document": document, "note": "cheaper"}).json()
    assert (drafted["published"], drafted["open"]["state"], drafted["open"]["note"]) == (
        None,
        "draft",
        "cheaper",
    )
    assert drafted["open"]["document"]["bounds"]["max_cost_usd"] == "0.05"
    done = ask("post", f"{row}/publish", {"seen": drafted["open"]["digest"]}).json()
    assert (done["open"], done["published"]["number"], done["published"]["note"]) == (None, 1, "cheaper")
    ask("put", f"{row}/draft", {"document": {"targets": [cast.alias.name]}})
    assert ask("post", f"{row}/publish", {"note": "dearer"}).json()["published"]["number"] == 2
    listed = ask("get", f"{row}/versions").json()
    assert [(one["number"], one["state"]) for one in listed["results"]] == [(2, "published"), (1, "retired")]
    assert ask("get", f"{row}/versions/1").json()["document"]["targets"] == [cast.model.name]
    changes = ask("get", f"{row}/versions/2/diff?against=1").json()
    assert (changes["version"], changes["against"]) == (2, 1)
    assert {one["path"]: (one["before"], one["after"]) for one in changes["changes"]} == {
        "targets": [cast.model.name] and ([cast.model.name], [cast.alias.name]),
        "bounds.max_cost_usd": ("0.05", "0.00"),
    }
    assert ask("get", f"{row}/versions/2/diff").json()["against"] is None
    back = ask("post", f"{row}/roll-back", {"version": 1, "note": "it failed"}).json()
    assert (back["published"]["number"], back["published"]["note"]) == (3, "it failed")
    assert back["published"]["document"]["targets"] == [cast.model.name]


def test_a_draft_is_thrown_away(ask: Ask, row: str) -> None:
    assert ask("put", f"{row}/draft", {"document": {}}).status_code == 200
    gone = ask("delete", f"{row}/draft")
    assert (gone.status_code, gone.json()["open"]) == (200, None)
    assert ask("delete", f"{row}/draft").status_code == 404


def test_what_is_wrong_with_a_document_is_told_by_its_paths(ask: Ask, row: str) -> None:
    refused = ask("put", f"{row}/draft", {"document": {"mode": "chaep", "bounds": {"min_weight": 11}}})
    body = refused.json()
    assert (refused.status_code, body["code"], body["param"]) == (400, "invalid_request", "mode")
    assert {one["path"] for one in body["errors"]} == {"mode", "bounds.min_weight"}
    assert body["hint"] == "did you mean cheap?"


@pytest.mark.parametrize(
    "body",
    [{}, {"document": []}, {"document": "x"}, {"document": {}, "note": "x" * 2001}, {"document": None}],
)
def test_a_draft_s_body_is_checked(body: dict[str, Any], ask: Ask, row: str) -> None:
    assert ask("put", f"{row}/draft", body).status_code == 400


def test_a_draft_with_a_wrong_name_is_shown_with_its_problem_and_not_published(
    ask: Ask, row: str, cast: Cast
) -> None:
    drafted = ask("put", f"{row}/draft", {"document": {"targets": ["acme-larg"]}}).json()
    assert drafted["open_problems"] == [
        {
            "path": "targets",
            "message": "there is no model, provider/model or alias 'acme-larg'",
            "hint": "did you mean acme-large or acme/acme-large or acme-fast?",
            "grave": True,
        }
    ]
    refused = ask("post", f"{row}/publish")
    assert (refused.status_code, refused.json()["param"]) == (400, "targets")


def test_problems_of_what_is_in_force_are_shown(ask: Ask, cast: Cast) -> None:
    path = f"policies/{cast.policy.pk}"
    assert ask("get", path).json()["problems"] == []
    assert ask("patch", f"models/{cast.model.pk}", {"enabled": False}).status_code == 200
    problems = ask("get", path).json()["problems"]
    assert [(one["path"], one["grave"]) for one in problems] == [("targets", False), ("targets", True)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("post", "publish", {}, 404),
        ("post", "approve", {}, 404),
        ("post", "roll-back", {"version": 9}, 404),
        ("post", "roll-back", {}, 400),
        ("post", "roll-back", {"version": 0}, 400),
        ("get", "versions/9", None, 404),
        ("get", "versions/9/diff", None, 404),
        ("get", "versions/1/diff?against=9", None, 404),
        ("get", "versions/1/diff?against=x", None, 400),
        ("get", "versions/1/diff?against=-1", None, 400),
    ],
)
def test_what_is_not_there_or_not_a_number_is_refused(
    method: str, path: str, body: Any, status: int, ask: Ask, cast: Cast
) -> None:
    policy_actions.discard_draft(CAST, cast.policy)
    answer = ask(method, f"policies/{cast.policy.pk}/{path}", body)
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"


def test_another_person_approves(cast: Cast) -> None:
    policy = policy_actions.create_policy(CAST, name="grave", needs_approval=True)
    olga = a_browser(
        *PUBLIC, "routing.change_policy", "routing.publish_policy", "routing.approve_policy", username="olga"
    )
    peter = a_browser(*PUBLIC, "routing.approve_policy", username="peter")
    path = f"policies/{policy.pk}"
    send(olga, "put", f"{path}/draft", {"document": {"targets": [cast.model.name]}})
    waits = send(olga, "post", f"{path}/publish").json()
    assert (waits["published"], waits["open"]["state"]) == (None, "waiting")
    refused = send(olga, "post", f"{path}/approve")
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    stale = send(peter, "post", f"{path}/approve", {"seen": "0" * 32})
    assert (stale.status_code, stale.json()["param"]) == (409, "seen")
    done = send(peter, "post", f"{path}/approve", {"seen": waits["open"]["digest"]}).json()
    assert (done["published"]["author"], done["published"]["approver"]) == ("olga", "peter")


WRITES: tuple[tuple[str, str, Any, str], ...] = (
    ("put", "draft", {"document": {}}, "routing.change_policy"),
    ("delete", "draft", {}, "routing.change_policy"),
    ("post", "publish", {}, "routing.publish_policy"),
    ("post", "approve", {}, "routing.approve_policy"),
    ("post", "roll-back", {"version": 1}, "routing.publish_policy"),
)


@pytest.mark.parametrize(("method", "path", "body", "permission"), WRITES)
def test_each_step_needs_its_own_permission(
    method: str, path: str, body: Any, permission: str, cast: Cast
) -> None:
    every = {f"routing.{verb}_policy" for verb in ("view", "add", "change", "delete", "publish", "approve")}
    without = a_browser(*(every - {permission}), username="without")
    assert send(without, method, f"policies/{cast.policy.pk}/{path}", body).status_code == 403
    assert Policy.objects.get(pk=cast.policy.pk).versions.count() == 3
    holder = a_browser("routing.view_policy", permission, username="with")
    assert send(holder, method, f"policies/{cast.policy.pk}/{path}", body).status_code != 403


def test_only_who_may_approve_says_whether_that_is_needed(cast: Cast) -> None:
    path = f"policies/{cast.policy.pk}"
    writer = a_browser(*PUBLIC, "routing.change_policy", username="writer")
    assert send(writer, "patch", path, {"needs_approval": True}).status_code == 403
    assert send(writer, "patch", path, {"needs_approval": False, "priority": 3}).status_code == 200
    keeper = a_browser(*PUBLIC, "routing.change_policy", "routing.approve_policy", username="keeper")
    assert send(keeper, "patch", path, {"needs_approval": True}).json()["needs_approval"] is True
    assert send(writer, "patch", path, {"needs_approval": False}).status_code == 403


def test_a_token_of_the_author_is_the_author(ask: Ask, cast: Cast) -> None:
    policy = policy_actions.create_policy(CAST, name="grave", needs_approval=True)
    deploy = Actor("token", "deploy:000000000000")
    policy_actions.save_draft(deploy, policy, document={"targets": [cast.model.name]})
    policy_actions.publish(deploy, policy)
    assert ask("post", f"policies/{policy.pk}/approve").status_code == 403


def test_a_model_group_is_made_and_refused_to_go_while_a_key_lists_it(ask: Ask, cast: Cast) -> None:
    made = ask("post", "model-groups", {"name": "big", "models": [cast.model.pk]})
    assert (made.status_code, made.json()["names"]) == (201, ["acme/acme-large"])
    row = f"model-groups/{made.json()['id']}"
    assert ask("patch", f"api-keys/{cast.key.pk}", {"allowed_models": ["group:big"]}).status_code == 200
    refused = ask("delete", row)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert cast.key.key_id in refused.json()["detail"]
    assert ask("patch", row, {"name": "bigger"}).status_code == 409
    assert ask("patch", row, {"models": []}).json()["names"] == []
    assert ask("patch", row, {"models": [999]}).status_code == 400
    unknown = ask("patch", f"api-keys/{cast.key.pk}", {"allowed_models": ["group:bog"]})
    assert (unknown.status_code, unknown.json()["hint"]) == (400, "did you mean group:big?")


def test_regions_retention_and_stickiness_are_written(ask: Ask, cast: Cast) -> None:
    changed = ask("patch", f"providers/{cast.provider.pk}", {"region": "eu", "retention_days": 0}).json()
    assert (changed["region"], changed["retention_days"]) == ("eu", 0)
    assert ask("patch", f"providers/{cast.provider.pk}", {"region": "E U"}).status_code == 400
    assert ask("patch", f"aliases/{cast.alias.pk}", {"sticky_by": "session"}).json()["sticky_by"] == "session"
    assert ask("patch", f"aliases/{cast.alias.pk}", {"sticky_by": "team"}).status_code == 400
    made = ask("post", "aliases", {"name": "sticky", "sticky_by": "key"})
    assert made.json()["sticky_by"] == "key"
    assert ask("get", f"aliases?name={cast.alias.name}").json()["results"][0]["targets"]


def test_the_openapi_document_has_the_policies(ask: Ask) -> None:
    paths = ask("get", "schema?format=json").json()["paths"]
    base = "/admin/v1/policies/{id}"
    assert {"put", "delete"} == set(paths[f"{base}/draft"])
    wanted = ("publish", "approve", "roll-back", "versions", "versions/{number}", "versions/{number}/diff")
    assert {f"{base}/{name}" for name in wanted} | {"/admin/v1/model-groups/{id}"} <= set(paths)
