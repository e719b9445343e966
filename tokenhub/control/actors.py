"""Who makes a change, and what they may do. Control plane."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tokenhub.core.errors import PermissionDenied

ActorKind = Literal["user", "token", "bootstrap", "system", "command", "anonymous"]

ADMIN_SCOPES = ("read", "write")
"""What an admin token may be allowed to do."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: kind, name, and the network address they came from ("" = none).

    `scopes` bounds what they may do; `expires_at` bounds the life of what a token mints (None = unbounded).
    """

    kind: ActorKind
    name: str
    address: str = ""
    scopes: frozenset[str] = frozenset(ADMIN_SCOPES)
    expires_at: datetime | None = None

    @classmethod
    def from_user(cls, user: Any, address: str = "") -> Actor:
        """A signed-in user (any object with `get_username`). Their permissions are the caller's to check."""
        return cls("user", user.get_username(), address)

    @classmethod
    def from_token(cls, token: Any, address: str = "") -> Actor:
        """The bearer of an `access.AdminToken`, with that token's scopes and end."""
        return cls(
            "token", f"{token.owner}:{token.key_id}", address, frozenset(token.scopes), token.expires_at
        )

    @classmethod
    def system(cls) -> Actor:
        """Tokenhub itself: publishing what became due, tidying up."""
        return cls("system", "tokenhub")

    @classmethod
    def command(cls, name: str) -> Actor:
        """A management command, run by someone with a shell."""
        return cls("command", name)

    @classmethod
    def anonymous(cls, name: str, address: str = "") -> Actor:
        """Someone who has not signed in; `name` is who they say they are."""
        return cls("anonymous", name, address, frozenset())

    @classmethod
    def bootstrap(cls, name: str = "bootstrap") -> Actor:
        """The first start, which creates what an empty installation needs."""
        return cls("bootstrap", name)

    def require(self, scope: str) -> None:
        """Raises PermissionDenied unless this actor has `scope`."""
        if scope not in self.scopes:
            raise PermissionDenied(
                f"{self.kind} {self.name} may not {scope}",
                hint=f"use an admin token with the {scope!r} scope",
            )
