"""What of policies, providers' data rules and aliases comes into a snapshot, in which order, and in how many queries."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from access.group_actions import create_model_group
from providers.actions import create_provider, delete_model, update_provider
from providers.models import Model
from routing import policy_actions as actions
from routing.actions import TargetDraft, create_alias, update_alias
from routing.models import PolicyVersion
from snapshots.compile import compile_snapshot
from snapshots.models import PublishState
from snapshots.publish import publish
from tests.routing.policy_cast import OLGA, a_document, a_policy, published
from tests.snapshots.cast import make_model, make_provider
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.snapshot import decode_snapshot, encode_snapshot

pytestmark = pytest.mark.django_db


def test_published_versions_of_enabled_policies_come_in_the_order_they_are_asked() -> None:
    make_provider()
    for name, priority in (("late", 200), ("first", 5), ("second", 100), ("also-second", 100), ("off", 1)):
        published(a_policy(name, priority=priority))
    a_policy("empty", priority=1)
    draft = a_policy("draft", priority=1)
    actions.save_draft(OLGA, draft, document=a_document())
    waits = a_policy("waits", priority=1, needs_approval=True)
    published(waits)
    actions.update_policy(OLGA, a_policy_named("off"), enabled=False)
    found = compile_snapshot(timezone.now()).policies
    assert [policy.name for policy in found] == ["first", "second", "also-second", "late"]
    assert (found[0].id, found[0].version, found[0].priority) == (str(a_policy_named("first").pk), 1, 5)


def a_policy_named(name: str) -> actions.Policy:
    return actions.Policy.objects.get(name=name)


def test_a_document_comes_into_the_snapshot_whole_and_out_of_its_bytes_again() -> None:
    make_provider()
    published(
        a_policy(),
        when={"tags": ["a"], "headers": {"x-a": "b*"}, "hours": [{"weekdays": ["mon"], "start": "08:00", "end": "18:00"}]},
        weights={"cost": 1},
        bounds={"max_cost_usd": "0.05", "min_weight": 1},
        fallbacks={"any": ["large"]},
    )  # fmt: skip
    snapshot = compile_snapshot(timezone.now())
    policy = snapshot.policies[0]
    assert (policy.bounds.max_cost_nanos, policy.fallbacks) == (50_000_000, {"any": ("large",)})
    assert decode_snapshot(encode_snapshot(snapshot)).policies == snapshot.policies


def test_a_policy_keeps_its_version_when_what_it_names_is_gone() -> None:
    make_provider()
    published(a_policy())
    delete_model(OLGA, Model.objects.get(name="small"))
    assert compile_snapshot(timezone.now()).policies[0].targets == ("small",)


def test_a_document_that_can_not_be_read_leaves_the_last_revision_in_force() -> None:
    make_provider()
    policy = a_policy()
    published(policy)
    first = publish("first", OLGA)
    PolicyVersion.objects.filter(policy=policy).delete()
    PolicyVersion.objects.create(
        policy=policy,
        number=9,
        state="published",
        document={"schema": 2},
        author="x",
        created_at=timezone.now(),
    )
    with pytest.raises(InvalidRequest, match="schema"):
        compile_snapshot(timezone.now())
    failed = publish("second", OLGA)
    assert (failed.created, failed.revision) == (False, first.revision)
    assert "schema" in PublishState.objects.get().failure


def test_regions_retention_and_stickiness_come_along() -> None:
    provider = make_provider(region="eu-central", retention_days=30)
    create_provider(OLGA, name="silent", kind="openai")
    alias = create_alias(
        OLGA, name="fast", targets=[TargetDraft(provider.models.get(name="small"))], sticky_by="user"
    )
    snapshot = compile_snapshot(timezone.now())
    assert [(one.region, one.retention_days) for one in snapshot.providers] == [("eu-central", 30), ("", -1)]
    assert snapshot.aliases[0].sticky_by == "user"
    update_alias(OLGA, alias, sticky_by="key")
    assert compile_snapshot(timezone.now()).aliases[0].sticky_by == "key"
    with pytest.raises(InvalidRequest, match="sticky_by"):
        update_alias(OLGA, alias, sticky_by="team")


@pytest.mark.parametrize(
    "fields", [{"region": "EU central"}, {"retention_days": -2}, {"retention_days": 36_501}]
)
def test_a_region_is_a_short_name_and_retention_is_bounded(fields: dict[str, object]) -> None:
    provider = make_provider()
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        update_provider(OLGA, provider, **fields)


def test_many_policies_and_groups_take_as_many_queries_as_few() -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as caught:
            compile_snapshot(timezone.now())
        return len(caught)

    make_provider()
    published(a_policy("one"))
    create_model_group(OLGA, name="one", models=Model.objects.all())
    few = count()
    for number in range(8):
        make_model(f"more{number}")
        published(a_policy(f"more{number}"))
        create_model_group(OLGA, name=f"more{number}", models=Model.objects.all())
    assert count() == few
