"""What keeps a policy from being published: names that nobody has, and contradictions; and that what is in force stays."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.actions import create_project, create_team
from providers.actions import create_model, delete_model, update_model, update_provider
from providers.models import Model
from routing import policy_actions as actions
from routing.actions import TargetDraft, create_alias
from routing.catalogue import read_catalogue
from routing.models import Policy
from routing.problems import find_policy_problems
from tests.routing.policy_cast import OLGA, a_document, a_policy, published
from tests.snapshots.cast import make_key, make_provider
from tokenhub.core.errors import InvalidRequest

pytestmark = pytest.mark.django_db


@pytest.fixture
def small() -> Model:
    """`small` and `large` at acme in eu, which keeps data for 30 days; aliases; a team with a project, and another team."""
    provider = make_provider(region="eu", retention_days=30)
    small = provider.models.get(name="small")
    update_model(OLGA, small, weight=4, context_tokens=1000, capabilities=["chat", "streaming", "tools"])
    update_model(OLGA, provider.models.get(name="large"), weight=8, context_tokens=9000)
    create_alias(OLGA, name="fast", targets=[TargetDraft(small)])
    create_alias(OLGA, name="empty")
    create_project(OLGA, team=create_team(OLGA, name="A", slug="ants"), name="P", slug="hill")
    create_team(OLGA, name="B", slug="bees")
    return small


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"targets": ["smal"]}, "targets", "did you mean small"),
    ({"targets": ["acme/smal"]}, "targets", "acme/small"),
    ({"targets": ["empty"]}, "targets", "enable one of them"),
    ({"fallbacks": {"any": ["lrge"]}}, "fallbacks.any", "did you mean large"),
    ({"fallbacks": {"any": ["small"]}}, "fallbacks.any", "name another one"),
    ({"fallbacks": {"rate_limit": ["acme/small"]}}, "fallbacks.rate_limit", "name another one"),
    ({"fallbacks": {"context": ["fast"]}}, "fallbacks.context", "name another one"),
    ({"targets": ["fast"], "fallbacks": {"any": ["small"]}}, "fallbacks.any", "name another one"),
    ({"when": {"keys": ["nobody000000"]}}, "when.keys", "create it first"),
    ({"when": {"teams": ["ant"]}}, "when.teams", "did you mean ants?"),
    ({"when": {"projects": ["hil"]}}, "when.projects", "did you mean hill?"),
    ({"when": {"teams": ["bees"], "projects": ["hill"]}}, "when.projects", "leave one"),
    ({"when": {"min_input_tokens": 9, "max_input_tokens": 8}}, "when.min_input_tokens", "at most 8"),
    ({"when": {"min_input_tokens": 1000}}, "when.min_input_tokens", "longer context"),
    ({"when": {"needs": ["vision"]}}, "when.needs", "has it"),
    ({"when": {"operations": ["embeddings"]}}, "when.operations", "name a target"),
    ({"bounds": {"min_weight": 5}}, "bounds.min_weight", "at most 4"),
    ({"bounds": {"regions": ["us"]}}, "bounds.regions", "the targets are in eu"),
    ({"bounds": {"max_retention_days": 29}}, "bounds.max_retention_days", "raise the bound"),
    (
        {"targets": ["small", "large"], "bounds": {"min_weight": 5}, "when": {"needs": ["tools"]}},
        "bounds",
        "loosen one",
    ),
    ({"targets": [], "bounds": {"min_weight": 9}}, "bounds.min_weight", "at most 8"),
    ({"targets": [], "when": {"models": ["small"]}, "bounds": {"min_weight": 8}}, "bounds.min_weight", "at most 4"),
    ({"attempts": 1, "fallbacks": {"any": ["large"]}}, "attempts", "leave the fallbacks out"),
    ({"attempts": 1, "hedge": {"enabled": True}}, "attempts", "switch hedging off"),
    ({"hedge": {"enabled": True, "max_share": 0}}, "hedge.max_share", "switch hedging off"),
)  # fmt: skip


@pytest.mark.parametrize(("members", "param", "hint"), REFUSED, ids=[f"{row[1]}-{n}" for n, row in enumerate(REFUSED)])  # fmt: skip
def test_a_draft_that_can_never_work_is_kept_but_not_published(
    members: dict[str, Any], param: str, hint: str, small: Model
) -> None:
    policy = a_policy()
    actions.save_draft(OLGA, policy, document=a_document(**members))
    with pytest.raises(InvalidRequest) as refused:
        actions.publish(OLGA, policy)
    assert refused.value.param == param
    assert hint in (refused.value.hint or "")
    assert policy.versions.get().state == "draft"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"targets": []},
        {"targets": ["small", "empty"]},
        {"targets": ["small", "fast", "acme/large"]},
        {"targets": ["fast"], "fallbacks": {"any": ["large"]}},
        {"bounds": {"min_weight": 4, "regions": ["eu", "us"], "max_retention_days": 30}},
        {"when": {"needs": ["tools"], "operations": ["chat", "embeddings"], "min_input_tokens": 999}},
        {"when": {"teams": ["ants"], "projects": ["hill"], "max_input_tokens": 5}},
        {"targets": [], "when": {"models": ["gpt-*"]}},
        {"attempts": 2, "hedge": {"enabled": True}, "fallbacks": {"any": ["large"]}},
    ],
)
def test_what_can_work_is_published(members: dict[str, Any], small: Model) -> None:
    assert published(a_policy(), **members).state == "published"


def test_a_key_is_named_by_its_id(small: Model) -> None:
    key, _ = make_key()
    assert published(a_policy(), when={"keys": [key.key_id]}).state == "published"


def test_a_policy_stays_in_force_when_its_targets_go_and_says_so(small: Model) -> None:
    policy = a_policy()
    extra = create_model(OLGA, provider=small.provider, name="extra")
    published(policy, targets=["small", "extra"], fallbacks={"any": ["large"]}, bounds={"regions": ["eu"]})
    assert find_policy_problems(policy) == []
    delete_model(OLGA, extra)
    assert [(one.path, one.grave) for one in find_policy_problems(policy)] == [("targets", True)]
    update_model(OLGA, Model.objects.get(name="large"), enabled=False)
    told = [one.tell() for one in find_policy_problems(policy)]
    assert any(text.startswith("fallbacks.any: large is disabled") for text in told)
    update_provider(OLGA, small.provider, region="")
    assert any("no target is in eu" in one.message for one in find_policy_problems(policy))
    update_provider(OLGA, small.provider, enabled=False)
    assert any("so nothing can be routed" in one.message for one in find_policy_problems(policy))
    assert policy.versions.get().state == "published"


def test_a_policy_without_a_version_has_no_problems() -> None:
    assert find_policy_problems(a_policy()) == []


def test_many_policies_and_models_are_looked_at_in_as_many_queries_as_few(small: Model) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as caught:
            catalogue = read_catalogue()
            for policy in Policy.objects.prefetch_related("versions"):
                find_policy_problems(policy, catalogue)
        return len(caught)

    published(a_policy("one"))
    few = count()
    for number in range(10):
        create_model(OLGA, provider=small.provider, name=f"more{number}")
        published(a_policy(f"more{number}"))
    assert count() == few <= 8
