"""Rotations of the data key and of ROOT, each safe against a kill at any statement. Control plane.

data key   `rotate_data_key` makes the new one active at once; `reseal_some` moves the records, a few at a time;
           `retire_data_keys` deletes a key that nothing needs any more
root       `rotate_root`, in one transaction: slots, data keys, root check, kept subkeys, manifest

A password's rotation is `vault_actions.change_password`, a provider key's `sealing.seal_secret`.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from snapshots.models import ConfigRevision, WorkerStatus
from tokenhub.control.actors import Actor
from tokenhub.control.changes import announce
from tokenhub.core.errors import Conflict, InvalidRequest, SnapshotInvalid
from tokenhub.core.snapshot import decode_snapshot
from vault.audit import change, record
from vault.engine.errors import DoesNotOpen
from vault.engine.hierarchy import (
    DataKey,
    Purpose,
    Root,
    keep_subkey,
    open_kept_subkey,
    wrap_data_key,
)
from vault.engine.rotation import RotatedRoot, reseal
from vault.engine.rotation import rotate_root as make_new_root
from vault.engine.slots import SlotSecret, encode_slot
from vault.new_keys import list_key_versions
from vault.notify import tell_workers
from vault.opened import OpenedVault, opened_vault
from vault.places import place_of_secret
from vault.slot_secrets import read_slot
from vault.trail import hold_trail
from vault.tries import CLOCK, Clock, counted_try, get_vault
from vault.vault_manifest import changing_rows, get_manifest, lock_vault
from vault.vault_models import SealedSecret, Vault, VaultDataKey, VaultManifest, VaultSlot, VaultWorker

MAX_DATA_KEYS = 8
RESEAL_AT_ONCE = 50
LIVE = timedelta(seconds=30)
"""A worker that did not report for so long is gone; one that comes back reads the keys anew."""

_ROOT_TRIES = 3

log = logging.getLogger(__name__)


class _Moved(Conflict):
    """Slots or data keys are not what the new root was made for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the records are: under the active key, still under older ones, of these not opening.

    `waiting_for` are live workers that do not have the active key yet, without which no record is moved; `old_keys` the
    versions that are not retired yet.
    """

    active_key: int
    done: int
    left: int
    unopenable: int
    waiting_for: tuple[str, ...]
    old_keys: tuple[int, ...]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, but for what does not open."""
        return self.left == self.unopenable and (not self.old_keys or self.unopenable > 0)


def rotate_data_key(actor: Actor) -> int:
    """A new data key, active at once for all that is sealed from now on; its version. Raises VaultLocked, Conflict."""
    opened = opened_vault.get()
    with change(actor, "vault.rotate_data_key", get_vault()):
        vault = lock_vault(opened)
        versions = list(VaultDataKey.objects.values_list("version", flat=True))
        if len(versions) >= MAX_DATA_KEYS:
            raise Conflict(
                f"{len(versions)} data keys are in use; the records have to be moved from the oldest first",
                hint="wait until the rotation before is finished",
            )
        version = max([vault.active_key, *versions]) + 1
        with DataKey.create(vault.vault_id, version) as key:
            VaultDataKey.objects.create(version=version, wrapped=wrap_data_key(opened.root, key))
        vault.active_key = version
        vault.save(update_fields=["active_key"])
        tell_workers()
    opened_vault.refresh()
    return version


def reseal_some(limit: int = RESEAL_AT_ONCE, *, now: datetime | None = None) -> Progress:
    """Moves at most `limit` records to the active key, in one transaction with the manifest. Raises VaultLocked, RowsDiffer.

    Each record in one UPDATE. Any process may call it, several at once and again; without old records it only looks. What does
    not open is noted for the console, and left as it is.
    """
    opened = opened_vault.refresh()
    progress = read_progress(now=now)
    if progress.left == progress.unopenable or progress.waiting_for:
        return progress
    with transaction.atomic():
        hold_trail()
        # Every worker comes here at the same moment; what one of them has moved leaves nothing for the next.
        progress = read_progress(now=now)
        if progress.left == progress.unopenable:
            return progress
        with changing_rows(opened) as vault:
            manifest = get_manifest()
            broken = set(manifest.unopenable)
            rows = SealedSecret.objects.exclude(key_version=vault.active_key).exclude(pk__in=broken)
            moved = 0
            for row in rows.select_for_update(of=("self",)).order_by("key_version", "pk")[:limit]:
                if _reseal_row(opened, row):
                    moved += 1
                else:
                    broken.add(row.pk)
            VaultManifest.objects.filter(pk=VaultManifest.ID).update(unopenable=sorted(broken))
            after = {"active_key": vault.active_key, "moved": moved, "manifest": manifest.counter + 1}
            record(actor=Actor.system(), action="vault.reseal", target=vault, before=None, after=after)
            announce("vault", actor=Actor.system())
    return read_progress(now=now)


