"""Turns the journal's records into ledger rows that any database takes. Control plane; no database access.

This is the careful way, for any record. What comes of nearly every line needs none of it: `usage._plain_lines` makes the
same rows of those at a quarter of the price.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.money import PriceSpec, price_usage
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage._journal_format import clean_text, clean_value
from usage.models import UsageRecord

UNSETTLED_METHOD = "unsettled: input estimate only"

FROM_INTENT = tuple(
    field.name
    for field in fields(AttemptIntent)
    if field.name not in ("started_at", "price_rates", "input_estimate")
)
FROM_FINAL = tuple(
    field.name
    for field in fields(AttemptFinal)
    if field.name not in ("attempt_id", "ended_at", "first_token_ms", "usage")
)
INTENT_COLUMNS = (*FROM_INTENT, "started_at", "price_rates")
USAGE_COLUMNS = (*BUCKETS, *COUNTED, "usage_source", "usage_method")
FINAL_COLUMNS = (*FROM_FINAL, *USAGE_COLUMNS, "ended_at", "first_token_ms", "raw_usage")
COLUMNS = INTENT_COLUMNS + FINAL_COLUMNS
"""A row's columns in order: what the intent told, then what the final did."""

ATTEMPT_ID, OUTCOME = COLUMNS.index("attempt_id"), COLUMNS.index("outcome")

LedgerRow = tuple[Any, ...]
"""A row before it is stored: the values of COLUMNS as SQLite takes them. Times are UTC as `2026-09-21 12:34:56.250000`,
JSON is text. A model instance would cost several times its insert.
"""

LENGTHS = {
    field.name: field.max_length
    for field in UsageRecord._meta.concrete_fields
    if field.get_internal_type() == "CharField" and not field.choices
}
"""The longest text of each column, in characters."""


def make_row(intent: AttemptIntent, final: AttemptFinal) -> LedgerRow:
    """The row of a settled attempt. Raises ValueError for an id or a time that no row can hold."""
    values = _intent_values(intent) | {name: getattr(final, name) for name in FROM_FINAL}
    values |= _usage_values(final.usage)
    values["ended_at"] = format_moment(final.ended_at)
    values["first_token_ms"] = final.first_token_ms if final.first_token_ms >= 0 else None
    return _fitting(values)


def make_unsettled_row(intent: AttemptIntent) -> LedgerRow:
    """The row of an attempt whose process died before its end was known: the input estimate, at the intent's rates.

    What the provider generated meanwhile is not known; reconciliation with its invoice finds it. Raises ValueError.
    """
    usage = Usage(input=max(0, intent.input_estimate), source="estimated", method=UNSETTLED_METHOD)
    cost = price_usage(usage, find_price(intent))
    final = AttemptFinal(intent.attempt_id, "unsettled", ended_at=0.0, usage=usage, cost_nanos=cost)
    values = _intent_values(intent) | {name: getattr(final, name) for name in FROM_FINAL}
    values |= _usage_values(usage) | {"ended_at": None, "first_token_ms": None}
    return _fitting(values)


def find_price(intent: AttemptIntent) -> PriceSpec | None:
    """The price that was in force at dispatch, or None."""
    return None if intent.price_rates is None else PriceSpec(intent.price_version, intent.price_rates)


def format_moment(seconds: float) -> str:
    """Unix seconds as the time of a row, rounded as `datetime.fromtimestamp` does. Raises ValueError out of range."""
    try:
        whole = int(seconds)
        microseconds = round((seconds - whole) * 1e6)
        if 0 < microseconds < 1_000_000:
            return f"{_format_second(whole)}.{microseconds:06}"
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ")[:-6]  # without its `+00:00`
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds!r} is no time") from error


@lru_cache(256)
def _format_second(second: int) -> str:
    """Hundreds of attempts share their second."""
    return datetime.fromtimestamp(second, UTC).isoformat(" ")[:-6]


def format_rates(rates: tuple[tuple[str, int], ...] | None) -> str | None:
    """The price's rates as a row has them."""
    return None if rates is None else json.dumps(dict(rates))


def _intent_values(intent: AttemptIntent) -> dict[str, Any]:
    values = {name: getattr(intent, name) for name in FROM_INTENT}
    values["attempt_id"] = _check_id(intent.attempt_id)
    values["started_at"] = format_moment(intent.started_at)
    values["price_rates"] = format_rates(intent.price_rates)
    return values


def _usage_values(usage: Usage) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(usage, name) for name in BUCKETS + COUNTED}
    values |= {"usage_source": usage.source, "usage_method": usage.method}
    values["raw_usage"] = None if usage.raw is None else json.dumps(clean_value(usage.raw))
    return values


def _fitting(values: dict[str, Any]) -> LedgerRow:
    """Texts cleaned and cut to their columns. Figures are left: one that does not fit is refused, not changed."""
    for name, length in LENGTHS.items():
        text = values[name]
        if text:
            values[name] = clean_text(text if type(text) is str else str(text))[:length]
    return tuple([values[name] for name in COLUMNS])


def _check_id(attempt_id: str) -> str:
    """The id as it is: cut or cleaned it could be another attempt's."""
    if not attempt_id or len(attempt_id) > LENGTHS["attempt_id"] or clean_text(attempt_id) != attempt_id:
        raise ValueError("an attempt id is 1 to 64 plain characters")
    return attempt_id
