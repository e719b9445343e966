"""Revisions, workers and publishing in the admin API. Control plane."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from snapshots.models import ConfigRevision, WorkerStatus
from snapshots.publish import publish
from tokenhub.control.api import ControlView, ControlViewSet
from tokenhub.control.permissions import StaffWithPermission


class RevisionSerializer(serializers.ModelSerializer[ConfigRevision]):
    """A published revision, without its payload."""

    class Meta:
        model = ConfigRevision
        fields = ("revision", "created_at", "actor", "note", "sha256", "content_sha256")


class WorkerSerializer(serializers.ModelSerializer[WorkerStatus]):
    """Which revision a worker runs."""

    class Meta:
        model = WorkerStatus
        fields = ("id", "instance", "host", "pid", "revision", "seen_at", "error")


class PublishSerializer(serializers.Serializer[Any]):
    """Why it is published by hand."""

    note = serializers.CharField(max_length=500, required=False, default="by hand")


class PublishedSerializer(serializers.Serializer[Any]):
    """The revision in force, whether it is new, and why publishing failed ("" = it did not)."""

    revision = serializers.IntegerField()
    created = serializers.BooleanField()
    failure = serializers.CharField(allow_blank=True)


class RevisionViewSet(ControlViewSet):
    """Published revisions, newest first."""

    queryset = ConfigRevision.objects.defer("payload")
    serializer_class = RevisionSerializer
    lookup_field = "revision"
    search_fields = ("actor", "note")
    ordering_fields = ("revision",)
    filterset_fields = ("actor",)


class WorkerViewSet(ControlViewSet):
    """Workers and the revision that each runs."""

    queryset = WorkerStatus.objects.all()
    serializer_class = WorkerSerializer
    filterset_fields = ("host", "revision")
    ordering_fields = ("instance", "seen_at", "revision")


class PublishPermission(StaffWithPermission):
    """Whoever may add a revision may publish."""

    def needed(self, request: Request, view: Any) -> tuple[str, ...]:
        """`snapshots.add_configrevision`."""
        return ("snapshots.add_configrevision",)


class PublishView(ControlView):
    """Publishing by hand; every change is published by itself anyway."""

    permission_classes = (PublishPermission,)

    @extend_schema(request=PublishSerializer, responses=PublishedSerializer)
    def post(self, request: Request) -> Response:
        """Publishes what is committed. Identical content makes no new revision."""
        draft = PublishSerializer(data=request.data)
        draft.is_valid(raise_exception=True)
        return Response(asdict(publish(draft.validated_data["note"], self.actor)))
