"""Changes of model groups, and which keys use them. Control plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from access.models import GROUP_PREFIX, ApiKey, ModelGroup
from providers.models import Model
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict
from vault.audit import change

MAX_SHOWN = 5


def create_model_group(actor: Actor, *, name: str, models: Iterable[Model] = ()) -> ModelGroup:
    """A group with its models."""
    group = ModelGroup(name=name)
    with change(actor, "modelgroup.create", group):
        group.full_clean()
        group.save(force_insert=True)
        group.models.set(models)
    return group


def update_model_group(
    actor: Actor, group: ModelGroup, *, name: str | None = None, models: Iterable[Model] | None = None
) -> ModelGroup:
    """Renames a group and/or replaces its models; None leaves either. Raises Conflict for a new name while keys use the old."""
    with change(actor, "modelgroup.update", group):
        group.refresh_from_db()
        if name is not None and name != group.name:
            _refuse_used(group, "renamed")
            group.name = name
            group.full_clean()
            group.save(force_update=True)
        if models is not None:
            group.models.set(models)
    return group


def delete_model_group(actor: Actor, group: ModelGroup) -> None:
    """Deletes a group. Raises Conflict naming the keys that use it: they would lose its models unseen."""
    with change(actor, "modelgroup.delete", group):
        _refuse_used(group, "deleted")
        ModelGroup.objects.get(pk=group.pk).delete()


def list_keys_of(group: ModelGroup) -> list[str]:
    """The keys that list the group, revoked ones too, as `name (ID)`."""
    wanted = f"{GROUP_PREFIX}{group.name}"
    rows = ApiKey.objects.filter(allowed_models__isnull=False).order_by("name", "id")
    return [
        f"{name} ({key_id})"
        for name, key_id, allowed in rows.values_list("name", "key_id", "allowed_models")
        if wanted in (allowed or ())
    ]


def list_unknown_groups(allowed: Sequence[object] | None) -> list[str]:
    """Names of groups that a key's list of models has and that do not exist."""
    asked = {
        name.removeprefix(GROUP_PREFIX)
        for name in allowed or ()
        if isinstance(name, str) and name.startswith(GROUP_PREFIX)
    }
    there = set(ModelGroup.objects.filter(name__in=asked).values_list("name", flat=True)) if asked else set()
    return sorted(asked - there)


def _refuse_used(group: ModelGroup, what: str) -> None:
    keys = list_keys_of(group)
    if keys:
        more = f" and {len(keys) - MAX_SHOWN} more" if len(keys) > MAX_SHOWN else ""
        raise Conflict(
            f"model group {group} can't be {what}: it is used by API key {', '.join(keys[:MAX_SHOWN])}{more}",
            hint=f"take {GROUP_PREFIX}{group.name} out of their models first",
            details={"keys": keys},
        )
