"""What `manage.py check --deploy` says of the door. Control plane."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Info, Tags, register

NOT_REQUIRED = Info(
    "TOKENHUB_REQUIRE_MFA is off: a stolen password is enough to sign in.",
    hint="Set it to superusers or staff once people have enrolled a second factor.",
    id="signin.I001",
)


def check_second_factor(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Tells that nobody has to have a second factor, where the installation is served over HTTPS.

    No warning: a fresh installation is in order without one, and its check must be able to come out clean.
    """
    options = settings.TOKENHUB
    return [NOT_REQUIRED] if options.https and options.require_mfa == "off" else []


def register_checks() -> None:
    """Registers them with Django."""
    register(check_second_factor, Tags.security, deploy=True)
