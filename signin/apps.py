"""Registers the app `signin` with Django: its checks, and the stamp that each sign-in puts on its session. Control plane."""

from __future__ import annotations

from django.apps import AppConfig


class SigninConfig(AppConfig):
    """Sign-in."""

    name = "signin"
    verbose_name = "Sign-in"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Every way of signing in ends in Django's signal, so that the stamp is put on there."""
        from django.contrib.auth.signals import user_logged_in  # noqa: PLC0415 - only now are the apps ready

        from signin import checks  # noqa: PLC0415
        from signin.sessions import stamp  # noqa: PLC0415

        user_logged_in.connect(stamp, dispatch_uid="signin.stamp")
        checks.register_checks()
