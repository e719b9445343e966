"""Aliases, routing policies and the policies' versions. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxLengthValidator, MaxValueValidator
from django.db import models
from django.db.models import Q

from providers.models import Model
from providers.rules import check_model_name, check_slug


class Alias(models.Model):
    """A name that stands for one or more models, tried in the order of their priority."""

    class StickyBy(models.TextChoices):
        REQUEST = "request", "Nothing: each request draws anew"
        CONVERSATION = "conversation", "The conversation"
        SESSION = "session", "The session"
        USER = "user", "The user"
        KEY = "key", "The API key"

    name = models.CharField(
        max_length=200,
        unique=True,
        validators=[check_model_name],
        help_text="What callers ask for. Must not be a model's name: a model is never hidden by an alias.",
    )
    sticky_by = models.CharField(
        max_length=16,
        choices=StickyBy.choices,
        default=StickyBy.REQUEST,
        help_text="What keeps the target that was drawn among equal priorities.",
    )

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return self.name

    def audit_related(self) -> dict[str, Any]:
        """The targets, for the audit trail."""
        rows = self.targets.select_related("model__provider").order_by("priority", "id")
        return {
            "targets": [
                {
                    "model": f"{row.model.provider.name}/{row.model.name}",
                    "priority": row.priority,
                    "weight": row.weight,
                }
                for row in rows
            ]
        }


class AliasTarget(models.Model):
    """One target of an alias. Equal priorities share by weight."""

    alias = models.ForeignKey(Alias, on_delete=models.CASCADE, related_name="targets")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="alias_targets")
    priority = models.PositiveIntegerField(
        default=0, validators=[MaxValueValidator(1_000_000)], help_text="Lowest first."
    )
    weight = models.PositiveSmallIntegerField(
        default=1, validators=[MaxValueValidator(1000)], help_text="Share among equal priorities, 0 to 1000."
    )

    class Meta:
        ordering = ["alias_id", "priority", "id"]
        constraints = [models.UniqueConstraint(fields=["alias", "model"], name="routing_target_unique_model")]

    def __str__(self) -> str:
        return f"{self.alias} → {self.model}"


class Policy(models.Model):
    """Which requests are routed how. What is in force is its published version; the rest of it can be changed at any time."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[check_slug],
        help_text="What decisions call it, and requests that ask for it by name.",
    )
    enabled = models.BooleanField(default=True, help_text="A disabled policy is asked by no request.")
    priority = models.PositiveIntegerField(
        default=100,
        validators=[MaxValueValidator(1_000_000)],
        help_text="Lowest first: the first policy whose conditions hold routes the request.",
    )
    needs_approval = models.BooleanField(
        default=False, help_text="A second person must approve what is published."
    )
    last_number = models.PositiveIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    audit_ignored = ("created_at", "last_number")

    class Meta:
        ordering = ["priority", "id"]
        verbose_name_plural = "policies"
        permissions = [
            ("publish_policy", "Can publish policies and roll them back"),
            ("approve_policy", "Can approve publications of policies, and say whether they need it"),
        ]

    def __str__(self) -> str:
        return self.name

    def audit_related(self) -> dict[str, Any]:
        """The document in force and the open one, with who stands for them, for the audit trail."""
        rows = self.versions.exclude(state=PolicyVersion.State.RETIRED)
        found = {
            "published" if row.state == PolicyVersion.State.PUBLISHED else "open": {
                "number": row.number,
                "state": row.state,
                "document": row.document,
                "note": row.note,
                "author": row.author,
                "approver": row.approver,
            }
            for row in rows
        }
        return {"published": found.get("published"), "open": found.get("open")}


class PolicyVersion(models.Model):
    """One document of a policy. Once it was published nothing of it changes but that it is retired; the database says so too."""

    class State(models.TextChoices):
        DRAFT = "draft", "draft"
        WAITING = "waiting", "waits for approval"
        PUBLISHED = "published", "in force"
        RETIRED = "retired", "retired"

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    document = models.JSONField(help_text="As `routing.documents.store_document` writes it.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.DRAFT)
    note = models.TextField(blank=True, validators=[MaxLengthValidator(2000)], help_text="Why.")
    author = models.CharField(max_length=200)
    approver = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["policy_id", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "number"], name="routing_version_unique_number"),
            models.UniqueConstraint(
                fields=["policy"],
                condition=Q(state__in=("draft", "waiting")),
                name="routing_version_one_open",
            ),
            models.UniqueConstraint(
                fields=["policy"], condition=Q(state="published"), name="routing_version_one_published"
            ),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"


class DecisionRecord(models.Model):
    """Why one request went where it did, as the data plane kept it. Sampled: not every request has one."""

    request_id = models.CharField(max_length=64, unique=True)
    at = models.DateTimeField(db_index=True)
    key_id = models.CharField(max_length=64)
    team = models.CharField(max_length=200, blank=True)
    project = models.CharField(max_length=200, blank=True)
    asked = models.CharField(max_length=200)
    policy = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200, blank=True)
    status = models.PositiveSmallIntegerField()
    attempts = models.PositiveSmallIntegerField()
    document = models.JSONField(help_text="As `gateway.decisions` writes it.")

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name = "decision"

    def __str__(self) -> str:
        return self.request_id


class HealthReport(models.Model):
    """What one worker sees of endpoints, credentials and models, as `gateway.health` tells it. Kept while the worker lives."""

    instance = models.CharField(max_length=200, primary_key=True)
    at = models.DateTimeField(db_index=True)
    rests = models.BooleanField(
        default=False, help_text="Whether anything rests, which other workers want to know."
    )
    report = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.instance
