"""Slots: each opens ROOT with its own secret, as it was made, and in no other way."""

from __future__ import annotations

import base64
import json
import os
import string
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vault.engine.vault_cast import VAULT, Counted, key_secret, password, random_root, secret
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, KeyMalformed, ParametersRefused, PasswordTooWeak
from vault.engine.kms import SoftwareKms
from vault.engine.passwords import (
    CEILING,
    DEFAULT,
    FLOOR,
    Argon2Parameters,
    encode_password,
    stretch_password,
)
from vault.engine.recovery import (
    ALPHABET,
    CHARACTERS,
    format_recovery_key,
    parse_key,
    parse_recovery_key,
)
from vault.engine.slots import (
    HEADLESS_KINDS,
    KDF_OF_KIND,
    KeySecret,
    KmsSecret,
    PasswordSecret,
    Slot,
    SlotKind,
    SlotSecret,
    decode_slot,
    encode_slot,
)

PASSWORD = "correct horse battery staple"
PEPPER = SecretBuffer.random()


def secrets() -> Iterator[tuple[str, SlotSecret]]:
    """One of each kind."""
    yield "password", password(PASSWORD)
    yield "peppered password", password(PASSWORD, PEPPER)
    yield "key file", key_secret(SlotKind.KEY_FILE)
    yield "environment", key_secret(SlotKind.ENVIRONMENT)
    yield "recovery", key_secret(SlotKind.RECOVERY)
    yield "kms", KmsSecret(SoftwareKms("kms-key-1", SecretBuffer.random()))


@pytest.mark.parametrize("slot_secret", [pytest.param(one, id=name) for name, one in secrets()])
def test_a_slot_opens_with_its_secret_after_a_trip_through_json(slot_secret: SlotSecret) -> None:
    with random_root(7) as root:
        slot = slot_secret.wrap(root, "slot-1")
        stored = json.dumps(encode_slot(slot)).encode()
        again = decode_slot(json.loads(stored))
        assert again == slot
        with slot_secret.unwrap(again) as opened:
            assert opened.key == root.key
            assert (opened.vault_id, opened.version) == (VAULT, 7)
        assert PASSWORD.encode() not in stored
        assert base64.b64encode(root.key.reveal_bytes())[:40] not in stored


def refused(slot_secret: SlotSecret, slot: Slot) -> bool:
    """Whether it fails with the one error."""
    try:
        slot_secret.unwrap(slot).wipe()
    except DoesNotOpen:
        return True
    return False


def changes_of(slot: Slot) -> list[dict[str, Any]]:
    """Each field of a slot changed to what a writer to the database might put there."""
    changes: list[dict[str, Any]] = [
        {"vault_id": "another"},
        {"slot_id": "slot-2"},
        {"root_version": slot.root_version + 1},
        {"root_version": 0},
        {"root_version": -1},
        {"root_version": 2**64},
        {"kdf": "sha1"},
        {"kdf": ""},
        {"salt": slot.salt + b"\0"},
        {"salt": bytes(len(slot.salt)) or b"\0" * 16},
        {"peppered": not slot.peppered},
        {"key_id": slot.key_id + "x"},
        {"wrapped_key": slot.wrapped_key[:-1] + b"\0\1"},
        {"sealed": b""},
        {"sealed": slot.sealed[:-1]},
        {"sealed": slot.sealed[:-1] + bytes((slot.sealed[-1] ^ 1,))},
    ]
    changes += [{"kind": kind} for kind in SlotKind if kind is not slot.kind]
    changes += [{"kind": kind, "kdf": KDF_OF_KIND[kind]} for kind in SlotKind if kind is not slot.kind]
    parameters = (
        DEFAULT,
        Argon2Parameters(65_537, 3, 4),
        Argon2Parameters(65_536, 4, 4),
        Argon2Parameters(65_536, 3, 5),
    )
    changes += [{"argon2": value} for value in (None, *parameters) if value != slot.argon2]
    return changes


