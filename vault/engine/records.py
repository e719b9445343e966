"""Sealing a provider's secret to its place: row, version, field, provider kind, origin and header. Both planes; pure.

A record that is copied to another row, restored from an old version, or whose provider is pointed at another host, does
not open. What this can't see is a whole old row, version number and all, put back: that is the manifest's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vault.engine.buffers import Fill, Readable, SecretBuffer, fill_random
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.hierarchy import DataKey, Root, unwrap_data_key
from vault.engine.origins import check_origin
from vault.engine.sealing import LABEL_RECORD, Context, read_key_version, seal, unseal

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret belongs. All of it is authenticated, none of it is stored in the record.

    `origin` is as `origins.format_origin` spells it; `auth_header` the lower-case name of the header (or of the signing
    scheme) that carries the secret. Raises ValueError for an empty field, another spelling, a version below 1.
    """

    vault_id: str
    table: str
    row_id: str
    row_version: int
    field: str
    provider_kind: str
    origin: str
    auth_header: str

    def __post_init__(self) -> None:
        for name in ("vault_id", "table", "row_id", "field", "provider_kind"):
            if not getattr(self, name):
                raise ValueError(f"a place has a {name}")
        if not 1 <= self.row_version < 1 << 64:
            raise ValueError("a row's version counts up from 1")
        if _HEADER.fullmatch(self.auth_header) is None:
            raise ValueError("a header's name is in lower case, without spaces")
        check_origin(self.origin)

    def context(self) -> Context:
        """The fields in the order in which they are authenticated."""
        return (
            self.vault_id,
            self.table,
            self.row_id,
            self.row_version,
            self.field,
            self.provider_kind,
            self.origin,
            self.auth_header,
        )


class DataKeys:
    """A vault's opened data keys by version, one of them active. Seals with the active one, opens with any.

    Threads may share it; `wipe` locks it for all of them, for good. It owns its keys and wipes them.
    """

    def __init__(self, vault_id: str, keys: Iterable[DataKey], *, active: int) -> None:
        """Raises ValueError when a key is of another vault, or none has the active version."""
        self.vault_id = vault_id
        self._keys: dict[int, DataKey] = {}
        self._changing = threading.Lock()
        self._wiped = False
        for key in keys:
            self._add(key)
        if active not in self._keys:
            raise ValueError("there is no data key of the active version")
        self._active = active

    @classmethod
    def unwrap(cls, root: Root, wrapped: Mapping[int, Readable], *, active: int) -> DataKeys:
        """From the wrapped data keys by version. Raises DoesNotOpen when one of them does not open under this ROOT."""
        opened: list[DataKey] = []
        try:
            for version, box in wrapped.items():
                opened.append(unwrap_data_key(root, version, box))
        except BaseException:
            for key in opened:
                key.wipe()
            raise
        return cls(root.vault_id, opened, active=active)

    @property
    def active(self) -> int:
        """The version that new records are sealed with."""
        return self._active

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions held, in order."""
        return tuple(sorted(self._keys))

    def add(self, key: DataKey, *, activate: bool) -> None:
        """Takes over another key. Raises ValueError for a version that is there already, or another vault's.

        After `wipe` it is overwritten too: VaultLocked.
        """
        with self._changing:
            if self._wiped:
                key.wipe()
                raise VaultLocked
            self._add(key)
            if activate:
                self._active = key.version

    def activate(self, version: int) -> None:
        """Seals with that version from now on; an older one than the active changes nothing. Raises ValueError for one not held."""
        with self._changing:
            if version not in self._keys:
                raise ValueError("an unknown data key can't be made the active one")
            self._active = max(self._active, version)

    def retire(self, version: int) -> None:
        """Wipes a key that no record needs any more. Raises ValueError for the active one, or an unknown one."""
        with self._changing:
            if version == self._active or version not in self._keys:
                raise ValueError("an active or unknown data key can't be retired")
            self._keys.pop(version).wipe()

    def seal(self, place: Place, plaintext: SecretBuffer, *, fill: Fill = fill_random) -> bytes:
        """The record. Raises ValueError for a place in another vault, VaultLocked after `wipe`."""
        if place.vault_id != self.vault_id:
            raise ValueError("the place is in another vault")
        key = self._keys[self._active]
        return seal(key.key, LABEL_RECORD, key.version, place.context(), plaintext, fill=fill)

    def open(self, place: Place, record: Readable) -> SecretBuffer:
        """The secret, which the caller wipes. Raises DoesNotOpen, VaultLocked after `wipe`."""
        if place.vault_id != self.vault_id:
            raise DoesNotOpen("vault")
        key = self._keys.get(read_key_version(record))
        if key is None:
            raise DoesNotOpen("key version")
        return unseal(key.key, LABEL_RECORD, key.version, place.context(), record)

    def wipe(self) -> None:
        """Overwrites all keys. Everything afterwards raises VaultLocked."""
        with self._changing:
            self._wiped = True
            for key in self._keys.values():
                key.wipe()

    def __repr__(self) -> str:
        return f"DataKeys(versions={self.versions}, active={self._active})"

    def _add(self, key: DataKey) -> None:
        if key.vault_id != self.vault_id or key.version in self._keys:
            raise ValueError("the data key is of another vault, or its version is there already")
        self._keys[key.version] = key
