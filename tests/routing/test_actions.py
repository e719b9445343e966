"""Aliases: names that no model has, and targets that can't vanish under them."""

from __future__ import annotations

import pytest

from providers.actions import create_model, delete_model, delete_provider, update_model, update_provider
from routing.actions import (
    TargetDraft,
    create_alias,
    create_alias_target,
    delete_alias,
    delete_alias_target,
    update_alias,
    update_alias_target,
)
from routing.models import Alias, AliasTarget
from tests.snapshots.cast import OPERATOR, make_model, make_provider
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", ["small", "acme/small"])
def test_an_alias_never_takes_a_model_s_name(name: str) -> None:
    make_provider()
    with pytest.raises(Conflict, match="taken by model small of provider acme") as refused:
        create_alias(OPERATOR, name=name)
    assert refused.value.param == "name"
    alias = create_alias(OPERATOR, name="fast")
    with pytest.raises(Conflict):
        update_alias(OPERATOR, alias, name=name)
    assert Alias.objects.get().name == "fast"


@pytest.mark.parametrize("alias", ["fast", "acme/fast"])
def test_a_model_never_takes_an_alias_s_name(alias: str) -> None:
    provider = make_provider()
    create_alias(OPERATOR, name=alias)
    with pytest.raises(Conflict, match=f"taken by alias {alias}"):
        create_model(OPERATOR, provider=provider, name="fast")
    with pytest.raises(Conflict, match=f"taken by alias {alias}"):
        update_model(OPERATOR, provider.models.get(name="small"), name="fast")


def test_a_renamed_provider_never_gives_a_model_an_alias_s_name() -> None:
    provider = make_provider()
    create_alias(OPERATOR, name="zeta/small")
    with pytest.raises(Conflict, match="taken by alias zeta/small"):
        update_provider(OPERATOR, provider, name="zeta")
    provider.refresh_from_db()
    assert provider.name == "acme"


@pytest.mark.parametrize("name", ["", "auto", "a b", "pipeline/x"])
def test_an_alias_s_name_has_rules(name: str) -> None:
    with pytest.raises(InvalidRequest):
        create_alias(OPERATOR, name=name)


def test_an_alias_is_audited_with_its_targets() -> None:
    small, large = make_model("small"), make_model("large")
    alias = create_alias(
        OPERATOR, name="fast", targets=[TargetDraft(small), TargetDraft(large, priority=1, weight=3)]
    )
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert entry.action == "alias.create"
    assert entry.after["targets"] == [
        {"model": "of-small/small", "priority": 0, "weight": 1},
        {"model": "of-large/large", "priority": 1, "weight": 3},
    ]
    update_alias(OPERATOR, alias, targets=[TargetDraft(large)])
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (len(entry.before["targets"]), len(entry.after["targets"])) == (2, 1)
    delete_alias(OPERATOR, alias)
    assert not AliasTarget.objects.exists()


def test_single_targets_are_added_changed_and_taken_away() -> None:
    small = make_model("small")
    alias = create_alias(OPERATOR, name="fast")
    target = create_alias_target(OPERATOR, alias=alias, model=small)
    update_alias_target(OPERATOR, target, priority=5)
    assert AliasTarget.objects.get().priority == 5
    with pytest.raises(Conflict):
        create_alias_target(OPERATOR, alias=alias, model=small)
    delete_alias_target(OPERATOR, target)
    assert [entry.action for entry in AuditEntry.objects.all()[:4]] == ["alias.update"] * 3 + ["alias.create"]


def test_a_wrong_target_leaves_no_alias_behind() -> None:
    small = make_model("small")
    with pytest.raises(InvalidRequest):
        create_alias(
            OPERATOR, name="fast", targets=[TargetDraft(small), TargetDraft(make_model("b"), weight=5000)]
        )
    assert not Alias.objects.exists()


def test_a_model_that_an_alias_uses_can_not_be_deleted() -> None:
    small = make_model("small")
    create_alias(OPERATOR, name="fast", targets=[TargetDraft(small)])
    with pytest.raises(Conflict, match="still used by alias target fast → small"):
        delete_model(OPERATOR, small)
    with pytest.raises(Conflict, match="still used by"):
        delete_provider(OPERATOR, small.provider)
    assert AliasTarget.objects.count() == 1
