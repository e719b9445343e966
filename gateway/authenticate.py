"""Which key a request carries, and whether it is good. Data plane; a dictionary look-up and one HMAC, remembered.

The format and the checksum are checked before any look-up; the digest is compared in constant time, also for unknown ids,
so that an answer's time tells nothing. A key in a URL is refused: URLs end up in logs.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache

from tokenhub.core.errors import AuthenticationFailed, PermissionDenied
from tokenhub.core.keys import KEY_LENGTH, digest_key, find_key_parts
from tokenhub.core.specs import KeySpec, Snapshot

_NO_DIGEST = "0" * 64
_REMEMBERED = 4096
_HINT = "send it as 'Authorization: Bearer thk_…' or as 'x-api-key: thk_…'"


def find_presented_key(headers: Mapping[bytes, bytes], query: bytes) -> str:
    """The key text a caller sent. Raises AuthenticationFailed where there is none or it stands in the URL."""
    if query and (b"thk_" in query or b"api_key=" in query or b"api-key=" in query):
        raise AuthenticationFailed(
            "an API key in a URL is refused, since URLs are logged", code="key_in_url", hint=_HINT
        )
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    header = headers.get(b"x-api-key", b"").strip()
    # Some clients fill both, one of them with a key for somebody else.
    presented = header if header.startswith(b"thk_") else bearer or header
    if not presented:
        raise AuthenticationFailed("no API key was sent", code="missing_api_key", hint=_HINT)
    return presented.decode("latin-1")


def authenticate(
    snapshot: Snapshot,
    headers: Mapping[bytes, bytes],
    query: bytes,
    *,
    peppers: Mapping[int, bytes],
    now: float,
) -> KeySpec:
    """The key of a request. Raises AuthenticationFailed; the message never repeats what was sent."""
    presented = find_presented_key(headers, query)
    # The length first: what is remembered of strangers must be small, however long their headers are.
    parts = _find_parts(presented) if len(presented) == KEY_LENGTH else None
    if parts is None or parts.prefix != "thk":
        raise AuthenticationFailed(
            "the API key is malformed or mistyped (its checksum does not match)", hint=_HINT
        )
    key = snapshot.key_by_id.get(parts.key_id)
    if not _has_live_digest(key, presented, peppers, now) or key is None:
        raise AuthenticationFailed("the API key is unknown, revoked or expired")
    if not key.enabled:
        raise AuthenticationFailed("the API key is disabled", code="key_disabled")
    if key.expires_at and key.expires_at <= now:
        raise AuthenticationFailed("the API key is expired", code="key_expired")
    return key


def _has_live_digest(key: KeySpec | None, presented: str, peppers: Mapping[int, bytes], now: float) -> bool:
    found = False
    for secret in key.digests if key is not None else ():
        pepper = peppers.get(secret.pepper_version)
        if pepper is None or (secret.expires_at and secret.expires_at <= now):
            continue
        if hmac.compare_digest(_digest(presented, pepper), secret.digest):
            found = True
    if key is None:
        hmac.compare_digest(_digest(presented, next(iter(peppers.values()), b"")), _NO_DIGEST)
    return found


# Checksum and HMAC are pure functions of the text, so remembering them needs no invalidation: what is revoked, expired or
# unknown is looked up in the snapshot, and compared, for every request. Bounded, and in memory only.
_find_parts = lru_cache(_REMEMBERED)(find_key_parts)


@lru_cache(_REMEMBERED)
def _digest(presented: str, pepper: bytes) -> str:
    return digest_key(presented, pepper).hex()


def check_scope(key: KeySpec, scope: str) -> None:
    """Raises PermissionDenied where the key lacks the scope."""
    if scope not in key.scopes:
        raise PermissionDenied(
            f"this API key lacks the scope {scope!r}",
            details={"scope": scope},
            hint="ask an operator to add it to the key",
        )
