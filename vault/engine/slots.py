"""The ways to ROOT. Each slot seals ROOT under a key of its own, and none knows of the others. Both planes; pure.

A slot's row holds nothing that opens it. Its every field is authenticated, so that whoever writes to the database can't
weaken a slot, move it to another vault, or pass one kind off as another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from vault.engine.buffers import Fill, SecretBuffer, fill_random
from vault.engine.errors import DoesNotOpen, ParametersRefused
from vault.engine.hierarchy import Root
from vault.engine.kms import Kms, KmsContext
from vault.engine.passwords import DEFAULT, SALT_BYTES, Argon2Parameters, stretch_password
from vault.engine.sealing import KEY_BYTES, LABEL_SLOT, Context, seal, unseal


class SlotKind(StrEnum):
    """Where a slot's secret comes from."""

    PASSWORD = "password"  # noqa: S105 - the kind's name
    KEY_FILE = "key_file"
    ENVIRONMENT = "environment"
    RECOVERY = "recovery"
    KMS = "kms"


KDF_OF_KIND: Final = {
    SlotKind.PASSWORD: "argon2id",
    SlotKind.KEY_FILE: "none",
    SlotKind.ENVIRONMENT: "none",
    SlotKind.RECOVERY: "none",
    SlotKind.KMS: "kms",
}
"""How the secret becomes key material: 32 random bytes need nothing but the sealing's HKDF."""
KEY_KINDS: Final = frozenset({SlotKind.KEY_FILE, SlotKind.ENVIRONMENT, SlotKind.RECOVERY})
HEADLESS_KINDS: Final = frozenset({SlotKind.KEY_FILE, SlotKind.ENVIRONMENT, SlotKind.KMS})
"""The kinds that can unlock at start, without anyone there."""


class Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is stored of a slot; `msgspec.json` and `msgspec.to_builtins` write it, bytes as base64.

    `argon2`, `salt` and `peppered` are a password's; `wrapped_key` a KMS's; `key_id` a public name of the key.
    """

    vault_id: str
    slot_id: str
    kind: SlotKind
    root_version: int
    kdf: str
    sealed: bytes
    argon2: Argon2Parameters | None = None
    salt: bytes = b""
    peppered: bool = False
    key_id: str = ""
    wrapped_key: bytes = b""

    def context(self) -> Context:
        """The fields in the order in which they are authenticated: all but the sealed ROOT itself."""
        argon2 = self.argon2
        return (
            self.vault_id,
            self.slot_id,
            self.kind.value,
            self.kdf,
            argon2.memory_kib if argon2 else 0,
            argon2.passes if argon2 else 0,
            argon2.lanes if argon2 else 0,
            self.salt,
            int(self.peppered),
            self.key_id,
            self.wrapped_key,
            self.root_version,
        )


class SlotSecret(Protocol):
    """What opens a slot, and can make one: a password, a key, a KMS."""

    def wrap(self, root: Root, slot_id: str, *, fill: Fill = fill_random) -> Slot:
        """A slot for this ROOT, with new salts."""
        ...

    def unwrap(self, slot: Slot) -> Root:
        """ROOT, which the caller wipes. Raises DoesNotOpen, and nothing else for a wrong secret or a changed slot."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PasswordSecret:
    """A password, and the key file that goes with it where the slot is peppered. `parameters` are for new slots only."""

    password: SecretBuffer
    pepper: SecretBuffer | None = None
    parameters: Argon2Parameters = DEFAULT

    def __post_init__(self) -> None:
        if self.pepper is not None and len(self.pepper) != KEY_BYTES:
            raise ValueError(f"the key file of a peppered slot has {KEY_BYTES} bytes")

    def wrap(self, root: Root, slot_id: str, *, fill: Fill = fill_random) -> Slot:
        """As SlotSecret. Raises ParametersRefused. Takes Argon2id's time."""
        salt = bytearray(SALT_BYTES)
        fill(memoryview(salt))
        empty = Slot(
            vault_id=root.vault_id,
            slot_id=slot_id,
            kind=SlotKind.PASSWORD,
            root_version=root.version,
            kdf=KDF_OF_KIND[SlotKind.PASSWORD],
            sealed=b"",
            argon2=self.parameters,
            salt=bytes(salt),
            peppered=self.pepper is not None,
        )
        with stretch_password(self.password, empty.salt, self.parameters, self.pepper) as key:
            return _sealed(empty, root, key, fill)

    def unwrap(self, slot: Slot) -> Root:
        """As SlotSecret. Takes Argon2id's time, unless the slot is refused before."""
        _check_kind(slot, SlotKind.PASSWORD)
        if slot.argon2 is None or slot.peppered != (self.pepper is not None):
            raise DoesNotOpen("kind")
        try:
            key = stretch_password(self.password, slot.salt, slot.argon2, self.pepper)
        except ParametersRefused:
            raise DoesNotOpen("parameters") from None
        with key:
            return _opened(slot, key)


