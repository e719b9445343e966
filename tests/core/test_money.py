"""Money: integers only, half-even once per bucket, an unknown price never free."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub.core.money import PriceSpec, divide_half_even, nanos_from_usd, price_usage, usd_from_nanos
from tokenhub.core.usage import BUCKETS, COUNTED, Usage, decode_usage

counts = st.integers(0, 10**9)


@given(st.integers(0, 10**24), st.integers(1, 10**12))
def test_division_rounds_half_to_even(numerator: int, denominator: int) -> None:
    exact = Decimal(numerator) / Decimal(denominator) if numerator < 10**15 else None
    result = divide_half_even(numerator, denominator)
    assert abs(2 * (result * denominator - numerator)) <= denominator
    if exact is not None and denominator < 10**6:
        assert result == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


@given(st.fixed_dictionaries(dict.fromkeys(BUCKETS + COUNTED, counts)))
def test_a_cost_is_the_sum_of_its_buckets_each_rounded_once(used: dict[str, int]) -> None:
    rates = {name: 1_234_567 + index for index, name in enumerate(BUCKETS + COUNTED)}
    price = PriceSpec("v1", tuple(rates.items()))
    expected = sum(divide_half_even(rates[name] * used[name], 1_000_000) for name in BUCKETS)
    expected += sum(rates[name] * used[name] for name in COUNTED)
    assert price_usage(Usage(**used), price) == expected


def test_a_bucket_without_a_rate_inherits_one_and_is_never_free() -> None:
    price = PriceSpec("v1", (("input", 3_000_000), ("output", 15_000_000)))
    assert price.rate("cache_read") == price.rate("cache_write_1h") == price.rate("image_in") == 3_000_000
    assert price.rate("reasoning") == price.rate("audio_out") == 15_000_000
    assert price.rate("searches") is None
    assert price_usage(Usage(input=1, searches=1), price) is None, (
        "a search without a price makes the call unpriced"
    )
    assert price_usage(Usage(), None) == 0
    assert price_usage(Usage(input=1), None) is None


@given(st.integers(-(10**18), 10**18))
def test_dollars_and_nano_dollars_convert_without_loss(nanos: int) -> None:
    text = usd_from_nanos(nanos)
    assert nanos_from_usd(text) == nanos
    assert "e" not in text.lower()


def test_an_amount_below_a_nano_dollar_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        nanos_from_usd("0.0000000001")


def test_unknown_buckets_are_refused() -> None:
    with pytest.raises(ValueError, match="zebra"):
        decode_usage({"zebra": 1})
    usage = Usage(input=1, cache_read=2, output=3, reasoning=4)
    assert (usage.input_total, usage.output_total) == (3, 7)
