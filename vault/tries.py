"""Limits on tries of vault passwords and keys, across all workers by way of the database. Control plane.

A try is counted before it is made, under the lock of the vault's row, so that tries at the same time count too. The table
holds at most MAX_TRIES rows: older ones are deleted by the next try, an actor's own when one opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.core.errors import CallerError, NotFound, RateLimited
from vault.audit import record
from vault.engine.errors import DoesNotOpen
from vault.trail import hold_trail
from vault.vault_models import Vault, VaultTry

WINDOW = timedelta(minutes=15)
TRIES_PER_ACTOR = 5
MAX_TRIES = 20
MAX_DELAY = 4.0

Sleep = Callable[[float], None]


class NoVault(NotFound):
    """No vault was initialised."""

    code = "no_vault"

    def __init__(self) -> None:
        super().__init__("there is no vault yet", hint="initialise it under Vault")


class UnlockRefused(CallerError):
    """The one error for every password or key that opens no slot; it does not tell which slots there are."""

    code = "vault_unlock_refused"
    status = 403

    def __init__(self) -> None:
        super().__init__("this opens no slot of the vault")


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from: the time now, and a way to wait, in seconds."""

    now: Callable[[], datetime] = timezone.now
    sleep: Sleep = time.sleep


CLOCK = Clock()


def get_vault(*, lock: bool = False) -> Vault:
    """The vault's row. Raises NoVault."""
    if lock:
        hold_trail()  # As every change of the configuration does, before any other row.
    rows = Vault.objects.select_for_update() if lock else Vault.objects
    vault = rows.filter(pk=Vault.ID).first()
    if vault is None:
        raise NoVault
    return vault


@contextmanager
def counted_try(actor: Actor, what: str, clock: Clock = CLOCK) -> Iterator[None]:
    """Around the use of a password or key that somebody typed. Outside of any transaction: what it counts must stay.

    Raises RateLimited before it is tried at all; UnlockRefused in place of DoesNotOpen, after a delay that doubles with each
    try in vain, with an audit entry `vault.unlock_refused` that says what was tried for (`what`).
    """
    actor.require("write")
    name = f"{actor.kind}:{actor.name}"
    made, earlier = _reserve(name, clock.now())
    try:
        yield
    except DoesNotOpen:
        with transaction.atomic():
            after = {"what": what, "tries": earlier + 1}
            record(actor=actor, action="vault.unlock_refused", target=get_vault(), before=None, after=after)
        clock.sleep(min(0.25 * 2**earlier, MAX_DELAY))
        raise UnlockRefused from None
    except BaseException:
        # What failed otherwise told nothing of the secret.
        VaultTry.objects.filter(pk=made).delete()
        raise
    VaultTry.objects.filter(actor=name).delete()


def _reserve(name: str, now: datetime) -> tuple[int, int]:
    """Counts a try; its id, and how many this actor made before."""
    with transaction.atomic():
        get_vault(lock=True)
        VaultTry.objects.filter(at__lte=now - WINDOW).delete()
        mine = VaultTry.objects.filter(actor=name)
        earlier = mine.count()
        full = earlier >= TRIES_PER_ACTOR
        if full or VaultTry.objects.count() >= MAX_TRIES:
            oldest = (mine if full else VaultTry.objects).order_by("at").values_list("at", flat=True).first()
            wait = (oldest + WINDOW - now).total_seconds() if oldest else WINDOW.total_seconds()
            raise RateLimited(
                f"too many tries in vain in {WINDOW.total_seconds() / 60:.0f} minutes",
                hint="wait, and look into the audit trail for who tried",
                retry_after=max(1.0, wait),
            )
        return VaultTry.objects.create(actor=name, at=now).pk, earlier
