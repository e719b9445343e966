"""Rates between what people write (USD per million tokens, USD a piece) and what is stored (nano-dollars). Control plane."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from tokenhub.core.errors import InvalidRequest
from tokenhub.core.money import PRICED_NAMES, nanos_from_usd, usd_from_nanos
from tokenhub.core.usage import COUNTED

NOT_PRICED = "no price yet"

LABELS = {
    "input": "input",
    "cache_read": "cache read",
    "cache_write_5m": "cache write, 5 min",
    "cache_write_1h": "cache write, 1 h",
    "output": "output",
    "reasoning": "reasoning",
    "audio_in": "audio in",
    "audio_out": "audio out",
    "image_in": "image in",
    "image_out": "image out",
    "searches": "searches",
    "images": "images",
}
"""What people call the buckets."""


def describe_rates(rates: Mapping[str, int] | None) -> str:
    """`input $3.00, output $15.00 per million tokens; searches $0.01 each`, or that there is no price."""
    if not rates:
        return NOT_PRICED
    tokens = [
        f"{LABELS.get(name, name)} ${usd_from_nanos(rates[name])}"
        for name in PRICED_NAMES
        if name in rates and name not in COUNTED
    ]
    pieces = [
        f"{LABELS.get(name, name)} ${usd_from_nanos(rates[name])} each" for name in COUNTED if name in rates
    ]
    parts = [", ".join(tokens) + " per million tokens"] if tokens else []
    return "; ".join([*parts, *pieces])


def describe_rates_short(rates: Mapping[str, int] | None) -> str:
    """`$3.00 / $15.00`: input and output, USD per million tokens; for lists, whose heading has the unit."""
    if not rates:
        return NOT_PRICED
    return " / ".join(
        f"${usd_from_nanos(rates[name])}" if name in rates else "–" for name in ("input", "output")
    )


def usd_amounts(rates: Mapping[str, int]) -> dict[str, str]:
    """USD by bucket out of stored rates, as a form shows them."""
    return {name: usd_from_nanos(rate) for name, rate in rates.items()}


def rates_from_usd(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Nano-dollars by bucket out of USD amounts; empty ones are left out.

    Raises InvalidRequest for what is no number, negative, or finer than a nano-dollar.
    """
    rates: dict[str, int] = {}
    for name, amount in amounts.items():
        if amount in (None, ""):
            continue
        try:
            usd = Decimal(str(amount))
            if not usd.is_finite() or usd < 0:
                raise InvalidRequest(f"{name} must be 0 USD or more", param=name)
            rates[name] = nanos_from_usd(usd)
        except (InvalidOperation, ValueError) as error:
            raise InvalidRequest(f"{name} must be a USD amount of whole nano-dollars", param=name) from error
    return rates
