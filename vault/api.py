"""Credential references and the audit trail in the admin API. Control plane; a secret comes in to be sealed, and never goes out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import django_filters
from django.db.models import Prefetch
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from signin.recent import require_recent
from tokenhub.control.api import ControlViewSet, WritableViewSet
from vault import actions
from vault.export import export
from vault.keyring import MAX_SECRET_BYTES
from vault.models import AuditEntry, Credential, SealedSecret
from vault.vault_api import SealedSecretSerializer, TypedField


class CredentialSerializer(serializers.ModelSerializer[Credential]):
    """Where a provider's secret is found; never the secret.

    `secret` seals one in the vault, at creation or in place of the one before, which stays good for `overlap_seconds`.
    """

    secret = TypedField(required=False, max_length=MAX_SECRET_BYTES)
    overlap_seconds = serializers.IntegerField(required=False, default=0, write_only=True, min_value=0)
    sealed = SealedSecretSerializer(source="sealed_secrets", many=True, read_only=True)

    class Meta:
        model = Credential
        fields = (
            "id",
            "provider",
            *actions.CREDENTIAL_FIELDS,
            "version",
            "secret",
            "overlap_seconds",
            "sealed",
        )
        read_only_fields = ("version",)


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """One change: who, from where, what, before and after."""

    class Meta:
        model = AuditEntry
        fields = (
            "id",
            "seq",
            "at",
            "actor",
            "actor_kind",
            "address",
            "action",
            "object_type",
            "object_id",
            "object_label",
            "before",
            "after",
            "prev_hash",
            "hash",
        )


class AuditFilter(django_filters.FilterSet):
    """By who, what and when; `from` is included, `to` is not."""

    since = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte", label="from")
    until = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt", label="to")

    class Meta:
        model = AuditEntry
        fields = ("actor", "actor_kind", "address", "action", "object_type", "object_id")


class CredentialViewSet(WritableViewSet):
    """Credential references; `renew` says that the secret behind one was replaced.

    What seals or deletes a key in the vault asks a session for recent authentication.
    """

    queryset = Credential.objects.prefetch_related(
        Prefetch("sealed_secrets", SealedSecret.objects.defer("record"))
    )
    serializer_class = CredentialSerializer
    filterset_fields = ("provider", "source", "enabled")
    search_fields = ("name", "reference")
    ordering_fields = ("id", "name", "weight", "version")
    permissions_by_action = {"renew": ("vault.change_credential",)}

    def do_create(self, data: dict[str, Any]) -> Credential:
        self._ask_who(data)
        return actions.create_credential(self.actor, **_with_overlap(data))

    def do_update(self, row: Credential, data: dict[str, Any]) -> Credential:
        self._ask_who(data)
        if (
            data.get("source", Credential.Source.VAULT) != Credential.Source.VAULT
            and row.sealed_secrets.exists()
        ):
            require_recent(self.request)
        changes = self.without_parent(_with_overlap(data), row, "provider")
        return actions.update_credential(self.actor, row, **changes)

    def do_delete(self, row: Credential) -> None:
        if row.sealed_secrets.exists():
            require_recent(self.request)
        actions.delete_credential(self.actor, row)

    def _ask_who(self, data: dict[str, Any]) -> None:
        """Sealing a key asks of a session what the page for it asks."""
        if "secret" in data:
            require_recent(self.request)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def renew(self, request: Request, pk: str) -> Response:
        """Counts the version up: its health starts afresh."""
        return self.shown(actions.renew_credential(self.actor, self.get_object()).pk)


EXPORT_PERMISSIONS = ("vault.view_auditentry", "vault.export_auditentry")


class AuditViewSet(ControlViewSet):
    """The audit trail, newest first; exports are streamed, oldest first."""

    queryset = AuditEntry.objects.all()
    serializer_class = AuditEntrySerializer
    filterset_class = AuditFilter
    search_fields = ("object_label", "actor")
    ordering_fields = ("id", "seq", "at")
    permissions_by_action = {"export_csv": EXPORT_PERMISSIONS, "export_jsonl": EXPORT_PERMISSIONS}

    @extend_schema(responses={(200, "text/csv"): OpenApiTypes.STR}, filters=True)
    @action(detail=False, url_path="export/csv", pagination_class=None)
    def export_csv(self, request: Request) -> StreamingHttpResponse:
        """Every entry that the filters leave, as CSV; cells that could be formulas have an apostrophe in front."""
        return export(request._request, self.filter_queryset(self.get_queryset()), "csv")

    @extend_schema(responses={(200, "application/x-ndjson"): OpenApiTypes.STR}, filters=True)
    @action(detail=False, url_path="export/jsonl", pagination_class=None)
    def export_jsonl(self, request: Request) -> StreamingHttpResponse:
        """Every entry that the filters leave, one JSON object a line."""
        return export(request._request, self.filter_queryset(self.get_queryset()), "jsonl")


def _with_overlap(data: dict[str, Any]) -> dict[str, Any]:
    seconds = data.pop("overlap_seconds", 0)
    return {**data, "overlap": timedelta(seconds=min(seconds, 10**9))}
