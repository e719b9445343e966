"""The opened vault of this process: ROOT, the data keys and the fingerprint key, in buffers that are wiped. Control plane.

`opened_vault` is the one holder of a process. `vault.agent` fills it from a grant or a headless slot and drops it when the
vault was locked; `vault.vault_actions` fills it by a password and drops it at once where somebody locks.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.hierarchy import (
    Purpose,
    Root,
    check_root,
    derive_subkey,
    open_kept_subkey,
    unwrap_data_key,
)
from vault.engine.records import DataKeys
from vault.vault_models import Vault, VaultDataKey


@dataclass(frozen=True, slots=True, eq=False)
class OpenedVault:
    """What a process holds of a vault that is unlocked at `epoch`. Whoever uses it after a lock gets VaultLocked.

    `fingerprint_key` is the first root's, kept through all rotations of the root, so that fingerprints stay comparable.
    """

    root: Root
    keys: DataKeys
    fingerprint_key: SecretBuffer
    epoch: int

    @property
    def vault_id(self) -> str:
        """The vault's id, which stands in every place."""
        return self.root.vault_id

    def wipe(self) -> None:
        """Overwrites all keys."""
        self.root.wipe()
        self.keys.wipe()
        self.fingerprint_key.wipe()

    def __repr__(self) -> str:
        return (
            f"OpenedVault({self.vault_id[:8]}, root {self.root.version}, epoch {self.epoch}, {self.keys!r})"
        )


class VaultHolder:
    """Holds one OpenedVault or none. Threads may share it."""

    def __init__(self) -> None:
        self._opened: OpenedVault | None = None
        self._drops = 0
        # Held over queries, which may hang in a database that is away; `drop` must not wait for that.
        self._changing = threading.RLock()
        self._swapping = threading.Lock()

    @property
    def epoch(self) -> int:
        """The lock epoch of what is held; 0 when nothing is."""
        opened = self._opened
        return 0 if opened is None else opened.epoch

    def find(self) -> OpenedVault | None:
        """What is held, or None."""
        return self._opened

    def get(self) -> OpenedVault:
        """What is held. Raises VaultLocked."""
        opened = self._opened
        if opened is None:
            raise VaultLocked
        return opened

    def put(self, root: Root, *, epoch: int) -> OpenedVault:
        """Takes over `root`, and opens the data keys with it. Two queries.

        `epoch` is the vault's lock epoch when it was decided to unlock. Raises VaultLocked when the vault was locked since,
        DoesNotOpen for another vault's or an older root; the root is wiped then, and what was held stays.

        In the same epoch the data keys stay the same objects, so that a rotation of the root disturbs nobody who uses them.
        """
        with self._changing:
            drops = self._drops
            before = self._opened
            try:
                vault = _read_vault()
                if vault.lock_epoch != epoch:
                    raise VaultLocked
                check_root(root, bytes(vault.root_check))
                opened = _open(root, vault, before)
            except BaseException:
                if before is None or before.root is not root:
                    root.wipe()
                raise
            with self._swapping:
                dropped = self._drops != drops
                if not dropped:
                    self._opened = opened
            if dropped:
                opened.wipe()
                raise VaultLocked
            if before is not None:
                if before.keys is not opened.keys:
                    before.keys.wipe()
                if before.root is not root:
                    before.root.wipe()
                before.fingerprint_key.wipe()
            return opened

    def refresh(self) -> OpenedVault:
        """What is held, with the data keys that the database has now: new ones opened, retired ones wiped. Two queries.

        Raises VaultLocked, having dropped all keys, when the vault was locked meanwhile. When the root was replaced, what is
        held stays as it is until the new one is put: the data keys are the same.
        """
        with self._changing:
            opened = self.get()
            vault = _read_vault()
            if (vault.vault_id, vault.lock_epoch) != (opened.vault_id, opened.epoch):
                self.drop()
                raise VaultLocked
            if vault.root_version != opened.root.version:
                return opened
            _take_over_keys(opened.root, opened.keys, vault.active_key)
            return opened

    def drop(self) -> None:
        """Overwrites all keys and holds nothing, at once: a `put` under way fails. May be called again."""
        with self._swapping:
            self._drops += 1
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.wipe()

    def __repr__(self) -> str:
        return f"VaultHolder({self._opened!r})"


opened_vault = VaultHolder()
"""This process's."""


def _read_vault() -> Vault:
    vault = Vault.objects.filter(pk=Vault.ID).first()
    if vault is None:
        raise VaultLocked
    return vault


def _open(root: Root, vault: Vault, before: OpenedVault | None) -> OpenedVault:
    if before is not None and (before.epoch, before.vault_id) == (vault.lock_epoch, root.vault_id):
        keys = before.keys
        _take_over_keys(root, keys, vault.active_key)
    else:
        keys = DataKeys.unwrap(root, _read_wrapped(), active=vault.active_key)
    return OpenedVault(root, keys, open_fingerprint_key(root, vault.kept_subkeys), vault.lock_epoch)


def _read_wrapped() -> dict[int, bytes]:
    return {version: bytes(box) for version, box in VaultDataKey.objects.values_list("version", "wrapped")}


def _take_over_keys(root: Root, keys: DataKeys, active: int) -> None:
    wrapped = _read_wrapped()
    for version in sorted(wrapped.keys() - set(keys.versions)):
        keys.add(unwrap_data_key(root, version, wrapped[version]), activate=version == active)
    if active in keys.versions:
        # It may have come with an earlier look, which had read the vault's row before the rotation and the keys after it.
        keys.activate(active)
    for version in set(keys.versions) - wrapped.keys():
        # The active one's row can't be missing unless somebody deleted it; then it is kept as long as this process lives.
        if version != keys.active:
            keys.retire(version)


def open_fingerprint_key(root: Root, kept: list[Mapping[str, Any]]) -> SecretBuffer:
    """The first root's fingerprint key, from what was kept of it; the caller wipes it. Raises DoesNotOpen."""
    earlier = [one for one in kept if one["purpose"] == Purpose.FINGERPRINT]
    if not earlier:
        return derive_subkey(root, Purpose.FINGERPRINT)
    first = min(earlier, key=lambda one: int(one["root_version"]))
    try:
        box = base64.b64decode(first["sealed"], validate=True)
    except ValueError:
        raise DoesNotOpen("format") from None
    return open_kept_subkey(root, Purpose.FINGERPRINT, int(first["root_version"]), box)
