"""Model groups in the admin API. Control plane."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from rest_framework import serializers

from access import group_actions
from access.models import ModelGroup
from providers.models import Model
from tokenhub.control.api import WritableViewSet


class ModelGroupSerializer(serializers.ModelSerializer[ModelGroup]):
    """A group with the ids of its models; writing `models` replaces them all. `names` are their `provider/model`s."""

    models = serializers.PrimaryKeyRelatedField(queryset=Model.objects.all(), many=True, required=False)
    names = serializers.SerializerMethodField(help_text="provider/model of each")

    class Meta:
        model = ModelGroup
        fields = ("id", "name", "models", "names")

    def get_names(self, row: ModelGroup) -> list[str]:
        """`provider/model` of each, in order."""
        return [f"{model.provider.name}/{model.name}" for model in row.models.all()]


class ModelGroupViewSet(WritableViewSet):
    """Groups of models that keys are given together, as `group:NAME` in their `allowed_models`."""

    queryset = ModelGroup.objects.prefetch_related(
        Prefetch(
            "models", queryset=Model.objects.select_related("provider").order_by("provider__name", "name")
        )
    )
    serializer_class = ModelGroupSerializer
    filterset_fields = ("name",)
    search_fields = ("name",)
    ordering_fields = ("id", "name")

    def do_create(self, data: dict[str, Any]) -> ModelGroup:
        return group_actions.create_model_group(self.actor, **data)

    def do_update(self, row: ModelGroup, data: dict[str, Any]) -> ModelGroup:
        return group_actions.update_model_group(self.actor, row, **data)

    def do_delete(self, row: ModelGroup) -> None:
        group_actions.delete_model_group(self.actor, row)
