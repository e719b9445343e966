"""Providers, endpoints and models in the admin API. Control plane."""

from __future__ import annotations

from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Now
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from providers import actions
from providers.discovery import DISCOVERY_PERMISSIONS, DiscoveryDiff, apply_discovery
from providers.models import Endpoint, Model, Provider
from providers.probe import ask, check_connection
from signin.recent import require_recent
from tokenhub.control.api import WritableViewSet
from usage.actions import set_price
from usage.api import PriceSerializer
from usage.models import Price
from vault.models import SealedSecret
from vault.reach import find_losses, read_reach


class ProviderSerializer(serializers.ModelSerializer[Provider]):
    """A provider. Timeouts are seconds."""

    class Meta:
        model = Provider
        fields = ("id", *actions.PROVIDER_FIELDS, "created_at", "updated_at")
        read_only_fields = ("created_at", "updated_at")


class EndpointSerializer(serializers.ModelSerializer[Endpoint]):
    """An endpoint of a provider, which it keeps."""

    class Meta:
        model = Endpoint
        fields = ("id", "provider", *actions.ENDPOINT_FIELDS)


class ModelSerializer(serializers.ModelSerializer[Model]):
    """A model. `current_rates` are nano-dollars per million tokens (a piece for counted things); null = unpriced."""

    upstream_name = serializers.CharField(max_length=300, required=False)
    capabilities = serializers.ListField(child=serializers.CharField(), required=False)
    current_rates = serializers.DictField(child=serializers.IntegerField(), read_only=True, allow_null=True)

    class Meta:
        model = Model
        fields = ("id", "provider", *actions.MODEL_FIELDS, "current_rates")


class ChosenSerializer(serializers.Serializer[Any]):
    """Upstream names out of a discovery."""

    chosen = serializers.ListField(child=serializers.CharField(max_length=300), min_length=1, max_length=5000)


class PriceDraftSerializer(serializers.Serializer[Any]):
    """A new price: nano-dollars by bucket; null `effective_from` = now."""

    rates = serializers.DictField(child=serializers.IntegerField(min_value=0))
    effective_from = serializers.DateTimeField(required=False, allow_null=True, default=None)
    note = serializers.CharField(max_length=500, required=False, default="", allow_blank=True)


class DiffSerializer(serializers.Serializer[Any]):
    """What a provider has against what is configured."""

    new = serializers.ListField(child=serializers.DictField())
    gone = serializers.ListField(child=serializers.CharField())
    changed = serializers.ListField(child=serializers.DictField())
    unchanged = serializers.IntegerField()


class ReportSerializer(serializers.Serializer[Any]):
    """How a connection test went."""

    ok = serializers.BooleanField()
    milliseconds = serializers.IntegerField()
    message = serializers.CharField()
    models = serializers.IntegerField()


class ConsequencesSerializer(serializers.Serializer[Any]):
    """Sentences to show before a change; none: every key that could be used can still be."""

    consequences = serializers.ListField(child=serializers.CharField())


class AppliedSerializer(serializers.Serializer[Any]):
    """How many models were taken over."""

    applied = serializers.IntegerField()


def show_diff(diff: DiscoveryDiff) -> dict[str, Any]:
    """A discovery as JSON."""
    return {
        "new": [
            {"upstream_name": one.upstream_name, "name": one.name, "told": dict(one.told)} for one in diff.new
        ],
        "gone": list(diff.gone),
        "changed": [
            {"upstream_name": one.upstream_name, "differences": [part._asdict() for part in one.differences]}
            for one in diff.changed
        ],
        "unchanged": diff.unchanged,
    }


