"""Keyed digests of keys under the installation's peppers, and the look-up of admin tokens. Control plane."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime

from django.conf import settings

from access.models import AdminToken
from tokenhub.core.errors import SettingInvalid
from tokenhub.core.keys import digest_key, find_key_parts


def get_peppers() -> Mapping[int, bytes]:
    """The peppers by version; the highest is the current one. Raises SettingInvalid where there is none."""
    peppers: Mapping[int, bytes] = settings.TOKENHUB.peppers
    if not peppers or not all(peppers.values()):
        raise SettingInvalid("TOKENHUB_KEY_PEPPER is empty", hint="set it to at least 32 random bytes")
    return peppers


def digest_new(plaintext: str) -> tuple[str, int]:
    """The digest, in hexadecimal, of a new key under the current pepper, and that pepper's version."""
    peppers = get_peppers()
    version = max(peppers)
    return digest_key(plaintext, peppers[version]).hex(), version


def find_admin_token(plaintext: str, now: datetime) -> AdminToken | None:
    """The live admin token that this text is, or None: malformed, unknown, revoked, expired, or its user is inactive."""
    parts = find_key_parts(plaintext)
    if parts is None or parts.prefix != "tha":
        return None
    token = AdminToken.objects.select_related("user").filter(key_id=parts.key_id).first()
    if token is None:
        return None
    pepper = get_peppers().get(token.pepper_version)
    if pepper is None:
        return None
    same = hmac.compare_digest(digest_key(plaintext, pepper).hex(), token.digest)
    return token if same and token.is_live(now) else None
