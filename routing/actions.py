"""Changes of aliases and their targets. Control plane."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from providers.models import Model
from routing.models import Alias, AliasTarget
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.audit import change, check_fields, remove, translated

MAX_TARGETS = 100
TARGET_FIELDS = ("model", "priority", "weight")


@dataclass(frozen=True, slots=True)
class TargetDraft:
    """A target to be: the model, its priority (lowest first) and its share among equal priorities."""

    model: Model
    priority: int = 0
    weight: int = 1


def create_alias(
    actor: Actor, *, name: str, targets: Sequence[TargetDraft] = (), sticky_by: str = "request"
) -> Alias:
    """An alias with its targets. Raises Conflict for a name that a model has."""
    alias = Alias(name=name, sticky_by=sticky_by)
    with change(actor, "alias.create", alias):
        alias.full_clean()
        _refuse_model_name(name)
        alias.save(force_insert=True)
        _write_targets(alias, targets)
    return alias


def update_alias(
    actor: Actor,
    alias: Alias,
    *,
    name: str | None = None,
    targets: Sequence[TargetDraft] | None = None,
    sticky_by: str | None = None,
) -> Alias:
    """Renames an alias, says by what it is sticky, and replaces all of its targets; None leaves each as it is."""
    with change(actor, "alias.update", alias):
        alias.refresh_from_db()
        if sticky_by is not None and sticky_by != alias.sticky_by:
            alias.sticky_by = sticky_by
            alias.full_clean()
            alias.save(force_update=True)
        if name is not None and name != alias.name:
            alias.name = name
            alias.full_clean()
            _refuse_model_name(name)
            alias.save(force_update=True)
        if targets is not None:
            alias.targets.all().delete()
            _write_targets(alias, targets)
    return alias


def delete_alias(actor: Actor, alias: Alias) -> None:
    """Deletes the alias with its targets."""
    remove(actor, alias)


def create_alias_target(actor: Actor, *, alias: Alias, **fields: Any) -> AliasTarget:
    """One more target of an alias. `fields`: TARGET_FIELDS; `model` is needed."""
    check_fields(AliasTarget, fields, TARGET_FIELDS)
    target = AliasTarget(alias=alias, **fields)
    with change(actor, "alias.update", alias), translated(target):
        if alias.targets.count() >= MAX_TARGETS:
            raise InvalidRequest(
                f"alias {alias.name} has {MAX_TARGETS} targets, which is the most", param="targets"
            )
        target.full_clean()
        target.save(force_insert=True)
    return target


def update_alias_target(actor: Actor, target: AliasTarget, **changes: Any) -> AliasTarget:
    """Changes TARGET_FIELDS of one target; audited as a change of its alias."""
    check_fields(AliasTarget, changes, TARGET_FIELDS)
    with change(actor, "alias.update", target.alias), translated(target):
        target.refresh_from_db()
        for name, value in changes.items():
            setattr(target, name, value)
        target.full_clean()
        target.save(force_update=True)
    return target


def delete_alias_target(actor: Actor, target: AliasTarget) -> None:
    """Takes one target away; audited as a change of its alias."""
    with change(actor, "alias.update", target.alias):
        target.delete()


def find_holding_alias(names: Collection[str]) -> str | None:
    """Which alias has one of these names; guards the names of models."""
    name = Alias.objects.filter(name__in=names).values_list("name", flat=True).first()
    return None if name is None else f"alias {name}"


def _refuse_model_name(name: str) -> None:
    held = Model.objects.filter(name=name)
    provider, _, rest = name.partition("/")
    if rest:
        held = held | Model.objects.filter(provider__name=provider, name=rest)
    found = held.select_related("provider").first()
    if found is not None:
        raise Conflict(
            f"alias {name}: the name is taken by model {found.name} of provider {found.provider.name}",
            param="name",
            hint="choose another name: an alias never hides a model",
        )


def _write_targets(alias: Alias, targets: Sequence[TargetDraft]) -> None:
    if len(targets) > MAX_TARGETS:
        raise InvalidRequest(
            f"alias {alias.name}: at most {MAX_TARGETS} targets, got {len(targets)}", param="targets"
        )
    for draft in targets:
        target = AliasTarget(alias=alias, model=draft.model, priority=draft.priority, weight=draft.weight)
        with translated(target):
            target.full_clean()
            target.save(force_insert=True)
