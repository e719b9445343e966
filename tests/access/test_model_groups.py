"""Model groups: what keys are given together, how the snapshot sees it, and that none vanishes under a key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from access import group_actions
from access.actions import create_api_key, revoke_api_key, update_api_key
from access.models import ModelGroup
from providers.actions import create_model, delete_model
from snapshots.compile import compile_snapshot
from tests.snapshots.cast import OPERATOR, make_key, make_model, make_provider
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def group() -> ModelGroup:
    """`cheap`: acme's small and large."""
    provider = make_provider()
    return group_actions.create_model_group(OPERATOR, name="cheap", models=provider.models.all())


def allowed(key_id: str) -> frozenset[str] | None:
    return compile_snapshot(timezone.now() + timedelta(seconds=1)).key_by_id[key_id].allowed_models


def test_a_key_that_lists_a_group_may_use_its_models_and_no_others(group: ModelGroup) -> None:
    make_model("other")
    key, _ = make_key(allowed_models=["group:cheap", "fast"])
    assert allowed(key.key_id) == {"acme/small", "acme/large", "fast"}
    group_actions.update_model_group(OPERATOR, group, models=group.models.filter(name="small"))
    assert allowed(key.key_id) == {"acme/small", "fast"}
    group_actions.update_model_group(OPERATOR, group, models=[])
    assert allowed(key.key_id) == {"fast"}


def test_a_group_that_is_gone_stands_for_no_model(group: ModelGroup) -> None:
    key, _ = make_key(allowed_models=["group:cheap"])
    ModelGroup.objects.all().delete()
    assert allowed(key.key_id) == frozenset()


def test_a_deleted_model_leaves_its_groups(group: ModelGroup) -> None:
    key, _ = make_key(allowed_models=["group:cheap"])
    delete_model(OPERATOR, group.models.get(name="small"))
    assert allowed(key.key_id) == {"acme/large"}


def test_changes_are_audited_with_the_models(group: ModelGroup) -> None:
    group_actions.update_model_group(OPERATOR, group, models=group.models.filter(name="small"))
    entry = AuditEntry.objects.order_by("-id").first()
    assert entry is not None
    assert entry.action == "modelgroup.update"
    assert (entry.before["models"], entry.after["models"]) == (["acme/large", "acme/small"], ["acme/small"])
    group_actions.delete_model_group(OPERATOR, group)
    entries = AuditEntry.objects.filter(action="modelgroup.delete")
    assert [entry.before["models"] for entry in entries] == [["acme/small"]]
    assert not ModelGroup.objects.exists()


@pytest.mark.parametrize("revoked", [False, True])
def test_a_group_that_a_key_lists_is_neither_deleted_nor_renamed(revoked: bool, group: ModelGroup) -> None:
    key, _ = make_key("app", allowed_models=["group:cheap"])
    make_key("free")
    make_key("narrow", allowed_models=["cheap"])
    if revoked:
        revoke_api_key(OPERATOR, key)
    with pytest.raises(Conflict) as refused:
        group_actions.delete_model_group(OPERATOR, group)
    assert f"app ({key.key_id})" in refused.value.message
    assert refused.value.details["keys"] == [f"app ({key.key_id})"]
    assert "group:cheap" in (refused.value.hint or "")
    with pytest.raises(Conflict, match="renamed"):
        group_actions.update_model_group(OPERATOR, group, name="dear")
    assert ModelGroup.objects.get().name == "cheap"
    update_api_key(OPERATOR, key, allowed_models=["fast"])
    group_actions.update_model_group(OPERATOR, group, name="dear")
    group_actions.delete_model_group(OPERATOR, group)


def test_a_key_lists_only_groups_that_are_there(group: ModelGroup) -> None:
    with pytest.raises(InvalidRequest, match="no model group 'cheep'") as refused:
        create_api_key(OPERATOR, name="x", allowed_models=["group:cheep"])
    assert (refused.value.param, refused.value.hint) == ("allowed_models", "did you mean group:cheap?")
    key, _ = make_key()
    with pytest.raises(InvalidRequest) as refused:
        update_api_key(OPERATOR, key, allowed_models=["group:zzzz"])
    assert refused.value.hint == "create it first"


@pytest.mark.parametrize("name", ["", "Big Ones", "a/b"])
def test_a_group_s_name_has_rules(name: str) -> None:
    with pytest.raises(InvalidRequest):
        group_actions.create_model_group(OPERATOR, name=name)


def test_a_group_s_name_is_its_own(group: ModelGroup) -> None:
    with pytest.raises(Conflict):
        group_actions.create_model_group(OPERATOR, name="cheap")


def test_no_model_is_called_like_a_group(group: ModelGroup) -> None:
    with pytest.raises(InvalidRequest, match="reserved"):
        create_model(OPERATOR, provider=make_provider("zeta", models=()), name="group:cheap")
