"""The manifest notices rows that went, came, changed, or were put back whole from a backup."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vault.engine.vault_cast import PLACE, VAULT, data_keys, random_root, secret
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen
from vault.engine.hierarchy import Purpose, derive_subkey
from vault.engine.manifest import (
    Change,
    Difference,
    Manifest,
    ManifestRow,
    compare_rows,
    describe_row,
    sign_rows,
    verify_rows,
)

KEY = derive_subkey(random_root(), Purpose.MANIFEST)
ROWS = [describe_row("vault_credential", str(row), "secret", row + 1, b"record %d" % row) for row in range(9)]
SIGNED = sign_rows(KEY, VAULT, 41, ROWS)


def verifies(rows: list[ManifestRow], manifest: Manifest = SIGNED, key: SecretBuffer = KEY) -> bool:
    try:
        verify_rows(key, manifest, rows)
    except DoesNotOpen:
        return False
    return True


def test_the_signed_rows_verify_and_no_others() -> None:
    assert verifies(ROWS)
    assert (SIGNED.counter, SIGNED.rows, len(SIGNED.mac)) == (41, 9, 32)
    more = describe_row("vault_credential", "9", "secret", 1, b"")
    changed = [[*ROWS, more], [], ROWS[:-1], ROWS[1:], [*ROWS[:3], *ROWS[4:]]]
    for name, value in (
        ("table", "other"),
        ("row_id", "80"),
        ("field", "secret2"),
        ("row_version", 77),
        ("digest", bytes(32)),
    ):
        changed.append(sorted([*ROWS[:-1], replace(ROWS[-1], **{name: value})]))  # type: ignore[arg-type]
    assert [rows for rows in changed if verifies(rows)] == []


def test_another_key_vault_counter_or_mac_does_not_verify() -> None:
    assert not verifies(ROWS, key=SecretBuffer.random())
    for change in (
        {"vault_id": "other"},
        {"counter": 40},
        {"rows": 8},
        {"mac": bytes(32)},
        {"mac": SIGNED.mac[:16]},
        {"mac": b""},
    ):
        assert not verifies(ROWS, replace(SIGNED, **change))  # type: ignore[arg-type]


def test_an_old_row_put_back_whole_opens_but_is_noticed() -> None:
    """What additional data alone can't see, which is why there is a manifest."""
    keys = data_keys(1)
    old_place = replace(PLACE, row_version=1)
    old = keys.seal(old_place, secret(b"leaked key"))
    new_place = replace(PLACE, row_version=2)
    new = keys.seal(new_place, secret(b"new key"))
    signed = sign_rows(KEY, VAULT, 1, [describe_row("vault_credential", "5", "secret", 2, new)])
    assert keys.open(old_place, old).reveal_bytes() == b"leaked key"
    back = [describe_row("vault_credential", "5", "secret", 1, old)]
    assert not verifies(back, signed)


def test_a_manifest_put_back_with_all_its_rows_is_older_than_what_was_seen() -> None:
    verify_rows(KEY, SIGNED, ROWS, at_least=41)
    with pytest.raises(DoesNotOpen):
        verify_rows(KEY, SIGNED, ROWS, at_least=42)


def test_which_rows_differ_is_told() -> None:
    found = [
        *ROWS[:2],
        replace(ROWS[3], row_version=2, digest=bytes(32)),
        *ROWS[4:],
        describe_row("zzz", "1", "secret", 5, b""),
    ]
    assert list(compare_rows(ROWS, found)) == [
        Difference(Change.MISSING, "vault_credential", "2", "secret", 3, None),
        Difference(Change.CHANGED, "vault_credential", "3", "secret", 4, 2),
        Difference(Change.UNKNOWN, "zzz", "1", "secret", None, 5),
    ]
    assert list(compare_rows(ROWS, ROWS)) == []
    assert [difference.change for difference in compare_rows([], ROWS)] == [Change.UNKNOWN] * 9
    assert [difference.change for difference in compare_rows(ROWS, [])] == [Change.MISSING] * 9


IDENTITIES = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from("123"), st.sampled_from("xy")),
    st.integers(1, 3),
    max_size=12,
)


@given(IDENTITIES, IDENTITIES)
def test_the_differences_are_those_of_two_tables(
    signed: dict[tuple[str, str, str], int], found: dict[tuple[str, str, str], int]
) -> None:
    def rows(table: dict[tuple[str, str, str], int]) -> list[ManifestRow]:
        return sorted(describe_row(*identity, version, b"") for identity, version in table.items())

    told = {
        (difference.table, difference.row_id, difference.field): difference.change
        for difference in compare_rows(rows(signed), rows(found))
    }
    expected = dict.fromkeys(signed.keys() - found.keys(), Change.MISSING)
    expected |= dict.fromkeys(found.keys() - signed.keys(), Change.UNKNOWN)
    expected |= {key: Change.CHANGED for key in signed.keys() & found.keys() if signed[key] != found[key]}
    assert told == expected
    assert verifies(rows(found), sign_rows(KEY, VAULT, 1, rows(signed))) == (not told)


def test_rows_out_of_order_or_twice_are_a_mistake_of_the_callers() -> None:
    shuffled = ROWS.copy()
    random.Random(1).shuffle(shuffled)
    for rows in (shuffled, [ROWS[0], ROWS[0]], [ROWS[1], ROWS[0]]):
        with pytest.raises(ValueError, match="in order"):
            sign_rows(KEY, VAULT, 1, rows)
        with pytest.raises(ValueError, match="in order"):
            list(compare_rows(rows, rows))


def test_many_rows_need_no_more_memory_than_few() -> None:
    def many() -> Iterator[ManifestRow]:
        for row in range(10_000):
            yield describe_row("vault_credential", f"{row:06}", "secret", 1, b"record")

    tracemalloc.start()
    try:
        manifest = sign_rows(KEY, VAULT, 1, many())
        assert list(compare_rows(many(), many())) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert manifest.rows == 10_000
    assert peak < 200_000
