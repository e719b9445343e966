"""Codes of second factors (TOTP, RFC 6238), recovery codes, and how both are kept. Pure but for randomness. Control plane.

At rest an authenticator's secret is sealed with AES-256-GCM under a key derived from the signing key (TOKENHUB_SECRET_KEY), bound
to its user. Who reads the database or a backup can't make codes; who reads the signing key as well can. The vault
can't hold it: signing in has to work while the vault is locked. After a new signing key the authenticator's codes no
longer fit; recovery codes, kept as digests that need no key, do.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote, urlencode

import segno
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.twofactor.totp import TOTP

DIGITS = 6
STEP_SECONDS = 30
DRIFT_STEPS = 1
"""Steps before and after the current one that are taken: clocks differ, and people type slowly."""
SECRET_BYTES = 20
RECOVERY_CODES = 10
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_GROUPS, _GROUP = 4, 4
_NONCE = 12
ISSUER = "Tokenhub"


class SecretUnreadable(Exception):
    """A sealed secret does not open: the signing key is another one, or the row is another user's."""


def make_secret() -> bytes:
    """160 random bits, as RFC 4226 recommends."""
    return secrets.token_bytes(SECRET_BYTES)


def seal(secret: bytes, user: int, signing_key: str) -> str:
    """The secret as text for the database."""
    nonce = secrets.token_bytes(_NONCE)
    sealed = AESGCM(_key(signing_key)).encrypt(nonce, secret, _bound(user))
    return base64.b64encode(nonce + sealed).decode()


def open_sealed(sealed: str, user: int, signing_key: str) -> bytes:
    """The secret of this user. Raises SecretUnreadable."""
    raw = base64.b64decode(sealed)
    try:
        return AESGCM(_key(signing_key)).decrypt(raw[:_NONCE], raw[_NONCE:], _bound(user))
    except InvalidTag:
        raise SecretUnreadable from None


def _key(signing_key: str) -> bytes:
    return HKDF(SHA256(), 32, None, b"tokenhub second factor 1").derive(signing_key.encode())


def _bound(user: int) -> bytes:
    return f"user:{user}".encode()


def find_step(secret: bytes, code: str, now: datetime, after: int) -> int | None:
    """The 30-second step whose code this is, within the drift and later than `after`; None for a wrong or used one."""
    current = int(now.timestamp()) // STEP_SECONDS
    maker = TOTP(secret, DIGITS, SHA1(), STEP_SECONDS)  # noqa: S303 - what authenticators speak
    found = None
    for step in range(current - DRIFT_STEPS, current + DRIFT_STEPS + 1):
        same = hmac.compare_digest(maker.generate(step * STEP_SECONDS), code.encode())
        if same and step > after:
            found = step
    return found


def enrolment_uri(secret: bytes, account: str, place: str) -> str:
    """What the QR code says: `otpauth://totp/…`, named after the account and where it is."""
    label = quote(f"{ISSUER}:{account}@{place}")
    return f"otpauth://totp/{label}?{urlencode({'secret': write_secret(secret), 'issuer': ISSUER})}"


def write_secret(secret: bytes) -> str:
    """Base32, as authenticators take it."""
    return base64.b32encode(secret).decode().rstrip("=")


def draw_qr(text: str) -> str:
    """A QR code as inline SVG, dark on light in every theme: cameras need it so."""
    return str(
        segno.make(text, error="m", micro=False).svg_inline(
            scale=5, dark="#000", light="#fff", border=4, svgclass="th-qr", lineclass=None
        )
    )


def make_recovery_codes() -> list[str]:
    """Ten codes of 79 random bits each, in groups of four."""
    return [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
        for _ in range(RECOVERY_CODES)
    ]


def digest_recovery_code(code: str) -> str:
    """The digest that is kept. A plain one is enough: nobody tries 2^79 codes."""
    plain = "".join(character for character in code.lower() if character.isalnum())
    return hashlib.sha256(f"tokenhub recovery code:{plain}".encode()).hexdigest()
