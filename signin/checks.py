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


NO_PROXIES = Info(
    "TOKENHUB_HTTPS is on and TOKENHUB_TRUSTED_PROXIES names nobody: behind a proxy everyone has its address, and the "
    "failed sign-ins of one close the door to all.",
    hint="Set it to the proxy's address. Without a proxy nothing is to be done.",
    id="signin.I002",
)


def check_proxies(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Tells that addresses may not be told apart."""
    options = settings.TOKENHUB
    return [NO_PROXIES] if options.https and not options.trusted_proxies else []


def check_second_factor(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Tells that nobody has to have a second factor, where the installation is served over HTTPS.

    No warning: a fresh installation is in order without one, and its check must be able to come out clean.
    """
    options = settings.TOKENHUB
    return [NOT_REQUIRED] if options.https and options.require_mfa == "off" else []


def register_checks() -> None:
    """Registers them with Django."""
    register(check_second_factor, Tags.security, deploy=True)
    register(check_proxies, Tags.security, deploy=True)
