"""Registers the app `usage` with Django. Control plane."""

from __future__ import annotations

from django.apps import AppConfig


class UsageConfig(AppConfig):
    """Usage."""

    name = "usage"
    verbose_name = "Usage"
    default_auto_field = "django.db.models.BigAutoField"
