"""The ledger, the price book, and how far each journal file is drained. Control plane."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from tokenhub.core.money import PRICED_NAMES, PriceSpec
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage.appendonly import AppendOnlyModel, LedgerDoor

__all__ = ["JournalFile", "LedgerDoor", "Price", "UsageRecord", "check_rates"]

MAX_RATE = 10**15
"""Nano-dollars per million: a dollar a token. Above it someone mixed up units."""


def check_rates(rates: Any) -> None:
    """Raises ValidationError unless `rates` maps bucket names to whole nano-dollars per million (or per piece), >= 0."""
    if not isinstance(rates, dict):
        raise ValidationError("Give an object of nano-dollars per million by bucket.")
    problems = [f"unknown bucket {name!r}" for name in rates if name not in PRICED_NAMES]
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int):
            problems.append(f"{name} must be a whole number of nano-dollars")
        elif not 0 <= rate <= MAX_RATE:
            problems.append(f"{name} must be between 0 and {MAX_RATE}")
    if problems:
        raise ValidationError("; ".join(problems) + f". Buckets are {', '.join(PRICED_NAMES)}.")


def _count(help_text: str = "") -> models.BigIntegerField:
    return models.BigIntegerField(default=0, validators=[MinValueValidator(0)], help_text=help_text)


def _name(length: int) -> models.CharField:
    return models.CharField(max_length=length, blank=True, default="")


class UsageRecord(AppendOnlyModel):
    """One upstream attempt: who asked, who answered, what it used and cost. Append-only, by database trigger too.

    Names and ids are copied, not referenced: configuration rows may go, the ledger stays. Money is nano-dollars (null =
    unpriced), buckets are tokens, durations milliseconds.
    """

    class Outcome(models.TextChoices):
        COMPLETED = "completed", "Completed"
        TRUNCATED = "truncated", "Truncated"
        CANCELLED = "cancelled", "Cancelled"
        FAILED = "failed", "Failed"
        UNSETTLED = "unsettled", "Unsettled"

    class UsageSource(models.TextChoices):
        PROVIDER = "provider", "Provider"
        ESTIMATED = "estimated", "Estimated"
        NONE = "none", "Nothing used"

    attempt_id = models.CharField(max_length=64, unique=True)
    request_id = models.CharField(max_length=64)
    number = models.IntegerField(help_text="Counts the request's attempts from 1.")
    purpose = _name(64)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(
        null=True, help_text="Empty where the process died before the end was known."
    )

    key_id = _name(64)
    team = _name(200)
    project = _name(200)
    operation = _name(64)
    streamed = models.BooleanField(default=False)
    asked_model = _name(300)
    model_id = _name(64)
    model = _name(300)
    upstream_model = _name(300)
    served_model = _name(300)
    provider_id = _name(64)
    provider = _name(200)
    endpoint = _name(500)
    credential_id = _name(64)
    snapshot_revision = models.BigIntegerField(default=0)

    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    status = models.IntegerField(default=0, help_text="The provider's HTTP status; 0 = none.")
    error_class = _name(100)
    error_detail = _name(500)
    finish_reason = _name(100)

    input = _count()
    cache_read = _count()
    cache_write_5m = _count()
    cache_write_1h = _count()
    output = _count()
    reasoning = _count()
    audio_in = _count()
    audio_out = _count()
    image_in = _count()
    image_out = _count()
    searches = _count()
    images = _count()
    usage_source = models.CharField(max_length=16, choices=UsageSource.choices)
    usage_method = _name(200)
    raw_usage = models.JSONField(null=True, blank=True)

    price_version = _name(64)
    price_rates = models.JSONField(null=True, blank=True)
    cost_nanos = models.BigIntegerField(null=True, blank=True)

    duration_ms = models.BigIntegerField(default=0)
    first_token_ms = models.BigIntegerField(null=True, blank=True)
    relayed_events = models.BigIntegerField(default=0)
    client_disconnected = models.BooleanField(default=False)
    translated = models.BooleanField(default=False)
    upstream_request_id = _name(200)

    class Meta:
        verbose_name = "attempt"
        ordering = ["-started_at", "-id"]
        indexes = [
            models.Index(fields=["started_at"], name="usage_record_time"),
            models.Index(fields=["request_id"], name="usage_record_request"),
            models.Index(fields=["key_id", "started_at"], name="usage_record_key_time"),
            models.Index(fields=["provider", "model", "started_at"], name="usage_record_model_time"),
        ]
        constraints = [
            models.CheckConstraint(
                name="usage_record_counts_not_negative",
                condition=models.Q(**{f"{name}__gte": 0 for name in BUCKETS + COUNTED}),
            ),
            models.CheckConstraint(
                name="usage_record_cost_not_negative",
                condition=models.Q(cost_nanos__isnull=True) | models.Q(cost_nanos__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.attempt_id} {self.provider}/{self.model} {self.outcome}"

    def as_usage(self) -> Usage:
        """The row's buckets as a value."""
        counts = {name: getattr(self, name) for name in BUCKETS + COUNTED}
        return Usage(**counts, source=self.usage_source, method=self.usage_method, raw=self.raw_usage)

    def as_price(self) -> PriceSpec | None:
        """The price that the row was made with; None where there was none."""
        if self.price_rates is None:
            return None
        return PriceSpec(self.price_version, tuple(sorted(self.price_rates.items())))


class Price(AppendOnlyModel):
    """One version of a model's prices, in force from `effective_from` until the next. Never changed; goes with its model.

    `rates` are nano-dollars per million tokens by bucket, nano-dollars a piece for counted things.
    """

    class Source(models.TextChoices):
        ENTERED = "entered", "Entered"
        IMPORTED = "imported", "Imported"
        DECLARED = "declared", "Declared in the configuration file"

    model = models.ForeignKey("providers.Model", on_delete=models.CASCADE, related_name="prices")
    effective_from = models.DateTimeField()
    rates = models.JSONField(validators=[check_rates], blank=True)
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.ENTERED)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=200)

    class Meta:
        ordering = ["model_id", "-effective_from", "-id"]
        indexes = [models.Index(fields=["model", "-effective_from", "-id"], name="usage_price_current")]

    def __str__(self) -> str:
        since = self.effective_from.astimezone(UTC)
        return f"{self.version} of {self.model} from {since:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def version(self) -> str:
        """How ledger rows name this price."""
        return f"price-{self.pk}"

    def as_spec(self) -> PriceSpec:
        """The price as the snapshot carries it."""
        return PriceSpec(self.version, tuple(sorted(self.rates.items())))


class JournalFile(models.Model):
    """How far one journal file is settled: everything before `offset` has its rows. Goes when the file went."""

    name = models.CharField(max_length=255, unique=True)
    instance = models.CharField(max_length=64)
    offset = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.offset}"
