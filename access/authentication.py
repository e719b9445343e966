"""Who asks at the admin API: the bearer of a `tha_` token, of the bootstrap token, or a session. Control plane."""

from __future__ import annotations

import hmac
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from access.pepper import find_admin_token
from signin.limits import ADMIN_TOKENS, address_of_client, find_lock, note_failure
from tokenhub.control.actors import ADMIN_SCOPES, Actor
from tokenhub.control.bearers import names_bearer
from tokenhub.control.callers import Grant, Machine, address_of

REALM = 'Bearer realm="tokenhub-admin"'
REFUSED = "No such admin token, or it is revoked or expired."


class AdminTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer tha_…` or the bootstrap token. A wrong token is refused, never passed on to the session."""

    def authenticate(self, request: Request) -> tuple[Any, Grant] | None:
        """The user and their grant, or None where there is no bearer token. Raises AuthenticationFailed."""
        header = get_authorization_header(request).split(maxsplit=1)
        if not names_bearer(request.headers.get("Authorization", "")):
            return None
        if len(header) != 2:
            raise AuthenticationFailed("The header must be `Authorization: Bearer <token>`.")
        presented = header[1].strip().decode("latin-1")
        token = find_admin_token(presented, timezone.now())
        if token is not None:
            grant = Grant(Actor.from_token(token, address_of(request)), frozenset(token.scopes))
            return token.user or Machine(token.service), grant
        if matches_bootstrap_within_limits(request._request, presented):
            actor = Actor("bootstrap", "TOKENHUB_ADMIN_TOKEN", address_of(request))
            return Machine("bootstrap"), Grant(actor, frozenset(ADMIN_SCOPES))
        raise AuthenticationFailed(REFUSED)

    def authenticate_header(self, request: Request) -> str:
        """Makes an anonymous request a 401 with this challenge."""
        return REALM


def matches_bootstrap_within_limits(request: HttpRequest, presented: str) -> bool:
    """Whether this is the bootstrap token; a wrong one counts against its address. Raises Throttled after too many.

    Only here: tokens of the database are 256 random bits, which nobody guesses, and a job that has a good one goes on
    beside one that has not.
    """
    now = timezone.now()
    lock = find_lock(ADMIN_TOKENS, address_of_client(request), now)
    if lock is not None:
        raise Throttled(lock.seconds(now), "Too many wrong tokens from this address.")
    if matches_bootstrap(presented):
        return True
    note_failure(request, ADMIN_TOKENS)
    return False


def matches_bootstrap(presented: str) -> bool:
    """Whether this is `TOKENHUB_ADMIN_TOKEN`, compared in constant time. An empty setting matches nothing."""
    expected = settings.TOKENHUB.admin_token
    if not expected:
        return False
    return hmac.compare_digest(presented.encode(), expected.encode())


class AdminTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document describes bearer tokens."""

    target_class = AdminTokenAuthentication
    name = "adminToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "tha_…"}
