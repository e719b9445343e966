"""Where a worker finds what unlocks the vault without anyone: a key file, a variable, a KMS. Control plane.

A cloud's KMS comes in by the same `Headless`: `KmsSecret` of `engine.slots` with the one of `vault.configured_kms`.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path

from tokenhub.core.errors import SettingInvalid
from vault.agent import Headless
from vault.engine.buffers import SecretBuffer
from vault.engine.kms import Kms
from vault.engine.recovery import parse_key
from vault.engine.slots import KeySecret, KmsSecret, SlotKind, SlotSecret

MAX_KEY_FILE_BYTES = 4096


def list_headless(
    environ: MutableMapping[str, str], variable: str, key_file: Path | None, kms: Kms | None = None
) -> list[Headless]:
    """The ways there are, in the order in which they are tried: KMS, key file, variable.

    The variable is taken out of `environ` at once, and kept for when it is due again. What started this process (a supervisor,
    the kernel's copy in /proc/PID/environ) keeps it all the same; a key file is better.
    """
    ways: list[Headless] = []
    if kms is not None:
        ways.append(Headless("the KMS", partial(KmsSecret, kms)))
    if key_file is not None:
        ways.append(Headless("the key file", partial(read_key_file, key_file)))
    text = environ.pop(variable, "")
    if text:
        ways.append(Headless(variable, partial(_parse_variable, SecretBuffer.copy_of(text.encode()))))
    return ways


def read_key_file(path: Path) -> SlotSecret:
    """The key in that file, for its slot. Raises SettingInvalid, KeyMalformed."""
    return KeySecret(SlotKind.KEY_FILE, read_key(path))


def read_key(path: Path) -> SecretBuffer:
    """The key in a file: 32 bytes, or as hex or base64; the caller wipes it. Raises SettingInvalid, KeyMalformed."""
    content = bytearray(MAX_KEY_FILE_BYTES)
    with SecretBuffer.adopt(content) as buffer:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
                size = file.readinto(content) or 0
        except OSError as error:
            raise SettingInvalid(f"the vault's key file can't be read: {error.strerror}") from None
        if size == MAX_KEY_FILE_BYTES:
            raise SettingInvalid("the vault's key file is too long to be a key")
        with buffer.exposed() as view:
            return parse_key(view[:size])


def _parse_variable(text: SecretBuffer) -> SlotSecret:
    with text.exposed() as view:
        return KeySecret(SlotKind.ENVIRONMENT, parse_key(view))
