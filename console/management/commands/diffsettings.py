"""Django's `diffsettings`, whose output goes into bug reports: without the secrets. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.management.commands.diffsettings import Command as DiffSettingsCommand

from tokenhub.redaction import redact


class Command(DiffSettingsCommand):
    """Shows the settings that differ from Django's, redacted."""

    def handle(self, **options: Any) -> str:
        """The settings as text."""
        return redact(str(super().handle(**options)))
