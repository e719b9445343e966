"""What `manage.py check --deploy` says of the door. Control plane."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, register

from tokenhub.environment import TokenhubSettings

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


PLACEHOLDERS = ("change-me", "changeme", "change_me", "django-insecure", "example", "placeholder", "your-")
FEWEST_CHARACTERS = 8
"""Random secrets of the shortest allowed length have far more different characters."""


def find_weak_secrets(options: TokenhubSettings) -> list[str]:
    """Settings whose secret is a placeholder, or has hardly any different characters. Too short ones stop the start."""
    found = []
    for name in ("secret_key", "key_pepper", "admin_token", "metrics_token"):
        value = getattr(options, name)
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if text and (len(set(text)) < FEWEST_CHARACTERS or any(one in text.lower() for one in PLACEHOLDERS)):
            found.append(f"TOKENHUB_{name.upper()}")
    return found


def check_secrets(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuses secrets that somebody could know."""
    return [
        Error(
            f"{name} is a placeholder or hardly random.",
            hint="Make one with `openssl rand -base64 48`, or leave it out: the first start makes it.",
            id="signin.E001",
        )
        for name in find_weak_secrets(settings.TOKENHUB)
    ]


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
    register(check_secrets, Tags.security, deploy=True)
    register(check_proxies, Tags.security, deploy=True)
