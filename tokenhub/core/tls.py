"""How connections to providers are encrypted. Both planes; pure but for the system's certificates."""

from __future__ import annotations

import ssl
from functools import cache


@cache
def system_tls() -> ssl.SSLContext:
    """The system's roots as they are when this is first called, TLS 1.2 or later, HTTP/1.1 only; shared by all of a process.

    Not `create_default_context`: that would write session keys wherever the environment's SSLKEYLOGFILE says. Reading the
    roots takes some 20 ms, too long for each client.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    return context
