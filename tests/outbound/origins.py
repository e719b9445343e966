"""The cast of the address guard's tests: what is denied, at the edges and in disguise, and what is public right beside it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

DENIED_V4 = (
    "0.0.0.0", "0.0.0.1", "0.255.255.255",
    "10.0.0.0", "10.1.2.3", "10.255.255.255",
    "100.64.0.0", "100.100.100.200", "100.127.255.255",
    "127.0.0.0", "127.0.0.1", "127.0.0.2", "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255",
    "172.16.0.0", "172.31.255.255",
    "192.0.0.0", "192.0.0.9", "192.0.0.10", "192.0.0.192", "192.0.0.255",
    "192.0.2.0", "192.0.2.255",
    "192.88.99.0", "192.88.99.1", "192.88.99.255",
    "192.168.0.0", "192.168.255.255",
    "198.18.0.0", "198.19.255.255",
    "198.51.100.0", "198.51.100.255",
    "203.0.113.0", "203.0.113.255",
    "224.0.0.0", "224.0.0.1", "239.255.255.255",
    "240.0.0.0", "255.255.255.254", "255.255.255.255",
)  # fmt: skip
DENIED_V6 = (
    "::", "::1", "::2", "::ffff:ffff", "::a9fe:a9fe",
    "::1:0:0", "::ffff:0:7f00:1",
    "64:ff9b::", "64:ff9b::a9fe:a9fe", "64:ff9b::ffff:ffff", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "100::", "100::1", "100:0:0:1::1",
    "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001::", "2001::1", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:1::1", "2001:1::2", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1", "2001:20::1",
    "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    "2002::", "2002:a9fe:a9fe::1", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
    "4000::", "5f00::1", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fc00::", "fd00::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe00::1", "fe80::", "fe80::1", "fe80::a9fe:a9fe", "fe80::1%lo", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fec0::", "fec0::1", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "ff00::", "ff02::1", "ff0e::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
)  # fmt: skip
DISGUISED = ("0.0.0.0", "10.1.2.3", "100.100.100.200", "127.0.0.1", "168.63.129.16", "169.254.169.254", "172.16.0.1",
             "192.0.0.192", "192.88.99.1", "192.168.1.1", "224.0.0.1", "255.255.255.255")  # fmt: skip
PUBLIC_V4 = "8.8.8.8"

LEGACY = {
    "0177.0.0.1": "127.0.0.1",
    "0177.0.0.01": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "0x7F.0.0.0x1": "127.0.0.1",
    "0x7f000001": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "017700000001": "127.0.0.1",
    "127.1": "127.0.0.1",
    "127.0.1": "127.0.0.1",
    "0": "0.0.0.0",
    "0x0": "0.0.0.0",
    "2852039166": "169.254.169.254",
    "0xa9fea9fe": "169.254.169.254",
    "0251.0376.0251.0376": "169.254.169.254",
    "169.254.43518": "169.254.169.254",
    "0xa9.254.0251.254": "169.254.169.254",
    "10.1": "10.0.0.1",
    "0xa000001": "10.0.0.1",
    "3232235777": "192.168.1.1",
    "192.168.257": "192.168.1.1",
}
"""Hosts that a system's resolver takes for an address, and the address."""

PUBLIC = (
    "1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.1.255", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0",
    "223.255.255.255",
    "2000::", "2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "2001:4860:4860::8888", "2003::",
    "2606:4700:4700::1111", "2620:4f:8000::1", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::",
    "::ffff:8.8.8.8", "::ffff:808:808",
)  # fmt: skip


def disguise(v4: str) -> dict[str, str]:
    """The IPv6 forms that carry an IPv4 address."""
    number = int(IPv4Address(v4))
    inverted = number ^ 0xFFFFFFFF
    return {
        "mapped": f"::ffff:{v4}",
        "mapped, in hexadecimal": f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}",
        "mapped, written out": IPv6Address((0xFFFF << 32) | number).exploded,
        "compatible": str(IPv6Address(number)),
        "translated": str(IPv6Address((0xFFFF << 48) | number)),
        "NAT64": str(IPv6Address(int(IPv6Address("64:ff9b::")) | number)),
        "NAT64, local": str(IPv6Address(int(IPv6Address("64:ff9b:1::")) | number)),
        "6to4": str(IPv6Address((0x2002 << 112) | (number << 80) | 1)),
        "Teredo, client": str(IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | inverted)),
        "Teredo, server": str(IPv6Address((0x20010000 << 96) | (number << 64) | 0xF7F7F7F7)),
    }


def list_denied() -> list[str]:
    """Every denied address: ranges with their edges, and IPv4 addresses in every disguise; no two are equal."""
    disguised = [form for v4 in DISGUISED for form in disguise(v4).values()]
    # Tunnels and translators to public addresses are denied as well: what they lead to isn't ours to know.
    tunnels = [form for name, form in disguise(PUBLIC_V4).items() if not name.startswith("mapped")]
    return list(dict.fromkeys([*DENIED_V4, *DENIED_V6, *disguised, *tunnels]))
