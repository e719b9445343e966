"""Registers the app `routing` with Django, and keeps aliases' names from models. Control plane."""

from __future__ import annotations

from django.apps import AppConfig


class RoutingConfig(AppConfig):
    """Routing."""

    name = "routing"
    verbose_name = "Routing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the guard. The import waits until the models can be loaded."""
        from providers.actions import guard_names  # noqa: PLC0415 - models load only now
        from routing.actions import find_holding_alias  # noqa: PLC0415 - models load only now

        guard_names(find_holding_alias)
