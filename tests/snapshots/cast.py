"""The cast of the control plane's tests: one operator, and what they set up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from access.actions import create_api_key
from access.models import ApiKey
from providers.actions import create_endpoint, create_model, create_provider
from providers.models import Model, Provider
from tokenhub.control.actors import Actor
from vault.actions import create_credential

OPERATOR = Actor("user", "olga", "192.0.2.7")


def make_provider(
    name: str = "acme", *, models: tuple[str, ...] = ("small", "large"), **fields: Any
) -> Provider:
    """A provider of OpenAI's format with one endpoint, one credential and some models."""
    provider = create_provider(OPERATOR, name=name, kind="openai", **fields)
    create_endpoint(OPERATOR, provider=provider, url=f"https://{name}.example:8443/openai")
    create_credential(OPERATOR, provider=provider, name="main", source="env", reference="TOKENHUB_CRED_ACME")
    for model in models:
        create_model(OPERATOR, provider=provider, name=model, upstream_name=f"{model}-2")
    return provider


def make_model(name: str, provider: Provider | None = None, **fields: Any) -> Model:
    """One model, at a provider of its own unless one is given."""
    provider = provider or make_provider(f"of-{name}", models=())
    return create_model(OPERATOR, provider=provider, name=name, **fields)


def make_key(name: str = "app", **fields: Any) -> tuple[ApiKey, str]:
    """An API key and its plaintext."""
    return create_api_key(OPERATOR, name=name, **fields)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Waits for the condition and returns how long it took, in seconds. Fails after `seconds`."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"still not so after {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - begun