def retire_data_keys(*, now: datetime | None = None) -> tuple[int, ...]:
    """Deletes the data keys that nothing needs any more; their versions. Raises VaultLocked.

    That is: no record has it, neither here nor in the snapshot in force, every live worker runs that snapshot, and every live
    unlocked worker has the active key.
    """
    opened = opened_vault.refresh()
    old = read_progress(now=now).old_keys
    if not old or find_waiting(opened.keys.active, now=now) or not _all_follow(now or timezone.now()):
        return ()
    published = _find_published_keys()
    if published is None:
        return ()
    with transaction.atomic():
        vault = lock_vault(opened)
        used = published | set(SealedSecret.objects.values_list("key_version", flat=True).distinct())
        unused = VaultDataKey.objects.exclude(version__in=used | {vault.active_key})
        versions = tuple(unused.values_list("version", flat=True))
        if versions:
            unused.delete()
            record(
                actor=Actor.system(),
                action="vault.retire_data_keys",
                target=vault,
                before={"versions": list(versions)},
                after=None,
            )
    if versions:
        opened_vault.refresh()
    return versions


def read_progress(*, now: datetime | None = None) -> Progress:
    """How far a data key's rotation is. Needs no open vault. Raises NoVault."""
    active = get_vault().active_key
    rows = SealedSecret.objects.exclude(key_version=active)
    manifest = VaultManifest.objects.filter(pk=VaultManifest.ID).values_list("unopenable", flat=True).first()
    return Progress(
        active_key=active,
        done=SealedSecret.objects.filter(key_version=active).count(),
        left=rows.count(),
        unopenable=rows.filter(pk__in=manifest or []).count(),
        waiting_for=find_waiting(active, now=now),
        old_keys=tuple(VaultDataKey.objects.exclude(version=active).values_list("version", flat=True)),
    )


def find_waiting(active_key: int, *, now: datetime | None = None) -> tuple[str, ...]:
    """Live workers that are unlocked in the vault's present epoch and do not report that data key yet."""
    live = VaultWorker.objects.filter(
        seen_at__gt=(now or timezone.now()) - LIVE,
        state=VaultWorker.State.UNLOCKED,
        lock_epoch=Vault.objects.filter(pk=Vault.ID).values("lock_epoch")[:1],
    )
    return tuple(
        name for name, held in live.values_list("instance", "key_versions") if active_key not in (held or [])
    )


def rotate_root(
    actor: Actor, secrets: Mapping[str, SlotSecret], *, dropping: Collection[str], clock: Clock = CLOCK
) -> int:
    """A new ROOT; its version. `secrets` by slot id, the caller's to wipe; `dropping` are the ids of all other slots.

    Raises VaultLocked; Conflict when `dropping` are not the slots that are left behind, or somebody else was faster;
    UnlockRefused for a secret that does not open its slot; InvalidRequest without a secret.
    """
    for _ in range(_ROOT_TRIES - 1):
        try:
            return _rotate_root_once(actor, secrets, dropping, clock)
        except _Moved:
            # A data key was retired meanwhile, in the background: nobody's doing, and nothing for anybody to decide.
            continue
    return _rotate_root_once(actor, secrets, dropping, clock)


