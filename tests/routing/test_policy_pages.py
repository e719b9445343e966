"""The policies' pages: the draft's form, what publishing changes, a second person, comparing, going back, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from access.actions import update_api_key
from providers.actions import update_model
from routing import policy_actions as actions
from routing.models import Policy
from routing.policy_forms import DraftForm, find_field, initial_of
from routing.policy_words import label_of, write_value
from tests.console.cast import CAST, Cast, a_cast, a_person, a_person_who_may, a_policy
from tests.routing.policy_cast import states

ALL = tuple(f"routing.{verb}_policy" for verb in ("view", "add", "change", "delete", "publish", "approve"))


@pytest.fixture
def cast(db: None) -> Cast:
    """One of everything."""
    return a_cast()


@pytest.fixture
def browser(cast: Cast) -> Client:
    """Of someone who may do everything with policies."""
    client = Client()
    client.force_login(a_person_who_may(*ALL, username="olga"))
    return client


def url(policy: Policy, page: str) -> str:
    return f"/admin/routing/policy/{policy.pk}/{page}/"


def a_form(**typed: Any) -> dict[str, Any]:
    """What a browser sends of the draft's form: its choices are never empty."""
    return {"strategy": "score", "mode": "normal", "affinity__by": "conversation", **typed}


def text_of(answer: Any) -> str:
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_a_new_policy_leads_to_its_draft(browser: Client, cast: Cast) -> None:
    added = browser.post("/admin/routing/policy/add/", {"name": "night", "priority": "5", "enabled": "on"})
    policy = Policy.objects.get(name="night")
    assert (added.status_code, added["Location"]) == (302, url(policy, "draft"))
    assert "begins with the defaults" in text_of(browser.get(url(policy, "draft")))
    again = browser.post("/admin/routing/policy/add/", {"name": "night", "priority": "5"})
    assert "already exists" in text_of(again)


def test_every_field_of_the_form_comes_into_the_document_and_back(browser: Client, cast: Cast) -> None:
    policy = actions.create_policy(CAST, name="night")
    typed = a_form(
        when__models="gpt-*\nauto",
        when__teams="acme",
        when__projects="alpha",
        when__keys=cast.key.key_id,
        when__tags="batch\nuser=7",
        when__headers="X-App: mobile*",
        when__hours="mon-wed, sun 08:00-18:00\nfri-mon 22:00 - 06:00",
        when__min_input_tokens="1",
        when__max_input_tokens="9",
        when__operations=["chat"],
        when__needs=["streaming"],
        targets=f"{cast.model.name}\n{cast.alias.name}",
        strategy="lowest_cost",
        mode="cheap",
        own_weights="on",
        weights__cost="0.5",
        weights__weight="0.25",
        directives="on",
        bounds__min_weight="3",
        bounds__max_cost_usd="0.05",
        bounds__max_latency_ms="900",
        bounds__max_retention_days="30",
        bounds__regions="eu",
        fallbacks__any="one",
        fallbacks__context="two",
        fallbacks__content_policy="three",
        fallbacks__rate_limit="four",
        attempts="4",
        affinity__by="user",
        affinity__seconds="60",
        hedge__enabled="on",
        hedge__after_ms="200",
        hedge__max_share="0.05",
        guards="- {name: pii, kind: redact, side: both, patterns: [email], own: {ticket: 'TCK-[0-9]+'}}\n"
        "- {name: review, kind: webhook, url: 'https://guard.example/'}",
        note="since it is night",
    )
    saved = browser.post(url(policy, "draft"), {**typed, "publish": "1"})
    assert (saved.status_code, saved["Location"]) == (302, url(policy, "publish"))
    version = policy.versions.get()
    assert (version.note, version.author) == ("since it is night", "olga")
    document = version.document
    assert document["when"]["hours"] == [
        {"weekdays": ["mon", "tue", "wed", "sun"], "start": "08:00", "end": "18:00"},
        {"weekdays": ["mon", "fri", "sat", "sun"], "start": "22:00", "end": "06:00"},
    ]
    assert document["when"]["headers"] == {"x-app": "mobile*"}
    assert document["weights"] == {"cost": 0.5, "latency": 0.0, "failure": 0.0, "weight": 0.25}
    assert document["bounds"]["max_cost_nanos"] == 50_000_000
    assert document["fallbacks"] == {
        "any": ["one"],
        "context": ["two"],
        "content_policy": ["three"],
        "rate_limit": ["four"],
    }
    assert [guard["name"] for guard in document["guards"]] == ["pii", "review"]
    assert document["guards"][0]["own"] == {"ticket": "TCK-[0-9]+"}
    # What the page shows of it, sent again, is the same document.
    page = browser.get(url(policy, "draft"))
    form = page.context["form"]
    again = {name: form[name].value() for name in form.fields}
    shown = {name: "" if value is None else value for name, value in again.items() if value is not False}
    browser.post(
        url(policy, "draft"), {name: form.fields[name].prepare_value(value) for name, value in shown.items()}
    )
    assert policy.versions.get().document == document


