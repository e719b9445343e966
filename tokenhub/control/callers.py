"""Who is behind a request to the admin pages or the admin API: a person, a token, the bootstrap token. Control plane."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme
from rest_framework.request import Request

from tokenhub.control.actors import Actor


@dataclass(frozen=True, slots=True)
class Grant:
    """What a bearer token allows: who that is in the audit trail, and `read` or `write`."""

    actor: Actor
    scopes: frozenset[str]


class Machine:
    """The user of a request that no person made: a service's token or the bootstrap token.

    Has every permission; what it may do is bounded by its grant's scopes.
    """

    is_authenticated = is_active = is_staff = True
    is_anonymous = is_superuser = False
    pk = id = None

    def __init__(self, name: str) -> None:
        self.name = name

    def get_username(self) -> str:
        """The service's name."""
        return self.name

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        """True: scopes bound it."""
        return True

    def has_perms(self, permissions: Iterable[str], obj: Any = None) -> bool:
        """True: scopes bound it."""
        return True


def address_of(request: HttpRequest | Request) -> str:
    """The peer's address as the server states it; the server has already believed or ignored proxies' headers."""
    return str(request.META.get("REMOTE_ADDR") or "")


def actor_of(request: HttpRequest | Request) -> Actor:
    """Who makes this request's changes, for actions and the audit trail."""
    grant = getattr(request, "auth", None)
    if isinstance(grant, Grant):
        return grant.actor
    return Actor.from_user(request.user, address_of(request))


def request_id_of(request: HttpRequest) -> str:
    """The id given to this request, made on first use: `req_` and 32 hexadecimal digits."""
    known = getattr(request, "tokenhub_request_id", None)
    if known is None:
        known = f"req_{uuid.uuid4().hex}"
        request.tokenhub_request_id = known  # type: ignore[attr-defined]
    return str(known)


def next_url(request: HttpRequest, otherwise: str) -> str:
    """Where the caller wants to go on, by `next` in the query, if that is a page of this site; else `otherwise`."""
    url = str(request.GET.get("next", ""))
    safe = url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure())
    return url if safe else otherwise
