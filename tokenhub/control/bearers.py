"""Whether a request comes with a bearer token instead of a session: one reading for all who ask. Control plane."""

from __future__ import annotations


def names_bearer(authorization: str) -> bool:
    """Whether the header's value is of the scheme `Bearer`. Of any other the session decides, as if there were no header."""
    scheme, _, _ = authorization.strip().partition(" ")
    return scheme.lower() == "bearer"
