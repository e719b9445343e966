"""What goes wrong in the vault's cryptography. Below the one tree of `tokenhub.core.errors`.

VaultLocked          503  vault_locked               a key is needed that this process does not hold (any more)
DoesNotOpen          503  vault_does_not_open        the one error for everything sealed that is not opened
KmsFailed            503  vault_kms_failed           the key management service did not answer, or refused
AnnouncementRefused  503  vault_announcement_refused a worker asks for ROOT without proof that it is one of ours
PasswordTooWeak      400  password_too_weak          a new password below the floor
KeyMalformed         400  vault_key_malformed        what was typed or mounted can't be a key at all
ParametersRefused    400  vault_parameters_refused   Argon2id parameters outside of the bounds
"""

from __future__ import annotations

from typing import Literal

from tokenhub.core.errors import InvalidRequest, ServiceError

Reason = Literal[
    "format",
    "algorithm",
    "key version",
    "commitment",
    "authentication",
    "parameters",
    "kind",
    "vault",
    "signature",
]


class VaultLocked(ServiceError):
    """The vault is locked here, or was locked while a key was in use."""

    code = "vault_locked"
    status = 503
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "the vault is locked", hint="unlock it under Vault, or set up a key file", retry_after=5.0
        )


class DoesNotOpen(ServiceError):
    """Something sealed does not open: a wrong key or password, another place, an old version, or changed bytes.

    The message is always the same, so that nobody who sends things here learns from it. `reason` is for the operator's
    log: it says which check failed, which is known to whoever holds the bytes, and nothing of keys or plaintexts.
    """

    code = "vault_does_not_open"
    status = 503

    def __init__(self, reason: Reason) -> None:
        super().__init__("this does not open with this key in this place")
        self.reason: Reason = reason


class KmsFailed(ServiceError):
    """The key management service could not be asked, or refused. Its own text is cut short and holds no key."""

    code = "vault_kms_failed"
    status = 503
    retryable = True


class AnnouncementRefused(ServiceError):
    """A worker's announcement is not signed with the cluster secret, too old, from the future, or malformed."""

    code = "vault_announcement_refused"
    status = 503


class PasswordTooWeak(InvalidRequest):
    """A new vault password below the floor; the message says what is missing, and never repeats the password."""

    code = "password_too_weak"


class KeyMalformed(InvalidRequest):
    """A recovery key, key file or environment key that can't be one: wrong length, characters or checksum."""

    code = "vault_key_malformed"


class ParametersRefused(InvalidRequest):
    """Argon2id parameters below the floor or above the ceiling; the message names the bound."""

    code = "vault_parameters_refused"
