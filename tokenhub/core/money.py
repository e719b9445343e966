"""Money in integers: nano-dollars (10^-9 USD). Never a float. Both planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from tokenhub.core.usage import BUCKETS, COUNTED, Usage

NANOS_PER_USD = 1_000_000_000
PER_MILLION = 1_000_000
PRICED_NAMES = BUCKETS + COUNTED
"""Every name that may carry a rate."""

INHERITS = {
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "cache_write_5m",
    "audio_in": "input",
    "image_in": "input",
    "reasoning": "output",
    "audio_out": "output",
    "image_out": "output",
}
"""The bucket whose price applies where a bucket has none of its own. An unknown cache price never makes it free."""


@dataclass(frozen=True, slots=True)
class PriceSpec:
    """One version of a model's prices: nano-dollars per million tokens by bucket, nano-dollars per counted thing."""

    version: str
    rates: tuple[tuple[str, int], ...]
    _rate_by_name: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Resolved once: every answer is priced, and a price lives as long as its snapshot.
        own = dict(self.rates)
        found = {name: rate for name in (*own, *PRICED_NAMES) if (rate := _inherit(own, name)) is not None}
        object.__setattr__(self, "_rate_by_name", MappingProxyType(found))

    def rate(self, bucket: str) -> int | None:
        """The bucket's rate, inherited where it has none; None where nothing applies."""
        return self._rate_by_name.get(bucket)


def _inherit(rates: Mapping[str, int], bucket: str) -> int | None:
    name: str | None = bucket
    while name is not None:
        if name in rates:
            return rates[name]
        name = INHERITS.get(name)
    return None


def divide_half_even(numerator: int, denominator: int) -> int:
    """Integer division rounded half to even (denominator > 0)."""
    quotient, remainder = divmod(numerator, denominator)
    twice = remainder * 2
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def price_usage(usage: Usage, price: PriceSpec | None) -> int | None:
    """Cost in nano-dollars, each bucket rounded half-even once; None if a used bucket has no price (unpriced)."""
    return price_counts(usage.counts(), price)


def price_counts(counts: Mapping[str, int], price: PriceSpec | None) -> int | None:
    """As `price_usage`, of the non-zero counts by bucket."""
    total = 0
    for name, count in counts.items():
        rate = price.rate(name) if price is not None else None
        if rate is None:
            return None
        total += rate * count if name in COUNTED else divide_half_even(rate * count, PER_MILLION)
    return total


def nanos_from_usd(usd: Decimal | str | int) -> int:
    """Exact nano-dollars of a USD amount. Raises ValueError below a nano-dollar: it would be lost silently."""
    nanos = Decimal(usd) * NANOS_PER_USD
    if nanos != nanos.to_integral_value():
        raise ValueError(f"{usd} USD is not a whole number of nano-dollars")
    return int(nanos)


def usd_from_nanos(nanos: int) -> str:
    """The amount as a plain decimal string in USD, without exponent, at least two decimals."""
    sign, digits = ("-" if nanos < 0 else ""), f"{abs(nanos):010d}"
    whole, fraction = digits[:-9], digits[-9:].rstrip("0")
    return f"{sign}{whole}.{fraction.ljust(2, '0')}"
