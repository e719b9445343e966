"""Which addresses a connection to a provider may go to. Both planes; pure.

`ipaddress.is_global` is no such rule: it calls the NAT64 form of 169.254.169.254 global, and multicast too. So every range is
listed here, of IPv6 all but 2000::/3 is denied, and an address that carries an IPv4 address in it is judged by that one as well.
Sources: IANA's special-purpose registries (RFC 6890), RFC 6052, 3056, 4380; the clouds' pages on their metadata services.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA = "a cloud metadata address"
_UNSPECIFIED = "the unspecified address"
_MULTICAST = "a multicast address"
_RESERVED = "a reserved address"
_NEVER_BY_NAME = frozenset({METADATA, _UNSPECIFIED, _MULTICAST, _RESERVED})
"""What a name that may be private may still not lead to: no provider listens there."""

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, DigitalOcean and others
        "169.254.169.253",  # AWS: name server
        "169.254.169.123",  # AWS: time
        "169.254.170.2",  # AWS: credentials of ECS tasks
        "169.254.170.23",  # AWS: credentials of EKS pods
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "168.63.129.16",  # Azure: wire server; within public space
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",
        "fd00:ec2::253",
        "fd00:ec2::123",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fe80::a9fe:a9fe",  # OpenStack
    )
)


def _table(*rows: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ipaddress.ip_network(network), kind) for network, kind in rows)


_DENIED_V4 = _table(
    ("0.0.0.0/32", _UNSPECIFIED),
    ("0.0.0.0/8", "an address of this network"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a shared (carrier-grade NAT) address"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address of protocol assignments"),
    ("192.0.2.0/24", "a documentation address"),
    ("192.88.99.0/24", "a 6to4 relay's address"),
    ("192.168.0.0/16", "a private address"),
    ("198.18.0.0/15", "a benchmarking address"),
    ("198.51.100.0/24", "a documentation address"),
    ("203.0.113.0/24", "a documentation address"),
    ("224.0.0.0/4", _MULTICAST),
    ("240.0.0.0/4", _RESERVED),
)
_DENIED_V6 = _table(
    ("::/128", _UNSPECIFIED),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4-compatible address"),
    ("64:ff9b::/96", "a NAT64 address"),
    ("64:ff9b:1::/48", "a NAT64 address"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", _MULTICAST),
    ("2001::/32", "a Teredo address"),
    ("2001:db8::/32", "a documentation address"),
    ("2001::/23", "an address of protocol assignments"),
    ("2002::/16", "a 6to4 address"),
    ("3fff::/20", "a documentation address"),
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_WIDEST = {4: 8, 6: 7}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def read_address(text: str) -> Address:
    """The address; an IPv4-mapped one as the IPv4 address that it is, a zone dropped. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def find_kind(address: Address) -> str:
    """What keeps an address from being public, such as "a loopback address"; "" if it is public."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address in _METADATA or any(inner in _METADATA for inner in _list_inner(address)):
        return METADATA
    table = _DENIED_V4 if address.version == 4 else _DENIED_V6
    for network, kind in table:
        if address in network:
            return kind
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return _RESERVED
    return "" if address.is_global and not address.is_multicast and not address.is_reserved else _RESERVED


def _list_inner(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address carries, and where a translator or a tunnel would take its packets."""
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    if address in _NAT64_LOCAL or address in _NAT64 or (address in _COMPATIBLE and number > 1):
        yield IPv4Address(number & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def is_host_name(text: str) -> bool:
    """Whether a text is a lower-case ASCII host name without a dot at its end, and no number.

    A resolver takes names that end in a number (127.1, 0x7f.1, 2130706433, 0177.0.0.1) for addresses.
    """
    return _NAME.fullmatch(text) is not None and _NUMERIC.fullmatch(text.rpartition(".")[2]) is None


class Allowed(NamedTuple):
    """One entry of `PrivateOrigins`: a network, or else a name; with a port, or 0 for every port."""

    network: Network | None
    name: str
    port: int

    def __str__(self) -> str:
        if self.network is None:
            shown = self.name
        elif not self.port:
            shown = str(self.network)
        else:
            address = self.network.network_address
            shown = f"[{address}]" if address.version == 6 else str(address)
        return f"{shown}:{self.port}" if self.port else shown


_LOOPBACK = (Allowed(IPv4Network("127.0.0.0/8"), "", 0), Allowed(IPv6Network("::1/128"), "", 0))


@dataclass(frozen=True, slots=True)
class PrivateOrigins:
    """Where connections may go beside public addresses. By default to this machine's loopback, `()`: nowhere else."""

    entries: tuple[Allowed, ...] = _LOOPBACK

    def __str__(self) -> str:
        return ",".join(map(str, self.entries)) or "none"

    def find_denial(self, host: str, port: int, address: str) -> str:
        """Why a connection to `address` is denied, to which `host` was resolved (or which it is); "" if it is allowed."""
        try:
            parsed = read_address(address)
        except ValueError:
            return "no address"
        kind = find_kind(parsed)
        if not kind or self._names_exactly(parsed, port):
            return ""
        for part in (parsed, *_list_inner(parsed)):
            kind = find_kind(part)
            if kind and not self._allows(host, port, part, kind):
                return kind
        return ""

    def find_denied(self, host: str, port: int, addresses: Iterable[str]) -> tuple[str, str]:
        """The first denied one of a host's addresses, and why; ("", "") if all are allowed.

        One is enough to refuse the host: a name with a public and a private address is a trap or a mistake.
        """
        for address in addresses:
            kind = self.find_denial(host, port, address)
            if kind:
                return address, kind
        return "", ""

    def _names_exactly(self, address: Address, port: int) -> bool:
        return any(
            entry.network is not None
            and entry.network.num_addresses == 1
            and address in entry.network
            and entry.port in (0, port)
            for entry in self.entries
        )

    def _allows(self, host: str, port: int, address: Address, kind: str) -> bool:
        if kind == METADATA:
            return self._names_exactly(address, port)
        name = host.rstrip(".").lower()
        return any(
            entry.port in (0, port)
            and (
                address in entry.network
                if entry.network is not None
                else entry.name == name and kind not in _NEVER_BY_NAME
            )
            for entry in self.entries
        )


def find_literal_denial(private: PrivateOrigins, host: str, port: int) -> str:
    """Why an origin whose host is an address is denied; "" for an allowed one and for names, which are checked when resolved."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    return private.find_denial(host, port, host)


def read_private_origins(items: Iterable[str]) -> PrivateOrigins:
    """Entries `host`, `host:port`, `address:port` or `network/bits`; `none` alone allows nothing. Raises ValueError."""
    texts = list(items)
    if [text.lower() for text in texts] == ["none"]:
        return PrivateOrigins(())
    return PrivateOrigins(tuple(_read_entry(text.lower()) for text in texts))


def _read_entry(text: str) -> Allowed:
    if text == "none":
        raise ValueError("has none beside other entries; none stands alone")
    if text in ("*", "0.0.0.0/0", "::/0"):
        raise ValueError(
            "would allow every address, which is not offered; name hosts and networks (vllm.internal:8000, 10.1.0.0/16)"
        )
    if "/" in text:
        return Allowed(_read_network(text), "", 0)
    host, port = _split_port(text)
    try:
        return Allowed(ipaddress.ip_network(read_address(host.strip("[]"))), "", port)
    except ValueError:
        if is_host_name(host):
            return Allowed(None, host, port)
    raise ValueError(
        "has an entry that is no host, host:port or network; give some such as vllm.internal:8000 or 10.1.0.0/16, or none"
    )


def _read_network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("has an entry that is no network, such as 10.1.0.0/16 or fd12:3456::/32") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        network = IPv4Network((int(mapped or 0), network.prefixlen - 96))
    if network.prefixlen < _WIDEST[network.version]:
        raise ValueError(
            "has a network that is wider than /8 (IPv6: /7); name the hosts and networks that are meant"
        )
    return network


def _split_port(text: str) -> tuple[str, int]:
    """Host and port of an entry, 0 where none is given. A bare IPv6 address has colons, but no port."""
    if text.startswith("[") or text.count(":") == 1:
        host, separator, port = text.rpartition(":")
        if not separator or text.endswith("]"):
            return text, 0
        if _PORT.fullmatch(port) is None or int(port) > 65535:
            raise ValueError("has an entry whose port is not from 1 to 65535")
        return host, int(port)
    return text, 0


__all__ = [
    "METADATA",
    "Address",
    "Allowed",
    "PrivateOrigins",
    "find_kind",
    "find_literal_denial",
    "is_host_name",
    "read_address",
    "read_private_origins",
]
