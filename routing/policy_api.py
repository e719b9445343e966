"""Routing policies with their versions in the admin API. Control plane."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from routing import policy_actions as actions
from routing.catalogue import Catalogue, read_catalogue
from routing.differences import list_changes
from routing.documents import show_document
from routing.models import Policy, PolicyVersion
from routing.problems import find_open, find_policy_problems, find_published, find_version_problems
from routing.reading import Problem
from tokenhub.control.api import WritableViewSet
from tokenhub.core.errors import InvalidRequest

APPROVE = "routing.approve_policy"
PUBLISH = ("routing.view_policy", "routing.publish_policy")
NUMBER = "(?P<number>[0-9]{1,9})"


class ProblemSerializer(serializers.Serializer[Any]):
    """What is wrong with one field. A `grave` one keeps a draft from publication."""

    path = serializers.CharField()
    message = serializers.CharField()
    hint = serializers.CharField()
    grave = serializers.BooleanField()


class VersionSerializer(serializers.ModelSerializer[PolicyVersion]):
    """One version. `digest` stands for its document; `bounds.max_cost_usd` in it is USD as a decimal string."""

    document = serializers.SerializerMethodField()
    digest = serializers.SerializerMethodField()

    class Meta:
        model = PolicyVersion
        fields = (
            "number",
            "state",
            "note",
            "author",
            "approver",
            "created_at",
            "published_at",
            "digest",
            "document",
        )

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_document(self, row: PolicyVersion) -> dict[str, Any]:
        """The document as people write it."""
        return show_document(row.document)

    def get_digest(self, row: PolicyVersion) -> str:
        """What publishing and approving take as `seen`."""
        return actions.digest_of(row.document)


class PolicySerializer(serializers.ModelSerializer[Policy]):
    """A policy: the version in force, the open one (a draft, or what waits for approval), and what is wrong with either.

    `problems` are of the version in force, which stays in force all the same; `open_problems` are of the open one.
    """

    published = serializers.SerializerMethodField()
    open = serializers.SerializerMethodField()
    problems = serializers.SerializerMethodField()
    open_problems = serializers.SerializerMethodField()

    class Meta:
        model = Policy
        fields = (
            "id",
            *actions.POLICY_FIELDS,
            "published",
            "open",
            "problems",
            "open_problems",
            "created_at",
        )
        read_only_fields = ("created_at",)

    @extend_schema_field(VersionSerializer(allow_null=True))
    def get_published(self, row: Policy) -> Any:
        """The version in force."""
        return _show_version(find_published(row))

    @extend_schema_field(VersionSerializer(allow_null=True))
    def get_open(self, row: Policy) -> Any:
        """The draft, or what waits."""
        return _show_version(find_open(row))

    @extend_schema_field(ProblemSerializer(many=True))
    def get_problems(self, row: Policy) -> Any:
        """Of the version in force."""
        return _show_problems(find_policy_problems(row, self._catalogue))

    @extend_schema_field(ProblemSerializer(many=True))
    def get_open_problems(self, row: Policy) -> Any:
        """Of the open version."""
        version = find_open(row)
        return _show_problems([] if version is None else find_version_problems(version, self._catalogue))

    @property
    def _catalogue(self) -> Catalogue:
        """One for all rows of an answer."""
        found: Catalogue = self.context["view"].catalogue
        return found


class DraftSerializer(serializers.Serializer[Any]):
    """The document of a draft, whole: what is missing in it takes its default. `note` says why; missing leaves it."""

    document = serializers.DictField()
    note = serializers.CharField(max_length=2000, required=False, allow_blank=True)


class PublishPolicySerializer(serializers.Serializer[Any]):
    """Why (missing leaves the draft's note), and the digest of the document that was looked at (missing = whichever it is)."""

    note = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    seen = serializers.CharField(max_length=64, required=False)


class ApprovePolicySerializer(serializers.Serializer[Any]):
    """The digest of the document that was looked at; missing = whichever it is."""

    seen = serializers.CharField(max_length=64, required=False)


class RollBackPolicySerializer(serializers.Serializer[Any]):
    """The number of the version to go back to, and why."""

    version = serializers.IntegerField(min_value=1, max_value=999_999_999)
    note = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="")


class DifferenceSerializer(serializers.Serializer[Any]):
    """One field that differs."""

    path = serializers.CharField()
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class ComparedSerializer(serializers.Serializer[Any]):
    """How a version differs from another: `before` is the other's value. `against` null = the defaults."""

    version = serializers.IntegerField()
    against = serializers.IntegerField(allow_null=True)
    changes = DifferenceSerializer(many=True)


def _show_version(version: PolicyVersion | None) -> Any:
    return None if version is None else VersionSerializer(version).data


def _show_problems(problems: list[Problem]) -> Any:
    return ProblemSerializer(problems, many=True).data


