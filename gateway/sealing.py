"""Seals what is kept of answers: a stolen database shows neither what was asked nor what was answered. Data plane; pure.

The keys come from a pepper, which no database holds, and from the request itself, of which only a keyed digest is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE: Final = 12


class Sealer:
    """Seals and opens for one request: what another request sealed does not open. `parts` are all that makes it that request."""

    def __init__(self, pepper: bytes, purpose: str, name: bytes, *parts: bytes | bytearray) -> None:
        content = _digest(parts)
        self.name = hmac.digest(pepper, f"{purpose} name\0".encode() + name, "sha256").hex()
        """What the kept answer is found by."""
        self.fingerprint = hmac.digest(pepper, f"{purpose} content\0".encode() + content, "sha256").hex()
        """What tells this request from another one of the same name."""
        self._bound = self.name.encode()
        info = f"tokenhub {purpose}".encode()
        self._key = HKDF(SHA256(), 32, salt=content, info=info).derive(pepper)

    @classmethod
    def of_content(cls, pepper: bytes, purpose: str, owner: bytes, *parts: bytes | bytearray) -> Sealer:
        """A sealer whose name is the request itself, so that equal requests of one owner find each other."""
        content = _digest((owner, *parts))
        return cls(pepper, purpose, content, content)

    def seal(self, data: bytes) -> bytes:
        """The data under a fresh nonce, bound to its name."""
        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._key).encrypt(nonce, data, self._bound)

    def open(self, sealed: bytes) -> bytes | None:
        """The data; None where it was altered, or sealed for another request."""
        try:
            return AESGCM(self._key).decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound)
        except (InvalidTag, ValueError):
            return None


def _digest(parts: Iterable[bytes | bytearray]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
