"""The one spelling of a provider's origin, which a secret is sealed to: "https://api.example.com:443". Both planes; pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?", re.ASCII)


def format_origin(scheme: str, host: str, port: int) -> str:
    """The origin as `scheme://host:port`: lower case, the port always there, an IPv6 address compressed in brackets.

    Raises ValueError, without repeating what was given, for another scheme, a host that is not ASCII or has a trailing
    dot, and a port outside of 1 to 65535. A name outside of ASCII is given in its IDNA form (`xn--…`).
    """
    scheme, host = scheme.lower(), host.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("an origin's scheme is https or http")
    if not 1 <= port <= 65_535:
        raise ValueError("an origin's port is between 1 and 65535")
    if ":" in host:
        # Also refuses a zone (`%eth0`), which means another interface on another machine.
        if "%" in host:
            raise ValueError("an origin's address has no zone")
        host = f"[{ipaddress.IPv6Address(host.strip('[]')).compressed}]"
    elif _NAME.fullmatch(host) is None or ".." in host:
        raise ValueError("an origin's host is a name of letters, digits, dots and dashes, or an address")
    return f"{scheme}://{host}:{port}"


def origin_of(url: str) -> str:
    """The origin of a provider's base URL. Raises ValueError for a URL without one, or with a user in it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or "\\" in url:
        raise ValueError("a base URL holds no user, password or backslash")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme.lower(), 0)
    return format_origin(parts.scheme, parts.hostname or "", port)


def check_origin(text: str) -> None:
    """Raises ValueError unless `text` is spelled exactly as `format_origin` does."""
    if origin_of(text) != text:
        raise ValueError("an origin is spelled scheme://host:port, in lower case, and nothing after it")
