"""Refuses the network outside this machine for a whole test run, so that no test can reach a provider."""

from __future__ import annotations

import socket
import sys
from functools import cache
from ipaddress import ip_address
from typing import Any


class NetworkRefused(RuntimeError):
    """A test tried to leave the machine."""


def _is_local(host: str) -> bool:
    if host in {"", "localhost"} or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(str(address[0])):
            raise NetworkRefused(f"tests may only connect to this machine, not to {address[0]}")
    elif event == "socket.getaddrinfo":
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if host is None or _is_local(host) or _is_address(host):
            return
        if host.rstrip(".").endswith(".invalid"):
            # RFC 6761: such a name never exists. Said here, without asking anyone.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        raise NetworkRefused(f"tests may not look up {host}")


@cache
def install_network_guard() -> None:
    """Installs the guard for the rest of the process. It sees Python's sockets and look-ups, and asyncio's with them."""
    sys.addaudithook(_watch)
