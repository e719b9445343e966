"""The vault's own changes: initialise, unlock, lock, slots, passwords, settings. Control plane; each is audited.

Whoever calls these has checked the permission (`vault.unlock_vault` for unlock and lock, `vault.manage_vault` for the rest).
Functions that take what somebody typed run outside of any transaction: a refused try stays counted.
"""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, transaction
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.audit import add, alter, change, record, remove
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.hierarchy import DataKey, Root, check_root, make_root_check, wrap_data_key
from vault.engine.kms import Kms
from vault.engine.passwords import DEFAULT, Argon2Parameters, encode_password
from vault.engine.recovery import format_recovery_key
from vault.engine.slots import (
    HEADLESS_KINDS,
    KeySecret,
    KmsSecret,
    PasswordSecret,
    SlotKind,
    SlotSecret,
    encode_slot,
)
from vault.engine.strength import check_password
from vault.leftovers import leftovers
from vault.notify import tell_workers
from vault.opened import opened_vault
from vault.slot_secrets import Given, kind_of, open_any
from vault.trail import hold_trail
from vault.tries import CLOCK, Clock, counted_try, get_vault
from vault.vault_manifest import find_last_counter, lock_vault, sign
from vault.vault_models import Vault, VaultDataKey, VaultGrant, VaultManifest, VaultSlot, VaultTry, make_id

SETTINGS = ("idle_minutes", "max_hours", "coast_seconds")
MAX_SLOTS = 16


@dataclass(frozen=True, slots=True, eq=False)
class NewVault:
    """A vault that is not stored yet: its row, ROOT, its first data key wrapped, its slots, and the recovery key to print."""

    row: Vault
    root: Root
    wrapped: bytes
    slots: tuple[VaultSlot, ...]
    recovery_key: str = field(repr=False)


def draft_vault(password: str, *, parameters: Argon2Parameters = DEFAULT) -> NewVault:
    """A new vault with a password slot and a recovery slot. Takes Argon2id's time. Raises PasswordTooWeak."""
    check_password(password)
    row = Vault(vault_id=make_id(), unlocked_at=timezone.now())
    root = Root.create(row.vault_id)
    try:
        with (
            encode_password(password) as typed,
            SecretBuffer.random() as printed,
            DataKey.create(row.vault_id, 1) as data_key,
        ):
            row.root_check = make_root_check(root)
            slots = (
                _new_slot(root, "Password", PasswordSecret(typed, parameters=parameters)),
                _new_slot(root, "Recovery key", KeySecret(SlotKind.RECOVERY, printed)),
            )
            return NewVault(row, root, wrap_data_key(root, data_key), slots, format_recovery_key(printed))
    except BaseException:
        root.wipe()
        raise


def initialise(actor: Actor, password: str, *, parameters: Argon2Parameters = DEFAULT) -> str:
    """Makes the vault with a password slot and a recovery slot, unlocked in this process.

    Returns the recovery key to print, which is shown this once. Raises PasswordTooWeak, and Conflict where there is a vault.
    """
    actor.require("write")
    leftovers.note()
    if Vault.objects.exists():
        raise _already()
    return store_vault(actor, draft_vault(password, parameters=parameters))


def store_vault(actor: Actor, new: NewVault) -> str:
    """Stores what was drafted and holds its ROOT, which is taken over; the recovery key. Raises Conflict for a second vault."""
    try:
        with transaction.atomic():
            add(actor, new.row)
            VaultTry.objects.all().delete()
            VaultDataKey.objects.create(version=1, wrapped=new.wrapped)
            # It goes on counting where a vault before this one ended: the trail tells of that one's counter.
            sign(new.root, VaultManifest(counter=find_last_counter()))
            for slot in new.slots:
                add(actor, slot)
    except BaseException as error:
        new.root.wipe()
        if isinstance(error, Conflict):
            raise _already() from None
        raise
    # The vault is there, and its recovery key is shown this once, whatever happens now; the password opens it later.
    with contextlib.suppress(DatabaseError, VaultLocked):
        opened_vault.put(new.root, epoch=new.row.lock_epoch)
        tell_workers()
    return new.recovery_key


def unlock(actor: Actor, given: Given, *, clock: Clock = CLOCK) -> None:
    """Opens the vault in this process; `vault.agent` then hands it to the others.

    Raises UnlockRefused for whatever does not open, RateLimited, KeyMalformed for what can't be a key at all, VaultLocked
    when somebody locked the vault meanwhile.
    """
    vault = get_vault()
    with counted_try(actor, "unlock", clock), given.as_secrets() as secrets:
        slot, _, root = open_any(list(VaultSlot.objects.all()), secrets)
        _check_opened(root, vault)
    put_unlocked(actor, slot, root, epoch=vault.lock_epoch, clock=clock)


