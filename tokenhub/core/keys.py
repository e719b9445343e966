"""API keys: their format, checksum and digest. Both planes; no I/O.

`thk_live_<id 12>_<secret 43><crc 6>`, in [A-Za-z0-9_] so that a double click selects all of it. The checksum lets a
scanner, and the gateway before any lookup, tell a mistyped key from a wrong one. Only a keyed digest is ever stored.
`tha_` keys are for the admin API.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_LENGTH = 71
_PATTERN = re.compile(r"(th[ka])_(live|test)_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """The public parts of a well-formed key: prefix (`thk` or `tha`), `live` or `test`, and its 12-character id."""

    prefix: str
    environment: str
    key_id: str


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), 6)


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def mint_key(prefix: str = "thk", environment: str = "live", key_id: str | None = None) -> str:
    """A new key with 256 bits of secret. `key_id` keeps the id of a key that is rotated."""
    body = f"{prefix}_{environment}_{key_id or _random(12)}_{_random(43)}"
    return body + _checksum(body)


def find_key_parts(text: str) -> ParsedKey | None:
    """The parts of a well-formed key with a right checksum, else None. Constant work, no lookup."""
    if len(text) != KEY_LENGTH:
        return None
    match = _PATTERN.fullmatch(text)
    if match is None or _checksum(text[:-6]) != match[5]:
        return None
    return ParsedKey(match[1], match[2], match[3])


def digest_key(text: str, pepper: bytes) -> bytes:
    """HMAC-SHA256 of the whole key under the pepper: 32 bytes, the only form that is stored."""
    return hmac.digest(pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
