"""What names, URLs, headers, profiles and capabilities may look like. Control plane; pure but for Django's error."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

from providers.adapters.base import Adapter
from tokenhub.core.addresses import PrivateOrigins, find_literal_denial, is_host_name
from tokenhub.core.specs import CAPABILITIES

NAME_RULE = (
    "Use letters, digits and . _ : / @ + - , beginning with a letter or digit; no empty part between slashes. "
    "'auto' and names that begin with 'pipeline/' or 'group:' are taken."
)
SLUG_RULE = "Use lower-case letters, digits, '-' and '_', beginning and ending with a letter or digit."
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(?:/[A-Za-z0-9._:@+-]+)*", re.ASCII)
_UPSTREAM = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_NUMERIC_HOST = re.compile(r"(?:[0-9a-z_-]+\.)*(?:[0-9]+|0x[0-9a-f]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~@:+=-]+)*", re.ASCII)
_API_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~@:+=-]|\{model\})+)*", re.ASCII)
_QUERY = re.compile(r"[A-Za-z0-9._~:+=&%/,-]*", re.ASCII)

SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie", "set-cookie"}
)
"""Carry secrets: those live in credentials, never in a provider's row."""

FRAMING_HEADERS = frozenset(
    {
        "host", "content-length", "content-type", "content-encoding", "accept-encoding", "connection", "keep-alive",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
    }
)  # fmt: skip
"""Belong to the connection or the body, which the gateway frames itself."""

MAX_HEADERS = 32
MAX_SETTING = 500
MAX_HEADER_BYTES = 4096


def check_slug(value: str) -> None:
    """Raises ValidationError unless `value` can stand in paths and before a slash: a provider's, team's or project's."""
    if _SLUG.fullmatch(value) is None:
        raise ValidationError(SLUG_RULE)


def check_model_name(value: str) -> None:
    """Raises ValidationError unless `value` can be what callers ask for (a model's or an alias's name)."""
    parts = value.split("/")
    if _NAME.fullmatch(value) is None or "." in parts or ".." in parts:
        raise ValidationError(NAME_RULE)
    if value == "auto" or parts[0] == "pipeline" or value.startswith("group:"):
        raise ValidationError(f"{value!r} is reserved. {NAME_RULE}")


def check_upstream_name(value: str) -> None:
    """Raises ValidationError unless `value` is printable ASCII without spaces at its ends."""
    if _UPSTREAM.fullmatch(value) is None:
        raise ValidationError("Use printable ASCII, without spaces at the ends.")


def check_capabilities(value: Any) -> None:
    """Raises ValidationError unless `value` is a list of different names out of CAPABILITIES."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValidationError('Give a list of names, e.g. ["chat", "streaming"].')
    unknown = sorted(set(value) - set(CAPABILITIES))
    if unknown:
        raise ValidationError(f"Unknown: {', '.join(unknown)}. Known are {', '.join(CAPABILITIES)}.")
    if len(set(value)) < len(value):
        raise ValidationError("Name each capability once.")


def check_headers(value: Any) -> None:
    """Raises ValidationError unless `value` is a list of [name, value] pairs that may be sent upstream."""
    if not isinstance(value, list) or len(value) > MAX_HEADERS:
        raise ValidationError(f'Give a list of at most {MAX_HEADERS} pairs, e.g. [["x-title", "Example"]].')
    seen = set()
    for pair in value:
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not all(isinstance(part, str) for part in pair)
        ):
            raise ValidationError('Each header is a pair of texts, e.g. ["x-title", "Example"].')
        name, text = pair
        _check_header(name, text)
        if name.lower() in seen:
            raise ValidationError(f"{name!r} stands there twice.")
        seen.add(name.lower())


def _check_header(name: str, text: str) -> None:
    if _TOKEN.fullmatch(name) is None or len(name) > 100:
        raise ValidationError("A header's name has letters, digits and dashes, at most 100 of them.")
    if name.lower() in SECRET_HEADERS:
        raise ValidationError(f"{name!r} carries a secret. Put it into a credential of this provider.")
    if name.lower() in FRAMING_HEADERS:
        raise ValidationError(f"{name!r} is set by the gateway itself. Remove it.")
    printable = all(character == "\t" or "\x20" <= character <= "\x7e" for character in text)
    if not printable or text != text.strip() or len(text) > MAX_HEADER_BYTES:
        raise ValidationError(
            f"The value of {name!r} must be printable ASCII without line breaks or outer spaces, "
            f"at most {MAX_HEADER_BYTES} characters."
        )


def check_profile(value: Any, adapter: Adapter) -> None:
    """Raises ValidationError unless `value` holds only settings that the adapter knows, of the types it states."""
    if not isinstance(value, dict):
        raise ValidationError('Give settings by name, e.g. {"name": "value"}.')
    known = adapter.profile_fields
    for name, setting in value.items():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ValidationError(f"{name!r} is no setting of {adapter.label}; it knows {names}.")
        expected = known[name][0]
        if not isinstance(setting, expected) or (isinstance(setting, bool) and expected is not bool):
            raise ValidationError(f"{name!r} must be of the type {expected.__name__}.")
        if isinstance(setting, str):
            _check_setting(name, setting)


def _check_setting(name: str, text: str) -> None:
    """What goes into a request's line or head must not become another host, another line or another header there."""
    if len(text) > MAX_SETTING or not all("\x20" <= character <= "\x7e" for character in text):
        raise ValidationError(f"{name!r} must be printable ASCII, at most {MAX_SETTING} characters.")
    if name == "api_path" and (_API_PATH.fullmatch(text) is None or {".", ".."} & set(text.split("/"))):
        raise ValidationError(
            f"{name!r} is empty, or begins with a slash and has letters, digits and . _ ~ @ : + = - between single slashes."
        )
    if name == "api_query" and _QUERY.fullmatch(text) is None:
        raise ValidationError(f"{name!r} may have letters, digits and . _ ~ : + = & % / , - only.")
    if name == "auth_header" and (_TOKEN.fullmatch(text) is None or text.lower() in FRAMING_HEADERS):
        raise ValidationError(f"{name!r} must be a header's name, and none that the gateway sets itself.")
    if name == "auth_scheme" and text and _TOKEN.fullmatch(text) is None:
        raise ValidationError(f"{name!r} is one word, or empty.")


