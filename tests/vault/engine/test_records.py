"""A record opens with its key in its place, and in no other way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vault.engine.vault_cast import (
    PLACE,
    SECRET,
    VAULT,
    Counted,
    data_keys,
    other_places,
    random_root,
    secret,
)
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.framing import pack
from vault.engine.hierarchy import DataKey, wrap_data_key
from vault.engine.origins import check_origin, format_origin, origin_of
from vault.engine.records import DataKeys, Place
from vault.engine.sealing import (
    LABEL_RECORD,
    LABEL_SLOT,
    MAX_PLAINTEXT,
    OVERHEAD,
    read_key_version,
    seal,
    unseal,
)

KEYS = data_keys(1, 2, 3)
RECORD = KEYS.seal(PLACE, secret())


def accepted(keys: DataKeys, attempts: list[tuple[Place, bytes]]) -> int:
    """How many of these open. Every refusal has to be the one error with the one message."""
    count, messages = 0, set()
    for place, record in attempts:
        try:
            keys.open(place, record).wipe()
            count += 1
        except DoesNotOpen as error:
            messages.add((str(error), error.code, error.hint, tuple(error.details)))
    assert len(messages) <= 1
    return count


def test_what_was_sealed_opens() -> None:
    with KEYS.open(PLACE, RECORD) as opened:
        assert opened.reveal_bytes() == SECRET
    assert len(RECORD) == len(SECRET) + OVERHEAD == len(SECRET) + 89
    assert SECRET not in RECORD
    assert read_key_version(RECORD) == KEYS.active == 3


@given(st.binary(max_size=2000))
def test_any_bytes_come_back(data: bytes) -> None:
    with KEYS.open(PLACE, KEYS.seal(PLACE, secret(data))) as opened:
        assert opened.reveal_bytes() == data


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=50)
@given(TEXT, TEXT, TEXT, TEXT, st.integers(1, 2**64 - 1), st.binary(max_size=64))
def test_any_place_opens_and_its_neighbour_does_not(
    table: str, row_id: str, field: str, kind: str, version: int, data: bytes
) -> None:
    place = replace(PLACE, table=table, row_id=row_id, field=field, provider_kind=kind, row_version=version)
    record = KEYS.seal(place, secret(data))
    assert KEYS.open(place, record).reveal_bytes() == data
    # The same characters, cut elsewhere: a list that were only joined would not notice.
    moved = replace(place, table=table + row_id[:1], row_id=row_id[1:] or "x")
    assert accepted(KEYS, [(moved, record)]) == 0


def test_of_all_changed_records_none_opens(capsys: pytest.CaptureFixture[str]) -> None:
    flipped = [
        RECORD[:at] + bytes((RECORD[at] ^ mask,)) + RECORD[at + 1 :]
        for at in range(len(RECORD))
        for mask in (0x01, 0x80, 0xFF)
    ]
    shortened = [RECORD[:length] for length in range(len(RECORD))]
    beheaded = [RECORD[start:] for start in range(1, len(RECORD))]
    longer = [RECORD + bytes(more) for more in (1, 2, 16, 89, 1000)] + [b"\0" + RECORD, RECORD * 2]
    huge = [RECORD + bytes(MAX_PLAINTEXT)]
    changed = flipped + shortened + beheaded + longer + huge
    count = accepted(KEYS, [(PLACE, record) for record in changed])
    with capsys.disabled():
        print(f"\n  tampered records accepted: {count} of {len(changed)}", end=" ")
    assert (count, len(changed)) == (0, 3 * 118 + 118 + 117 + 8)


def test_in_all_changed_places_none_opens() -> None:
    places = other_places()
    assert len(places) == 8
    assert accepted(KEYS, [(place, RECORD) for place in places]) == 0
    # And nothing sealed there opens here.
    vault_keys = [DataKeys(place.vault_id, [DataKey.create(place.vault_id, 3)], active=3) for place in places]
    sealed = [keys.seal(place, secret()) for keys, place in zip(vault_keys, places, strict=True)]
    assert accepted(KEYS, [(PLACE, record) for record in sealed]) == 0


def test_swapped_rows_fields_origins_and_versions_do_not_open() -> None:
    """Two whole records exchanged, as someone with the database would."""
    places = [PLACE, *(place for place in other_places() if place.vault_id == VAULT)]
    records = [KEYS.seal(place, secret(b"secret %d" % number)) for number, place in enumerate(places)]
    swapped = [
        (place, record)
        for at, place in enumerate(places)
        for other, record in enumerate(records)
        if at != other
    ]
    assert accepted(KEYS, swapped) == 0
    assert len(swapped) == 56
    assert accepted(KEYS, list(zip(places, records, strict=True))) == 8


def test_parts_of_two_records_do_not_fit_together() -> None:
    other = KEYS.seal(PLACE, secret(SECRET[::-1]))
    mixed = [RECORD[:cut] + other[cut:] for cut in (41, 73, 102)] + [
        RECORD[:start] + other[start:end] + RECORD[end:]
        for start, end in ((9, 41), (41, 73), (73, 102), (102, 118))
    ]
    assert accepted(KEYS, [(PLACE, record) for record in mixed]) == 0


def test_another_key_of_the_same_version_does_not_open() -> None:
    assert accepted(data_keys(1, 2, 3), [(PLACE, RECORD)]) == 0
    assert accepted(data_keys(1, 2), [(PLACE, RECORD)]) == 0


def test_another_label_or_version_does_not_open() -> None:
    with random_root() as root:
        box = seal(root.key, LABEL_RECORD, 1, ("a",), secret())
        assert unseal(root.key, LABEL_RECORD, 1, ("a",), box) == secret()
        for label, version, context in (
            (LABEL_SLOT, 1, ("a",)),
            (LABEL_RECORD, 2, ("a",)),
            (LABEL_RECORD, 1, ("b",)),
            (LABEL_RECORD, 1, ()),
            (LABEL_RECORD, 1, ("a", "")),
        ):
            with pytest.raises(DoesNotOpen):
                unseal(root.key, label, version, context, box)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (0, "format"),
        (4, "algorithm"),
        (8, "key version"),
        (9, "commitment"),
        (41, "commitment"),
        (80, "authentication"),
    ],
)
def test_the_reason_is_for_the_operators_log_only(at: int, reason: str) -> None:
    changed = bytearray(RECORD)
    changed[at] ^= 0x40
    with pytest.raises(DoesNotOpen) as caught:
        KEYS.open(PLACE, changed)
    assert caught.value.reason == reason
    assert str(caught.value) == "this does not open with this key in this place"
    assert caught.value.__cause__ is None


def test_equal_secrets_make_different_records_and_salts_are_never_used_again() -> None:
    records = [KEYS.seal(PLACE, secret()) for _ in range(200)]
    assert len({record[9:41] for record in records}) == 200
    assert len({record[41:73] for record in records}) == 200
    assert len({record[73:] for record in records}) == 200


def test_a_record_is_the_same_for_the_same_randomness() -> None:
    """So that the format can be written down as an example. The salt is the only thing drawn."""
    assert KEYS.seal(PLACE, secret(), fill=Counted()) == KEYS.seal(PLACE, secret(), fill=Counted())


@pytest.mark.parametrize(
    "record",
    [b"", b"THV1", bytes(200), b"THV2" + RECORD[4:], memoryview(RECORD)[:88]],
    ids=["empty", "mark", "zeros", "another format", "cut off"],
)
def test_what_is_no_record_does_not_open(record: bytes) -> None:
    with pytest.raises(DoesNotOpen, match="does not open"):
        KEYS.open(PLACE, record)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_record_may_come_in_any_kind_of_bytes(kind: type) -> None:
    assert KEYS.open(PLACE, kind(RECORD)) == secret()


def test_limits_are_checked_before_anything_is_sealed() -> None:
    with pytest.raises(ValueError, match="at most 65536"):
        KEYS.seal(PLACE, secret(bytes(MAX_PLAINTEXT + 1)))
    assert len(KEYS.seal(PLACE, secret(bytes(MAX_PLAINTEXT)))) == MAX_PLAINTEXT + 89
    with pytest.raises(ValueError, match="version"):
        seal(secret(bytes(32)), LABEL_RECORD, 0, (), secret())
    with pytest.raises(ValueError, match="32 bytes"):
        seal(secret(bytes(31)), LABEL_RECORD, 1, (), secret())
    with pytest.raises(ValueError, match="another vault"):
        KEYS.seal(other_places()[0], secret())


def test_keys_come_go_and_lock() -> None:
    keys = data_keys(1)
    old = keys.seal(PLACE, secret())
    keys.add(DataKey.create(VAULT, 2), activate=False)
    assert read_key_version(keys.seal(PLACE, secret())) == 1
    keys.add(DataKey.create(VAULT, 3), activate=True)
    assert (keys.versions, keys.active) == ((1, 2, 3), 3)
    assert keys.open(PLACE, old) == secret()
    keys.retire(1)
    with pytest.raises(DoesNotOpen):
        keys.open(PLACE, old)
    for version in (1, 3, 9):
        with pytest.raises(ValueError, match="retired"):
            keys.retire(version)
    with pytest.raises(ValueError, match="already"):
        keys.add(DataKey.create(VAULT, 2), activate=True)
    new = keys.seal(PLACE, secret())
    keys.wipe()
    for use in (lambda: keys.open(PLACE, new), lambda: keys.seal(PLACE, secret())):
        with pytest.raises(VaultLocked):
            use()


def test_data_keys_open_under_their_root_and_version_only() -> None:
    with random_root() as root, random_root() as other, DataKey.create(VAULT, 1) as key:
        wrapped = wrap_data_key(root, key)
        keys = DataKeys.unwrap(root, {1: wrapped}, active=1)
        assert keys.open(PLACE, keys.seal(PLACE, secret())) == secret()
        for use, boxes, active in ((other, {1: wrapped}, 1), (root, {2: wrapped}, 2)):
            with pytest.raises(DoesNotOpen):
                DataKeys.unwrap(use, boxes, active=active)
        with pytest.raises(ValueError, match="active"):
            DataKeys.unwrap(root, {1: wrapped}, active=2)


@pytest.mark.parametrize(
    "change",
    [
        {"table": ""},
        {"row_id": ""},
        {"vault_id": ""},
        {"row_version": 0},
        {"row_version": 2**64},
        {"auth_header": "Authorization"},
        {"auth_header": "x api key"},
        {"auth_header": ""},
        {"origin": ""},
        {"origin": "https://api.openai.com"},
        {"origin": "https://API.openai.com:443"},
        {"origin": "https://api.openai.com:443/"},
        {"origin": "https://api.openai.com:0443"},
        {"origin": "ftp://api.openai.com:21"},
    ],
)
def test_a_place_is_whole_and_spelled_in_one_way(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(PLACE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com:443"),
        ("HTTPS://API.OpenAI.com:443/v1/", "https://api.openai.com:443"),
        ("http://localhost:11434", "http://localhost:11434"),
        ("http://vllm", "http://vllm:80"),
        ("http://my_service.default.svc:8000/v1", "http://my_service.default.svc:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("https://[2001:DB8:0:0::1]/", "https://[2001:db8::1]:443"),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str) -> None:
    assert origin_of(url) == origin
    check_origin(origin)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com",
        "https://",
        "https://user@evil.example",
        "https://user:word@evil.example",
        "https://good.example\\@evil.example",
        "https://bücher.example",
        "https://good.example.:443",
        "https://good..example",
        "https://good.example:0",
        "https://good.example:99999",
        "https://[fe80::1%25eth0]/",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        origin_of(url)


def test_an_origin_is_made_of_its_parts_too() -> None:
    assert format_origin("HTTPS", "A.example", 443) == "https://a.example:443"
    assert format_origin("http", "::1", 80) == "http://[::1]:80"


FIELDS = st.lists(st.one_of(st.binary(max_size=8), TEXT, st.integers(0, 2**64 - 1)), max_size=5)


@given(FIELDS, FIELDS)
def test_two_lists_never_make_the_same_bytes(one: list[object], other: list[object]) -> None:
    def plain(fields: list[object]) -> list[bytes]:
        kinds = {bytes: lambda f: f, str: lambda f: f.encode(), int: lambda f: f.to_bytes(8, "big")}
        return [kinds[type(field)](field) for field in fields]  # type: ignore[no-untyped-call]

    assert (pack(*one) == pack(*other)) == (plain(one) == plain(other))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [-1, 2**64, "\ud800"])
def test_what_has_no_bytes_is_refused(field: str | int) -> None:
    with pytest.raises(ValueError):
        pack(field)
