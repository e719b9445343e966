"""Which addresses are public, and what the setting allows beside them."""

from __future__ import annotations

import pytest

from tests.outbound.origins import DISGUISED, LEGACY, PUBLIC, PUBLIC_V4, disguise, list_denied
from tokenhub.core.addresses import (
    METADATA,
    PrivateOrigins,
    find_kind,
    find_literal_denial,
    is_host_name,
    read_address,
    read_private_origins,
)

NONE = PrivateOrigins(())
METADATA_ADDRESSES = (
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
)  # fmt: skip


def test_the_cast_is_large_enough() -> None:
    assert len(list_denied()) >= 200


@pytest.mark.parametrize("address", list_denied())
def test_what_is_not_public_is_denied_with_its_kind(address: str) -> None:
    kind = find_kind(read_address(address))
    assert kind.startswith(("a ", "an ", "the "))
    assert NONE.find_denial("provider.test", 443, address) == kind
    assert NONE.find_denial(address, 443, address) == kind


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed_by_every_setting(address: str) -> None:
    assert find_kind(read_address(address)) == ""
    assert NONE.find_denial("provider.test", 443, address) == ""


@pytest.mark.parametrize("text", ["", "localhost", "provider.test", "127.0.0.1:80", "[::1]", *LEGACY])
def test_what_is_no_address_is_denied(text: str) -> None:
    assert NONE.find_denial("provider.test", 443, text) == "no address"
    assert PrivateOrigins().find_denial("provider.test", 443, text) == "no address"


def test_one_denied_address_denies_the_whole_answer() -> None:
    assert NONE.find_denied("h", 1, ["8.8.8.8", "1.1.1.1"]) == ("", "")
    assert NONE.find_denied("h", 1, ["8.8.8.8", "10.0.0.1"]) == ("10.0.0.1", "a private address")
    assert NONE.find_denied("h", 1, ["10.0.0.1", "8.8.8.8"]) == ("10.0.0.1", "a private address")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"])
def test_loopback_and_nothing_else_is_allowed_by_default(address: str) -> None:
    assert PrivateOrigins().find_denial("anything.test", 8000, address) == ""


def test_the_default_denies_everything_else() -> None:
    loopback = {
        "127.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "127.255.255.255",
        "::1",
        *disguise("127.0.0.1").values(),
    }
    default = PrivateOrigins()
    assert [text for text in list_denied() if not default.find_denial("h", 80, text)] == [
        text
        for text in list_denied()
        if text in loopback
        and text not in {form for name, form in disguise("127.0.0.1").items() if "mapped" not in name}
    ]


@pytest.mark.parametrize(
    ("setting", "host", "port", "address", "allowed"),
    [
        ("10.1.0.0/16", "h", 80, "10.1.255.255", True),
        ("10.1.0.0/16", "h", 80, "10.2.0.0", False),
        ("10.1.0.0/16", "h", 80, "127.0.0.1", False),
        ("10.1.0.0/16", "h", 80, "::ffff:10.1.0.1", True),
        ("::ffff:10.1.0.0/112", "h", 80, "10.1.0.1", True),
        ("10.1.0.1", "h", 80, "10.1.0.1", True),
        ("10.1.0.1:8000", "h", 8000, "10.1.0.1", True),
        ("10.1.0.1:8000", "h", 8001, "10.1.0.1", False),
        ("[fd12::1]:8000", "h", 8000, "fd12::1", True),
        ("[fd12::1]:8000", "h", 80, "fd12::1", False),
        ("fd12::1", "h", 80, "fd12::1", True),
        ("fd12::/32", "h", 80, "fd12::9", True),
        ("vllm.internal", "vllm.internal", 1, "10.9.9.9", True),
        ("vllm.internal", "VLLM.internal.", 1, "10.9.9.9", True),
        ("vllm.internal:8000", "vllm.internal", 8000, "192.168.0.1", True),
        ("vllm.internal:8000", "vllm.internal", 8001, "192.168.0.1", False),
        ("vllm.internal:8000", "a.vllm.internal", 8000, "192.168.0.1", False),
        ("vllm.internal:8000", "internal", 8000, "192.168.0.1", False),
        ("localhost", "localhost", 8000, "127.0.0.1", True),
        ("localhost", "rebound.test", 8000, "127.0.0.1", False),
        ("none", "localhost", 8000, "127.0.0.1", False),
        ("vllm.internal", "vllm.internal", 80, "0.0.0.0", False),
        ("vllm.internal", "vllm.internal", 80, "224.0.0.1", False),
        ("vllm.internal", "vllm.internal", 80, "255.255.255.255", False),
        # A translator's prefix that is allowed leads to public addresses, and to what is allowed besides.
        ("64:ff9b::/96", "h", 443, "64:ff9b::808:808", True),
        ("64:ff9b::/96", "h", 443, "64:ff9b::a00:1", False),
        ("64:ff9b::/96,10.0.0.0/8", "h", 443, "64:ff9b::a00:1", True),
    ],
)
def test_a_setting_allows_what_it_names(
    setting: str, host: str, port: int, address: str, allowed: bool
) -> None:
    private = read_private_origins(setting.split(","))
    assert (private.find_denial(host, port, address) == "") is allowed


