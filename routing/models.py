"""Aliases: names that stand for ordered models. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models

from providers.models import Model
from providers.rules import check_model_name


class Alias(models.Model):
    """A name that stands for one or more models, tried in the order of their priority."""

    name = models.CharField(
        max_length=200,
        unique=True,
        validators=[check_model_name],
        help_text="What callers ask for. Must not be a model's name: a model is never hidden by an alias.",
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
