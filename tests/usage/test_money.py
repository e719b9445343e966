"""Money: exact, in integers, rounded half to even once a bucket."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub.core.money import (
    PRICED_NAMES,
    PriceSpec,
    divide_half_even,
    nanos_from_usd,
    price_usage,
    usd_from_nanos,
)
from tokenhub.core.usage import BUCKETS, COUNTED, Usage

COUNTS = st.fixed_dictionaries({}, optional=dict.fromkeys(PRICED_NAMES, st.integers(0, 10**9)))
RATES = st.fixed_dictionaries({name: st.integers(0, 10**14) for name in PRICED_NAMES})


def one(name: str, count: int) -> Usage:
    """Usage of one bucket."""
    counts: dict[str, Any] = {name: count}
    return Usage(**counts)


def exact(rate: int, count: int, name: str) -> int:
    """The same by another way: decimals of any length."""
    with localcontext() as context:
        context.prec = 100
        value = Decimal(rate) * count / (1 if name in COUNTED else 1_000_000)
        return int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@given(counts=COUNTS, rates=RATES)
def test_a_cost_is_the_sum_of_its_buckets_each_rounded_half_even(
    counts: dict[str, Any], rates: dict[str, int]
) -> None:
    price = PriceSpec("p", tuple(rates.items()))
    parts = [exact(rates[name], count, name) for name, count in counts.items()]
    assert price_usage(Usage(**counts), price) == sum(parts)
    singles = [price_usage(one(name, count), price) for name, count in counts.items()]
    assert singles == parts


@given(numerator=st.integers(0, 10**30), denominator=st.integers(1, 10**9))
def test_division_is_off_by_at_most_a_half_and_ties_go_to_even(numerator: int, denominator: int) -> None:
    quotient = divide_half_even(numerator, denominator)
    error = 2 * abs(numerator - quotient * denominator)
    assert error <= denominator
    assert error < denominator or quotient % 2 == 0


@pytest.mark.parametrize(("tokens", "nanos"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_dollar_goes_to_the_even_side(tokens: int, nanos: int) -> None:
    assert price_usage(Usage(input=tokens), PriceSpec("p", (("input", 500_000),))) == nanos


@given(counts=COUNTS)
def test_what_has_no_price_is_unpriced_and_what_used_nothing_is_free(counts: dict[str, Any]) -> None:
    used = any(counts.values())
    assert price_usage(Usage(**counts), None) == (None if used else 0)
    assert price_usage(Usage(**counts), PriceSpec("p", ())) == (None if used else 0)


@given(rate=st.integers(0, 10**12), count=st.integers(1, 10**6))
def test_a_bucket_without_a_price_costs_what_it_inherits(rate: int, count: int) -> None:
    price = PriceSpec("p", (("input", rate), ("output", 2 * rate)))
    for name in BUCKETS:
        family: str = "output" if name in ("output", "reasoning", "audio_out", "image_out") else "input"
        assert price_usage(one(name, count), price) == price_usage(one(family, count), price)


@given(nanos=st.integers(-(10**18), 10**18))
def test_dollars_and_nano_dollars_convert_without_loss(nanos: int) -> None:
    assert nanos_from_usd(usd_from_nanos(nanos)) == nanos


def test_a_fraction_of_a_nano_dollar_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of nano-dollars"):
        nanos_from_usd("0.0000000001")
