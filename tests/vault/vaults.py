"""The cast of the vault's tests: a vault, its people, and providers whose keys it seals."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from django.db import connection
from django.utils import timezone

from providers.actions import create_endpoint, create_provider
from tokenhub.control.actors import Actor
from vault.actions import create_credential
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen
from vault.models import Credential, SealedSecret, Vault
from vault.opened import opened_vault
from vault.places import place_of_secret
from vault.tries import Clock
from vault.vault_actions import NewVault, draft_vault, store_vault

ADMIN = Actor("user", "vera", "192.0.2.8")
OTHER = Actor("user", "otto", "192.0.2.9")
PASSWORD = "gravel-lantern-otter-violet-5"
NEW_PASSWORD = "mosaic-thimble-harbor-walnut-8"
SECRET = "sk-canary-5d1c0ffee-0001"
OTHER_SECRET = "sk-canary-5d1c0ffee-0002"


class Time:
    """A clock that stands still until told, and remembers how long it was waited for."""

    def __init__(self) -> None:
        self.moment = datetime(2031, 5, 1, 12, tzinfo=UTC)
        self.waits: list[float] = []

    def forward(self, step: timedelta) -> None:
        """Lets time pass."""
        self.moment += step

    @property
    def clock(self) -> Clock:
        """For actions."""
        return Clock(lambda: self.moment, self.waits.append)


def a_vault() -> str:
    """A new vault, unlocked here; the recovery key.

    A process drafts one and stores copies of it: stretching its password each time would take a minute of all the tests.
    """
    drafted = _draft()
    rows = [copy.deepcopy(row) for row in (drafted.row, *drafted.slots)]
    vault, slots = rows[0], rows[1:]
    vault.unlocked_at = timezone.now()
    return store_vault(
        ADMIN,
        replace(drafted, row=vault, slots=tuple(slots), root=drafted.root.copy()),  # type: ignore[arg-type]
    )


@cache
def _draft() -> NewVault:
    return draft_vault(PASSWORD)


def a_credential(name: str = "acme", *urls: str, **provider: Any) -> Credential:
    """A credential whose secret is to be sealed, of a provider with these endpoints."""
    made = create_provider(ADMIN, name=name, kind=provider.pop("kind", "openai"), **provider)
    for url in urls or (f"https://{name}.example/v2",):
        create_endpoint(ADMIN, provider=made, url=url)
    return create_credential(ADMIN, provider=made, name="main", source="vault")


def open_row(row: SealedSecret, **changes: Any) -> str:
    """The secret of a row as a worker opens it, for what the provider is now. Raises DoesNotOpen."""
    opened = opened_vault.refresh()
    place = {
        "provider_kind": row.provider_kind,
        "origin": row.origin,
        "auth_header": row.auth_header,
        **changes,
    }
    named = place_of_secret(opened.vault_id, row.id, row.row_version, **place)
    with opened.keys.open(named, bytes(row.record)) as secret:
        return secret.reveal_text()


def opens(row: SealedSecret, **changes: Any) -> bool:
    """Whether it does."""
    try:
        open_row(row, **changes)
    except DoesNotOpen:
        return False
    return True


def open_all() -> list[str]:
    """Every secret there is."""
    return [open_row(row) for row in SealedSecret.objects.order_by("credential_id", "version", "origin")]


def run_sql(statement: str, *values: Any) -> int:
    """Changes rows behind Django's back; how many."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return int(cursor.rowcount)


def the_vault() -> Vault:
    """The vault's row, read afresh."""
    return Vault.objects.get()


def a_key() -> SecretBuffer:
    """32 random bytes."""
    return SecretBuffer.random()
