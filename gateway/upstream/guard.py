"""The address guard of the upstream clients: names are resolved once, and every address is checked before any is used. Data plane.

Both clients connect to what their resolver returns and to nothing else, so what stands here can't be gone around.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from gateway.upstream.seam import AddressDenied, Resolve
from tokenhub.core.addresses import PrivateOrigins

_logger = logging.getLogger("tokenhub.gateway")
_TELL_AGAIN_SECONDS = 60.0


async def resolve_by_system(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """The addresses that the operating system knows for a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def guarded(private: PrivateOrigins | None = None, resolve: Resolve = resolve_by_system) -> Resolve:
    """A resolver that raises AddressDenied if one of a host's addresses is neither public nor in `private` (default: loopback)."""
    allowed = PrivateOrigins() if private is None else private
    told: dict[tuple[str, int], float] = {}

    def tell(host: str, port: int, address: str, kind: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - told.get((host, port), -_TELL_AGAIN_SECONDS) >= _TELL_AGAIN_SECONDS:
            told[host, port] = now  # As many as there are endpoints at most.
            _logger.warning("connection to %s:%d denied: %s is %s", host, port, address, kind)

    async def checked(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        found = await resolve(host, port)
        address, kind = allowed.find_denied(host, port, (str(place[0]) for _, place in found))
        if kind:
            # The address is for the operator's log; callers are told no more than that it is denied.
            tell(host, port, address, kind)
            raise AddressDenied
        return found

    return checked
