"""The simulator: as page and over the API, it says what the engine would do on the configuration as it is, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from console.simulation import MadeUpRequest, simulate
from routing import policy_actions as actions
from routing.engine.asking import Wishes
from routing.models import PolicyVersion
from tests.console.cast import Cast, count_changes
from tests.routing.policy_cast import OLGA, a_document, a_policy, published
from tests.snapshots.cast import make_model

pytestmark = pytest.mark.django_db
URL = "/admin/v1/routing/simulate"
PAGE = "/admin/routing/simulator/"


@pytest.fixture
def two_models(db: None) -> None:
    """A small and a large model at one provider."""
    make_model("small", weight=2, context_tokens=4000, expected_latency_ms=100)
    make_model("large", weight=9, context_tokens=200_000, expected_latency_ms=900)


def winner(told: dict[str, Any]) -> str | None:
    return None if told["winner"] is None else str(told["winner"]["model"])


@pytest.mark.usefixtures("two_models")
def test_the_engine_decides_on_what_is_configured_now() -> None:
    assert winner(simulate(MadeUpRequest("small"))) == "small"
    strong = simulate(MadeUpRequest("auto", wishes=Wishes(mode="high_confidence")))
    assert winner(strong) == "large"
    assert [one["model"] for one in strong["candidates"]] == ["large", "small"]
    assert all("score" in one for one in strong["candidates"])
    long = simulate(MadeUpRequest("auto", input_tokens=50_000, wishes=Wishes(mode="cheap")))
    assert (winner(long), long["candidates"][1]["refused"]["rule"]) == ("large", "context")


@pytest.mark.usefixtures("two_models")
def test_refusals_are_told_with_every_reason() -> None:
    nothing = simulate(MadeUpRequest("auto", wishes=Wishes(min_weight=10)))
    assert (winner(nothing), nothing["error"]["code"]) == (None, "nothing_eligible")
    assert {one["refused"]["rule"] for one in nothing["candidates"]} == {"min_weight"}
    blind = simulate(MadeUpRequest("auto", needs=frozenset({"vision"})))
    assert blind["error"]["code"] == "nothing_eligible"
    assert {one["rule"] for one in blind["left_out"]} == {"capability"}
    unknown = simulate(MadeUpRequest("smal"))
    assert (unknown["error"]["code"], winner(unknown)) == ("model_not_found", None)
    assert "small" in unknown["error"]["hint"]


@pytest.mark.usefixtures("two_models")
def test_a_draft_is_tried_before_it_is_published() -> None:
    policy = a_policy("night")
    published(policy)
    document = a_document(targets=["large"], fallbacks={"any": ["small"]})
    actions.save_draft(OLGA, policy, document=document)
    draft = PolicyVersion.objects.get(state="draft")
    before = count_changes()
    now = simulate(MadeUpRequest("small"))
    then = simulate(MadeUpRequest("small"), draft)
    assert then["policy"] == {"name": "night", "version": draft.number}
    assert (winner(then), then["policies"]) == ("large", [f"night@{draft.number}"])
    assert then["fallbacks"]["any"][0].endswith("/small")
    assert now["policy"]["version"] == 1
    assert count_changes() == before


@pytest.mark.usefixtures("two_models")
def test_the_api_takes_a_request_and_names_what_is_wrong_with_it(superuser: Client) -> None:
    body = {"model": "auto", "mode": "high_confidence", "max_budget_usd": "0.000000001"}
    answer = superuser.post(URL, body, content_type="application/json")
    assert answer.status_code == 200, answer.content
    assert answer.json()["error"]["code"] == "nothing_eligible"
    reasons = [one["refused"]["reason"] for one in answer.json()["candidates"] if "refused" in one]
    assert any("no price" in reason for reason in reasons)
    wrong = superuser.post(URL, {"model": "auto", "mode": "best"}, content_type="application/json")
    assert (wrong.status_code, wrong["Content-Type"]) == (400, "application/problem+json")
    assert "mode" in wrong.content.decode()
    missing = superuser.post(URL, {"model": "auto", "draft": 999}, content_type="application/json")
    assert missing.status_code == 404


@pytest.mark.usefixtures("two_models")
def test_the_page_shows_where_a_request_would_go(superuser: Client) -> None:
    empty = superuser.get(PAGE).content.decode()
    assert "Goes to" not in empty
    page = superuser.get(
        PAGE, {"model": "auto", "operation": "chat", "input_tokens": "10", "mode": "high_confidence"}
    )
    text = page.content.decode()
    assert "/ large</h2>" in text
    assert "<meter" in text
    wrong = superuser.get(
        PAGE, {"model": "auto", "operation": "chat", "input_tokens": "10", "max_cost": "cheap"}
    )
    assert "This is no amount" in wrong.content.decode()


def test_a_drafts_page_leads_to_its_simulation(superuser: Client, cast: Cast) -> None:
    policy = a_policy("fresh")
    actions.save_draft(OLGA, policy, document=a_document())
    draft = PolicyVersion.objects.get(policy=policy)
    text = superuser.get(f"/admin/routing/policy/{policy.pk}/change/").content.decode()
    assert f"{PAGE}?draft={draft.pk}" in text
    assert "fresh, version 1" in superuser.get(PAGE, {"draft": draft.pk}).content.decode()
    assert superuser.get(PAGE, {"draft": "12345"}).status_code == 404
