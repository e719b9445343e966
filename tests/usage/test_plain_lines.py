"""Plain lines become the same rows as by the careful way, and what is not plain is left to it."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.usage.cast import make_final, make_intent
from tests.usage.test_journal import JSON, TEXT
from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage._journal_format import MAX_DEPTH, DamagedLine, decode_line, encode_final, encode_intent
from usage._plain_lines import find_final_half, find_intent_half
from usage.models import UsageRecord
from usage.rows import COLUMNS, FINAL_COLUMNS, INTENT_COLUMNS, LedgerRow, format_moment, make_row

COUNT = st.integers(-(2**40), 2**63) | st.integers(0, 1000)
MOMENT = st.floats(-1e10, 1e10) | st.integers(0, 2**32).map(float)
WORD = TEXT | st.text(max_size=600) | st.sampled_from(["", "fast", 'a "quoted" word\n', "häufig \U0001f600"])
LETTERS = st.text(st.characters(categories=["L"]), max_size=20)
PLAIN_WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\\"), max_size=60
)
RAW = st.none() | st.dictionaries(TEXT | PLAIN_WORD, JSON | PLAIN_WORD, max_size=4)
PLAIN_RAW = st.none() | st.dictionaries(
    LETTERS,
    st.recursive(
        st.integers(0, 10**17) | st.booleans() | LETTERS,
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
).filter(lambda raw: repr(raw).count("[") < MAX_DEPTH)


def texts(record: type, word: st.SearchStrategy[str]) -> dict[str, st.SearchStrategy[str]]:
    """A word for each of a record's plain texts, but for the id."""
    names = (field.name for field in fields(record) if field.type == "str" and field.name != "attempt_id")
    return dict.fromkeys(names, word)


def intents(
    identity: st.SearchStrategy[str], word: st.SearchStrategy[str]
) -> st.SearchStrategy[AttemptIntent]:
    return st.builds(
        AttemptIntent,
        attempt_id=identity,
        number=COUNT,
        started_at=MOMENT,
        price_rates=st.none() | st.lists(st.tuples(word, COUNT), max_size=3).map(tuple),
        **texts(AttemptIntent, word),
    )


def finals(word: st.SearchStrategy[str], raw: st.SearchStrategy[Any]) -> st.SearchStrategy[AttemptFinal]:
    usage = st.builds(
        Usage,
        **dict.fromkeys(BUCKETS + COUNTED, COUNT),
        source=st.sampled_from(["provider", "estimated", "none"]),
        raw=raw,
        **texts(Usage, word),
    )
    return st.builds(
        AttemptFinal,
        attempt_id=st.just("att-1"),
        ended_at=MOMENT,
        usage=usage,
        cost_nanos=st.none() | COUNT,
        first_token_ms=st.integers(-1, 1000),
        **texts(AttemptFinal, word),
    )


def make_careful_row(intent: bytes, final: bytes) -> LedgerRow:
    records = decode_line(intent), decode_line(final)
    assert isinstance(records[0], AttemptIntent)
    assert isinstance(records[1], AttemptFinal)
    return make_row(*records)


def by_name(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """Values by column, JSON as what it says: how it is written is free."""
    row = dict(zip(names, values, strict=True))
    for name in {"raw_usage", "price_rates"} & set(row):
        row[name] = row[name] and json.loads(row[name])
    return row


def test_every_column_of_the_ledger_has_its_value() -> None:
    stored = {field.attname for field in UsageRecord._meta.concrete_fields if not field.primary_key}
    assert set(COLUMNS) == stored
    assert len(COLUMNS) == len(stored)


def test_what_the_gateway_writes_is_plain() -> None:
    assert find_intent_half(encode_intent(make_intent(1))[:-1]) is not None
    assert find_intent_half(encode_intent(make_intent(1, price_rates=None, team="Forschung Köln"))[:-1])
    for changes in ({}, {"error_detail": 'said "no"\n'}, {"usage": Usage(raw={"cost": 1.5e-05})}):
        assert find_final_half(encode_final(make_final(1, **changes))[:-1]) is not None


def check_intent(line: bytes, half: tuple[Any, ...]) -> None:
    careful = make_careful_row(line, encode_final(make_final(1))[:-1])[: len(INTENT_COLUMNS)]
    assert by_name(INTENT_COLUMNS, half) == by_name(INTENT_COLUMNS, careful)


def check_final(line: bytes, half: tuple[Any, ...]) -> None:
    careful = make_careful_row(encode_intent(make_intent(1))[:-1], line)[len(INTENT_COLUMNS) :]
    assert half[0] == "att-1"
    assert by_name(FINAL_COLUMNS, half[1:]) == by_name(FINAL_COLUMNS, careful)


@given(
    intent=intents(
        st.text(
            st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="\\"),
            min_size=1,
            max_size=64,
        ),
        PLAIN_WORD,
    )
)
def test_an_intent_of_plain_texts_is_plain_and_equals_the_careful_way(intent: AttemptIntent) -> None:
    line = encode_intent(intent)[:-1]
    half = find_intent_half(line)
    assert half is not None
    check_intent(line, half)