class PolicyViewSet(WritableViewSet):
    """Policies. What is in force is changed by publishing a draft, and by going back to an earlier version."""

    queryset = Policy.objects.prefetch_related(
        Prefetch("versions", queryset=PolicyVersion.objects.exclude(state=PolicyVersion.State.RETIRED))
    )
    serializer_class = PolicySerializer
    filterset_fields = ("name", "enabled", "needs_approval")
    search_fields = ("name",)
    ordering_fields = ("id", "name", "priority", "created_at")
    permissions_by_action = {
        "save_draft": ("routing.view_policy", "routing.change_policy"),
        "discard_draft": ("routing.view_policy", "routing.change_policy"),
        "publish": PUBLISH,
        "roll_back": PUBLISH,
        "approve": ("routing.view_policy", APPROVE),
    }

    @cached_property
    def catalogue(self) -> Catalogue:
        """Read once for an answer."""
        return read_catalogue()

    def do_create(self, data: dict[str, Any]) -> Policy:
        return actions.create_policy(self.actor, **data)

    def do_update(self, row: Policy, data: dict[str, Any]) -> Policy:
        wanted = data.get("needs_approval", row.needs_approval)
        if wanted != row.needs_approval and not self.request.user.has_perm(APPROVE):
            raise PermissionDenied("Only those who may approve say whether a policy needs approval.")
        return actions.update_policy(self.actor, row, **data)

    def do_delete(self, row: Policy) -> None:
        actions.delete_policy(self.actor, row)

    @extend_schema(request=DraftSerializer, responses=PolicySerializer)
    @action(detail=True, methods=["put"], url_path="draft")
    def save_draft(self, request: Request, pk: str) -> Response:
        """Writes the draft, which routes nothing before it is published."""
        policy = self.get_object()
        data = self.checked(request, DraftSerializer)
        actions.save_draft(self.actor, policy, document=data["document"], note=data.get("note"))
        return self.shown(policy.pk)

    @extend_schema(request=None, responses=PolicySerializer)
    @save_draft.mapping.delete
    def discard_draft(self, request: Request, pk: str) -> Response:
        """Throws the draft, or what waits for approval, away."""
        policy = self.get_object()
        actions.discard_draft(self.actor, policy)
        return self.shown(policy.pk)

    @extend_schema(request=PublishPolicySerializer, responses=PolicySerializer)
    @action(detail=True, methods=["post"])
    def publish(self, request: Request, pk: str) -> Response:
        """Puts the draft into force; where approval is needed, it waits for another person."""
        policy = self.get_object()
        data = self.checked(request, PublishPolicySerializer)
        actions.publish(self.actor, policy, note=data.get("note"), seen=data.get("seen", ""))
        return self.shown(policy.pk)

    @extend_schema(request=ApprovePolicySerializer, responses=PolicySerializer)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        """Puts what waits into force; for another person than its author."""
        policy = self.get_object()
        actions.approve(
            self.actor, policy, seen=self.checked(request, ApprovePolicySerializer).get("seen", "")
        )
        return self.shown(policy.pk)

    @extend_schema(request=RollBackPolicySerializer, responses=PolicySerializer)
    @action(detail=True, methods=["post"], url_path="roll-back")
    def roll_back(self, request: Request, pk: str) -> Response:
        """Makes a new version with the document of an earlier one, and puts it into force."""
        policy = self.get_object()
        data = self.checked(request, RollBackPolicySerializer)
        actions.roll_back(self.actor, policy, number=data["version"], note=data["note"])
        return self.shown(policy.pk)

    @extend_schema(responses=VersionSerializer(many=True), filters=False)
    @action(detail=True, methods=["get"])
    def versions(self, request: Request, pk: str) -> Response:
        """Every version, newest first."""
        page = self.paginate_queryset(PolicyVersion.objects.filter(policy=self.get_object()))
        return self.get_paginated_response(VersionSerializer(page, many=True).data)

    @extend_schema(responses=VersionSerializer, parameters=[OpenApiParameter("number", int, "path")])
    @action(detail=True, methods=["get"], url_path=f"versions/{NUMBER}")
    def version(self, request: Request, pk: str, number: str) -> Response:
        """One version."""
        return Response(VersionSerializer(actions.get_version(self.get_object(), int(number))).data)

    @extend_schema(
        responses=ComparedSerializer,
        parameters=[
            OpenApiParameter("number", int, "path"),
            OpenApiParameter("against", int, description="Another version's number; missing = the defaults."),
        ],
    )
    @action(detail=True, methods=["get"], url_path=f"versions/{NUMBER}/diff")
    def diff(self, request: Request, pk: str, number: str) -> Response:
        """The fields in which a version differs from another."""
        policy = self.get_object()
        version = actions.get_version(policy, int(number))
        text = request.query_params.get("against", "")
        if text and not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise InvalidRequest(f"{text[:40]!r} is no number of a version", param="against")
        other = actions.get_version(policy, int(text)) if text else None
        changes = list_changes(other.document if other else None, version.document)
        body = {"version": version.number, "against": other.number if other else None, "changes": changes}
        return Response(ComparedSerializer(body).data)
