"""Keys on paper and in files: the printed recovery key, and how 32 random bytes are written in a file or variable. Pure.

    recovery key = base32(version 1 | key 32 | CRC-32 of both, big-endian | 4 zero bits) = 60 characters, 12 groups of 5

The alphabet is Crockford's: digits and letters without I, L, O and U. Reading ignores case, spaces and dashes, and takes
O for 0, I and L for 1. Every error within one character, or of two neighbours exchanged, changes at most 10 bits in a row,
which a CRC of 32 bits always notices; of anything else it misses one in 4,294,967,296.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
import zlib
from typing import Final

from vault.engine.buffers import Readable, SecretBuffer
from vault.engine.errors import KeyMalformed
from vault.engine.sealing import KEY_BYTES

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CHARACTERS: Final = 60
GROUP: Final = 5

_FORMAT_VERSION = 1
_PAYLOAD_BYTES = 1 + KEY_BYTES + 4
_VALUES = {character: value for value, character in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_MIN_DISTINCT = 16
"""Of 32 random bytes about 30 differ; fewer than 16 come by chance less than once in 10^18."""
_HEX = re.compile(rb"[0-9A-Fa-f]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{43}=?")


def format_recovery_key(key: SecretBuffer) -> str:
    """The key to print: 12 groups of 5 characters with dashes. A text, which can't be overwritten: it is shown once."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a recovery key has {KEY_BYTES} bytes")
    with SecretBuffer(_PAYLOAD_BYTES) as payload, payload.exposed() as view, key.exposed() as secret:
        view[0] = _FORMAT_VERSION
        view[1:33] = secret
        view[33:] = zlib.crc32(view[:33]).to_bytes(4, "big")
        characters = []
        bits = held = 0
        for byte in view:
            held = (held << 8 | byte) & 0xFFF
            bits += 8
            while bits >= 5:
                bits -= 5
                characters.append(ALPHABET[held >> bits & 31])
        characters.append(ALPHABET[held << (5 - bits) & 31])
    text = "".join(characters)
    return "-".join(text[start : start + GROUP] for start in range(0, CHARACTERS, GROUP))


def parse_recovery_key(text: str) -> SecretBuffer:
    """The key that was printed, however it was typed. Raises KeyMalformed, which says what to look at."""
    values = _read_characters(text)
    if len(values) != CHARACTERS:
        raise KeyMalformed(
            f"a recovery key has {CHARACTERS} characters in {CHARACTERS // GROUP} groups of {GROUP}; "
            f"this has {len(values)}",
            param="recovery_key",
        )
    with SecretBuffer(_PAYLOAD_BYTES) as payload, payload.exposed() as view:
        at = bits = held = 0
        for value in values:
            held = (held << 5 | value) & 0xFFF
            bits += 5
            if bits >= 8 and at < _PAYLOAD_BYTES:
                bits -= 8
                view[at] = held >> bits & 0xFF
                at += 1
        values[:] = bytes(len(values))
        if held & 0xF or zlib.crc32(view[:33]) != int.from_bytes(view[33:], "big"):
            raise KeyMalformed(
                "the recovery key was mistyped: its checksum does not match",
                param="recovery_key",
                hint="compare each group with the print; 0 and O, 1, I and L are taken for each other",
            )
        if view[0] != _FORMAT_VERSION:
            raise KeyMalformed("the recovery key is of another version", param="recovery_key")
        return SecretBuffer.copy_of(view[1:33])


def parse_key(data: Readable | str) -> SecretBuffer:
    """A key from a key file or variable: 32 raw bytes, or as text 64 hex digits or base64, and a line break after it.

    Raises KeyMalformed for other lengths, for 32 bytes of plain text (a password is no key; it has a slot of its own), and
    for bytes that repeat so much that nothing random can have made them.
    """
    raw = bytearray(data, "utf-8", "replace") if isinstance(data, str) else bytearray(data)
    with SecretBuffer.adopt(raw) as source, source.exposed() as view:
        if len(view) == KEY_BYTES:
            key = SecretBuffer.copy_of(view)
            plain = all(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in view)
        else:
            key = _decode_text(view)
            plain = False
        with key.exposed() as bytes_of_key:
            distinct = len(set(bytes_of_key))
    if plain or distinct < _MIN_DISTINCT:
        key.wipe()
        raise KeyMalformed(
            "this key is not random" if not plain else "this key is plain text, so probably a password",
            hint="make one with: head -c 32 /dev/urandom > vault.key",
        )
    return key


def _read_characters(text: str) -> bytearray:
    values = bytearray()
    for character in unicodedata.normalize("NFKC", text).upper():
        if character.isspace() or unicodedata.category(character) in ("Pd", "Cf", "Pc"):
            continue
        value = _VALUES.get(character)
        if value is None:
            # Which one is told, since no part of the key is: it can't stand in one.
            raise KeyMalformed(
                f"a recovery key has no {character!r}: only digits, and letters without I, L, O and U",
                param="recovery_key",
            )
        if len(values) > CHARACTERS:
            break
        values.append(value)
    return values


def _decode_text(view: memoryview) -> SecretBuffer:
    """binascii and base64 make a bytes object of the key on the way, which can't be overwritten: raw files avoid that."""
    end = len(view)
    while end and view[end - 1] in b"\r\n":
        end -= 1
    text = view[:end]
    if _HEX.fullmatch(text):
        return SecretBuffer.copy_of(binascii.unhexlify(text))
    if _BASE64.fullmatch(text):
        standard = bytes(text[:43]).translate(bytes.maketrans(b"-_", b"+/")) + b"="
        return SecretBuffer.copy_of(base64.b64decode(standard))
    raise KeyMalformed(
        f"a key is {KEY_BYTES} raw bytes, or 64 hex digits, or base64 of {KEY_BYTES} bytes",
        hint="make one with: head -c 32 /dev/urandom > vault.key",
    )
