"""ROOT and everything below it: versioned data keys, subkeys, the root check, fingerprints. Both planes; pure.

ROOT --seals--> data key 1, 2, …       (each seals records; one of them is the active one)
ROOT --seals--> the root check         (opens under the true ROOT only)
ROOT --HKDF---> manifest key, audit checkpoint key, fingerprint key
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.engine.buffers import Fill, Readable, SecretBuffer, fill_random
from vault.engine.errors import DoesNotOpen
from vault.engine.framing import pack
from vault.engine.sealing import (
    KEY_BYTES,
    LABEL_DATA_KEY,
    LABEL_KEPT_SUBKEY,
    LABEL_ROOT_CHECK,
    seal,
    unseal,
)

LABEL_SUBKEY: Final = "tokenhub vault v1 subkey"


class Purpose(StrEnum):
    """What a subkey of ROOT is for."""

    MANIFEST = "manifest"
    AUDIT_CHECKPOINT = "audit checkpoint"
    FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """ROOT, opened: 32 random bytes of one vault. A `with` block wipes it."""

    vault_id: str
    version: int
    key: SecretBuffer

    @classmethod
    def create(cls, vault_id: str, version: int = 1, *, fill: Fill = fill_random) -> Self:
        """A new random ROOT."""
        return cls(vault_id, version, SecretBuffer.random(KEY_BYTES, fill=fill))

    def copy(self) -> Root:
        """Another holder's copy, wiped by itself."""
        return Root(self.vault_id, self.version, SecretBuffer.copy_of(self.key))

    def wipe(self) -> None:
        """Overwrites the key."""
        self.key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wipe()


@dataclass(frozen=True, slots=True, eq=False)
class DataKey:
    """A data key, opened: seals records. Versions count up from 1 and are never used again."""

    vault_id: str
    version: int
    key: SecretBuffer

    @classmethod
    def create(cls, vault_id: str, version: int, *, fill: Fill = fill_random) -> Self:
        """A new random data key."""
        return cls(vault_id, version, SecretBuffer.random(KEY_BYTES, fill=fill))

    def wipe(self) -> None:
        """Overwrites the key."""
        self.key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wipe()


def wrap_data_key(root: Root, data_key: DataKey, *, fill: Fill = fill_random) -> bytes:
    """The data key sealed by ROOT, for the database. Raises ValueError when they are of two vaults."""
    if data_key.vault_id != root.vault_id:
        raise ValueError("the data key is of another vault")
    context = (data_key.vault_id, data_key.version)
    return seal(root.key, LABEL_DATA_KEY, root.version, context, data_key.key, fill=fill)


def unwrap_data_key(root: Root, version: int, wrapped: Readable) -> DataKey:
    """The data key of that version. Raises DoesNotOpen for another version's, vault's or root's."""
    key = unseal(root.key, LABEL_DATA_KEY, root.version, (root.vault_id, version), wrapped)
    return DataKey(root.vault_id, version, _checked(key))


def make_root_check(root: Root, *, fill: Fill = fill_random) -> bytes:
    """What opens under this ROOT only, and holds nothing: kept beside the vault's meta data."""
    return seal(root.key, LABEL_ROOT_CHECK, root.version, (root.vault_id,), SecretBuffer(0), fill=fill)


def check_root(root: Root, check: Readable) -> None:
    """Raises DoesNotOpen unless `make_root_check` made this with the same ROOT, vault and version."""
    with unseal(root.key, LABEL_ROOT_CHECK, root.version, (root.vault_id,), check) as opened:
        if len(opened):
            raise DoesNotOpen("format")


def derive_subkey(root: Root, purpose: Purpose) -> SecretBuffer:
    """HKDF-SHA512(ROOT, no salt, info = pack(label, purpose, vault id, root version)), 32 bytes. The caller wipes it."""
    info = pack(LABEL_SUBKEY, purpose.value, root.vault_id, root.version)
    subkey = SecretBuffer(KEY_BYTES)
    with root.key.exposed() as material, subkey.exposed() as view:
        HKDF(SHA512(), KEY_BYTES, None, info).derive_into(material, view)
    return subkey


def keep_subkey(
    root: Root, purpose: Purpose, of_version: int, subkey: SecretBuffer, *, fill: Fill = fill_random
) -> bytes:
    """An earlier root's subkey sealed by this one, so that what it signed can still be checked after a root rotation."""
    context = (root.vault_id, purpose.value, of_version)
    return seal(root.key, LABEL_KEPT_SUBKEY, root.version, context, subkey, fill=fill)


def open_kept_subkey(root: Root, purpose: Purpose, of_version: int, kept: Readable) -> SecretBuffer:
    """The subkey that `keep_subkey` sealed. Raises DoesNotOpen."""
    context = (root.vault_id, purpose.value, of_version)
    return _checked(unseal(root.key, LABEL_KEPT_SUBKEY, root.version, context, kept))


def fingerprint(fingerprint_key: SecretBuffer, secret: SecretBuffer) -> str:
    """16 hex digits of HMAC-SHA256(fingerprint key, secret): equal for equal secrets, tells nothing without the key."""
    with fingerprint_key.exposed() as key, secret.exposed() as view:
        return hmac.digest(key, view, "sha256")[:8].hex()


def _checked(key: SecretBuffer) -> SecretBuffer:
    """Only who holds ROOT can have sealed another length; still no shorter key is ever used."""
    if len(key) != KEY_BYTES:
        key.wipe()
        raise DoesNotOpen("format")
    return key