def unlock_headless(actor: Actor, secret: SlotSecret, *, clock: Clock = CLOCK) -> None:
    """Opens the vault by a mounted key, a variable or a KMS, at a start: nobody typed it, so no try is counted.

    Raises DoesNotOpen, KmsFailed, VaultLocked. `secret` stays the caller's to wipe.
    """
    vault = get_vault()
    slot, _, root = open_any(list(VaultSlot.objects.all()), (secret,))
    _check_opened(root, vault)
    put_unlocked(actor, slot, root, epoch=vault.lock_epoch, clock=clock)


def put_unlocked(actor: Actor, slot: VaultSlot, root: Root, *, epoch: int, clock: Clock = CLOCK) -> None:
    """Records that `slot` unlocked the vault, then holds ROOT, which is taken over. Raises VaultLocked after a lock."""
    try:
        now = clock.now()
        with transaction.atomic():
            vault = get_vault(lock=True)
            if vault.lock_epoch != epoch:
                raise VaultLocked
            vault.unlocked_at = vault.unlocked_at or now
            vault.save(update_fields=["unlocked_at"])
            VaultSlot.objects.filter(pk=slot.pk).update(opened_at=now)
            record(
                actor=actor,
                action="vault.unlock",
                target=vault,
                before=None,
                after={"slot": slot.slot_id, "kind": slot.kind, "label": slot.label, "lock_epoch": epoch},
            )
    except BaseException:
        root.wipe()
        raise
    opened_vault.put(root, epoch=epoch)
    # Only now: this process's agent, woken sooner, would find nothing to hand on, and sleep until its next poll.
    tell_workers()


def lock(actor: Actor, reason: str = "") -> None:
    """Locks the vault everywhere: here at once, in the other workers when they next look. Raises NoVault."""
    vault = get_vault()
    with change(actor, "vault.lock", vault):
        vault = get_vault(lock=True)
        vault.lock_epoch += 1
        vault.locked_at, vault.locked_because, vault.unlocked_at = timezone.now(), reason[:200], None
        vault.save(update_fields=["lock_epoch", "locked_at", "locked_because", "unlocked_at"])
        VaultGrant.objects.all().delete()
        tell_workers()
    opened_vault.drop()


def change_password(
    actor: Actor,
    old: Given,
    new: str,
    *,
    parameters: Argon2Parameters = DEFAULT,
    clock: Clock = CLOCK,
) -> VaultSlot:
    """Another password for the slot that the old one opens; a peppered slot keeps its key file. Nothing else changes.

    Works while the vault is locked, and does not unlock it. Raises PasswordTooWeak, UnlockRefused, RateLimited.
    """
    vault = get_vault()
    check_password(new)
    if not old.password:
        raise InvalidRequest("give the slot's present password", param="old_password")
    with counted_try(actor, "change password", clock), old.as_secrets() as secrets:
        row, secret, root = open_any(list(VaultSlot.objects.all()), secrets)
        with root, encode_password(new) as typed:
            _check_opened(root, vault)
            assert isinstance(secret, PasswordSecret)
            slot = PasswordSecret(typed, secret.pepper, parameters).wrap(root, row.slot_id)
            _store_slot(actor, row, encode_slot(slot), vault.root_version, clock)
    return row


def add_slot(actor: Actor, label: str, secret: SlotSecret) -> VaultSlot:
    """Another way to unlock. `secret` stays the caller's to wipe. Raises VaultLocked; Conflict beyond MAX_SLOTS."""
    opened = opened_vault.get()
    row = _new_slot(opened.root, label, secret)
    with transaction.atomic():
        lock_vault(opened)
        if VaultSlot.objects.count() >= MAX_SLOTS:
            raise Conflict(f"a vault has at most {MAX_SLOTS} slots", hint="remove one first")
        return add(actor, row)


def add_password_slot(
    actor: Actor, label: str, password: str, *, parameters: Argon2Parameters = DEFAULT
) -> VaultSlot:
    """Another password. Raises PasswordTooWeak."""
    leftovers.note()
    check_password(password)
    with encode_password(password) as typed:
        return add_slot(actor, label, PasswordSecret(typed, parameters=parameters))


def add_recovery_slot(actor: Actor, label: str) -> tuple[VaultSlot, str]:
    """Another printed recovery key, shown this once."""
    with SecretBuffer.random() as printed:
        return add_slot(actor, label, KeySecret(SlotKind.RECOVERY, printed)), format_recovery_key(printed)


