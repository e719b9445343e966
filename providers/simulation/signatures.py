"""Opaque signatures over thinking text, as Anthropic's `thinking` blocks carry them. Data plane, pure."""

import hmac
from base64 import b64decode, b64encode
from hashlib import sha512

_MARK = b"\x12\x8a\x01tokenhub-simulation"


def sign(text: str, key: bytes) -> str:
    """Base64 of a mark and an HMAC-SHA-512 of the thinking text."""
    return b64encode(_MARK + hmac.digest(key, text.encode("utf-8", "surrogatepass"), sha512)).decode()


def verifies(text: str, signature: object, key: bytes) -> bool:
    """Whether `signature` is the one that `sign` gives for this text and key."""
    if not isinstance(signature, str):
        return False
    try:
        raw = b64decode(signature, validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(raw, b64decode(sign(text, key)))
