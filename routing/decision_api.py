"""Kept decisions in the admin API. Control plane; read-only."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from routing.models import DecisionRecord
from tokenhub.control.api import ControlViewSet


class DecisionSerializer(serializers.ModelSerializer[DecisionRecord]):
    """One decision. `document` has candidates, refusals and attempts: nano-dollars, milliseconds, scores lower is better."""

    document = serializers.SerializerMethodField()

    class Meta:
        model = DecisionRecord
        fields = (
            "id",
            "request_id",
            "at",
            "key_id",
            "team",
            "project",
            "asked",
            "policy",
            "provider",
            "model",
            "status",
            "attempts",
            "document",
        )

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_document(self, row: DecisionRecord) -> Any:
        """As it was kept."""
        return row.document


class DecisionViewSet(ControlViewSet):
    """Decisions, newest first. Above a rate only some are kept."""

    queryset = DecisionRecord.objects.all()
    serializer_class = DecisionSerializer
    filterset_fields = (
        "request_id",
        "key_id",
        "team",
        "project",
        "asked",
        "policy",
        "provider",
        "model",
        "status",
    )
    ordering_fields = ("at", "id")