def add_key_slot(actor: Actor, label: str, kind: SlotKind, key: bytes | str) -> VaultSlot:
    """A key file's or variable's key as a slot: 32 raw bytes, hex or base64. Raises KeyMalformed."""
    with Given(key=key).as_secrets() as secrets:
        for secret in secrets:
            if kind_of(secret) is kind:
                return add_slot(actor, label, secret)
    raise InvalidRequest("a key opens a key file's or an environment slot", param="kind")


def add_kms_slot(actor: Actor, label: str, kms: Kms) -> VaultSlot:
    """A key that a key management service wraps. Asks it once. Raises KmsFailed."""
    return add_slot(actor, label, KmsSecret(kms))


def add_generated_key_slot(actor: Actor, label: str, kind: SlotKind) -> tuple[VaultSlot, str]:
    """A new key for a key file or variable as a slot; the key in base64, which is shown this once."""
    if kind not in (SlotKind.KEY_FILE, SlotKind.ENVIRONMENT):
        raise InvalidRequest("a key is made for a key file's or an environment slot", param="kind")
    with SecretBuffer.random() as key:
        row = add_slot(actor, label, KeySecret(kind, key))
        with key.exposed() as view:
            return row, base64.b64encode(view).decode("ascii")


def try_recovery_key(actor: Actor, text: str, *, clock: Clock = CLOCK) -> VaultSlot:
    """Whether a print opens its slot; nothing is unlocked. Raises UnlockRefused, RateLimited, KeyMalformed."""
    vault = get_vault()
    with counted_try(actor, "try recovery key", clock), Given(recovery_key=text).as_secrets() as secrets:
        slot, _, root = open_any(list(VaultSlot.objects.all()), secrets)
        with root:
            _check_opened(root, vault)
    with transaction.atomic():
        hold_trail()
        VaultSlot.objects.filter(pk=slot.pk).update(opened_at=clock.now())
        record(actor=actor, action="vaultslot.try", target=slot, before=None, after={"label": slot.label})
    return slot


def note_kept(actor: Actor, slot: VaultSlot) -> None:
    """Keeps in the audit trail who said that a recovery key was printed or written down."""
    actor.require("write")
    with transaction.atomic():
        hold_trail()
        record(actor=actor, action="vaultslot.kept", target=slot, before=None, after={"label": slot.label})


def rename_slot(actor: Actor, slot: VaultSlot, label: str) -> VaultSlot:
    """Another label."""
    return alter(actor, slot, {"label": label}, allowed=("label",))


def remove_slot(actor: Actor, slot: VaultSlot, *, leave_headless_only: bool = False) -> None:
    """Takes a way to unlock away; works while the vault is locked. Raises Conflict for the last one.

    Also for the last that a person can use, unless `leave_headless_only` says that this is meant.
    """
    with transaction.atomic():
        get_vault(lock=True)
        others = set(VaultSlot.objects.exclude(pk=slot.pk).values_list("kind", flat=True))
        if not others:
            raise Conflict("this is the vault's last slot; without one it never opens again")
        if not leave_headless_only and slot.kind not in HEADLESS_KINDS and others <= HEADLESS_KINDS:
            raise Conflict(
                "this is the last slot that a person can use; only key files, variables or a KMS would be left",
                hint="add a password or recovery slot first, or say that this is meant: leave_headless_only",
                param="leave_headless_only",
            )
        remove(actor, slot)


def update_settings(actor: Actor, **changes: Any) -> Vault:
    """Changes SETTINGS: when the vault locks itself."""
    return alter(actor, get_vault(), changes, allowed=SETTINGS)


def has_headless_slot() -> bool:
    """Whether a slot can unlock at start without anyone there; then nothing locks by itself."""
    return VaultSlot.objects.filter(kind__in=HEADLESS_KINDS).exists()


def _already() -> Conflict:
    return Conflict("there is a vault already", hint="unlock it, or change its password")


def _new_slot(root: Root, label: str, secret: SlotSecret) -> VaultSlot:
    slot = secret.wrap(root, make_id())
    return VaultSlot(
        slot_id=slot.slot_id, kind=slot.kind.value, label=label.strip(), document=encode_slot(slot)
    )


def _store_slot(
    actor: Actor, row: VaultSlot, document: dict[str, Any], root_version: int, clock: Clock
) -> None:
    before = row.document
    with change(actor, "vaultslot.change_secret", row):
        row.refresh_from_db()
        if get_vault(lock=True).root_version != root_version or row.document != before:
            raise Conflict("the vault's slots changed meanwhile; try again")
        row.document, row.changed_at = document, clock.now()
        row.save(update_fields=["document", "changed_at"])


def _check_opened(root: Root, vault: Vault) -> None:
    """A slot's row put back from before a rotation of the root opens the old root only."""
    try:
        check_root(root, bytes(vault.root_check))
    except DoesNotOpen:
        root.wipe()
        raise
