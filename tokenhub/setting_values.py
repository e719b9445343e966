"""How the text of a setting becomes a value. Both planes; pure.

Each parser raises ValueError with a problem that reads on after the value ("'abc' is no whole number") and never quotes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tokenhub.core.addresses import PrivateOrigins, read_private_origins
from tokenhub.core.keys import find_key_parts

Parse = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class KmsSetting:
    """A key management service: `aws` with a region and a key's ARN, id or alias; `software` with a file's path."""

    provider: str
    key: str
    region: str = ""


_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NAME = re.compile(r"\*|\.?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_KMS_ARN = re.compile(
    r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]{1,40}):\d{12}:(key|alias)/[A-Za-z0-9/_-]{1,256}", re.ASCII
)
_KMS_NAME = re.compile(r"(?P<region>[a-z0-9-]{1,40})/(?P<key>(alias/)?[A-Za-z0-9/_-]{1,256})", re.ASCII)
_DATABASES = ("postgres", "postgresql", "sqlite")


def text(value: str) -> str:
    """Text on one line without spaces around it."""
    if value != value.strip() or not value.isprintable():
        raise ValueError("has spaces around it or unprintable characters")
    return value


def boolean(value: str) -> bool:
    """true/false, yes/no, on/off, 1/0."""
    lowered = value.strip().lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError("is neither true nor false")
    return lowered in _TRUE


def integer(low: int, high: int) -> Parse:
    """Whole numbers within bounds."""

    def parse(value: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,18}", value.strip()) is None:
            raise ValueError(f"is no whole number; give one from {low} to {high}")
        number = int(value)
        if not low <= number <= high:
            raise ValueError(f"is not from {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Parse:
    """Seconds within bounds, with or without decimals."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"is no number of seconds; give one from {low:g} to {high:g}") from None
        if not math.isfinite(number) or not low <= number <= high:
            raise ValueError(f"is not from {low:g} to {high:g} seconds")
        return number

    return parse


def choice(*choices: str) -> Parse:
    """One of some words, in any case."""

    def parse(value: str) -> str:
        lowered = value.strip().lower()
        if lowered not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return lowered

    return parse


def path(value: str) -> Path:
    """A path; a relative one counts from the current folder."""
    if "\0" in value:
        raise ValueError("is no path")
    return Path(value).expanduser().absolute()


def host(value: str) -> str:
    """An IP address or a host name to listen on."""
    try:
        return str(ip_address(value.strip("[]")))
    except ValueError:
        if _NAME.fullmatch(value) is None or value == "*":
            raise ValueError("is no address or host name") from None
        return value


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def names(value: str) -> tuple[str, ...]:
    """Host names, separated by commas; `*` and `.example.com` as Django's ALLOWED_HOSTS has them."""
    for item in _items(value):
        if _NAME.fullmatch(item) is None:
            raise ValueError("has an entry that is no host name (no scheme, no port)")
    return tuple(_items(value))


def origins(value: str) -> tuple[str, ...]:
    """Origins `scheme://host[:port]`, separated by commas."""
    for item in _items(value):
        parts = urlsplit(item)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
            raise ValueError("has an entry that is no origin, such as https://hub.example.com")
    return tuple(_items(value))


def networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """IP networks or addresses, separated by commas."""
    try:
        return tuple(ip_network(item) for item in _items(value))
    except ValueError:
        raise ValueError("has an entry that is no address or network, such as 10.0.0.0/8") from None


def addresses(value: str) -> tuple[str, ...]:
    """As `networks`, in the text form that uvicorn takes."""
    return tuple(str(network) for network in networks(value))


def private_origins(value: str) -> PrivateOrigins:
    """Hosts, `host:port` and networks, separated by commas, or `none`."""
    return read_private_origins(_items(value))


def kms(value: str) -> KmsSetting:
    """`aws:ARN`, `aws:REGION/ID`, `aws:REGION/alias/NAME` or `software:/PATH`."""
    provider, _, key = value.partition(":")
    if provider == "software" and key.startswith("/") and "\0" not in key:
        return KmsSetting("software", key)
    if provider == "aws":
        arn = _KMS_ARN.fullmatch(key)
        if arn is not None:
            return KmsSetting("aws", key, arn["region"])
        named = _KMS_NAME.fullmatch(key)
        if named is not None:
            return KmsSetting("aws", named["key"], named["region"])
    raise ValueError(
        "names no key management service; give aws:ARN, aws:REGION/KEY-ID, aws:REGION/alias/NAME or software:/PATH"
    )


def kms_endpoint(value: str) -> str:
    """`https://HOST[:PORT]/`; with http only on this machine."""
    problem = "is no URL such as https://vpce-1.kms.eu-central-1.vpce.amazonaws.com"
    try:
        parts = urlsplit(value)
        named, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(problem) from None
    more = parts.username or parts.password or parts.query or parts.fragment or parts.path not in ("", "/")
    if not named or more or parts.scheme not in (("https", "http") if _is_here(named) else ("https",)):
        raise ValueError(problem)
    return f"{parts.scheme}://{parts.netloc}/"


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def secret(length: int) -> Parse:
    """A secret of at least `length` characters."""

    def parse(value: str) -> str:
        if len(value) < length:
            raise ValueError(f"is shorter than {length} characters")
        if not value.isprintable():
            raise ValueError("has unprintable characters")
        return value

    return parse


def secret_bytes(length: int) -> Parse:
    """As `secret`, as the bytes of its UTF-8 form."""
    parse = secret(length)
    return lambda value: parse(value).encode()


def secret_bytes_list(length: int) -> Parse:
    """Several such secrets, separated by commas."""
    parse = secret_bytes(length)
    return lambda value: tuple(parse(item) for item in _items(value))


def api_key(value: str) -> str:
    """A well-formed consumer key with a right checksum."""
    parts = find_key_parts(value)
    if parts is None or parts.prefix != "thk":
        raise ValueError("is no well-formed API key (thk_…, with its checksum)")
    return value


def database_url(value: str) -> str:
    """A database's URL of a kind that Tokenhub runs on."""
    scheme, separator, rest = value.partition("://")
    if scheme not in _DATABASES or not separator or not rest:
        raise ValueError("is no database URL; give postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:///PATH")
    return value
