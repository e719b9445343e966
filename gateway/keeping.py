"""What all share that keep answers beyond their request. Data plane."""

from __future__ import annotations

from typing import Final

from gateway.exchange import Exchange

_CHANGING: Final = (
    b"x-tokenhub-policy",
    b"x-tokenhub-tags",
    b"anthropic-version",
    b"anthropic-beta",
)


class StoreUnavailable(Exception):
    """The store can't be asked now."""


def headers_of_note(exchange: Exchange, *also: bytes) -> bytes:
    """The headers that make it another request."""
    return b"\n".join(name + b":" + exchange.headers.get(name, b"") for name in (*_CHANGING, *also))
