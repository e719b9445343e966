"""Registers the app `snapshots` with Django, and publishes after each committed change. Control plane."""

from __future__ import annotations

from django.apps import AppConfig

from tokenhub.control.changes import subscribe


class SnapshotsConfig(AppConfig):
    """Snapshots."""

    name = "snapshots"
    verbose_name = "Snapshots"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Subscribes the publisher. The import waits until the models can be loaded."""
        from snapshots.publish import publish_changes  # noqa: PLC0415 - models load only now

        subscribe(publish_changes)
