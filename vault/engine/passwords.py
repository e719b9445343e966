"""Passwords to keys: Argon2id within bounds, one at a time. Control plane; pure.

The parameters stand beside each slot, where whoever writes to the database could change them: below the floor they would
make guessing cheap, above the ceiling each try would take all memory. Both are refused before anything is computed.
"""

from __future__ import annotations

import threading
import unicodedata
from typing import Final

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vault.engine.buffers import SecretBuffer
from vault.engine.errors import ParametersRefused, PasswordTooWeak
from vault.engine.sealing import KEY_BYTES

SALT_BYTES: Final = 16
MAX_PASSWORD_BYTES: Final = 1024

_one_at_a_time = threading.Lock()


class Argon2Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How hard a password is to try: memory in KiB, passes over it, lanes. RFC 9106's second choice by default."""

    memory_kib: int = 65_536
    passes: int = 3
    lanes: int = 4

    def check(self) -> None:
        """Raises ParametersRefused unless all three are within FLOOR and CEILING."""
        for name in ("memory_kib", "passes", "lanes"):
            low, high = getattr(FLOOR, name), getattr(CEILING, name)
            if not low <= getattr(self, name) <= high:
                raise ParametersRefused(f"Argon2id's {name} is between {low} and {high}", param=name)


DEFAULT: Final = Argon2Parameters()
FLOOR: Final = Argon2Parameters(65_536, 3, 4)
CEILING: Final = Argon2Parameters(1_048_576, 10, 8)


def encode_password(text: str) -> SecretBuffer:
    """The password's bytes: UTF-8 of its NFC form, so that two keyboards' ways to write é are one password (RFC 8265).

    Nothing is trimmed. The text itself, and the text in NFC, stay in memory until Python uses their place again.
    Raises PasswordTooWeak for an empty one, and for one longer than 1,024 bytes.
    """
    try:
        encoded = bytearray(unicodedata.normalize("NFC", text), "utf-8")
    except UnicodeEncodeError:
        # `from None`: the encoding error carries the text.
        raise PasswordTooWeak("the password holds half a character", param="password") from None
    password = SecretBuffer.adopt(encoded)
    if not 1 <= len(password) <= MAX_PASSWORD_BYTES:
        password.wipe()
        raise PasswordTooWeak(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes", param="password")
    return password


def stretch_password(
    password: SecretBuffer, salt: bytes, parameters: Argon2Parameters, pepper: SecretBuffer | None = None
) -> SecretBuffer:
    """The slot's key material: Argon2id's 32 bytes, followed by the pepper's 32 bytes when there is one.

    Blocks for the time that the parameters take (about 0.1 to 0.3 s by default), and lets other threads run meanwhile; one
    at a time in a process, so that many tries don't take many times the memory. Raises ParametersRefused.
    """
    parameters.check()
    if len(salt) != SALT_BYTES:
        raise ParametersRefused(f"Argon2id's salt has {SALT_BYTES} bytes", param="salt")
    if pepper is not None and len(pepper) != KEY_BYTES:
        raise ValueError(f"a pepper has {KEY_BYTES} bytes")
    stretched = SecretBuffer(KEY_BYTES if pepper is None else 2 * KEY_BYTES)
    derivation = Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=parameters.passes,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )
    with stretched.exposed() as view:
        with _one_at_a_time, password.exposed() as secret:
            # The type information says bytes; any buffer is taken, and bytes could not be overwritten.
            derivation.derive_into(secret, view[:KEY_BYTES])  # type: ignore[arg-type]
        if pepper is not None:
            with pepper.exposed() as more:
                view[KEY_BYTES:] = more
    return stretched
