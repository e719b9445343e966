"""The interface of a key management service, and a stand-in in software for tests and local trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vault.engine.buffers import Fill, SecretBuffer, fill_random
from vault.engine.framing import pack
from vault.engine.sealing import KEY_BYTES, LABEL_SOFTWARE_KMS, seal, unseal

type KmsContext = Mapping[str, str]
"""What a wrapped key is bound to, in the clear: AWS's encryption context, Google's and Vault transit's additional data."""


class Kms(Protocol):
    """Wraps a slot's 32-byte key with a key that never leaves the service.

    The slot's key, not ROOT, is what the service sees: ROOT is sealed under it like in any other slot.
    """

    @property
    def key_id(self) -> str:
        """The service's name of the wrapping key. Public; stored in the slot, and authenticated by it."""
        ...

    def wrap(self, key: SecretBuffer, context: KmsContext) -> bytes:
        """The wrapped key, which may be stored. Raises KmsFailed."""
        ...

    def unwrap(self, wrapped: bytes, context: KmsContext) -> SecretBuffer:
        """The key. Raises DoesNotOpen when the service says that it is not ours, KmsFailed for all else."""
        ...


class SoftwareKms:
    """A wrapping key in this process's memory, for tests and trials. It protects no better than a key file."""

    def __init__(self, key_id: str, key: SecretBuffer, *, fill: Fill = fill_random) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a wrapping key has {KEY_BYTES} bytes")
        self._key_id = key_id
        self._key = key
        self._fill = fill

    @property
    def key_id(self) -> str:
        """The name it was given."""
        return self._key_id

    def wrap(self, key: SecretBuffer, context: KmsContext) -> bytes:
        """The key, sealed under the wrapping key and the context."""
        return seal(self._key, LABEL_SOFTWARE_KMS, 1, self._bound(context), key, fill=self._fill)

    def unwrap(self, wrapped: bytes, context: KmsContext) -> SecretBuffer:
        """The key. Raises DoesNotOpen."""
        return unseal(self._key, LABEL_SOFTWARE_KMS, 1, self._bound(context), wrapped)

    def _bound(self, context: KmsContext) -> tuple[str, bytes]:
        return self._key_id, pack(*(text for pair in sorted(context.items()) for text in pair))
