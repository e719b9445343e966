"""Aliases and their ordered targets as admin pages; those of policies are in `routing.policy_pages`. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest

from routing import actions
from routing.decision_pages import DecisionRecordAdmin
from routing.models import Alias, AliasTarget
from routing.policy_pages import PolicyAdmin
from tokenhub.control.actors import Actor
from tokenhub.control.admin import Inline, ModelAdmin

__all__ = ["AliasAdmin", "DecisionRecordAdmin", "PolicyAdmin", "TargetInline"]


class TargetInline(Inline):
    """The models an alias stands for, lowest priority first. They are part of it: its own permissions count, as in the API."""

    model = AliasTarget
    fields = ("model", "priority", "weight")
    ordering = ("priority", "id")
    autocomplete_fields = ("model",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AliasTarget]:
        return super().get_queryset(request).select_related("model__provider", "alias")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("routing.add_alias" if obj is None else "routing.change_alias")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("routing.change_alias")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("routing.change_alias")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("routing.view_alias") or self.has_change_permission(request, obj)

    def do_create(self, actor: Actor, row: AliasTarget) -> None:
        fields = {name: getattr(row, name) for name in actions.TARGET_FIELDS}
        actions.create_alias_target(actor, alias=row.alias, **fields)

    def do_update(self, actor: Actor, row: AliasTarget, changes: dict[str, Any]) -> None:
        actions.update_alias_target(actor, row, **changes)

    def do_delete(self, actor: Actor, row: AliasTarget) -> None:
        actions.delete_alias_target(actor, row)


@admin.register(Alias)
class AliasAdmin(ModelAdmin):
    """Names that stand for ordered models."""

    inlines = (TargetInline,)
    list_display = ("name", "target_names", "sticky_by")
    search_fields = ("name",)
    fields = ("name", "sticky_by")
    labels = {"sticky_by": "What keeps its target"}
    empty_text = "An alias is a name that stands for several models, tried in order."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alias]:
        targets = AliasTarget.objects.select_related("model__provider").order_by("priority", "id")
        return super().get_queryset(request).prefetch_related(Prefetch("targets", queryset=targets))

    @admin.display(description="Targets, first tried first")
    def target_names(self, row: Alias) -> str:
        names = [f"{one.model.provider.name}/{one.model.name}" for one in row.targets.all()]
        return " → ".join(names) or "none: requests for it are refused"

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Alias:
        return actions.create_alias(actor, name=data["name"], sticky_by=data["sticky_by"])

    def do_update(self, actor: Actor, row: Alias, changes: dict[str, Any]) -> None:
        actions.update_alias(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Alias) -> None:
        actions.delete_alias(actor, row)

    def consequences(self, row: Alias) -> list[str]:
        return [
            f"Requests for {row.name} get 404 afterwards, and keys that name it among their models lose that."
        ]