class ProviderViewSet(WritableViewSet):
    """Providers; each is asked for its models by `discover`, and tested by `test`."""

    queryset = Provider.objects.all()
    serializer_class = ProviderSerializer
    filterset_fields = ("name", "kind", "enabled", "draining")
    search_fields = ("name", "label")
    ordering_fields = ("name", "kind", "created_at", "updated_at")
    permissions_by_action = {
        # Its models and credentials go with a provider, as the admin page says too.
        "destroy": ("providers.delete_provider", "providers.delete_model", "vault.delete_credential"),
        "discover": DISCOVERY_PERMISSIONS,
        "discover_apply": DISCOVERY_PERMISSIONS,
        "test": ("providers.view_provider", "providers.change_provider"),
    }

    def do_create(self, data: dict[str, Any]) -> Provider:
        return actions.create_provider(self.actor, **data)

    def do_update(self, row: Provider, data: dict[str, Any]) -> Provider:
        return actions.update_provider(self.actor, row, **data)

    def do_delete(self, row: Provider) -> None:
        if SealedSecret.objects.filter(credential__provider=row).exists():
            # As the page for it: a sealed key is gone for good.
            require_recent(self.request)
        actions.delete_provider(self.actor, row)

    @extend_schema(request=None, responses=DiffSerializer)
    @action(detail=True, methods=["post"])
    def discover(self, request: Request, pk: str) -> Response:
        """Asks the provider for its models; changes nothing."""
        return Response(show_diff(ask(self.get_object())))

    @extend_schema(request=ChosenSerializer, responses=AppliedSerializer)
    @action(detail=True, methods=["post"], url_path="discover/apply")
    def discover_apply(self, request: Request, pk: str) -> Response:
        """Asks again, and takes the chosen upstream names over, all or none."""
        provider = self.get_object()
        chosen = self.checked(request, ChosenSerializer)["chosen"]
        return Response({"applied": apply_discovery(self.actor, ask(provider), chosen)})

    @extend_schema(request=None, responses=ReportSerializer)
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Asks for the list of models and measures it. 200 also where the provider fails: `ok` says so."""
        report = check_connection(self.get_object())
        return Response(ReportSerializer(report).data)


class EndpointViewSet(WritableViewSet):
    """Endpoints."""

    queryset = Endpoint.objects.all()
    serializer_class = EndpointSerializer
    filterset_fields = ("provider", "enabled", "draining")
    search_fields = ("url",)
    ordering_fields = ("id", "url", "weight")
    permissions_by_action = {"consequences": ("providers.view_endpoint", "vault.view_credential")}

    @extend_schema(parameters=[OpenApiParameter("url", str, required=True)], responses=ConsequencesSerializer)
    @action(detail=True, methods=["get"])
    def consequences(self, request: Request, pk: str) -> Response:
        """Which keys another URL would make unusable, before it is saved."""
        row = self.get_object()
        url = request.query_params.get("url", row.url)
        others = row.provider.endpoints.filter(enabled=True).exclude(pk=row.pk)
        urls = [*others.values_list("url", flat=True), *([url] if row.enabled else [])]
        losses = find_losses(read_reach(row.provider_id), read_reach(row.provider_id, urls=urls))
        return Response({"consequences": [loss.tell() for loss in losses]})

    def do_create(self, data: dict[str, Any]) -> Endpoint:
        return actions.create_endpoint(self.actor, **data)

    def do_update(self, row: Endpoint, data: dict[str, Any]) -> Endpoint:
        return actions.update_endpoint(self.actor, row, **self.without_parent(data, row, "provider"))

    def do_delete(self, row: Endpoint) -> None:
        actions.delete_endpoint(self.actor, row)


class ModelViewSet(WritableViewSet):
    """Models, with the rates in force."""

    queryset = Model.objects.all()
    serializer_class = ModelSerializer
    filterset_fields = ("provider", "name", "upstream_name", "enabled")
    search_fields = ("name", "upstream_name")
    ordering_fields = ("name", "weight", "priority", "context_tokens")
    permissions_by_action = {
        "prices": ("providers.view_model", "usage.view_price"),
        "add_price": ("providers.view_model", "usage.add_price"),
    }

    def get_queryset(self) -> QuerySet[Model]:
        newest = Price.objects.filter(model=OuterRef("pk"), effective_from__lte=Now())
        rates = newest.order_by("-effective_from", "-pk").values("rates")[:1]
        return super().get_queryset().annotate(current_rates=Subquery(rates))

    def do_create(self, data: dict[str, Any]) -> Model:
        return actions.create_model(self.actor, **data)

    def do_update(self, row: Model, data: dict[str, Any]) -> Model:
        return actions.update_model(self.actor, row, **self.without_parent(data, row, "provider"))

    def do_delete(self, row: Model) -> None:
        actions.delete_model(self.actor, row)

    @extend_schema(request=None, responses=PriceSerializer(many=True))
    @action(detail=True, methods=["get"])
    def prices(self, request: Request, pk: str) -> Response:
        """Every version of the model's price, newest first."""
        page = self.paginate_queryset(Price.objects.filter(model=self.get_object()))
        return self.get_paginated_response(PriceSerializer(page, many=True).data)

    @extend_schema(request=PriceDraftSerializer, responses={201: PriceSerializer})
    @prices.mapping.post
    def add_price(self, request: Request, pk: str) -> Response:
        """Appends a price; earlier ones, and what was charged by them, stay."""
        data = self.checked(request, PriceDraftSerializer)
        price = set_price(actor=self.actor, model=self.get_object(), **data)
        return Response(PriceSerializer(price).data, status=201)