def normalise_url(value: str) -> str:
    """`scheme://host[:port][/prefix]`, lower-case host, no default port, no trailing slash. Raises ValidationError."""
    value = value.strip(" ")
    # urlsplit drops tabs and line breaks without a word, and would make another URL of it.
    if _CONTROL.search(value) is not None:
        raise ValidationError("A URL has no control characters and no line breaks.")
    if "\\" in value:
        raise ValidationError(
            "A URL has no backslashes: some programs read them as slashes, and so another host."
        )
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValidationError(f"This is not a URL: {error}.") from error
    if parts.scheme not in ("http", "https"):
        raise ValidationError("Begin with http:// or https://.")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ValidationError("Leave user and password out; a secret belongs into a credential.")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValidationError("Leave query and fragment out.")
    host = _normalise_host(parts.hostname or "")
    prefix = parts.path.rstrip("/")
    if _PREFIX.fullmatch(prefix) is None or {".", ".."} & set(prefix.split("/")):
        raise ValidationError(
            "The path prefix may have letters, digits and . _ ~ @ : + = - between single slashes."
        )
    if port == 0:
        raise ValidationError("Port 0 can't be connected to.")
    default = {"http": 80, "https": 443}[parts.scheme]
    shown = "" if port in (None, default) else f":{port}"
    return f"{parts.scheme}://{host}{shown}{prefix}"


def _normalise_host(host: str) -> str:
    if ":" in host:
        if "%" in host:
            raise ValidationError("Leave the zone (what follows %) of the IPv6 address out.")
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError as error:
            raise ValidationError(f"This is not an IPv6 address: {error}.") from error
    # Several look-alikes of digits, letters and dots are made ASCII on the way to a resolver.
    if not host.isascii():
        raise ValidationError("Write the host's name in ASCII (a name with other letters begins with xn--).")
    name = host.lower()
    if name.endswith("."):
        raise ValidationError("Leave the dot at the end of the host's name out.")
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        if is_host_name(name):
            return name
    if _NUMERIC_HOST.fullmatch(name) is not None:
        raise ValidationError("Write an IPv4 address as four decimal numbers, e.g. 192.0.2.1.")
    raise ValidationError("Name a host, e.g. https://api.example.com.")


def check_literal_address(url: str, private: PrivateOrigins) -> None:
    """Raises ValidationError if a normalised URL's host is an address to which no connection is allowed.

    Where a name leads is checked at each connection: what it resolves to now says nothing of later.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    kind = find_literal_denial(private, host, port)
    if kind:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise ValidationError(
            f"{host} is {kind}, to which connections are not allowed. "
            f"To allow it, add {shown} to TOKENHUB_ALLOW_PRIVATE_ORIGINS and restart."
        )
