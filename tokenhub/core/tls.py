"""How connections to providers are encrypted. Both planes; pure but for the system's certificates."""

from __future__ import annotations

import ssl


def system_tls() -> ssl.SSLContext:
    """The system's roots, TLS 1.2 or later, HTTP/1.1 only. Not `create_default_context`: that would write session
    keys wherever the environment's SSLKEYLOGFILE says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    return context
