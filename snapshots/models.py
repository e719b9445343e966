"""Published revisions of the configuration, the state of publishing, and which worker runs which. Control plane."""

from __future__ import annotations

import hashlib

from django.db import models


class ConfigRevision(models.Model):
    """One published snapshot. Revisions only go up; old ones keep their row but lose their payload."""

    revision = models.PositiveBigIntegerField(unique=True)
    created_at = models.DateTimeField()
    sha256 = models.CharField(max_length=64, help_text="SHA-256 of the payload.")
    content_sha256 = models.CharField(
        max_length=64, help_text="SHA-256 of the content without revision and time."
    )
    payload = models.BinaryField(
        null=True, help_text="The encoded snapshot; null once it is too old to be kept."
    )
    note = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name = "revision"
        ordering = ["-revision"]

    def __str__(self) -> str:
        return f"revision {self.revision}"

    def is_intact(self) -> bool:
        """Whether the payload is there and is the one that was published."""
        return self.payload is not None and hashlib.sha256(self.payload).hexdigest() == self.sha256


class PublishState(models.Model):
    """One row (id 1): the last revision given out, when publishing was last tried, and how it failed ("" = it did not).

    Publishers lock this row, so that they go one after another.
    """

    ID = 1

    revision = models.PositiveBigIntegerField(default=0)
    checked_at = models.DateTimeField(null=True, help_text="When publishing was last tried.")
    due_at = models.DateTimeField(null=True, help_text="When the content changes by itself: an expiry.")
    failed_at = models.DateTimeField(null=True)
    failure = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "publish state"

    def __str__(self) -> str:
        return f"revision {self.revision}" + (f", failing: {self.failure}" if self.failure else "")


class WorkerStatus(models.Model):
    """Which revision a worker runs, and what it complains about."""

    instance = models.CharField(max_length=200, unique=True)
    pid = models.PositiveIntegerField()
    host = models.CharField(max_length=255)
    revision = models.PositiveBigIntegerField(default=0, help_text="0 = none yet.")
    seen_at = models.DateTimeField(db_index=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["instance"]
        verbose_name = "worker"

    def __str__(self) -> str:
        return f"{self.instance}: revision {self.revision}"