@pytest.mark.parametrize("slot_secret", [pytest.param(one, id=name) for name, one in secrets()])
def test_a_slot_with_any_field_changed_does_not_open(slot_secret: SlotSecret) -> None:
    with random_root() as root:
        slot = slot_secret.wrap(root, "slot-1")
        changes = changes_of(slot)
        opened = [
            change for change in changes if not refused(slot_secret, msgspec.structs.replace(slot, **change))
        ]
        assert opened == []
        assert len(changes) >= 28


def test_a_slot_moved_to_another_vault_or_kind_does_not_open() -> None:
    """One key in three kinds of slots: what was sealed in one is not taken for the other."""
    key = SecretBuffer.random()
    with random_root() as root:
        slots = [
            key_secret(kind, key).wrap(root, "s")
            for kind in sorted(KDF_OF_KIND)
            if KDF_OF_KIND[kind] == "none"
        ]
        for slot in slots:
            for kind in (SlotKind.KEY_FILE, SlotKind.ENVIRONMENT, SlotKind.RECOVERY):
                relabelled = msgspec.structs.replace(slot, kind=kind)
                assert refused(key_secret(kind, key), relabelled) == (kind != slot.kind)


def test_wrong_passwords_never_open() -> None:
    wrong = [
        PASSWORD + " ",
        " " + PASSWORD,
        PASSWORD[:-1],
        PASSWORD.upper(),
        PASSWORD.replace("o", "0"),
        PASSWORD + "\0",
        "x",
        "\0",
        "correct-horse-battery-staple",
    ]
    with random_root() as root:
        slot = password(PASSWORD).wrap(root, "s")
    assert [text for text in wrong if not refused(password(text), slot)] == []


@settings(max_examples=6, deadline=None)
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_a_password_opens_its_own_slot_only(right: str, wrong: str) -> None:
    with random_root() as root, encode_password(right) as encoded, encode_password(wrong) as other:
        slot = PasswordSecret(encoded).wrap(root, "s")
        with PasswordSecret(encoded).unwrap(slot) as opened:
            assert opened.key == root.key
        assert refused(PasswordSecret(other), slot) == (encoded != other)


def test_a_peppered_slot_needs_password_and_key_file() -> None:
    with random_root() as root:
        slot = password(PASSWORD, PEPPER).wrap(root, "s")
    assert not refused(password(PASSWORD, PEPPER), slot)
    assert refused(password(PASSWORD), slot)
    assert refused(password(PASSWORD, SecretBuffer.random()), slot)
    assert refused(password("something else altogether", PEPPER), slot)
    with pytest.raises(ValueError, match="32 bytes"):
        password(PASSWORD, secret(b"short"))


def test_two_ways_to_write_a_letter_are_one_password() -> None:
    assert encode_password("Zu\u0308rich am See 12") == encode_password("Z\u00fcrich am See 12")
    assert encode_password("a b") != encode_password("ab")


@pytest.mark.parametrize("text", ["", "x" * 1025, "é" * 513, "\ud800"])
def test_what_can_be_no_password_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(PasswordTooWeak) as caught:
        encode_password(text)
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 60


BELOW = [Argon2Parameters(65_535, 3, 4), Argon2Parameters(65_536, 2, 4), Argon2Parameters(65_536, 3, 3)]
ABOVE = [Argon2Parameters(1_048_577, 3, 4), Argon2Parameters(65_536, 11, 4), Argon2Parameters(65_536, 3, 9)]
ODD = [Argon2Parameters(0, 0, 0), Argon2Parameters(-1, 3, 4), Argon2Parameters(2**40, 2**40, 2**40)]


