"""Providers, the endpoints where they are reached, and their models. Control plane."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from providers.adapters.registry import list_adapters
from providers.rules import (
    check_capabilities,
    check_headers,
    check_literal_address,
    check_model_name,
    check_profile,
    check_slug,
    check_upstream_name,
    normalise_url,
)
from tokenhub.core.specs import TimeoutsSpec

DEFAULT_TIMEOUTS = TimeoutsSpec()
FLOAT_FIELDS = (
    "connect_timeout",
    "first_event_timeout",
    "between_events_timeout",
    "total_timeout",
    "heartbeat_seconds",
)


def list_kinds() -> list[tuple[str, str]]:
    """The provider kinds to choose from, (kind, label): one for each adapter, so a new one needs no migration."""
    return sorted((kind, adapter.label) for kind, adapter in list_adapters().items())


def default_capabilities() -> list[str]:
    """What a model can do unless someone says otherwise."""
    return ["chat", "streaming"]


def _seconds(default: float, low: float, high: float, help_text: str) -> models.FloatField:
    bounds = [MinValueValidator(low), MaxValueValidator(high)]
    return models.FloatField(
        default=default, validators=bounds, help_text=f"{help_text} {low:g} to {high:g} s."
    )


class Provider(models.Model):
    """Someone who serves models in one wire format: where, with which credentials, how patiently."""

    class OnDisconnect(models.TextChoices):
        ABORT = "abort", "Abort the call upstream"
        DRAIN = "drain", "Read the answer to its end, to know its usage"

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[check_slug],
        help_text="Callers may write name/model to ask for this provider's model.",
    )
    label = models.CharField(max_length=200, blank=True, help_text="Shown in place of the name.")
    kind = models.CharField(max_length=64, choices=list_kinds, help_text="The wire format that it speaks.")
    profile = models.JSONField(default=dict, blank=True, help_text="The wire format's own settings, by name.")
    headers = models.JSONField(
        default=list,
        blank=True,
        help_text='Sent with each request: [["name", "value"], …]. Secrets belong into a credential.',
    )
    connect_timeout = _seconds(DEFAULT_TIMEOUTS.connect, 0.1, 120, "Until connected.")
    first_event_timeout = _seconds(
        DEFAULT_TIMEOUTS.first_event, 0.1, 3600, "Until the answer's first content."
    )
    between_events_timeout = _seconds(
        DEFAULT_TIMEOUTS.between_events, 0.1, 3600, "Between two events of a stream."
    )
    total_timeout = _seconds(DEFAULT_TIMEOUTS.total, 1, 86400, "For the whole call.")
    on_disconnect = models.CharField(max_length=8, choices=OnDisconnect.choices, default=OnDisconnect.ABORT)
    heartbeat_seconds = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0), MaxValueValidator(300)],
        help_text="Interval of comments on a slow stream, so that proxies keep it open. 0 = off.",
    )
    enabled = models.BooleanField(default=True)
    draining = models.BooleanField(default=False, help_text="Finishes what runs, takes nothing new.")
    region = models.CharField(
        max_length=64,
        blank=True,
        validators=[check_slug],
        help_text="Where it computes, e.g. eu-central. Empty = nobody said; policies that ask for a region then refuse it.",
    )
    retention_days = models.IntegerField(
        default=-1,
        validators=[MinValueValidator(-1), MaxValueValidator(36_500)],
        help_text="How long it keeps what it was sent, days. 0 = nothing is kept, -1 = unknown.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    audit_ignored = ("created_at", "updated_at")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.label or self.name

    def clean(self) -> None:
        """Raises ValidationError where profile or headers are not what the adapter and HTTP allow."""
        problems: dict[str, Any] = {}
        for field, check in (
            ("profile", self._check_profile),
            ("headers", lambda: check_headers(self.headers)),
        ):
            try:
                check()
            except ValidationError as error:
                problems[field] = error
        for field in FLOAT_FIELDS:
            # Neither bound of a validator is crossed by NaN.
            if not math.isfinite(getattr(self, field) or 0):
                problems[field] = ValidationError("Give a finite number.")
        if self.connect_timeout and self.total_timeout and self.connect_timeout > self.total_timeout:
            problems["connect_timeout"] = ValidationError("Must not be longer than the total timeout.")
        if problems:
            raise ValidationError(problems)

    def _check_profile(self) -> None:
        adapter = list_adapters().get(self.kind)
        if adapter is not None:
            check_profile(self.profile, adapter)

    def audit_related(self) -> dict[str, Any]:
        """What goes with a provider when it is deleted, for the audit trail."""
        return {
            "endpoints": list(self.endpoints.order_by("id").values_list("url", flat=True)),
            "models": list(self.models.order_by("name").values_list("name", flat=True)),
            "credentials": list(self.credentials.order_by("name").values_list("name", flat=True)),
        }


class Endpoint(models.Model):
    """One place where a provider is reached."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="endpoints")
    url = models.CharField(
        max_length=500,
        help_text="scheme://host[:port][/prefix], http or https, without /v1, user, query or fragment.",
    )
    weight = models.PositiveSmallIntegerField(
        default=1, validators=[MaxValueValidator(1000)], help_text="Share of the requests, 0 to 1000."
    )
    draining = models.BooleanField(default=False, help_text="Finishes what runs, takes nothing new.")
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["provider_id", "id"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "url"], name="providers_endpoint_unique_url")
        ]

    def __str__(self) -> str:
        return self.url

    def clean(self) -> None:
        """Normalises `url`. Raises ValidationError where it is no http(s) origin with an optional prefix, or a denied address."""
        try:
            self.url = normalise_url(self.url)
            # One that was allowed once can still be disabled.
            if self.enabled or not Endpoint.objects.filter(pk=self.pk, url=self.url).exists():
                check_literal_address(self.url, settings.TOKENHUB.allow_private_origins)
        except ValidationError as error:
            raise ValidationError({"url": error}) from error


class Model(models.Model):
    """A model at one provider. Several providers may serve one name; `priority` orders them, lowest first."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="models")
    name = models.CharField(
        max_length=200,
        validators=[check_model_name],
        help_text="What callers ask for: letters, digits and . _ : / @ + - , beginning with a letter or digit.",
    )
    upstream_name = models.CharField(
        max_length=300, validators=[check_upstream_name], help_text="What the provider calls it."
    )
    weight = models.PositiveSmallIntegerField(
        default=5, validators=[MaxValueValidator(10)], help_text="Capability, from 0 (least) to 10 (most)."
    )
    context_tokens = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(1_000_000_000)],
        help_text="Longest context, tokens. 0 = unknown.",
    )
    max_output_tokens = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(1_000_000_000)],
        help_text="Longest answer, tokens. 0 = unknown.",
    )
    capabilities = models.JSONField(default=default_capabilities, blank=True, validators=[check_capabilities])
    expected_latency_ms = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(3_600_000)],
        help_text="Expected time to the first token, ms. 0 = unknown.",
    )
    priority = models.PositiveIntegerField(
        default=100,
        validators=[MaxValueValidator(1_000_000)],
        help_text="Order among equal names, lowest first.",
    )
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["name", "priority", "id"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="providers_model_unique_name")
        ]
        indexes = [models.Index(fields=["name"], name="providers_model_name")]

    def __str__(self) -> str:
        return self.name
