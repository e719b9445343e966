"""Registers the app `providers` and its checks with Django. Control plane."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    """Providers."""

    name = "providers"
    verbose_name = "Providers"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the checks, which can load only now that the models can."""
        import_module("providers.checks")
