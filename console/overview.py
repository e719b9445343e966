"""The overview: what is set up, what today brought, whether the configuration is in force everywhere. Control plane."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from access.models import ApiKey
from providers.models import Endpoint, Model, Provider
from routing.models import Alias
from snapshots.admin import worker_state
from snapshots.models import ConfigRevision, PublishState, WorkerStatus
from tokenhub.control import display
from usage.admin import total_up
from usage.models import Price, UsageRecord
from vault.models import Credential
from vault.vault_state import find_stopping, read_state

LAST_REQUESTS = 10
WORKERS_SHOWN = 50


STEPS = (
    ("provider", "Add a provider", "Who serves the models: its kind and how patient to be."),
    ("endpoint", "Say where it is reached", "One endpoint, e.g. https://api.example.com."),
    ("credential", "Name its credential", "An environment variable or a file; or none, for local servers."),
    ("model", "Add a model", "By hand, or discover what the provider offers."),
    ("price", "Enter its price", "Without one its calls are counted as unpriced, never as free."),
    ("alias", "Make an alias", "A name that stands for several models, tried in order."),
    ("key", "Make an API key", "It is shown once, with ready-made snippets for clients."),
    ("request", "Send a first request", "With the snippet from the key's page."),
)
"""Name, title and explanation of each step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the set-up: whether it is done, and where to do it. `url` is "" for those who may not."""

    title: str
    about: str
    done: bool
    url: str
    optional: bool = False


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK: adds what the overview shows, as far as this person may see it."""
    now = timezone.now()
    user = request.user
    context["title"] = "Overview"
    context["now"] = now
    context["steps"] = list_steps(request)
    context["steps_left"] = sum(not step.done and not step.optional for step in context["steps"])
    if user.has_perm("usage.view_usagerecord"):
        context.update(_usage_today(now))
    if user.has_perm("snapshots.view_workerstatus"):
        context.update(_workers(now))
    if user.has_perm("snapshots.view_configrevision"):
        context["revision"] = ConfigRevision.objects.defer("payload").first()
        context["publish_state"] = PublishState.objects.filter(pk=PublishState.ID).first()
    if user.has_perm("vault.view_vault"):
        context.update(_vault(now))
    return context


def list_steps(request: HttpRequest) -> list[Step]:
    """The way from an empty system to a first answer."""
    may = request.user.has_perm
    provider = Provider.objects.filter(enabled=True).order_by("pk").first()
    opened = reverse("admin:providers_provider_change", args=(provider.pk,)) if provider else ""
    edit_provider = opened if may("providers.change_provider") else ""

    def add(model: str) -> str:
        app, name = model.split(".")
        return reverse(f"admin:{app}_{name}_add") if may(f"{app}.add_{name}") else ""

    models = reverse("admin:providers_model_changelist") if may("providers.view_model") else ""
    done = {
        "provider": provider is not None,
        "endpoint": Endpoint.objects.filter(enabled=True).exists(),
        "credential": Credential.objects.filter(enabled=True).exists(),
        "model": Model.objects.filter(enabled=True).exists(),
        "price": Price.objects.exists(),
        "alias": Alias.objects.exists(),
        "key": ApiKey.objects.filter(revoked_at=None).exists(),
        "request": UsageRecord.objects.exists(),
    }
    urls = {
        "provider": add("providers.provider"),
        "endpoint": edit_provider,
        "credential": edit_provider,
        "model": add("providers.model"),
        "price": models,
        "alias": add("routing.alias"),
        "key": add("access.apikey"),
    }
    return [
        Step(title, about, done[name], urls.get(name, ""), optional=name == "alias")
        for name, title, about in STEPS
    ]


def _usage_today(now: datetime) -> dict[str, Any]:
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    totals = total_up(UsageRecord.objects.filter(started_at__gte=midnight))
    attempts, failed = totals["attempts"] or 0, totals["failed"] or 0
    return {
        "today": totals,
        "today_since": midnight,
        "error_rate": f"{failed / attempts:.1%}" if attempts else display.NOTHING,
        "last_requests": list(UsageRecord.objects.defer("raw_usage", "price_rates")[:LAST_REQUESTS]),
    }


def _vault(now: datetime) -> dict[str, Any]:
    """What a locked vault stops, where it stops something."""
    state = read_state(now)
    if state is None or state.phase == "unlocked":
        return {}
    stopping = find_stopping()
    return {"vault_phase": state.phase, "stopping": stopping} if stopping.stops else {}


def _workers(now: datetime) -> dict[str, Any]:
    rows = list(WorkerStatus.objects.all()[:WORKERS_SHOWN])
    return {"workers": [(row, display.badge(*worker_state(row, now))) for row in rows]}
