"""Turns the journal's records into ledger rows that any database takes. Control plane; no database access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.money import PriceSpec, price_usage
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage._journal_format import clean_text, clean_value
from usage.models import UsageRecord

UNSETTLED_METHOD = "unsettled: input estimate only"

_TEXTS = {
    field.name: field.max_length
    for field in UsageRecord._meta.concrete_fields
    if field.get_internal_type() == "CharField" and not field.choices and field.name != "attempt_id"
}
_DEFAULTS = {
    field.attname: field.get_default() for field in UsageRecord._meta.concrete_fields if not field.primary_key
}
_FROM_FINAL = (
    "served_model",
    "outcome",
    "status",
    "error_class",
    "error_detail",
    "finish_reason",
    "cost_nanos",
    "duration_ms",
    "relayed_events",
    "client_disconnected",
    "translated",
    "upstream_request_id",
)
_FROM_INTENT = tuple(
    field.name
    for field in fields(AttemptIntent)
    if field.name not in ("attempt_id", "started_at", "input_estimate", "price_rates")
)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row before it is stored: every column's value by name. A model instance would cost as much again as its insert."""

    attempt_id: str
    outcome: str
    values: Mapping[str, Any]


def make_row(intent: AttemptIntent, final: AttemptFinal) -> LedgerRow:
    """The row of a settled attempt. Raises ValueError for an id or a time that no row can hold."""
    values = _intent_values(intent) | {name: getattr(final, name) for name in _FROM_FINAL}
    values |= _usage_values(final.usage)
    values["ended_at"] = _moment(final.ended_at)
    values["first_token_ms"] = final.first_token_ms if final.first_token_ms >= 0 else None
    return _fitting(values)


def make_unsettled_row(intent: AttemptIntent) -> LedgerRow:
    """The row of an attempt whose process died before its end was known: the input estimate, at the intent's rates.

    What the provider generated meanwhile is not known; reconciliation with its invoice finds it. Raises ValueError.
    """
    usage = Usage(input=max(0, intent.input_estimate), source="estimated", method=UNSETTLED_METHOD)
    values = _intent_values(intent) | _usage_values(usage)
    values |= {"outcome": "unsettled", "ended_at": None, "cost_nanos": price_usage(usage, find_price(intent))}
    return _fitting(values)


def find_price(intent: AttemptIntent) -> PriceSpec | None:
    """The price that was in force at dispatch, or None."""
    return None if intent.price_rates is None else PriceSpec(intent.price_version, intent.price_rates)


def _intent_values(intent: AttemptIntent) -> dict[str, Any]:
    values = {name: getattr(intent, name) for name in _FROM_INTENT}
    values["attempt_id"] = _check_id(intent.attempt_id)
    values["started_at"] = _moment(intent.started_at)
    values["price_rates"] = None if intent.price_rates is None else dict(intent.price_rates)
    return values


def _usage_values(usage: Usage) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(usage, name) for name in BUCKETS + COUNTED}
    values |= {"usage_source": usage.source, "usage_method": usage.method}
    values["raw_usage"] = None if usage.raw is None else clean_value(usage.raw)
    return values


def _fitting(values: dict[str, Any]) -> LedgerRow:
    """Texts cleaned and cut to their columns. Figures are left: one that does not fit is refused, not changed."""
    for name, length in _TEXTS.items():
        text = values.get(name)
        if text:
            values[name] = clean_text(text if type(text) is str else str(text))[:length]
    return LedgerRow(values["attempt_id"], values["outcome"], _DEFAULTS | values)


def _check_id(attempt_id: str) -> str:
    """The id as it is: cut or cleaned it could be another attempt's."""
    if not attempt_id or len(attempt_id) > 64 or clean_text(attempt_id) != attempt_id:
        raise ValueError("an attempt id is 1 to 64 plain characters")
    return attempt_id


def _moment(seconds: float) -> datetime:
    """Unix seconds as a UTC time. Raises ValueError out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds!r} is no time") from error
