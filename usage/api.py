"""The ledger and its totals in the admin API. Control plane; read-only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import django_filters
from django.http import Http404
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tokenhub.control.api import ControlView, ControlViewSet
from tokenhub.control.permissions import StaffWithPermission
from tokenhub.core.errors import InvalidRequest
from usage.models import Price, UsageRecord
from usage.totals import DIMENSIONS, Total, get_total, list_totals

TOTAL_FILTERS = ("provider", "model", "key", "team", "project", "outcome")
DEFAULT_RANGE = timedelta(days=30)
MAX_ATTEMPTS = 200


class PriceSerializer(serializers.ModelSerializer[Price]):
    """One version of a model's price: nano-dollars per million tokens, a piece for counted things."""

    version = serializers.CharField(read_only=True)
    rates = serializers.DictField(child=serializers.IntegerField())

    class Meta:
        model = Price
        fields = (
            "id",
            "version",
            "model",
            "effective_from",
            "rates",
            "source",
            "note",
            "created_at",
            "created_by",
        )


class UsageSerializer(serializers.ModelSerializer[UsageRecord]):
    """One attempt: tokens by bucket, nano-dollars (null = unpriced), milliseconds."""

    class Meta:
        model = UsageRecord
        fields = "__all__"


class TotalSerializer(serializers.Serializer[Total]):
    """One group of totals. `key` is null in the grand total."""

    key = serializers.CharField(allow_null=True)
    attempts = serializers.IntegerField()
    requests = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    unpriced = serializers.IntegerField()
    estimated = serializers.IntegerField()
    cost_nanos = serializers.IntegerField()
    tokens = serializers.IntegerField()
    usage = serializers.DictField(child=serializers.IntegerField())


class TotalsSerializer(serializers.Serializer[Any]):
    """Totals of a range by groups, and the grand total."""

    group = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    total = TotalSerializer()
    groups = TotalSerializer(many=True)


class RequestSerializer(serializers.Serializer[Any]):
    """A request with all of its attempts."""

    request_id = serializers.CharField()
    attempts = UsageSerializer(many=True)


class UsageFilter(django_filters.FilterSet):
    """By names and by when attempts started; `from` is included, `to` is not."""

    started_from = django_filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="gte")
    started_to = django_filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="lt")

    class Meta:
        model = UsageRecord
        fields = ("request_id", "provider", "model", "key_id", "team", "project", "outcome")

    def __init__(self, data: Any = None, *args: Any, **kwargs: Any) -> None:
        # `from` is a Python keyword and can't be an attribute's name
        renamed = data.copy() if data is not None else None
        for short, name in (("from", "started_from"), ("to", "started_to")):
            if renamed is not None and short in renamed:
                renamed[name] = renamed[short]
        super().__init__(renamed, *args, **kwargs)


class UsageViewSet(ControlViewSet):
    """Attempts, newest first."""

    queryset = UsageRecord.objects.all()
    serializer_class = UsageSerializer
    filterset_class = UsageFilter
    ordering_fields = ("started_at", "cost_nanos", "duration_ms")
    permissions_by_action = {"totals": ("usage.view_usagerecord",)}

    @extend_schema(
        parameters=[
            OpenApiParameter("group", str, enum=DIMENSIONS),
            OpenApiParameter("from", datetime),
            OpenApiParameter("to", datetime),
            *(OpenApiParameter(name, str) for name in TOTAL_FILTERS),
        ],
        responses=TotalsSerializer,
        filters=False,
    )
    @action(detail=False, methods=["get"], pagination_class=None)
    def totals(self, request: Request) -> Response:
        """Totals in [from, to), the last 30 days unless said, by one dimension. Computed in SQL over every row."""
        group = request.query_params.get("group", "model")
        if group not in DIMENSIONS:
            raise InvalidRequest(
                f"can't group by {group!r}; known are {', '.join(DIMENSIONS)}", param="group"
            )
        end = read_moment(request.query_params, "to") or timezone.now()
        start = read_moment(request.query_params, "from") or end - DEFAULT_RANGE
        if start > end:
            raise InvalidRequest("from lies after to", param="from")
        filters = {name: request.query_params[name] for name in TOTAL_FILTERS if name in request.query_params}
        body = {
            "group": group,
            "start": start,
            "end": end,
            "total": get_total(start, end, filters=filters),
            "groups": list_totals(group, start, end, filters=filters),
        }
        return Response(TotalsSerializer(body).data)


class PriceViewSet(ControlViewSet):
    """The price book; a new price is posted to its model."""

    queryset = Price.objects.all()
    serializer_class = PriceSerializer
    filterset_fields = ("model", "source")
    ordering_fields = ("effective_from", "id")


class RequestView(ControlView):
    """One request, found by its id."""

    permission_classes = (StaffWithPermission,)
    queryset = UsageRecord.objects.all()

    @extend_schema(responses=RequestSerializer, operation_id="requests_retrieve")
    def get(self, request: Request, request_id: str) -> Response:
        """All attempts of the request, in order."""
        rows = list(UsageRecord.objects.filter(request_id=request_id).order_by("number", "pk")[:MAX_ATTEMPTS])
        if not rows:
            raise Http404
        return Response(RequestSerializer({"request_id": request_id, "attempts": rows}).data)


def read_moment(params: Mapping[str, str], name: str) -> datetime | None:
    """A time out of the query; without a zone it is UTC. Raises InvalidRequest."""
    text = params.get(name)
    if not text:
        return None
    try:
        # a plus sign that nobody escaped arrives as a space
        moment = parse_datetime(text.replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidRequest(f"{name} is no ISO 8601 time", param=name, hint="write 2026-01-31T00:00:00Z")
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
