"""The floor under new passwords, and phrases."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vault.engine.vault_cast import Counted
from vault.engine.errors import PasswordTooWeak
from vault.engine.strength import (
    MIN_BITS,
    MIN_CHARACTERS,
    PHRASE_BITS,
    PHRASE_WORDS,
    check_password,
    estimate_password,
    generate_phrase,
)
from vault.engine.words import WORDS


@pytest.mark.parametrize(
    ("text", "weakness"),
    [
        ("", "0 characters, not 14"),
        ("x8#kQ2v9Lm!pR", "13 characters, not 14"),
        ("aaaaaaaaaaaaaaaaaaaa", "repeats itself"),
        ("abababababababababab", "repeats itself"),
        ("x8#kx8#kx8#kx8#kx8#k", "repeats itself"),
        ("                    ", "repeats itself"),
        ("qwertyuiopasdfghjkl", "row of the keyboard"),
        ("0987654321poiuytrewq", "row of the keyboard"),
        ("abcdefghijklmnopqrst", "row of the keyboard"),
        ("passwordpassword", "common words"),
        ("P4$$w0rdP4$$w0rd", "common words"),
        ("correcthorsebatterystaple", "common words"),
        ("Tokenhub-Admin-2026", "common words"),
        ("Summer2024Summer2024", "year"),
        ("openai-vault-secret", "common words"),
    ],
)
def test_a_weak_password_is_refused_with_a_reason(text: str, weakness: str) -> None:
    with pytest.raises(PasswordTooWeak) as caught:
        check_password(text)
    assert weakness in str(caught.value)
    assert caught.value.param == "password"
    assert caught.value.hint is not None
    assert "14 characters" in caught.value.hint
    assert not text.strip() or text not in f"{caught.value} {caught.value.hint} {caught.value.details}"


@pytest.mark.parametrize(
    "text",
    [
        "x8#kQ2v9Lm!pRz",
        "ihfksjqwnevpoz",
        "Schmetterling im Wald 7",
        "日本語のパスワードは長い文です",
        "my cat dislikes thursdays and rain",
    ],
)
def test_a_password_above_the_floor_is_taken(text: str) -> None:
    check_password(text)


def test_a_phrase_is_six_words_of_two_thousand_and_forty_eight() -> None:
    words = generate_phrase().split("-")
    assert len(words) == PHRASE_WORDS == 6
    assert set(words) <= set(WORDS)
    assert PHRASE_BITS == 66.0
    assert generate_phrase() != generate_phrase()
    assert generate_phrase(fill=Counted()) == generate_phrase(fill=Counted())


def test_every_phrase_is_above_the_floor() -> None:
    for _ in range(300):
        check_password(generate_phrase())


def test_each_word_has_the_same_chance() -> None:
    """All 65,536 values of two bytes: each word comes 32 times."""
    seen = Counter[str]()
    for number in range(0, 65_536, PHRASE_WORDS):
        values = [min(value, 65_535).to_bytes(2, "big") for value in range(number, number + PHRASE_WORDS)]

        def given_values(view: memoryview, values: list[bytes] = values) -> None:
            view[:] = b"".join(values)

        seen.update(generate_phrase(fill=given_values).split("-"))
    assert set(seen) == set(WORDS)
    assert max(seen.values()) - min(seen.values()) <= 2
    assert min(seen.values()) == 32


def test_the_word_list_is_in_order_and_easy_to_type() -> None:
    assert len(WORDS) == len(set(WORDS)) == 2048 == 2**11
    assert list(WORDS) == sorted(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 7 for word in WORDS)
    assert math.log2(len(WORDS)) == 11


@given(st.text(max_size=300))
def test_the_estimate_is_of_any_text(text: str) -> None:
    estimate = estimate_password(text)
    assert estimate.bits >= 0
    assert estimate.characters == len(text)
    assert estimate.acceptable == (len(text) >= MIN_CHARACTERS and estimate.bits >= MIN_BITS)
    assert estimate.acceptable == (estimate.weaknesses == ())