@pytest.mark.parametrize("address", METADATA_ADDRESSES)
def test_metadata_services_are_denied_unless_they_are_named_exactly(address: str) -> None:
    wide = [
        "169.254.0.0/16",
        "168.63.129.0/24",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "fd00::/8",
        "h",
        "64:ff9b::/96",
    ]
    private = read_private_origins(wide)
    assert private.find_denial("h", 80, address) == METADATA
    if ":" not in address:
        assert private.find_denial("h", 80, disguise(address)["NAT64"]) == METADATA
    shown = f"[{address}]" if ":" in address else address
    exact = read_private_origins([*wide, f"{shown}:80"])
    assert exact.find_denial("h", 80, address) == ""
    assert exact.find_denial("h", 81, address) == METADATA


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (["*"], "would allow every address"),
        (["0.0.0.0/0"], "would allow every address"),
        (["::/0"], "would allow every address"),
        (["0.0.0.0/1"], "wider than /8"),
        (["::/1"], "wider than /8"),
        (["::ffff:0:0/96"], "wider than /8"),
        (["10.0.0.1/8"], "no network"),
        (["10.0.0.0/8:80"], "no network"),
        (["a/b"], "no network"),
        (["none", "10.0.0.0/8"], "none stands alone"),
        (["vllm:0"], "port"),
        (["vllm:65536"], "port"),
        (["vllm:http"], "port"),
        (["vllm:"], "port"),
        (["[::1]:"], "port"),
        (["http://vllm:8000"], "no network"),
        (["*.internal"], "no host"),
        ([".internal"], "no host"),
        (["vllm.internal."], "no host"),
        (["user@vllm"], "no host"),
        (["vllm internal"], "no host"),
        (["bücher"], "no host"),
        (["2130706433"], "no host"),
        (["127.1"], "no host"),
        (["0x7f.1"], "no host"),
        (["0177.0.0.1"], "no host"),
        ([":8000"], "no host"),
        (["[]"], "no host"),
    ],
)
def test_what_says_too_much_or_nothing_is_refused(items: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_private_origins(items)


@pytest.mark.parametrize(
    "text",
    ["none", "127.0.0.0/8,::1/128", "vllm.internal:8000,vllm", "10.0.0.1/32", "10.0.0.1:80", "[fd12::1]:80"],
)
def test_a_setting_reads_as_it_was_written(text: str) -> None:
    private = read_private_origins(text.split(","))
    assert str(private) == text
    assert read_private_origins(str(private).split(",")) == private


def test_only_literal_addresses_are_judged_before_they_are_resolved() -> None:
    assert find_literal_denial(NONE, "10.0.0.1", 80) == "a private address"
    assert find_literal_denial(NONE, "fd00:ec2::254", 80) == METADATA
    assert find_literal_denial(NONE, "8.8.8.8", 80) == ""
    assert find_literal_denial(NONE, "localhost", 80) == ""


@pytest.mark.parametrize("host", LEGACY)
def test_a_number_is_no_host_name(host: str) -> None:
    assert not is_host_name(host.lower())


def test_every_disguise_is_seen_through() -> None:
    for v4 in DISGUISED:
        for name, form in disguise(v4).items():
            assert find_kind(read_address(form)), (name, form)
    assert find_kind(read_address(disguise(PUBLIC_V4)["mapped"])) == ""
