"""The health board as a page and over the API: what rests and how quick models are, as the workers tell it. Control plane."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from providers.models import Endpoint, Model, Provider
from routing.health_reports import list_reports
from routing.models import HealthReport
from tokenhub.control.api import ControlView
from vault.models import Credential

VIEW = "providers.view_provider"
_ORDER = {"closed": 0, "half_open": 1, "open": 2}
STATES = {"closed": ("works", "good"), "half_open": ("is tried", "warn"), "open": ("rests", "bad")}
"""A breaker's states in words, with their tones."""


def read_board() -> dict[str, Any]:
    """What the living workers tell, by provider: the worst of their rests, the mean of their measurements. Seconds, shares of 1."""
    reports = list_reports()
    endpoints = _gather_endpoints(reports)
    credentials = _gather_credentials(reports)
    targets = _gather_targets(reports)
    rows = Provider.objects.order_by("name").prefetch_related(
        Prefetch("endpoints", Endpoint.objects.order_by("pk")),
        Prefetch("credentials", Credential.objects.order_by("pk")),
        Prefetch("models", Model.objects.order_by("name")),
    )
    nothing = {"state": "closed", "rest": 0.0, "failures": 0, "in_flight": 0, "workers": []}
    return {
        "workers": [{"instance": report.instance, "at": report.at.isoformat()} for report in reports],
        "providers": [
            {
                "id": provider.pk,
                "name": provider.name,
                "enabled": provider.enabled,
                "endpoints": [
                    {"id": row.pk, "url": row.url, **(endpoints.get(str(row.pk)) or nothing)}
                    for row in provider.endpoints.all()
                ],
                "credentials": [
                    {"id": row.pk, "name": row.name, "rests": credentials.get(str(row.pk), [])}
                    for row in provider.credentials.all()
                ],
                "models": [
                    {"id": row.pk, "name": row.name, **targets[str(row.pk)]}
                    for row in provider.models.all()
                    if str(row.pk) in targets
                ],
            }
            for provider in rows
        ],
    }


def _gather_endpoints(reports: list[HealthReport]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    now = timezone.now()
    for report in reports:
        age = (now - report.at).total_seconds()
        for endpoint_id, told in report.report.get("endpoints", {}).items():
            one = found.setdefault(
                endpoint_id, {"state": "closed", "rest": 0.0, "failures": 0, "in_flight": 0, "workers": []}
            )
            if _ORDER[told["state"]] > _ORDER[one["state"]]:
                one["state"] = told["state"]
            one["rest"] = round(max(one["rest"], told["rest"] - age), 1)
            one["failures"] = max(one["failures"], told["failures"])
            one["in_flight"] += told["in_flight"]
            if told["state"] != "closed":
                one["workers"].append(report.instance)
    return found


def _gather_credentials(reports: list[HealthReport]) -> dict[str, list[dict[str, Any]]]:
    longest: dict[str, dict[str, float]] = defaultdict(dict)
    now = timezone.now()
    for report in reports:
        age = (now - report.at).total_seconds()
        for told in report.report.get("credentials", ()):
            # A secret of a rotation is told with its version, and belongs to the credential.
            models = longest[told["id"].partition("@")[0]]
            models[told["model"]] = max(models.get(told["model"], 0.0), told["rest"] - age)
    return {
        credential_id: [
            {"model_id": model_id or None, "rest": round(rest, 1)}
            for model_id, rest in sorted(models.items())
            if rest > 0
        ]
        for credential_id, models in longest.items()
    }


def _gather_targets(reports: list[HealthReport]) -> dict[str, dict[str, Any]]:
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        for model_id, figures in report.report.get("targets", {}).items():
            told[model_id].append(figures)
    return {
        model_id: {
            "ttft": round(sum(one["ttft"] for one in each) / len(each), 4),
            "tokens_per_second": round(len(each) / sum(one["seconds_per_token"] for one in each), 1),
            "failure": round(max(one["failure"] for one in each), 4),
            "in_flight": sum(one["in_flight"] for one in each),
        }
        for model_id, each in told.items()
    }


def show_health(request: HttpRequest) -> HttpResponse:
    """The page, which fetches its figures again every few seconds."""
    if not request.user.has_perm(VIEW):
        raise PermissionDenied
    board = read_board()
    names = {str(row.pk): row.name for row in Model.objects.all()}
    for provider in board["providers"]:
        for endpoint in provider["endpoints"]:
            endpoint["word"], endpoint["tone"] = STATES[endpoint["state"]]
        for credential in provider["credentials"]:
            for rest in credential["rests"]:
                rest["model"] = names.get(str(rest["model_id"]), "") if rest["model_id"] else "every model"
        for model in provider["models"]:
            model["failures"] = f"{100 * model['failure']:.0f} %"
            model["ttft_ms"] = model["ttft"] * 1000
    context = {"title": "Health", "board": board, "now": timezone.now()}
    request.current_app = admin.site.name  # type: ignore[attr-defined]
    if "live" in request.GET:
        return TemplateResponse(request, "console/health_live.html", context)
    return TemplateResponse(request, "console/health.html", {**admin.site.each_context(request), **context})


class MayView(BasePermission):
    """Whoever may see providers."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Staff with that permission."""
        return bool(request.user and request.user.is_staff and request.user.has_perm(VIEW))


class HealthView(ControlView):
    """The health board."""

    permission_classes = (MayView,)

    @extend_schema(responses=OpenApiTypes.OBJECT, operation_id="health_retrieve")
    def get(self, request: Request) -> Response:
        """By provider: endpoints and credentials that rest, and what is measured of models. Seconds and shares of 1."""
        return Response(read_board())
