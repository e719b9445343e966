"""Policies and their versions: drafts, publishing, the second person, going back, and that what was published never changes."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, transaction

from providers.actions import delete_model
from providers.models import Model
from routing import policy_actions as actions
from routing.models import Policy, PolicyVersion
from routing.problems import find_policy_problems
from tests.routing.policy_cast import OLGA, PETER, a_document, a_policy, published, states
from tests.snapshots.cast import make_provider
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _models() -> None:
    make_provider()


def last_entry() -> AuditEntry:
    entry = AuditEntry.objects.order_by("-id").first()
    assert entry is not None
    return entry


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "No Slug"},
        {"name": "x", "priority": 1_000_001},
        {"name": "x", "last_number": 5},
    ],
)
def test_a_policy_s_fields_have_rules(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        actions.create_policy(OLGA, **fields)
    assert not Policy.objects.exists()


def test_a_policy_s_name_is_its_own() -> None:
    a_policy("night")
    with pytest.raises(Conflict):
        a_policy("night")


def test_there_are_only_so_many_policies() -> None:
    Policy.objects.bulk_create(Policy(name=f"p{number}") for number in range(actions.MAX_POLICIES))
    with pytest.raises(Conflict, match="which is the most"):
        a_policy()


def test_a_draft_is_one_row_until_it_is_published() -> None:
    policy = a_policy()
    first = actions.save_draft(OLGA, policy, document=a_document(), note="first")
    again = actions.save_draft(PETER, policy, document=a_document(mode="cheap"))
    assert first.pk == again.pk
    assert (again.author, again.note, again.document["mode"]) == ("peter", "first", "cheap")
    assert states(policy) == [(1, "draft")]
    with pytest.raises(InvalidRequest):
        actions.save_draft(OLGA, policy, document={"mode": "x"})
    with pytest.raises(InvalidRequest, match="note"):
        actions.save_draft(OLGA, policy, document=a_document(), note="x" * 2001)


def test_publishing_retires_the_version_before_and_is_audited_with_both_documents() -> None:
    policy = a_policy()
    published(policy)
    version = published(policy, mode="cheap")
    assert states(policy) == [(1, "retired"), (2, "published")]
    assert version.published_at is not None
    entry = last_entry()
    assert (entry.action, entry.actor, entry.object_label) == ("policy.publish", "olga", "night")
    assert entry.before["published"]["document"]["mode"] == "normal"
    assert entry.after["published"]["document"]["mode"] == "cheap"
    assert (entry.after["published"]["note"], entry.after["open"]) == ("because", None)


def test_nothing_is_published_without_a_draft() -> None:
    policy = a_policy()
    with pytest.raises(NotFound, match="no draft"):
        actions.publish(OLGA, policy)
    with pytest.raises(NotFound, match="no draft"):
        actions.discard_draft(OLGA, policy)
    with pytest.raises(NotFound, match="waits"):
        actions.approve(PETER, policy)


def test_a_discarded_draft_s_number_is_never_used_again() -> None:
    policy = a_policy()
    published(policy)
    actions.save_draft(OLGA, policy, document=a_document())
    actions.discard_draft(OLGA, policy)
    assert last_entry().action == "policy.discard_draft"
    published(policy)
    assert states(policy) == [(1, "retired"), (3, "published")]


def test_nobody_publishes_another_document_than_he_looked_at() -> None:
    policy = a_policy()
    seen = actions.digest_of(actions.save_draft(OLGA, policy, document=a_document()).document)
    actions.save_draft(PETER, policy, document=a_document(mode="cheap"))
    with pytest.raises(Conflict, match="changed after you looked"):
        actions.publish(OLGA, policy, seen=seen)
    stored = PolicyVersion.objects.get().document
    assert actions.publish(OLGA, policy, seen=actions.digest_of(stored)).state == "published"


def test_where_a_second_person_is_needed_one_alone_publishes_nothing() -> None:
    policy = a_policy(needs_approval=True)
    version = published(policy)
    assert (version.state, version.published_at) == ("waiting", None)
    for alone in (OLGA, Actor("token", "olga:abcdef012345"), Actor("user", "olga", "198.51.100.1")):
        with pytest.raises(PermissionDenied, match="can't approve it too"):
            actions.approve(alone, policy)
    with pytest.raises(Conflict, match="waits for approval already"):
        actions.publish(PETER, policy)
    with pytest.raises(Conflict, match="waits for approval"):
        actions.save_draft(PETER, policy, document=a_document(mode="cheap"))
    with pytest.raises(Conflict, match="changed after you looked"):
        actions.approve(PETER, policy, seen="0" * 32)
    approved = actions.approve(PETER, policy, seen=actions.digest_of(version.document))
    assert (approved.state, approved.author, approved.approver) == ("published", "olga", "peter")
    assert last_entry().action == "policy.approve"


def test_who_asks_for_another_s_draft_stands_for_it() -> None:
    policy = a_policy(needs_approval=True)
    actions.save_draft(OLGA, policy, document=a_document())
    assert actions.publish(PETER, policy).author == "peter"
    with pytest.raises(PermissionDenied):
        actions.approve(PETER, policy)
    assert actions.approve(OLGA, policy).approver == "olga"


def test_what_waits_is_asked_again_when_it_is_approved_and_can_be_discarded() -> None:
    policy = a_policy(needs_approval=True)
    version = published(policy)
    PolicyVersion.objects.filter(pk=version.pk).update(document={**version.document, "targets": ["gone"]})
    with pytest.raises(InvalidRequest, match="there is no model"):
        actions.approve(PETER, policy)
    actions.discard_draft(PETER, policy)
    assert states(policy) == []


def test_going_back_makes_a_new_version_with_the_old_document() -> None:
    policy = a_policy()
    published(policy, mode="cheap")
    published(policy, mode="planning")
    actions.save_draft(OLGA, policy, document=a_document(mode="adversarial"))
    version = actions.roll_back(PETER, policy, number=1)
    assert (version.number, version.document["mode"], version.author) == (4, "cheap", "peter")
    assert version.note == "back to version 1"
    assert states(policy) == [(1, "retired"), (2, "retired"), (3, "draft"), (4, "published")]
    assert last_entry().action == "policy.roll_back"
    # The draft is older than what is in force: published, it gets the higher number.
    assert actions.publish(OLGA, policy).number == 5
    assert states(policy) == [(1, "retired"), (2, "retired"), (4, "retired"), (5, "published")]


def test_going_back_is_possible_while_targets_are_gone() -> None:
    policy = a_policy()
    published(policy, targets=["small"])
    published(policy, targets=["large"])
    delete_model(OLGA, Model.objects.get(name="small"))
    assert actions.roll_back(OLGA, policy, number=1).document["targets"] == ["small"]
    assert [one.path for one in find_policy_problems(policy)] == ["targets"]
    assert states(policy)[-1] == (3, "published")


def test_there_is_no_going_back_to_what_is_or_never_was_in_force() -> None:
    policy = a_policy()
    published(policy)
    actions.save_draft(OLGA, policy, document=a_document())
    with pytest.raises(Conflict, match="in force already"):
        actions.roll_back(OLGA, policy, number=1)
    with pytest.raises(Conflict, match="never in force"):
        actions.roll_back(OLGA, policy, number=2)
    with pytest.raises(NotFound, match="no version 9"):
        actions.roll_back(OLGA, policy, number=9)


def test_going_back_to_what_nobody_approved_waits_where_approval_is_needed() -> None:
    policy = a_policy()
    published(policy, mode="cheap")
    published(policy)
    actions.update_policy(OLGA, policy, needs_approval=True)
    actions.save_draft(OLGA, policy, document=a_document())
    with pytest.raises(Conflict, match="open draft"):
        actions.roll_back(OLGA, policy, number=1)
    actions.discard_draft(OLGA, policy)
    assert actions.roll_back(OLGA, policy, number=1).state == "waiting"
    actions.approve(PETER, policy)
    approved = policy.versions.get(state="published").number
    published(policy, mode="planning")
    actions.approve(PETER, policy)
    # Peter approved that document before: an incident need not wait for him.
    assert actions.roll_back(OLGA, policy, number=approved).state == "published"


def test_a_policy_is_switched_off_and_deleted_with_its_versions() -> None:
    policy = a_policy()
    published(policy)
    actions.update_policy(OLGA, policy, enabled=False, priority=7)
    assert last_entry().after["enabled"] is False
    with pytest.raises(InvalidRequest):
        actions.update_policy(OLGA, policy, last_number=0)
    actions.delete_policy(OLGA, policy)
    entry = last_entry()
    assert (entry.action, entry.before["published"]["number"]) == ("policy.delete", 1)
    assert not PolicyVersion.objects.exists()


def test_a_reader_changes_nothing() -> None:
    policy = a_policy()
    reader = Actor("token", "olga:abcdef012345", scopes=frozenset({"read"}))
    for write in (
        lambda: actions.save_draft(reader, policy, document={}),
        lambda: actions.publish(reader, policy),
        lambda: actions.approve(reader, policy),
        lambda: actions.roll_back(reader, policy, number=1),
        lambda: actions.discard_draft(reader, policy),
        lambda: actions.delete_policy(reader, policy),
    ):
        with pytest.raises(PermissionDenied):
            write()


@pytest.mark.parametrize("state", ["published", "retired"])
@pytest.mark.parametrize(
    "changes",
    [
        {"document": {}},
        {"number": 9},
        {"note": "x"},
        {"author": "x"},
        {"approver": "x"},
        {"published_at": None},
        {"state": "draft"},
        {"state": "waiting"},
    ],
)
def test_the_database_itself_refuses_to_change_what_was_published(
    state: str, changes: dict[str, Any]
) -> None:
    policy = a_policy()
    version = published(policy)
    if state == "retired":
        published(policy, mode="cheap")
    with pytest.raises(DatabaseError, match="never changes"), transaction.atomic():
        PolicyVersion.objects.filter(pk=version.pk).update(**changes)
    assert PolicyVersion.objects.get(pk=version.pk).state == state


def test_a_retired_version_does_not_come_back_by_itself() -> None:
    policy = a_policy()
    version = published(policy)
    PolicyVersion.objects.filter(pk=version.pk).update(state="retired")
    with pytest.raises(DatabaseError, match="never changes"), transaction.atomic():
        PolicyVersion.objects.filter(pk=version.pk).update(state="published")


@pytest.mark.parametrize("state", ["draft", "published"])
def test_the_database_holds_one_draft_and_one_published_version(state: str) -> None:
    policy = a_policy()
    version = published(policy)
    extra = {"policy": policy, "document": version.document, "author": "x", "created_at": version.created_at}
    if state == "draft":
        PolicyVersion.objects.create(number=2, state="waiting", **extra)
    with pytest.raises(DatabaseError), transaction.atomic():
        PolicyVersion.objects.create(number=3, state=state, **extra)
