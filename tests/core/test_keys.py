"""API keys: format, checksum, digest."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tokenhub.core.keys import ALPHABET, KEY_LENGTH, digest_key, find_key_parts, mint_key

PEPPER = b"p" * 32


def test_a_minted_key_has_the_published_form_and_never_repeats() -> None:
    keys = {mint_key() for _ in range(1000)}
    assert len(keys) == 1000
    for key in keys:
        assert re.fullmatch(r"thk_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", key)
        assert len(key) == KEY_LENGTH
    parts = find_key_parts(mint_key("tha", "test", "A" * 12))
    assert parts is not None
    assert (parts.prefix, parts.environment, parts.key_id) == ("tha", "test", "A" * 12)


@given(st.integers(0, KEY_LENGTH - 1), st.sampled_from(ALPHABET + "_- é\n"))
def test_any_mistyped_character_is_noticed(at: int, typed: str) -> None:
    key = mint_key()
    mistyped = key[:at] + typed + key[at + 1 :]
    assert (find_key_parts(mistyped) is None) is (mistyped != key)


@given(st.text(max_size=100))
def test_any_text_can_be_checked_and_digested(text: str) -> None:
    assert find_key_parts(text) is None
    assert len(digest_key(text, PEPPER)) == 32
    assert digest_key(text, PEPPER) != digest_key(text, b"q" * 32)
