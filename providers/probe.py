"""Connection tests, and what the pages and the API need to ask a provider: the keyring and the network. Control plane."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings

from providers.discovery import DiscoveryDiff, discover_models
from providers.models import Provider
from tokenhub.control.display import write_refusal
from tokenhub.core.errors import TokenhubError
from vault.keyring import Keyring
from vault.opened import opened_vault


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """How asking a provider for its models went: milliseconds it took, and how many models it lists or why not."""

    ok: bool
    milliseconds: int
    message: str
    models: int = 0


def ask(provider: Provider) -> DiscoveryDiff:
    """`discover_models` over the real network, with this installation's credentials."""
    keyring = Keyring(os.environ, settings.TOKENHUB.credentials_dir)
    opened = opened_vault.find()
    if opened is not None:
        keyring.unlock(opened.keys)
    try:
        return discover_models(provider, keyring=keyring, private=settings.TOKENHUB.allow_private_origins)
    finally:
        keyring.lock()


def check_connection(
    provider: Provider,
    *,
    discover: Callable[[Provider], DiscoveryDiff] = ask,
    clock: Callable[[], float] = time.monotonic,
) -> ConnectionReport:
    """Asks for the list of models and measures it: name resolution, connection, TLS, credential and answer in one.

    Changes nothing and costs nothing. Never raises for what is wrong with the provider.
    """
    begun = clock()
    try:
        diff = discover(provider)
    except TokenhubError as refused:
        return ConnectionReport(False, _since(begun, clock), write_refusal(refused.message, refused.hint))
    listed = diff.unchanged + len(diff.new) + len(diff.changed)
    return ConnectionReport(True, _since(begun, clock), f"It answers and lists {listed} models.", listed)


def _since(begun: float, clock: Callable[[], float]) -> int:
    return round((clock() - begun) * 1000)
