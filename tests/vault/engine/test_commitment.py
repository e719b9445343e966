"""Why there is a commitment: AES-GCM alone opens one planted ciphertext under two keys. The engine opens it under one."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tests.vault.engine.documented import aes_gcm_open, hkdf, pack
from tests.vault.engine.vault_cast import secret
from vault.engine.errors import DoesNotOpen
from vault.engine.sealing import LABEL_SLOT, unseal

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
SALT = bytes(range(64, 96))
CONTEXT = ("vault", "slot-1")


def encrypt_block(key: bytes, block: bytes) -> bytes:
    """AES of one block."""
    encryptor = Cipher(AES(key), ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def multiply(left: int, right: int) -> int:
    """GCM's field, its first bit the highest (NIST SP 800-38D, section 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if right >> bit & 1:
            product ^= left
        left = left >> 1 ^ (0xE1 << 120 if left & 1 else 0)
    return product


def power(base: int, exponent: int) -> int:
    """By squaring. The one is the highest bit."""
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = multiply(result, base)
        base = multiply(base, base)
        exponent >>= 1
    return result


def blocks_of(data: bytes) -> list[int]:
    """16 bytes each, the last one filled up with zeros."""
    return [int.from_bytes(data[at : at + 16].ljust(16, b"\0"), "big") for at in range(0, len(data), 16)]


def tag_of(key: bytes, nonce: bytes, additional: bytes, ciphertext: list[int]) -> int:
    """The tag under one key."""
    hash_key = int.from_bytes(encrypt_block(key, bytes(16)), "big")
    lengths = len(additional) * 8 << 64 | len(ciphertext) * 128
    digest = 0
    for block in [*blocks_of(additional), *ciphertext, lengths]:
        digest = multiply(digest ^ block, hash_key)
    return digest ^ int.from_bytes(encrypt_block(key, nonce + b"\0\0\0\1"), "big")


def plant() -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """A box with the first key's commitment whose ciphertext has one tag under both keys: its last block is solved for."""
    derived = [hkdf(key, SALT, LABEL_SLOT.encode(), 76) for key in (ONE, TWO)]
    header = b"THV1\1" + (1).to_bytes(4, "big") + SALT + derived[0][44:]
    additional = pack(LABEL_SLOT, header, *CONTEXT)
    keys = [(okm[:32], okm[32:44]) for okm in derived]
    first = 0x1234
    apart = tag_of(*keys[0], additional, [first, 0]) ^ tag_of(*keys[1], additional, [first, 0])
    hashes = [int.from_bytes(encrypt_block(key, bytes(16)), "big") for key, _ in keys]
    # The last block stands two multiplications before the end.
    factor = multiply(hashes[0], hashes[0]) ^ multiply(hashes[1], hashes[1])
    last = multiply(apart, power(factor, 2**128 - 2))
    ciphertext = b"".join(block.to_bytes(16, "big") for block in (first, last))
    tag = tag_of(*keys[0], additional, [first, last]).to_bytes(16, "big")
    return header + ciphertext + tag, additional, keys


def test_a_planted_box_opens_under_two_keys_of_aes_gcm_and_under_one_of_ours() -> None:
    box, additional, keys = plant()
    opened = [aes_gcm_open(key, nonce, box[73:], additional) for key, nonce in keys]
    assert opened[0] != opened[1]
    assert unseal(secret(ONE), LABEL_SLOT, 1, CONTEXT, box).reveal_bytes() == opened[0]
    with pytest.raises(DoesNotOpen) as caught:
        unseal(secret(TWO), LABEL_SLOT, 1, CONTEXT, box)
    assert caught.value.reason == "commitment"
