"""The simulator in the admin API. Control plane; changes nothing."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from console.simulation import OPERATIONS, MadeUpRequest, simulate
from console.simulator import MOST_TOKENS, VIEW, find_draft
from routing.documents import MODES
from routing.engine.asking import Wishes
from tokenhub.control.api import ControlView
from tokenhub.core.money import nanos_from_usd
from tokenhub.core.specs import CAPABILITIES

MINUTES_OF_WEEK = 7 * 1440


class MayView(BasePermission):
    """Whoever may see policies."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Staff with that permission."""
        return bool(request.user and request.user.is_staff and request.user.has_perm(VIEW))


class SimulateSerializer(serializers.Serializer[Any]):
    """A request that nobody sends. `minute` counts from Monday 0:00 UTC; `draft` is the id of a version to put in force."""

    model = serializers.CharField(max_length=200)
    operation = serializers.ChoiceField(OPERATIONS, default="chat")
    key_id = serializers.CharField(max_length=64, default="", allow_blank=True)
    team = serializers.CharField(max_length=200, default="", allow_blank=True)
    project = serializers.CharField(max_length=200, default="", allow_blank=True)
    needs = serializers.ListField(child=serializers.ChoiceField(CAPABILITIES), default=list)
    input_tokens = serializers.IntegerField(min_value=0, max_value=MOST_TOKENS, default=0)
    max_output_tokens = serializers.IntegerField(min_value=0, max_value=MOST_TOKENS, default=0)
    tags = serializers.ListField(child=serializers.CharField(max_length=100), default=list)
    headers = serializers.DictField(child=serializers.CharField(max_length=1000), default=dict)
    minute = serializers.IntegerField(min_value=0, max_value=MINUTES_OF_WEEK - 1, default=0)
    policy = serializers.CharField(max_length=64, default="", allow_blank=True)
    mode = serializers.ChoiceField(tuple(MODES), default=None, allow_null=True)
    min_weight = serializers.IntegerField(min_value=0, max_value=10, default=0)
    max_budget_usd = serializers.DecimalField(
        max_digits=13, decimal_places=9, min_value=0, default=None, allow_null=True
    )
    max_latency_ms = serializers.IntegerField(min_value=0, max_value=86_400_000, default=0)
    draft = serializers.IntegerField(default=None, allow_null=True)


class SimulateView(ControlView):
    """Where a request would go."""

    permission_classes = (MayView,)

    @extend_schema(
        request=SimulateSerializer, responses=OpenApiTypes.OBJECT, operation_id="routing_simulate_create"
    )
    def post(self, request: Request) -> Response:
        """The decision as it is kept of real requests, with `winner`, `fallbacks`, the `policies` that hold, or an `error`."""
        serializer = SimulateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        budget = data["max_budget_usd"]
        made_up = MadeUpRequest(
            model=data["model"],
            operation=data["operation"],
            key_id=data["key_id"],
            team=data["team"],
            project=data["project"],
            needs=frozenset(data["needs"]),
            input_tokens=data["input_tokens"],
            max_output_tokens=data["max_output_tokens"],
            tags=frozenset(data["tags"]),
            headers={name.lower(): value for name, value in data["headers"].items()},
            minute=data["minute"],
            policy=data["policy"],
            wishes=Wishes(
                mode=data["mode"],
                min_weight=data["min_weight"],
                budget_nanos=nanos_from_usd(budget) if budget else 0,
                latency_ms=data["max_latency_ms"],
            ),
        )
        return Response(simulate(made_up, find_draft(data["draft"])))
