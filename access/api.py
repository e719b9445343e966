"""Teams, projects, API keys and admin tokens in the admin API. Control plane; a secret is in one answer only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from access import actions
from access.cached_answers import clear_cache, read_cache
from access.models import AdminToken, ApiKey, ApiKeySecret, Project, Team
from access.owners import refuse_foreign_owner
from signin.recent import RecentSession
from tokenhub.control.actors import ADMIN_SCOPES
from tokenhub.control.api import ControlViewSet, WritableViewSet
from tokenhub.control.permissions import StaffWithPermission
from tokenhub.core.specs import SCOPES

NO_STORE = {"Cache-Control": "no-store"}
MAX_OVERLAP_SECONDS = int(actions.MAX_OVERLAP.total_seconds())


class TeamSerializer(serializers.ModelSerializer[Team]):
    """A team."""

    class Meta:
        model = Team
        fields = ("id", *actions.TEAM_FIELDS)


class ProjectSerializer(serializers.ModelSerializer[Project]):
    """A project of a team, which it keeps."""

    class Meta:
        model = Project
        fields = ("id", "team", *actions.PROJECT_FIELDS)


class CacheSerializer(serializers.Serializer[Any]):
    """What a project's kept answers are and saved."""

    cache_seconds = serializers.IntegerField()
    answers = serializers.IntegerField()
    days = serializers.IntegerField()
    hits = serializers.IntegerField()
    saved_nanos = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class SecretSerializer(serializers.ModelSerializer[ApiKeySecret]):
    """What is known of a secret: its end, never itself."""

    class Meta:
        model = ApiKeySecret
        fields = ("last4", "created_at", "expires_at", "revoked_at")


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key without its secret. `allowed_models` null = every model."""

    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES), required=False)
    allowed_models = serializers.ListField(child=serializers.CharField(), required=False, allow_null=True)
    secrets = SecretSerializer(many=True, read_only=True)

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "key_id",
            *actions.API_KEY_FIELDS,
            "secrets",
            "revoked_at",
            "created_at",
            "created_by",
        )
        read_only_fields = ("key_id", "revoked_at", "created_at", "created_by")


class MintedKeySerializer(ApiKeySerializer):
    """A key with its secret: only in the answer of what minted it."""

    secret = serializers.CharField(read_only=True)

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "secret")


class RotateSerializer(serializers.Serializer[Any]):
    """For how many seconds the old secret stays good."""

    overlap_seconds = serializers.IntegerField(min_value=0, max_value=MAX_OVERLAP_SECONDS, default=0)


class AdminTokenSerializer(serializers.ModelSerializer[AdminToken]):
    """An admin token without its secret."""

    scopes = serializers.ListField(child=serializers.ChoiceField(ADMIN_SCOPES), required=False)

    class Meta:
        model = AdminToken
        fields = (
            "id",
            "key_id",
            "name",
            "user",
            "service",
            "scopes",
            "last4",
            "expires_at",
            "revoked_at",
            "created_at",
            "created_by",
        )
        read_only_fields = ("key_id", "last4", "revoked_at", "created_at", "created_by")


class MintedTokenSerializer(AdminTokenSerializer):
    """An admin token with its secret: only in the answer of what minted it."""

    secret = serializers.CharField(read_only=True)

    class Meta(AdminTokenSerializer.Meta):
        fields = (*AdminTokenSerializer.Meta.fields, "secret")


class TeamViewSet(WritableViewSet):
    """Teams."""

    queryset = Team.objects.all()
    serializer_class = TeamSerializer
    filterset_fields = ("slug", "enabled")
    search_fields = ("name", "slug")
    ordering_fields = ("id", "name", "slug")

    def do_create(self, data: dict[str, Any]) -> Team:
        return actions.create_team(self.actor, **data)

    def do_update(self, row: Team, data: dict[str, Any]) -> Team:
        return actions.update_team(self.actor, row, **data)

    def do_delete(self, row: Team) -> None:
        actions.delete_team(self.actor, row)


class ProjectViewSet(WritableViewSet):
    """Projects."""

    queryset = Project.objects.select_related("team")
    serializer_class = ProjectSerializer
    filterset_fields = ("team", "slug", "enabled")
    search_fields = ("name", "slug")
    ordering_fields = ("id", "name", "slug")
    permissions_by_action = {"clear_cache": ("access.change_project",)}

    def do_create(self, data: dict[str, Any]) -> Project:
        return actions.create_project(self.actor, **data)

    def do_update(self, row: Project, data: dict[str, Any]) -> Project:
        return actions.update_project(self.actor, row, **self.without_parent(data, row, "team"))

    def do_delete(self, row: Project) -> None:
        actions.delete_project(self.actor, row)

    @extend_schema(responses=CacheSerializer)
    @action(detail=True, methods=["get"])
    def cache(self, request: Request, pk: str) -> Response:
        """The answers that are kept for it, and what they saved in the last days: nano-dollars and tokens."""
        return Response(read_cache(self.get_object()))

    @extend_schema(responses={204: None})
    @cache.mapping.delete
    def clear_cache(self, request: Request, pk: str) -> Response:
        """Drops the answers that are kept for it."""
        clear_cache(self.actor, self.get_object())
        return Response(status=204)


class ApiKeyViewSet(WritableViewSet):
    """API keys. Creating and rotating answer with the secret, once."""

    queryset = ApiKey.objects.prefetch_related(
        Prefetch("secrets", queryset=ApiKeySecret.objects.defer("digest").order_by("-id"))
    )
    serializer_class = ApiKeySerializer
    filterset_fields = ("key_id", "team", "project", "enabled")
    search_fields = ("name", "note")
    ordering_fields = ("id", "name", "created_at", "expires_at")
    permissions_by_action = dict.fromkeys(("rotate", "end_overlap", "revoke"), ("access.change_apikey",))

    def do_create(self, data: dict[str, Any]) -> ApiKey:
        return actions.create_api_key(self.actor, **data)[0]

    @extend_schema(responses={201: MintedKeySerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Makes a key; `secret` is in this answer only."""
        key, secret = actions.create_api_key(self.actor, **self.checked(request, ApiKeySerializer))
        return self._minted(key, secret, 201)

    def do_update(self, row: ApiKey, data: dict[str, Any]) -> ApiKey:
        return actions.update_api_key(self.actor, row, **data)

    def do_delete(self, row: ApiKey) -> None:
        actions.delete_api_key(self.actor, row)

    @extend_schema(request=RotateSerializer, responses=MintedKeySerializer)
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, pk: str) -> Response:
        """A second secret; the old one stays good for `overlap_seconds`."""
        key = self.get_object()
        seconds = self.checked(request, RotateSerializer)["overlap_seconds"]
        return self._minted(
            key, actions.rotate_api_key(self.actor, key, overlap=timedelta(seconds=seconds)), 200
        )

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], url_path="end-overlap")
    def end_overlap(self, request: Request, pk: str) -> Response:
        """Ends all but the newest secret at once."""
        key = self.get_object()
        actions.end_overlap(self.actor, key)
        return self.shown(key.pk)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: str) -> Response:
        """Revokes the key for good; again does nothing."""
        return self.shown(actions.revoke_api_key(self.actor, self.get_object()).pk)

    def _minted(self, key: ApiKey, secret: str, code: int) -> Response:
        row = self.get_queryset().get(pk=key.pk)
        return Response({**self.get_serializer(row).data, "secret": secret}, status=code, headers=NO_STORE)


class AdminTokenViewSet(ControlViewSet):
    """Admin tokens: made, looked at, revoked; never changed. A session that makes one confirms first, as on the page."""

    permission_classes = (StaffWithPermission, RecentSession)
    grave_actions = ("create",)
    queryset = AdminToken.objects.select_related("user")
    serializer_class = AdminTokenSerializer
    filterset_fields = ("key_id", "user", "service")
    search_fields = ("name", "service")
    ordering_fields = ("id", "name", "created_at", "expires_at")
    permissions_by_action = {"revoke": ("access.change_admintoken",)}

    @extend_schema(responses={201: MintedTokenSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Makes a token; `secret` is in this answer only."""
        data = self.checked(request, AdminTokenSerializer)
        refuse_foreign_owner(request.user, data.get("user"))
        token, secret = actions.create_admin_token(self.actor, **data)
        return Response({**self.get_serializer(token).data, "secret": secret}, status=201, headers=NO_STORE)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: str) -> Response:
        """Revokes the token for good; again does nothing."""
        token = self.get_object()
        refuse_foreign_owner(request.user, token.user)
        return self.shown(actions.revoke_admin_token(self.actor, token).pk)
