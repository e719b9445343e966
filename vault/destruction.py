"""The end of a vault that nobody can open any more: says what is lost, and makes room for a new one. Control plane; audited.

Without a slot nothing that was sealed ever opens again; keeping the rows would only keep a new vault from being made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.control.changes import announce
from tokenhub.core.errors import Conflict
from vault.audit import record
from vault.notify import tell_workers
from vault.opened import opened_vault
from vault.rotations import LIVE
from vault.tries import get_vault
from vault.vault_models import (
    SealedSecret,
    VaultDataKey,
    VaultGrant,
    VaultManifest,
    VaultSlot,
    VaultTry,
    VaultWorker,
)

_TOLD = 500
"""Secrets that the audit entry names; beyond that it has their number."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What goes with a vault: its slots' labels with their kinds, and a line for each sealed secret."""

    slots: tuple[str, ...]
    secrets: tuple[str, ...]


def describe_loss() -> Loss:
    """What would be lost now. Raises NoVault."""
    get_vault()
    rows = SealedSecret.objects.select_related("credential__provider").defer("record")
    ordered = rows.order_by("credential__provider__name", "credential__name", "-version", "origin")
    return Loss(
        slots=tuple(str(slot) for slot in VaultSlot.objects.defer("document")),
        secrets=tuple(
            f"{row.credential.provider.name}/{row.credential.name} version {row.version} for {row.origin}"
            f" (fingerprint {row.fingerprint}{f', ends in {row.last4}' if row.last4 else ''})"
            for row in ordered
        ),
    )


def destroy_vault(actor: Actor, *, losing: int, now: datetime | None = None) -> Loss:
    """Deletes the vault with all that is sealed in it; what that was. Credentials stay, without a secret.

    `losing` is the number of sealed secrets that are known to go with it. Raises Conflict where there are more or fewer, or
    where a worker has the vault unlocked (a slot can be added there, and nothing need be lost); NoVault.
    """
    actor.require("write")
    with transaction.atomic():
        vault = get_vault(lock=True)
        loss = describe_loss()
        if len(loss.secrets) != losing:
            raise Conflict(
                f"{len(loss.secrets)} sealed secrets would be lost, not {losing}",
                hint="look at what there is now, and say its number",
            )
        open_in = _find_unlocked(now or timezone.now())
        if open_in:
            raise Conflict(
                f"the vault is unlocked in {', '.join(open_in)}",
                hint="add a slot there while it is, or lock the vault first",
            )
        counter = VaultManifest.objects.values_list("counter", flat=True).first() or 0
        before: dict[str, Any] = {
            "vault_id": vault.vault_id,
            "slots": list(loss.slots),
            "secrets": list(loss.secrets[:_TOLD]),
            "lost": losing,
        }
        # The counter goes on in the next vault's manifest, so that this one's rows are too old for it.
        record(
            actor=actor, action="vault.destroy", target=vault, before=before, after={"manifest": counter + 1}
        )
        for table in (SealedSecret, VaultManifest, VaultDataKey, VaultSlot, VaultGrant, VaultTry):
            table.objects.all().delete()
        vault.delete()
        announce("vault", actor=actor)
        tell_workers()
    opened_vault.drop()
    return loss


def _find_unlocked(now: datetime) -> list[str]:
    live = VaultWorker.objects.filter(state=VaultWorker.State.UNLOCKED, seen_at__gt=now - LIVE)
    return list(live.values_list("instance", flat=True))
