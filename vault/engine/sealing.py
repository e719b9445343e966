"""The one sealed format of the vault, "THV1": records, wrapped keys, slots, grants differ in label and context only. Pure.

    "THV1" | alg u8 | key version u32 | salt 32 | commitment 32 | ciphertext | tag 16        (integers big-endian)

    alg 1:  key 32 | nonce 12 | commitment 32 = HKDF-SHA512(key material, salt, info = label, length 76)
            ciphertext | tag = AES-256-GCM(key, nonce, plaintext, additional data)
            additional data = pack(label, the 73 bytes before the ciphertext, *context)

Each sealing draws a new salt, so that a derived key and nonce are used once, whatever number of things a key seals.
The commitment makes the box key-committing, which AES-GCM is not: nobody can plant bytes that open under two passwords
(Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks"; AWS Encryption SDK, committing suites).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.engine.buffers import Fill, Readable, SecretBuffer, fill_random
from vault.engine.errors import DoesNotOpen
from vault.engine.framing import pack

MAGIC: Final = b"THV1"
ALG_AES_256_GCM_HKDF_SHA512: Final = 1
KEY_BYTES: Final = 32
MAX_PLAINTEXT: Final = 65_536
"""Longer than any credential (a cloud's service account file has about 2,400 bytes)."""

_VERSION_AT = 5
_SALT_AT = 9
_COMMITMENT_AT = 41
_CIPHERTEXT_AT = 73
_TAG_BYTES = 16
OVERHEAD: Final = _CIPHERTEXT_AT + _TAG_BYTES
"""89 bytes more than the plaintext."""

LABEL_RECORD: Final = "tokenhub vault v1 record"
LABEL_DATA_KEY: Final = "tokenhub vault v1 data key"
LABEL_KEPT_SUBKEY: Final = "tokenhub vault v1 kept subkey"
LABEL_ROOT_CHECK: Final = "tokenhub vault v1 root check"
LABEL_SLOT: Final = "tokenhub vault v1 slot"
LABEL_GRANT: Final = "tokenhub vault v1 grant"
LABEL_SOFTWARE_KMS: Final = "tokenhub vault v1 software kms"

type Context = Sequence[Readable | str | int]
"""The fields that a sealed thing belongs to, in the order in which they are authenticated."""


def seal(
    key: SecretBuffer,
    label: str,
    key_version: int,
    context: Context,
    plaintext: SecretBuffer,
    *,
    fill: Fill = fill_random,
) -> bytes:
    """The sealed plaintext. `key` has at least 32 bytes; `key_version` (1 to 2^32 - 1) is written in the clear.

    Raises ValueError for lengths and versions out of bounds, VaultLocked when a buffer was wiped before or meanwhile.
    """
    if not 1 <= key_version < 1 << 32:
        raise ValueError("a key's version is between 1 and 2^32 - 1")
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"at most {MAX_PLAINTEXT} bytes are sealed at once")
    box = bytearray(OVERHEAD + len(plaintext))
    box[:_VERSION_AT] = MAGIC + bytes((ALG_AES_256_GCM_HKDF_SHA512,))
    box[_VERSION_AT:_SALT_AT] = key_version.to_bytes(4, "big")
    with memoryview(box) as view:
        fill(view[_SALT_AT:_COMMITMENT_AT])
    with _derive(key, bytes(box[_SALT_AT:_COMMITMENT_AT]), label) as derived, derived.exposed() as okm:
        box[_COMMITMENT_AT:_CIPHERTEXT_AT] = okm[44:76]
        additional = pack(label, box[:_CIPHERTEXT_AT], *context)
        with plaintext.exposed() as text, memoryview(box) as view:
            AESGCM(okm[:32]).encrypt_into(okm[32:44], text, additional, view[_CIPHERTEXT_AT:])
    return bytes(box)


def unseal(key: SecretBuffer, label: str, key_version: int, context: Context, box: Readable) -> SecretBuffer:
    """The plaintext of what `seal` made with the same key, label, version and context. The caller wipes it.

    Raises DoesNotOpen for anything else, VaultLocked when the key was wiped before or meanwhile.
    """
    if read_key_version(box) != key_version:
        raise DoesNotOpen("key version")
    additional = pack(label, box[:_CIPHERTEXT_AT], *context)
    opened = SecretBuffer(len(box) - OVERHEAD)
    try:
        with _derive(key, bytes(box[_SALT_AT:_COMMITMENT_AT]), label) as derived, derived.exposed() as okm:
            if not hmac.compare_digest(okm[44:76], box[_COMMITMENT_AT:_CIPHERTEXT_AT]):
                raise DoesNotOpen("commitment")
            with opened.exposed() as text:
                AESGCM(okm[:32]).decrypt_into(okm[32:44], box[_CIPHERTEXT_AT:], additional, text)
    except InvalidTag:
        opened.wipe()
        raise DoesNotOpen("authentication") from None
    except BaseException:
        opened.wipe()
        raise
    return opened


def read_key_version(box: Readable) -> int:
    """The version in the clear of the key that sealed this. Not authenticated until it opens.

    Raises DoesNotOpen for another format, a length that can't be, or an unknown algorithm.
    """
    if not OVERHEAD <= len(box) <= OVERHEAD + MAX_PLAINTEXT or box[:4] != MAGIC:
        raise DoesNotOpen("format")
    if box[4] != ALG_AES_256_GCM_HKDF_SHA512:
        raise DoesNotOpen("algorithm")
    return int.from_bytes(box[_VERSION_AT:_SALT_AT], "big")


def _derive(key: SecretBuffer, salt: bytes, label: str) -> SecretBuffer:
    """key 32 | nonce 12 | commitment 32, for one box."""
    if len(key) < KEY_BYTES:
        raise ValueError(f"key material has at least {KEY_BYTES} bytes")
    derived = SecretBuffer(76)
    with key.exposed() as material, derived.exposed() as okm:
        HKDF(SHA512(), 76, salt, label.encode()).derive_into(material, okm)
    return derived
