"""Who asks at the admin API: the bearer of a `tha_` token, of the bootstrap token, or a session. Control plane."""

from __future__ import annotations

import hmac
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from access.pepper import find_admin_token
from tokenhub.control.actors import ADMIN_SCOPES, Actor
from tokenhub.control.callers import Grant, Machine, address_of

REALM = 'Bearer realm="tokenhub-admin"'
REFUSED = "No such admin token, or it is revoked or expired."


class AdminTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer tha_…` or the bootstrap token. A wrong token is refused, never passed on to the session."""

    def authenticate(self, request: Request) -> tuple[Any, Grant] | None:
        """The user and their grant, or None where there is no bearer token. Raises AuthenticationFailed."""
        header = get_authorization_header(request).split(maxsplit=1)
        if not header or header[0].lower() != b"bearer":
            return None
        if len(header) != 2:
            raise AuthenticationFailed("The header must be `Authorization: Bearer <token>`.")
        presented = header[1].strip().decode("latin-1")
        if matches_bootstrap(presented):
            actor = Actor("bootstrap", "TOKENHUB_ADMIN_TOKEN", address_of(request))
            return Machine("bootstrap"), Grant(actor, frozenset(ADMIN_SCOPES))
        token = find_admin_token(presented, timezone.now())
        if token is None:
            raise AuthenticationFailed(REFUSED)
        grant = Grant(Actor.from_token(token, address_of(request)), frozenset(token.scopes))
        return token.user or Machine(token.service), grant

    def authenticate_header(self, request: Request) -> str:
        """Makes an anonymous request a 401 with this challenge."""
        return REALM


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