def _rotate_root_once(
    actor: Actor, secrets: Mapping[str, SlotSecret], dropping: Collection[str], clock: Clock
) -> int:
    opened = opened_vault.get()
    rows = list(VaultSlot.objects.all())
    wrapped = {key.version: bytes(key.wrapped) for key in VaultDataKey.objects.all()}
    left = {row.slot_id for row in rows} - set(secrets)
    if not secrets or left == {row.slot_id for row in rows}:
        raise InvalidRequest("a new root needs the secret of at least one slot", param="secrets")
    if left != set(dropping):
        names = ", ".join(str(row) for row in rows if row.slot_id in left) or "none"
        raise Conflict(
            f"these slots would be left behind: {names}",
            hint="give their secrets, or say that they are to be dropped",
            param="dropping",
        )
    with counted_try(actor, "rotate root", clock):
        slots = [read_slot(row) for row in rows if row.slot_id in secrets]
        made = make_new_root(opened.root, wrapped, slots, secrets)
    try:
        with change(actor, "vault.rotate_root", get_vault()):
            _store_root(opened, rows, wrapped, made, clock.now())
    except BaseException:
        made.root.wipe()
        raise
    opened_vault.put(made.root, epoch=opened.epoch)
    tell_workers()
    return made.root.version


def _reseal_row(opened: OpenedVault, row: SealedSecret) -> bool:
    """Whether it opened. A row that another changed meanwhile is another's."""
    place = {"provider_kind": row.provider_kind, "origin": row.origin, "auth_header": row.auth_header}
    try:
        here = place_of_secret(opened.vault_id, row.pk, row.row_version, **place)
        there = place_of_secret(opened.vault_id, row.pk, row.row_version + 1, **place)
        moved = reseal(opened.keys, here, bytes(row.record), there)
    except (DoesNotOpen, ValueError):
        log.error("sealed secret %s does not open; it is left as it is", row.pk)
        return False
    SealedSecret.objects.filter(pk=row.pk, row_version=row.row_version).update(
        record=moved, key_version=opened.keys.active, row_version=row.row_version + 1
    )
    return True


def _all_follow(now: datetime) -> bool:
    """Whether every live worker runs the last published snapshot."""
    last = ConfigRevision.objects.order_by("-revision").values_list("revision", flat=True).first() or 0
    return not WorkerStatus.objects.filter(seen_at__gt=now - LIVE, revision__lt=last).exists()


def _find_published_keys() -> set[int] | None:
    """Versions of data keys in the snapshot in force. None: it can't be read, so nothing is known."""
    last = ConfigRevision.objects.order_by("-revision").first()
    if last is None:
        return set()
    if last.payload is None:
        return None
    try:
        snapshot = decode_snapshot(bytes(last.payload))
    except SnapshotInvalid:
        return None
    return list_key_versions(snapshot)


def _store_root(
    opened: OpenedVault,
    rows: list[VaultSlot],
    wrapped: Mapping[int, bytes],
    made: RotatedRoot,
    now: datetime,
) -> None:
    with changing_rows(opened, made.root) as vault:
        stored = {row.slot_id: row for row in VaultSlot.objects.select_for_update()}
        keys = {key.version: bytes(key.wrapped) for key in VaultDataKey.objects.all()}
        if keys != wrapped or {k: row.document for k, row in stored.items()} != {
            row.slot_id: row.document for row in rows
        }:
            raise _Moved("slots or data keys changed meanwhile; try again")
        for version, box in made.data_keys.items():
            VaultDataKey.objects.filter(pk=version).update(wrapped=box)
        for slot in made.slots:
            # Its secret was given and is the same: a password is as old as before.
            VaultSlot.objects.filter(pk=slot.slot_id).update(document=encode_slot(slot), opened_at=now)
        VaultSlot.objects.exclude(pk__in=[slot.slot_id for slot in made.slots]).delete()
        vault.kept_subkeys = _keep_all(opened.root, made, vault.kept_subkeys)
        vault.root_check, vault.root_version = made.root_check, made.root.version
        vault.save(update_fields=["kept_subkeys", "root_check", "root_version"])


def _keep_all(old: Root, made: RotatedRoot, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All earlier roots' subkeys under the new root."""
    again = []
    for one in kept:
        purpose, version = Purpose(one["purpose"]), int(one["root_version"])
        with open_kept_subkey(old, purpose, version, base64.b64decode(one["sealed"])) as subkey:
            again.append(_as_json(purpose, version, keep_subkey(made.root, purpose, version, subkey)))
    return again + [_as_json(purpose, old.version, box) for purpose, box in made.kept_subkeys.items()]


def _as_json(purpose: Purpose, version: int, box: bytes) -> dict[str, Any]:
    return {"purpose": purpose.value, "root_version": version, "sealed": base64.b64encode(box).decode()}
