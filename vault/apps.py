"""Registers the app `vault` with Django. Control plane."""

from __future__ import annotations

from django.apps import AppConfig


class VaultConfig(AppConfig):
    """Vault."""

    name = "vault"
    verbose_name = "Vault"
    default_auto_field = "django.db.models.BigAutoField"
