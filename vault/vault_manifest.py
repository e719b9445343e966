"""The manifest over all sealed secrets: who changes one locks the vault's row, checks, writes, and signs anew. Control plane.

A change never signs what was not signed before it: where the rows differ from the manifest, it is refused until somebody
looked (`accept_rows`). Otherwise an old row put back would be signed by the next change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
from django.db import transaction
from django.db.models import BigIntegerField, Max
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict
from vault.audit import change, record
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.framing import pack
from vault.engine.hierarchy import Purpose, Root, derive_subkey
from vault.engine.manifest import (
    Change,
    Difference,
    Manifest,
    ManifestRow,
    compare_rows,
    describe_row,
    sign_rows,
    verify_rows,
)
from vault.models import AuditEntry
from vault.opened import OpenedVault, opened_vault
from vault.places import FIELD, TABLE
from vault.trail import hold_trail
from vault.vault_models import SealedSecret, Vault, VaultManifest

CHECK_EVERY = timedelta(hours=1)
MANIFEST_TABLE = "vault_vaultmanifest"
_KEPT_DIFFERENCES = 100
_TELLING = ("vault.credential", "vault.vault", "vault.vaultmanifest")
"""The objects whose audit entries tell the counter."""

log = logging.getLogger(__name__)


class RowsDiffer(Conflict):
    """Sealed secrets were changed by other hands; nothing is signed over them until a vault admin has looked."""

    code = "vault_rows_differ"

    def __init__(self) -> None:
        super().__init__(
            "sealed secrets were changed outside of Tokenhub, or put back from a backup",
            hint="look at the differences under Vault, accept what is there, then enter those keys again",
        )


def lock_vault(opened: OpenedVault) -> Vault:
    """The vault's row, locked in the open transaction. Raises VaultLocked where `opened` is not of this epoch and root."""
    # Every change takes the audit trail's end first: in another order two of them could wait for each other.
    hold_trail()
    vault = Vault.objects.select_for_update().filter(pk=Vault.ID).first()
    if vault is None or (vault.vault_id, vault.lock_epoch) != (opened.vault_id, opened.epoch):
        opened_vault.drop()
        raise VaultLocked
    if vault.root_version != opened.root.version:
        # The root was replaced a moment ago; `vault.agent` brings the new one.
        raise VaultLocked
    if vault.active_key != opened.keys.active:
        opened_vault.refresh()
    return vault


def get_manifest() -> VaultManifest:
    """The manifest's row, with the vault's locked. One that was deleted is an empty one, which was never signed."""
    return VaultManifest.objects.get_or_create(pk=VaultManifest.ID)[0]


@contextmanager
def changing_rows(opened: OpenedVault, new_root: Root | None = None) -> Iterator[Vault]:
    """A transaction around a change of sealed secrets; gives the vault's row, locked. `new_root` signs, where there is one.

    Raises VaultLocked, and RowsDiffer when the rows before are not what was signed last.
    """
    with transaction.atomic():
        vault = lock_vault(opened)
        manifest = get_manifest()
        rows = list_rows()
        with derive_subkey(opened.root, Purpose.MANIFEST) as key:
            try:
                # Rows put back together with their manifest are older than what the trail tells.
                verify_rows(key, _signed(vault, manifest), rows, at_least=find_last_counter())
            except DoesNotOpen:
                raise RowsDiffer from None
        yield vault
        # Read again: what happened inside may have noted something in it.
        manifest.refresh_from_db()
        sign(new_root or opened.root, manifest)


def sign(root: Root, manifest: VaultManifest) -> None:
    """Signs the rows as they are now under the next counter, in the open transaction."""
    rows = list_rows()
    with derive_subkey(root, Purpose.MANIFEST) as key:
        signed = sign_rows(key, root.vault_id, manifest.counter + 1, rows)
    present = {row.row_id for row in rows}
    manifest.unopenable = [row_id for row_id in manifest.unopenable if str(row_id) in present]
    manifest.counter, manifest.rows, manifest.mac = signed.counter, signed.rows, signed.mac
    manifest.lines = msgspec.msgpack.encode([(row.row_id, row.row_version, row.digest) for row in rows])
    manifest.save()
    log.info("vault manifest %d over %d sealed secrets", signed.counter, signed.rows)


