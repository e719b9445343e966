"""What people type or send to open the vault, as the engine's secrets of slots. Control plane; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tokenhub.core.errors import InvalidRequest
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, PasswordTooWeak
from vault.engine.hierarchy import Root
from vault.engine.kms import Kms
from vault.engine.passwords import DEFAULT, Argon2Parameters, encode_password
from vault.engine.recovery import parse_key, parse_recovery_key
from vault.engine.slots import KeySecret, KmsSecret, PasswordSecret, Slot, SlotKind, SlotSecret, decode_slot
from vault.leftovers import leftovers
from vault.vault_models import VaultSlot


@dataclass(frozen=True, slots=True)
class Given:
    """A password (with the key file of a peppered slot), a printed recovery key, or a key's bytes or text. Never printed."""

    password: str = field(default="", repr=False)
    recovery_key: str = field(default="", repr=False)
    key: bytes | str = field(default=b"", repr=False)

    @contextmanager
    def as_secrets(self, parameters: Argon2Parameters = DEFAULT) -> Iterator[tuple[SlotSecret, ...]]:
        """The secrets to try, wiped afterwards. Raises InvalidRequest for none or several, KeyMalformed.

        `parameters` are for new password slots only.
        """
        leftovers.note()
        if bool(self.password or self.key) == bool(self.recovery_key):
            raise InvalidRequest("give a password, a recovery key, or a key", param="password")
        with ExitStack() as wiped:
            key: SecretBuffer | None = None
            if self.recovery_key:
                key = wiped.enter_context(parse_recovery_key(self.recovery_key))
                yield (KeySecret(SlotKind.RECOVERY, key),)
                return
            if self.key:
                key = wiped.enter_context(parse_key(self.key))
            if self.password:
                try:
                    password = wiped.enter_context(encode_password(self.password))
                except PasswordTooWeak:
                    # Longer than any password can be, or half a character: it opens nothing.
                    raise DoesNotOpen("format") from None
                yield (PasswordSecret(password, key, parameters),)
            elif key is not None:
                yield (KeySecret(SlotKind.KEY_FILE, key), KeySecret(SlotKind.ENVIRONMENT, key))


@contextmanager
def as_slot_secrets(
    given: Mapping[str, Given], get_kms: Callable[[], Kms]
) -> Iterator[dict[str, SlotSecret]]:
    """For each slot's id the secret that fits its kind, wiped afterwards; a KMS slot's is the KMS itself.

    Raises InvalidRequest for an id or kind that does not fit, and what `get_kms` raises.
    """
    kinds = dict(VaultSlot.objects.values_list("slot_id", "kind"))
    secrets: dict[str, SlotSecret] = {}
    with ExitStack() as wiped:
        for slot_id, one in given.items():
            if kinds.get(slot_id) == SlotKind.KMS:
                secrets[slot_id] = KmsSecret(get_kms())
                continue
            made = wiped.enter_context(one.as_secrets())
            fitting = [secret for secret in made if kind_of(secret) == kinds.get(slot_id)]
            if not fitting:
                raise InvalidRequest("this is no slot's id, or not its kind of secret", param="secrets")
            secrets[slot_id] = fitting[0]
        yield secrets


def read_slot(row: VaultSlot) -> Slot:
    """The slot in a row. Raises DoesNotOpen for what is none."""
    slot = decode_slot(row.document)
    if slot.slot_id != row.slot_id:
        raise DoesNotOpen("format")
    return slot


def open_any(rows: list[VaultSlot], secrets: tuple[SlotSecret, ...]) -> tuple[VaultSlot, SlotSecret, Root]:
    """The first slot that one of the secrets opens, that secret, and ROOT. Raises DoesNotOpen; KmsFailed from a KMS."""
    for row in rows:
        for secret in secrets:
            if kind_of(secret) != row.kind:
                continue
            try:
                return row, secret, secret.unwrap(read_slot(row))
            except DoesNotOpen:
                continue
    raise DoesNotOpen("kind")


def kind_of(secret: SlotSecret) -> SlotKind:
    """The kind of slots that a secret opens."""
    if isinstance(secret, PasswordSecret):
        return SlotKind.PASSWORD
    return secret.kind if isinstance(secret, KeySecret) else SlotKind.KMS