@dataclass(frozen=True, slots=True, eq=False)
class KeySecret:
    """A random 32-byte key from a file, the environment or a printed recovery key. `key_id` is for new slots only."""

    kind: SlotKind
    key: SecretBuffer
    key_id: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KEY_KINDS or len(self.key) != KEY_BYTES:
            raise ValueError(
                f"a key of {KEY_BYTES} bytes opens slots of the kinds {', '.join(sorted(KEY_KINDS))}"
            )

    def wrap(self, root: Root, slot_id: str, *, fill: Fill = fill_random) -> Slot:
        """As SlotSecret."""
        empty = Slot(
            vault_id=root.vault_id,
            slot_id=slot_id,
            kind=self.kind,
            root_version=root.version,
            kdf=KDF_OF_KIND[self.kind],
            sealed=b"",
            key_id=self.key_id,
        )
        return _sealed(empty, root, self.key, fill)

    def unwrap(self, slot: Slot) -> Root:
        """As SlotSecret."""
        _check_kind(slot, self.kind)
        return _opened(slot, self.key)


@dataclass(frozen=True, slots=True, eq=False)
class KmsSecret:
    """A key management service. It is asked once for each `wrap` and `unwrap`; both may raise KmsFailed as well."""

    kms: Kms

    def wrap(self, root: Root, slot_id: str, *, fill: Fill = fill_random) -> Slot:
        """As SlotSecret."""
        with SecretBuffer.random(KEY_BYTES, fill=fill) as key:
            empty = Slot(
                vault_id=root.vault_id,
                slot_id=slot_id,
                kind=SlotKind.KMS,
                root_version=root.version,
                kdf=KDF_OF_KIND[SlotKind.KMS],
                sealed=b"",
                key_id=self.kms.key_id,
                wrapped_key=self.kms.wrap(key, kms_context(root.vault_id, slot_id, root.version)),
            )
            return _sealed(empty, root, key, fill)

    def unwrap(self, slot: Slot) -> Root:
        """As SlotSecret."""
        _check_kind(slot, SlotKind.KMS)
        context = kms_context(slot.vault_id, slot.slot_id, slot.root_version)
        with self.kms.unwrap(slot.wrapped_key, context) as key:
            if len(key) != KEY_BYTES:
                raise DoesNotOpen("format")
            return _opened(slot, key)


def kms_context(vault_id: str, slot_id: str, root_version: int) -> KmsContext:
    """What a KMS binds a slot's key to. It shows up in the service's log in the clear."""
    return {
        "tokenhub:purpose": "vault slot",
        "tokenhub:vault": vault_id,
        "tokenhub:slot": slot_id,
        "tokenhub:root-version": str(root_version),
    }


def decode_slot(document: Any) -> Slot:
    """A slot from its JSON values. Raises DoesNotOpen for anything else."""
    try:
        return msgspec.convert(document, type=Slot)
    except msgspec.ValidationError:
        raise DoesNotOpen("format") from None


def encode_slot(slot: Slot) -> dict[str, Any]:
    """The slot as JSON values, for a row: all of it authenticated, none of it secret."""
    document: dict[str, Any] = msgspec.to_builtins(slot)
    return document


def _check_kind(slot: Slot, kind: SlotKind) -> None:
    if slot.kind is not kind or slot.kdf != KDF_OF_KIND[kind]:
        raise DoesNotOpen("kind")


def _sealed(empty: Slot, root: Root, key: SecretBuffer, fill: Fill) -> Slot:
    box = seal(key, LABEL_SLOT, root.version, empty.context(), root.key, fill=fill)
    return msgspec.structs.replace(empty, sealed=box)


def _opened(slot: Slot, key: SecretBuffer) -> Root:
    try:
        context = slot.context()
        opened = unseal(key, LABEL_SLOT, slot.root_version, context, slot.sealed)
    except ValueError:
        # A number in the row that no slot of ours can have.
        raise DoesNotOpen("format") from None
    if len(opened) != KEY_BYTES:
        opened.wipe()
        raise DoesNotOpen("format")
    return Root(slot.vault_id, slot.root_version, opened)