def list_rows() -> list[ManifestRow]:
    """A line for each sealed secret, in order. The digest is over the record and every column that decides its use."""
    rows = [
        describe_row(TABLE, row.id, FIELD, row.row_version, _content(row))
        for row in SealedSecret.objects.order_by()
    ]
    return sorted(rows)


def check_manifest(*, now: datetime | None = None) -> list[Difference]:
    """How the rows differ from what was signed; kept for the console, and audited when it first fails. Needs the vault opened."""
    moment = now or timezone.now()
    opened = opened_vault.get()
    with transaction.atomic():
        vault = lock_vault(opened)
        manifest = get_manifest()
        found = _compare(opened, vault, manifest)
        first = bool(found) and manifest.differs_since is None
        manifest.checked_at = moment
        manifest.differs_since = (manifest.differs_since or moment) if found else None
        manifest.differences = [
            {"change": one.change.value, "table": one.table, "row_id": one.row_id}
            for one in found[:_KEPT_DIFFERENCES]
        ]
        manifest.save(update_fields=["checked_at", "differs_since", "differences"])
        if first:
            log.error("%d sealed secrets differ from the vault's manifest", len(found))
            after = {"counter": manifest.counter, "differences": manifest.differences}
            record(actor=Actor.system(), action="vault.rows_differ", target=vault, before=None, after=after)
    return found


def check_if_due(now: datetime) -> bool:
    """Checks the manifest where nobody did for an hour. True: it was due."""
    checked_at = (
        VaultManifest.objects.values_list("checked_at", flat=True).filter(pk=VaultManifest.ID).first()
    )
    if checked_at is not None and now - checked_at < CHECK_EVERY:
        return False
    check_manifest(now=now)
    return True


def accept_rows(actor: Actor, *, now: datetime | None = None) -> None:
    """Signs the rows that are there: a vault admin has looked at the differences. Raises VaultLocked."""
    opened = opened_vault.get()
    actor.require("write")
    with transaction.atomic():
        lock_vault(opened)
        manifest = get_manifest()
        with change(actor, "vault.accept_rows", manifest):
            manifest.counter = max(manifest.counter, find_last_counter())
            sign(opened.root, manifest)
            manifest.checked_at, manifest.differs_since, manifest.differences = (
                now or timezone.now(),
                None,
                [],
            )
            manifest.save()


def find_last_counter() -> int:
    """The highest manifest counter that the audit trail tells of, 0 for none: one below it was put back.

    The highest, not the last: after the manifest was put back, entries tell of a lower one.
    """
    told = Cast(KeyTextTransform("manifest", "after"), BigIntegerField())
    entries = AuditEntry.objects.filter(object_type__in=_TELLING, after__has_key="manifest").order_by()
    return entries.aggregate(highest=Max(told))["highest"] or 0


def _compare(opened: OpenedVault, vault: Vault, manifest: VaultManifest) -> list[Difference]:
    signed = _signed(vault, manifest)
    try:
        lines = _decode_lines(bytes(manifest.lines))
        with derive_subkey(opened.root, Purpose.MANIFEST) as key:
            verify_rows(key, signed, lines, at_least=find_last_counter())
        return list(compare_rows(lines, list_rows()))
    except (DoesNotOpen, ValueError):
        # The manifest itself was changed or put back: nothing can be said of single rows.
        return [Difference(Change.CHANGED, MANIFEST_TABLE, str(manifest.pk), "mac", None, None)]


def _signed(vault: Vault, manifest: VaultManifest) -> Manifest:
    return Manifest(vault.vault_id, manifest.counter, manifest.rows, bytes(manifest.mac))


def _decode_lines(data: bytes) -> list[ManifestRow]:
    lines = msgspec.msgpack.decode(data, type=list[tuple[str, int, bytes]])
    return [ManifestRow(TABLE, row_id, FIELD, version, digest) for row_id, version, digest in lines]


def _content(row: SealedSecret) -> bytes:
    until = "" if row.good_until is None else str(row.good_until.timestamp())
    return pack(
        bytes(row.record),
        str(row.credential_id),
        row.version,
        row.origin,
        row.provider_kind,
        row.auth_header,
        row.key_version,
        until,
    )