@pytest.mark.parametrize("parameters", [*BELOW, *ABOVE, *ODD])
def test_parameters_out_of_bounds_are_refused_before_anything_is_computed(
    parameters: Argon2Parameters,
) -> None:
    with pytest.raises(ParametersRefused, match="between"):
        parameters.check()
    with random_root() as root:
        with pytest.raises(ParametersRefused):
            PasswordSecret(encode_password(PASSWORD), parameters=parameters).wrap(root, "s")
        slot = msgspec.structs.replace(password(PASSWORD).wrap(root, "s"), argon2=parameters)
    with pytest.raises(DoesNotOpen) as caught:
        password(PASSWORD).unwrap(slot)
    assert caught.value.reason == "parameters"


def test_the_bounds_are_those_that_are_documented() -> None:
    assert (FLOOR.memory_kib, FLOOR.passes, FLOOR.lanes) == (64 * 1024, 3, 4)
    assert (CEILING.memory_kib, CEILING.passes, CEILING.lanes) == (1024 * 1024, 10, 8)
    FLOOR.check()
    CEILING.check()
    DEFAULT.check()


def test_a_slot_keeps_parameters_of_its_own() -> None:
    stronger = Argon2Parameters(70_000, 4, 5)
    with random_root() as root:
        slot = PasswordSecret(encode_password(PASSWORD), parameters=stronger).wrap(root, "s")
    assert slot.argon2 == stronger
    assert not refused(password(PASSWORD), slot)


def test_a_salt_of_another_length_is_refused() -> None:
    with pytest.raises(ParametersRefused, match="16 bytes"):
        stretch_password(encode_password(PASSWORD), b"short", DEFAULT)


@pytest.mark.parametrize("document", [None, {}, [], "", 7, {"vault_id": 1}, [[[]]]])
def test_json_that_is_no_slot_does_not_open(document: Any) -> None:
    with pytest.raises(DoesNotOpen):
        decode_slot(document)


def test_unknown_kinds_and_more_fields_do_not_open() -> None:
    with random_root() as root:
        stored = encode_slot(key_secret().wrap(root, "s"))
    for change in (
        {"kind": "magic"},
        {"more": 1},
        {"sealed": "no base64!"},
        {"argon2": {"memory_kib": "much"}},
    ):
        with pytest.raises(DoesNotOpen):
            decode_slot(stored | change)


def test_which_kinds_unlock_with_nobody_there() -> None:
    assert {SlotKind.KEY_FILE, SlotKind.ENVIRONMENT, SlotKind.KMS} == HEADLESS_KINDS
    with pytest.raises(ValueError, match="32 bytes"):
        KeySecret(SlotKind.PASSWORD, SecretBuffer.random())
    with pytest.raises(ValueError, match="32 bytes"):
        KeySecret(SlotKind.KEY_FILE, SecretBuffer.random(31))


def test_slots_are_the_same_for_the_same_randomness() -> None:
    for slot_secret in (password(PASSWORD), key_secret()):
        with random_root() as root:
            assert slot_secret.wrap(root, "s", fill=Counted()) == slot_secret.wrap(root, "s", fill=Counted())
            assert slot_secret.wrap(root, "s").sealed != slot_secret.wrap(root, "s").sealed


# --- the printed recovery key ---------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_a_recovery_key_comes_back(key: bytes) -> None:
    text = format_recovery_key(secret(key))
    assert [len(group) for group in text.split("-")] == [5] * 12
    assert set(text) <= {*ALPHABET, "-"}
    assert parse_recovery_key(text) == secret(key)


KEY = SecretBuffer.random(fill=Counted("recovery"))
PRINTED = format_recovery_key(KEY)


@pytest.mark.parametrize(
    "typed",
    [
        PRINTED.lower(),
        PRINTED.replace("-", ""),
        PRINTED.replace("-", " "),
        PRINTED.replace("-", "\n  "),
        PRINTED.replace("-", " – "),
        PRINTED.replace("-", "\u2011"),
        PRINTED.replace("-", "\u00a0"),
        f"\ufeff  {PRINTED}\r\n",
        PRINTED.replace("0", "O").replace("1", "I"),
        PRINTED.replace("0", "o").replace("1", "l"),
        "".join(chr(ord(c) + 0xFEE0) if c in string.ascii_uppercase + string.digits else c for c in PRINTED),
    ],
)
def test_a_recovery_key_is_read_however_it_is_typed(typed: str) -> None:
    assert parse_recovery_key(typed) == KEY


