"""The rotations of the vault, as functions from what is stored to what is to be stored. Control plane; pure.

    password   one slot is unwrapped and wrapped again; ROOT, data keys and records stay
    data key   `DataKeys.add(…, activate=True)`, then `reseal` record by record
    root       `rotate_root`: data keys and slots are sealed again; records stay

Nothing is written here. The old rows stay valid until the caller has stored the new ones, in one transaction, so that a
process killed in between leaves a vault that opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vault.engine.buffers import Fill, Readable, fill_random
from vault.engine.errors import DoesNotOpen
from vault.engine.hierarchy import (
    Purpose,
    Root,
    derive_subkey,
    keep_subkey,
    make_root_check,
    unwrap_data_key,
    wrap_data_key,
)
from vault.engine.records import DataKeys, Place
from vault.engine.slots import Slot, SlotSecret


def reseal(
    keys: DataKeys,
    place: Place,
    record: Readable,
    new_place: Place | None = None,
    *,
    fill: Fill = fill_random,
) -> bytes:
    """The record under the active data key, in `new_place` where its row version counts up. Raises DoesNotOpen."""
    with keys.open(place, record) as secret:
        return keys.seal(new_place or place, secret, fill=fill)


@dataclass(frozen=True, slots=True, eq=False)
class RotatedRoot:
    """What a root rotation made; `root` is wiped by the caller.

    `dropped` are the ids of slots whose secret was not at hand: they open the old ROOT only, and are to be deleted.
    `kept_subkeys` are the old root's subkeys by purpose, for checking what was signed before.
    """

    root: Root
    root_check: bytes
    data_keys: Mapping[int, bytes]
    slots: tuple[Slot, ...]
    dropped: tuple[str, ...]
    kept_subkeys: Mapping[Purpose, bytes]


def rotate_root(
    old: Root,
    wrapped: Mapping[int, Readable],
    slots: Iterable[Slot],
    secrets: Mapping[str, SlotSecret],
    *,
    fill: Fill = fill_random,
) -> RotatedRoot:
    """A new ROOT of the next version, with all data keys and the slots whose secrets (by slot id) are given.

    Each secret first opens its own slot, so that a mistyped password never gets into a new one. Raises DoesNotOpen, and
    ValueError when no slot would be left: that vault could never be opened again.
    """
    slots = tuple(slots)
    kept = [slot for slot in slots if slot.slot_id in secrets]
    if not kept:
        raise ValueError("a new root needs at least one slot whose secret is given")
    for slot in kept:
        with secrets[slot.slot_id].unwrap(slot) as opened:
            _check_same(opened, old)
    root = Root.create(old.vault_id, old.version + 1, fill=fill)
    try:
        data_keys = {}
        for version, box in wrapped.items():
            with unwrap_data_key(old, version, box) as key:
                data_keys[version] = wrap_data_key(root, key, fill=fill)
        return RotatedRoot(
            root=root,
            root_check=make_root_check(root, fill=fill),
            data_keys=data_keys,
            slots=tuple(secrets[slot.slot_id].wrap(root, slot.slot_id, fill=fill) for slot in kept),
            dropped=tuple(slot.slot_id for slot in slots if slot.slot_id not in secrets),
            kept_subkeys={purpose: _keep(root, old, purpose, fill) for purpose in Purpose},
        )
    except BaseException:
        root.wipe()
        raise


def _keep(root: Root, old: Root, purpose: Purpose, fill: Fill) -> bytes:
    with derive_subkey(old, purpose) as subkey:
        return keep_subkey(root, purpose, old.version, subkey, fill=fill)


def _check_same(opened: Root, old: Root) -> None:
    if (opened.vault_id, opened.version) != (old.vault_id, old.version) or opened.key != old.key:
        raise DoesNotOpen("vault")