@given(final=finals(PLAIN_WORD, PLAIN_RAW))
def test_a_final_of_plain_texts_is_plain_and_equals_the_careful_way(final: AttemptFinal) -> None:
    line = encode_final(final)[:-1]
    half = find_final_half(line)
    assert half is not None
    check_final(line, half)


@given(intent=intents(st.text(max_size=70), WORD))
def test_any_intent_is_plain_only_if_the_careful_way_gives_the_same(intent: AttemptIntent) -> None:
    line = encode_intent(intent)[:-1]
    half = find_intent_half(line)
    if half is not None:
        check_intent(line, half)


@given(final=finals(st.just("") | WORD, RAW))
def test_any_final_is_plain_only_if_the_careful_way_gives_the_same(final: AttemptFinal) -> None:
    line = encode_final(final)[:-1]
    half = find_final_half(line)
    if half is not None:
        check_final(line, half)


@given(value=JSON | st.integers(-(10**25), 10**25))
def test_a_plain_usage_object_is_one_that_cleaning_leaves_alone(value: object) -> None:
    raw = {"a": value, "b": [{"c": value}]}
    intent, line = encode_intent(make_intent(1))[:-1], encode_final(make_final(1, usage=Usage(raw=raw)))[:-1]
    half = find_final_half(line)
    if half is not None:
        assert json.loads(half[-1]) == json.loads(make_careful_row(intent, line)[-1])


def make_line(kind: bytes, payload: bytes) -> bytes:
    return b"%b1 %08x %b" % (kind, crc32(kind + b"1 " + payload), payload)


def change_final(**changes: object) -> bytes:
    """A final's line with other or further fields, as another version or a vendor could have written it."""
    data = msgspec.json.decode(encode_final(make_final(1))[12:])
    return make_line(b"F", json.dumps(data | changes).encode())


def with_raw(text: str) -> bytes:
    """A final's line whose usage object is this text."""
    payload = encode_final(make_final(1, usage=Usage(raw={"x": 12345})))[12:-1]
    return make_line(b"F", payload.replace(b'{"x":12345}', text.encode("utf-8", "surrogatepass")))


NOT_PLAIN = {
    "an unknown field": change_final(surcharge_nanos=5),
    "a text too long for its column": encode_final(make_final(1, error_detail="x" * 501))[:-1],
    "NUL": encode_final(make_final(1, finish_reason="\x00"))[:-1],
    "half a surrogate": change_final(finish_reason="\ud800"),
    "a time out of range": encode_final(make_final(1, ended_at=1e300))[:-1],
    "a figure that is none": change_final(status="200"),
    "no usage object": with_raw("[1]"),
    "an integer that may not fit": with_raw('{"a":[1,-1234567890123456789]}'),
    "a float that is none": with_raw('{"a":1e400}'),
    "a float that Postgres makes an integer": with_raw('{"a":1.5E+10}'),
    "a depth that may be too large": with_raw('{"a":' * 33 + "1" + "}" * 33),
    "NUL in the usage object": with_raw('{"a":"\\u0000"}'),
    "half a surrogate as bytes": with_raw('{"a":"\ud800"}'),
    "another checksum": encode_final(make_final(1))[:-2] + b" ",
    "an intent": encode_intent(make_intent(1))[:-1],
    "the end's mark": make_line(b"E", b"{}"),
    "nothing": b"",
}


@pytest.mark.parametrize("line", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_may_need_care_is_not_plain(line: bytes) -> None:
    assert find_final_half(line) is None


@pytest.mark.parametrize("identity", ["", "x" * 65, "a\x00"])
def test_an_id_that_no_row_can_hold_is_not_plain(identity: str) -> None:
    assert find_intent_half(encode_intent(make_intent(1, attempt_id=identity))[:-1]) is None


def test_a_price_with_a_wrong_rate_is_damage_and_not_plain() -> None:
    data = msgspec.json.decode(encode_intent(make_intent(1))[12:])
    line = make_line(b"I", msgspec.json.encode(data | {"price_rates": [["input", "1"]]}))
    assert find_intent_half(line) is None
    assert isinstance(decode_line(line), DamagedLine)


@given(seconds=MOMENT | st.integers(0, 2**33).map(lambda half: half / 2e6))
def test_a_moment_is_rounded_as_datetimes_are(seconds: float) -> None:
    assert datetime.fromisoformat(format_moment(seconds) + "+00:00") == datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e12, float("inf"), float("nan")])
def test_what_is_no_time_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError):
        format_moment(seconds)
