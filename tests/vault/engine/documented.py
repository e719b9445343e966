"""The formats of docs/vault.md written down a second time, from the document alone: opens what the engine seals.

Nothing of `vault.engine` is used here. HKDF and HMAC are the standard library's; AES-GCM, Argon2id and X25519 themselves are
the library's lower floors.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

Field = bytes | str | int


def extract(salt: bytes, material: bytes, digest: str) -> bytes:
    """RFC 5869, section 2.2."""
    return hmac.digest(salt or bytes(hashlib.new(digest).digest_size), material, digest)


def expand(key: bytes, info: bytes, length: int, digest: str) -> bytes:
    """RFC 5869, section 2.3."""
    made, block, number = b"", b"", 0
    while len(made) < length:
        number += 1
        block = hmac.digest(key, block + info + bytes((number,)), digest)
        made += block
    return made[:length]


def hkdf(material: bytes, salt: bytes, info: bytes, length: int, digest: str = "sha512") -> bytes:
    """RFC 5869."""
    return expand(extract(salt, material, digest), info, length, digest)


def pack(*fields: Field) -> bytes:
    """Each field after its length in 4 bytes; integers have 8 bytes."""
    packed = b""
    for field in fields:
        if isinstance(field, int):
            field = struct.pack(">Q", field)
        elif isinstance(field, str):
            field = field.encode("utf-8")
        packed += struct.pack(">I", len(field)) + field
    return packed


def aes_gcm_open(key: bytes, nonce: bytes, sealed: bytes, additional: bytes) -> bytes:
    """AES-GCM with a tag of 16 bytes. Raises InvalidTag."""
    decryptor = Cipher(AES(key), GCM(nonce, sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(additional)
    return decryptor.update(sealed[:-16]) + decryptor.finalize()


def open_box(material: bytes, label: str, context: tuple[Field, ...], box: bytes) -> tuple[int, bytes]:
    """(key version, plaintext) of a box."""
    magic, alg, version, salt, commitment = struct.unpack(">4sBI32s32s", box[:73])
    assert (magic, alg) == (b"THV1", 1)
    derived = hkdf(material, salt, label.encode(), 76)
    assert derived[44:] == commitment
    additional = pack(label, box[:73], *context)
    return version, aes_gcm_open(derived[:32], derived[32:44], box[73:], additional)


def argon2id(
    password: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int, pepper: bytes = b""
) -> bytes:
    """A password slot's key material."""
    derivation = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return derivation.derive(password) + pepper


def hpke_open(
    private: bytes,
    encapsulated: bytes,
    info: bytes,
    additional: bytes,
    sealed: bytes,
    *,
    aead: int,
    key_length: int,
) -> bytes:
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256: the first message."""
    kem = b"KEM" + struct.pack(">H", 0x0020)
    suite = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, aead)

    def labeled_extract(of: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + of + label + material, "sha256")

    def labeled_expand(of: bytes, key: bytes, label: bytes, more: bytes, length: int) -> bytes:
        return expand(key, struct.pack(">H", length) + b"HPKE-v1" + of + label + more, length, "sha256")

    key = X25519PrivateKey.from_private_bytes(private)
    shared = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    both = encapsulated + key.public_key().public_bytes_raw()
    secret = labeled_expand(kem, labeled_extract(kem, b"", b"eae_prk", shared), b"shared_secret", both, 32)
    context = (
        b"\0"
        + labeled_extract(suite, b"", b"psk_id_hash", b"")
        + labeled_extract(suite, b"", b"info_hash", info)
    )
    schedule = labeled_extract(suite, secret, b"secret", b"")
    message_key = labeled_expand(suite, schedule, b"key", context, key_length)
    nonce = labeled_expand(suite, schedule, b"base_nonce", context, 12)
    return aes_gcm_open(message_key, nonce, sealed, additional)


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def recovery_key(text: str) -> bytes:
    """The 32 bytes in a printed recovery key, by way of one long number."""
    number = 0
    for character in text.replace("-", ""):
        number = number * 32 + CROCKFORD.index(character)
    assert number % 16 == 0
    payload = (number // 16).to_bytes(37, "big")
    assert payload[0] == 1
    return payload[1:33]