def misread(text: str) -> bool:
    """Whether a mistyped key is taken for one."""
    try:
        parse_recovery_key(text).wipe()
    except KeyMalformed:
        return False
    return True


def test_every_wrong_character_and_every_exchange_is_noticed() -> None:
    plain = PRINTED.replace("-", "")
    wrong = [
        plain[:at] + other + plain[at + 1 :]
        for at in range(CHARACTERS)
        for other in ALPHABET
        if other != plain[at]
    ]
    exchanged = [
        plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :]
        for at in range(CHARACTERS - 1)
        if plain[at] != plain[at + 1]
    ]
    groups = PRINTED.split("-")
    moved = [
        "-".join([*groups[:at], groups[at + 1], groups[at], *groups[at + 2 :]])
        for at in range(11)
        if groups[at] != groups[at + 1]
    ]
    lost = [plain[:at] + plain[at + 1 :] for at in range(CHARACTERS)]
    doubled = [plain[:at] + plain[at] + plain[at:] for at in range(CHARACTERS)]
    typos = wrong + exchanged + moved + lost + doubled
    assert [text for text in typos if misread(text)] == []
    assert len(wrong) == 60 * 31


@pytest.mark.parametrize("text", ["", "U" * 60, "!", "0" * 60, "0" * 10_000, "\0" * 60, "٣" * 60])
def test_what_is_no_recovery_key_is_refused(text: str) -> None:
    with pytest.raises(KeyMalformed):
        parse_recovery_key(text)


def test_messages_about_recovery_keys_tell_what_to_look_at() -> None:
    with pytest.raises(KeyMalformed, match="60 characters in 12 groups of 5; this has 59"):
        parse_recovery_key(PRINTED[:-1])
    with pytest.raises(KeyMalformed, match="checksum"):
        parse_recovery_key(PRINTED[:-1] + ("0" if PRINTED[-1] != "0" else "1"))
    with pytest.raises(KeyMalformed, match="no 'U'"):
        parse_recovery_key("u")


# --- key files and variables ----------------------------------------------------------------------------------------

RAW = bytes.fromhex("8f41c02d7be3196a54d80fb2973ce6510acd7e28b49d63f1153f80a7e2cb4c96")


@pytest.mark.parametrize(
    "data",
    [
        RAW,
        bytearray(RAW),
        RAW.hex(),
        RAW.hex().upper() + "\n",
        RAW.hex().encode() + b"\r\n",
        base64.b64encode(RAW),
        base64.b64encode(RAW).decode() + "\n",
        base64.urlsafe_b64encode(RAW).rstrip(b"="),
    ],
)
def test_a_key_is_read_from_a_file_or_variable(data: bytes | str) -> None:
    assert parse_key(data) == secret(RAW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        RAW[:31],
        RAW + b"\n",
        RAW.hex()[:-1],
        RAW.hex() + "0",
        " " + RAW.hex(),
        "ключ" * 8,
        bytes(32),
        b"\xff" * 32,
        "00" * 32,
        base64.b64encode(bytes(32)),
        b"change-me-to-thirty-two-letters!",
        b"0123456789abcdef0123456789abcde\n",
    ],
)
def test_what_is_no_random_key_is_refused(data: bytes | str) -> None:
    with pytest.raises(KeyMalformed) as caught:
        parse_key(data)
    assert "change-me" not in str(caught.value)


def test_no_random_key_is_taken_for_a_text_or_a_pattern() -> None:
    for _ in range(2000):
        parse_key(os.urandom(32)).wipe()
