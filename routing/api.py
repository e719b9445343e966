"""Aliases with their targets in the admin API. Control plane."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from rest_framework import serializers

from providers.models import Model
from routing import actions
from routing.models import Alias, AliasTarget
from tokenhub.control.api import WritableViewSet


class TargetSerializer(serializers.ModelSerializer[AliasTarget]):
    """One target: a model's id, its priority (lowest first) and its share among equal priorities."""

    model = serializers.PrimaryKeyRelatedField(queryset=Model.objects.all())
    name = serializers.SerializerMethodField(help_text="provider/model")

    class Meta:
        model = AliasTarget
        fields = ("model", "name", "priority", "weight")

    def get_name(self, row: AliasTarget) -> str:
        """`provider/model`."""
        return f"{row.model.provider.name}/{row.model.name}"


class AliasSerializer(serializers.ModelSerializer[Alias]):
    """An alias with all of its targets; writing `targets` replaces them all."""

    targets = TargetSerializer(many=True, required=False)

    class Meta:
        model = Alias
        fields = ("id", "name", "sticky_by", "targets")


def read_drafts(targets: list[dict[str, Any]] | None) -> list[actions.TargetDraft] | None:
    """The targets of a body as the action takes them; None = leave them as they are."""
    return None if targets is None else [actions.TargetDraft(**target) for target in targets]


class AliasViewSet(WritableViewSet):
    """Aliases."""

    queryset = Alias.objects.prefetch_related(
        Prefetch(
            "targets",
            queryset=AliasTarget.objects.select_related("model__provider").order_by("priority", "id"),
        )
    )
    serializer_class = AliasSerializer
    filterset_fields = ("name", "sticky_by")
    search_fields = ("name",)
    ordering_fields = ("id", "name")

    def do_create(self, data: dict[str, Any]) -> Alias:
        drafts = read_drafts(data.get("targets")) or []
        sticky_by = data.get("sticky_by", "request")
        return actions.create_alias(self.actor, name=data["name"], targets=drafts, sticky_by=sticky_by)

    def do_update(self, row: Alias, data: dict[str, Any]) -> Alias:
        drafts = read_drafts(data.get("targets"))
        return actions.update_alias(
            self.actor, row, name=data.get("name"), targets=drafts, sticky_by=data.get("sticky_by")
        )

    def do_delete(self, row: Alias) -> None:
        actions.delete_alias(self.actor, row)
