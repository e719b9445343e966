"""What may be written to and believed from a provider's connection (data plane): the rules both clients share.

Sources: RFC 9110, RFC 9112 (sections 6.1, 6.3 and 9.3 for framing), and what llhttp lets through.
"""

import re

from gateway.upstream.seam import Origin, UpstreamRequest
from tokenhub.core.secret_bytes import SecretBytes

MAX_INFORMATIONAL = 8

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"/[!\"$-~]*")
# Framing and hop-by-hop fields: one of these from outside could desynchronise the connection (request smuggling).
_RESERVED = frozenset(
    b"host content-length connection accept-encoding transfer-encoding te trailer upgrade expect keep-alive "
    b"proxy-connection proxy-authorization".split()
)
_BODYLESS_METHODS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
_NAMES_KEPT = 1024
_checked_names: set[bytes] = set()


def fixed_fields(origin: Origin) -> bytes:
    """The header lines that every request to this origin carries."""
    return b"Host: %s\r\nAccept-Encoding: identity\r\n" % origin.authority.encode("ascii")


def render_head(request: UpstreamRequest, fixed: bytes) -> bytes | SecretBytes:
    """The request's head, ready to write. Raises ValueError if it could be read as anything but one request."""
    check_start(request)
    lines: list[bytes | SecretBytes] = [request.method, b" ", request.target, b" HTTP/1.1\r\n", fixed]
    secret = False
    for name, value in request.headers:
        if name not in _checked_names:
            check_name(name)
        if type(value) is SecretBytes:
            secret = True
        lines += (name, b": ", value, b"\r\n")
    body = request.body
    if body or request.method not in _BODYLESS_METHODS:
        lines.append(b"Content-Length: %d\r\n\r\n" % len(body))
    else:
        lines.append(b"\r\n")
    head = SecretBytes.of(lines) if secret else b"".join(lines)
    # Counting is exact: every line this function writes ends in one CR and one LF, and names were checked.
    expected = 1 + fixed.count(b"\n") + len(request.headers) + lines[-1].count(b"\n")
    if head.count(b"\n") != expected or head.count(b"\r") != expected or b"\0" in head:
        raise ValueError("a header value contains CR, LF or NUL")
    return head


def check_start(request: UpstreamRequest) -> None:
    """Raises ValueError for a method or target that cannot stand in a request line."""
    if request.method not in _checked_names:
        if not _TOKEN.fullmatch(request.method) or request.method.upper() == b"CONNECT":
            raise ValueError("the method is not an HTTP method this client sends")
        _remember(request.method)
    if not _TARGET.fullmatch(request.target):
        raise ValueError("the target must start with / and hold only visible ASCII, without a fragment")


def check_name(name: bytes) -> None:
    """Raises ValueError for a header name that is not a token or that belongs to the client."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("a header name is not an HTTP token")
    if name.lower() in _RESERVED:
        raise ValueError("a header of the request belongs to the client: framing and connection fields")
    _remember(name)


def check_value(value: bytes | SecretBytes) -> None:
    """Raises ValueError for a header value that would end its line."""
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise ValueError("a header value contains CR, LF or NUL")


def find_head_violation(version: str, status: int, codings: list[bytes], lengths: int) -> str | None:
    """Why a response head cannot be believed, or None. `codings`: the Transfer-Encoding values, as sent; `lengths`:
    how many Content-Length fields there were."""
    if version not in ("1.1", "1.0"):
        return "not HTTP/1.0 or HTTP/1.1"
    if not 100 <= status <= 599:
        return "status code outside 100-599"
    if status == 101:
        return "switched protocols unasked"
    if codings:
        if version == "1.0":
            return "Transfer-Encoding in an HTTP/1.0 response"
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return "a Transfer-Encoding other than chunked"
        if lengths:
            return "both Transfer-Encoding and Content-Length"
    if lengths > 1:
        return "more than one Content-Length"
    return None


def keep_alive_seconds(value: bytes, default: float) -> float:
    """How long a `Keep-Alive: timeout=N` field lets a connection rest: N less a second for the way of our bytes."""
    for part in value.lower().split(b","):
        key, _, number = part.strip().partition(b"=")
        if key == b"timeout" and number.isdigit() and len(number) < 10:
            return min(default, max(0.0, int(number) - 1.0))
    return default


def _remember(token: bytes) -> None:
    if len(_checked_names) < _NAMES_KEPT:
        _checked_names.add(token)