def test_the_draft_begins_with_what_is_in_force(browser: Client, cast: Cast) -> None:
    actions.discard_draft(CAST, cast.policy)
    page = text_of(browser.get(url(cast.policy, "draft")))
    assert "begins with version 2" in page
    assert cast.model.name in page
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"bounds__min_weight": "11"}, "no whole number from 0 to 10"),
        ({"bounds__max_cost_usd": "much"}, "no amount of USD"),
        ({"own_weights": "on"}, "All of them are zero"),
        ({"own_weights": "on", "weights__cost": "2"}, "no number from 0 to 1"),
        ({"targets": "a\na"}, "stands there twice"),
        ({"when__hours": "always"}, "is no span"),
        ({"when__hours": "day 08:00-09:00"}, "no weekdays that are known"),
        ({"when__hours": "mon 08:00-08:00"}, "has no length"),
        ({"when__hours": "mon 8-9"}, "is no time of a day"),
        ({"when__headers": "no colon"}, "is no header"),
        ({"when__headers": "x-a: 1\nX-A: 2"}, "stands there twice"),
        ({"when__headers": "authorization: x"}, "carries a secret"),
        ({"when__keys": "short"}, "ID of 12 letters"),
        ({"strategy": "fastest"}, "Select a valid choice"),
        ({"when__needs": ["speed"]}, "Select a valid choice"),
        ({"attempts": "21"}, "no whole number from 0 to 20"),
        ({"note": "x" * 2001}, "at most 2000"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_saved(
    typed: dict[str, Any], said: str, browser: Client, cast: Cast
) -> None:
    before = cast.policy.versions.get(state="draft").document
    answer = browser.post(url(cast.policy, "draft"), a_form(**typed))
    form = answer.context["form"]
    assert any(said in text for texts in form.errors.values() for text in texts), form.errors
    assert "__all__" not in form.errors
    assert "Nothing is saved yet" in text_of(answer)
    assert cast.policy.versions.get(state="draft").document == before


def test_a_draft_with_an_unknown_name_is_kept_and_can_not_be_published(browser: Client, cast: Cast) -> None:
    browser.post(url(cast.policy, "draft"), a_form(targets="acme-larg"))
    assert "did you mean acme-large" in text_of(browser.get(url(cast.policy, "draft")))
    page = text_of(browser.get(url(cast.policy, "publish")))
    assert "be published like this" in page
    assert ">Publish</button>" not in page
    refused = browser.post(url(cast.policy, "publish"), {"note": "x"}, follow=True)
    assert "no model" in text_of(refused)
    assert states(cast.policy)[-1] == (3, "draft")


def test_publishing_shows_what_changes_first(browser: Client, cast: Cast) -> None:
    page = browser.get(url(cast.policy, "publish"))
    assert [(row["label"], row["before"], row["after"]) for row in page.context["changes"]] == [
        ("Mode", "Normal: all four alike", "Planning: capability, then failures")
    ]
    done = browser.post(
        url(cast.policy, "publish"), {"note": "now", "seen": page.context["seen"]}, follow=True
    )
    assert "Version 3 of acme-policy is in force." in text_of(done)
    assert cast.policy.versions.get(state="published").note == "now"
    nothing = browser.get(url(cast.policy, "publish"), follow=True)
    assert "has no draft to publish" in text_of(nothing)


def test_a_draft_that_changed_meanwhile_is_looked_at_again(browser: Client, cast: Cast) -> None:
    seen = browser.get(url(cast.policy, "publish")).context["seen"]
    actions.save_draft(CAST, cast.policy, document={"mode": "cheap"})
    refused = browser.post(url(cast.policy, "publish"), {"seen": seen}, follow=True)
    assert "changed after you looked" in text_of(refused)
    assert states(cast.policy)[-1] == (3, "draft")


def test_another_person_approves_on_the_page(browser: Client, cast: Cast) -> None:
    policy = actions.create_policy(CAST, name="grave", needs_approval=True)
    browser.post(url(policy, "draft"), a_form(targets=cast.model.name))
    page = browser.get(url(policy, "publish"))
    assert "Ask for approval" in text_of(page)
    asked = browser.post(
        url(policy, "publish"), {"note": "please", "seen": page.context["seen"]}, follow=True
    )
    assert "waits for approval" in text_of(asked)
    assert "waits for approval" in text_of(browser.get(url(policy, "draft"), follow=True))
    own = text_of(browser.get(url(policy, "approve")))
    assert "another person must approve" in own
    assert ">Approve</button>" not in own
    assert "can’t approve it too" in html_of(browser.post(url(policy, "approve"), follow=True))
    peter = Client()
    peter.force_login(a_person_who_may("routing.view_policy", "routing.approve_policy", username="peter"))
    look = peter.get(url(policy, "approve"))
    assert "olga asks for it" in text_of(look)
    stale = peter.post(url(policy, "approve"), {"seen": "0" * 32}, follow=True)
    assert "changed after you looked" in text_of(stale)
    done = peter.post(url(policy, "approve"), {"seen": look.context["seen"]}, follow=True)
    assert "Version 1 of grave is in force." in text_of(done)
    assert "approved by peter" in text_of(done)


def html_of(answer: Any) -> str:
    """The page, its escaped quotes as people see them."""
    return text_of(answer).replace("&#x27;", "’")


def test_going_back_asks_and_says_what_changes(browser: Client, cast: Cast) -> None:
    page = text_of(browser.get(url(cast.policy, "versions/1/roll-back")))
    assert "Go back to version 1 of acme-policy?" in page
    assert "It changes: mode." in page
    done = browser.post(url(cast.policy, "versions/1/roll-back"), {"note": "it failed"}, follow=True)
    assert "goes back to version 1" in text_of(done)
    assert states(cast.policy) == [(1, "retired"), (2, "retired"), (3, "draft"), (4, "published")]
    refused = browser.get(url(cast.policy, "versions/4/roll-back"), follow=True)
    assert "none to go back to" in text_of(refused)
    assert browser.get(url(cast.policy, "versions/9/roll-back")).status_code == 404


def test_going_back_to_what_nobody_approved_says_that_it_waits(browser: Client, cast: Cast) -> None:
    actions.update_policy(CAST, cast.policy, needs_approval=True)
    page = text_of(browser.get(url(cast.policy, "versions/1/roll-back")))
    assert "waits for another person" in page
    refused = browser.post(url(cast.policy, "versions/1/roll-back"), {"note": ""}, follow=True)
    assert "open draft" in text_of(refused)


def test_a_draft_is_discarded_after_a_question(browser: Client, cast: Cast) -> None:
    assert "Discard version 3" in text_of(browser.get(url(cast.policy, "discard")))
    assert "The draft is gone." in text_of(browser.post(url(cast.policy, "discard"), follow=True))
    assert "has no draft" in text_of(browser.get(url(cast.policy, "discard"), follow=True))


def test_versions_are_compared_field_by_field(browser: Client, cast: Cast) -> None:
    page = browser.get(url(cast.policy, "compare"))
    assert page.context["form"].cleaned_data == {"before": 2, "after": 3}
    page = browser.get(url(cast.policy, "compare"), {"before": "0", "after": "1"})
    assert {row["path"] for row in page.context["changes"]} == {"when.tags", "targets", "mode"}
    same = browser.get(url(cast.policy, "compare"), {"before": "1", "after": "1"})
    assert "None: they say the same." in text_of(same)
    wrong = browser.get(url(cast.policy, "compare"), {"before": "x", "after": "99"})
    assert "Select a valid choice" in text_of(wrong)
    empty = actions.create_policy(CAST, name="empty")
    assert "has no version yet" in text_of(browser.get(url(empty, "compare"), follow=True))


def test_a_version_s_page_says_who_when_why_and_what(browser: Client, cast: Cast) -> None:
    page = text_of(browser.get(url(cast.policy, "versions/1")))
    assert "Version 1 of acme-policy" in page
    assert "Roll back to it" in page
    assert "&quot;mode&quot;: &quot;cheap&quot;" in page
    assert browser.get(url(cast.policy, "versions/9")).status_code == 404


def test_list_and_page_show_the_problems_of_what_is_in_force(browser: Client, cast: Cast) -> None:
    assert "th-badge-bad" not in text_of(browser.get("/admin/routing/policy/"))
    update_model(CAST, cast.model, enabled=False)
    listed = text_of(browser.get("/admin/routing/policy/"))
    assert "in force, troubled" in listed
    assert "; 1 more" in listed
    assert "is disabled, so it is left out" in listed
    page = text_of(browser.get(url(cast.policy, "change")))
    assert "What is in force has problems" in page
    assert "nothing can be routed" in page


def test_only_who_may_approve_unticks_that_approval_is_needed(browser: Client, cast: Cast) -> None:
    actions.update_policy(CAST, cast.policy, needs_approval=True)
    writer = Client()
    writer.force_login(a_person_who_may("routing.view_policy", "routing.change_policy", username="writer"))
    form = {"name": cast.policy.name, "priority": "7", "enabled": "on"}
    assert writer.post(url(cast.policy, "change"), form).status_code == 302
    cast.policy.refresh_from_db()
    assert (cast.policy.priority, cast.policy.needs_approval) == (7, True)
    assert browser.post(url(cast.policy, "change"), form).status_code == 302
    cast.policy.refresh_from_db()
    assert cast.policy.needs_approval is False


def test_deleting_says_what_it_breaks(browser: Client, cast: Cast) -> None:
    page = text_of(browser.get(url(cast.policy, "delete")))
    assert "routed by the next policy" in page
    assert browser.post(url(cast.policy, "delete"), {"post": "yes"}).status_code == 302
    assert not Policy.objects.exists()


def test_who_only_looks_gets_no_buttons_and_no_forms(cast: Cast) -> None:
    viewer = Client()
    viewer.force_login(a_person("viewer"))
    page = text_of(viewer.get(url(cast.policy, "change")))
    for name in ("draft", "publish", "discard", "approve", "versions/1/roll-back"):
        assert url(cast.policy, name) not in page
        assert viewer.get(url(cast.policy, name)).status_code == 403
        assert viewer.post(url(cast.policy, name)).status_code == 403
    assert states(cast.policy) == [(1, "retired"), (2, "published"), (3, "draft")]


def test_the_list_asks_the_database_as_often_for_many_policies_as_for_one(
    browser: Client, cast: Cast
) -> None:
    def count() -> int:
        browser.get("/admin/routing/policy/")
        with CaptureQueriesContext(connection) as caught:
            assert browser.get("/admin/routing/policy/").status_code == 200
        return len(caught)

    few = count()
    for number in range(8):
        a_policy(f"more{number}", cast.model.name)
    assert count() == few


def test_a_group_of_models_is_made_and_changed_on_its_page(cast: Cast) -> None:
    client = Client()
    client.force_login(a_person("superuser"))
    added = client.post("/admin/access/modelgroup/add/", {"name": "big", "models": [cast.model.pk]})
    assert added.status_code == 302
    assert "group:big" in text_of(client.get("/admin/access/modelgroup/"))
    row = cast.group
    assert (
        client.post(f"/admin/access/modelgroup/{row.pk}/change/", {"name": "any", "models": []}).status_code
        == 302
    )
    row.refresh_from_db()
    assert (row.name, row.models.count()) == ("any", 0)
    update_api_key(CAST, cast.key, allowed_models=["group:any"])
    blocked = text_of(client.get(f"/admin/access/modelgroup/{row.pk}/delete/"))
    assert cast.key.key_id in blocked
    refused = client.post(f"/admin/access/modelgroup/{row.pk}/delete/", {"post": "yes"}, follow=True)
    assert "used by" in text_of(refused)
    row.refresh_from_db()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("when.keys[3]", "when__keys"),
        ("when.hours[0].end", "when__hours"),
        ("when.headers.x-a", "when__headers"),
        ("weights", "own_weights"),
        ("weights.cost", "weights__cost"),
        ("weights.price", "own_weights"),
        ("bounds", "bounds__min_weight"),
        ("targets[1]", "targets"),
        ("schema", None),
        ("nonsense", None),
    ],
)
def test_each_path_of_a_document_has_its_field(path: str, field: str | None) -> None:
    assert find_field(path) == field
    assert label_of(path)


def test_values_are_written_for_people() -> None:
    assert write_value("bounds.min_weight", 0) == "no bound"
    assert write_value("hedge.enabled", True) == "yes"
    assert write_value("targets", ["a", "b"]) == "a\nb"
    guard = {"name": "pii", "kind": "redact", "patterns": ["email", "ip"], "own": {"x": "y"}, "restore": True}
    assert write_value("guards", [guard]) == "pii (redact): patterns email, ip; own x = y; restore yes"
    assert write_value("when.headers", {}) == "–"
    assert write_value("weights.cost", None) == "the mode’s"
    assert set(initial_of({"when": {"tags": []}}, "n")) <= {*DraftForm.base_fields}
