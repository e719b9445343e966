"""Registers the app `console` with Django and gives the admin site its theme. Control plane."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings

from console.theme import UNFOLD


class ConsoleConfig(AppConfig):
    """Console."""

    name = "console"
    verbose_name = "Console"

    def ready(self) -> None:
        """Unfold reads its theme from `settings.UNFOLD`; an installation that sets one keeps its own. Sign-ins are heard."""
        from console.sessions import connect  # noqa: PLC0415 - models exist only now

        connect()
        if not hasattr(settings, "UNFOLD"):
            settings.UNFOLD = UNFOLD
