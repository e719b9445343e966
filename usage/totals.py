"""Sums over the ledger, computed in SQL over every row of a range. Control plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Any

from django.db.models import Count, F, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from tokenhub.core.usage import BUCKETS, COUNTED
from usage.models import UsageRecord

DIMENSIONS = ("provider", "model", "key", "team", "project", "day", "outcome")
"""What totals can be grouped by."""

_COLUMNS = {"key": "key_id"}
_FILTERS = ("provider", "model", "key", "team", "project", "outcome", "request_id")


@dataclass(frozen=True, slots=True)
class Total:
    """One group. `key` is the dimension's value (a date for `day`, None for the grand total); `usage` has tokens and pieces by
    bucket; `cost_nanos` is the sum of priced attempts in nano-dollars, `unpriced` how many attempts have no price,
    `estimated` how many have figures that the provider did not report.
    """

    key: str | date | None
    attempts: int
    requests: int
    completed: int
    failed: int
    unpriced: int
    estimated: int
    cost_nanos: int
    usage: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """All tokens, whatever their bucket."""
        return sum(self.usage[name] for name in BUCKETS)


def list_totals(
    by: str,
    start: datetime,
    end: datetime,
    *,
    zone: tzinfo = UTC,
    filters: Mapping[str, str] | None = None,
) -> list[Total]:
    """Totals by a dimension for attempts that started in [start, end), the dearest first (days in order of time).

    `zone` is where a day begins. Raises ValueError for an unknown dimension or filter, or a time without a zone.
    """
    if by not in DIMENSIONS:
        raise ValueError(f"can't group by {by!r}; known are {', '.join(DIMENSIONS)}")
    rows = _select(start, end, filters)
    key: Any = TruncDate("started_at", tzinfo=zone) if by == "day" else F(_COLUMNS.get(by, by))
    groups = rows.order_by().values(group=key).annotate(**_sums())
    order = ["group"] if by == "day" else [F("cost_sum").desc(nulls_last=True), "group"]
    return [_total(group.pop("group"), group) for group in groups.order_by(*order)]


def get_total(start: datetime, end: datetime, *, filters: Mapping[str, str] | None = None) -> Total:
    """The grand total of [start, end). Raises ValueError as `list_totals` does."""
    return _total(None, _select(start, end, filters).order_by().aggregate(**_sums()))


def find_first_day() -> datetime | None:
    """When the oldest attempt started; None in an empty ledger."""
    first: datetime | None = UsageRecord.objects.aggregate(first=Min("started_at"))["first"]
    return first


def _select(start: datetime, end: datetime, filters: Mapping[str, str] | None) -> QuerySet:
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("the range needs times with a zone")
    unknown = set(filters or {}) - set(_FILTERS)
    if unknown:
        raise ValueError(f"can't filter by {', '.join(sorted(unknown))}; known are {', '.join(_FILTERS)}")
    chosen = {_COLUMNS.get(name, name): value for name, value in (filters or {}).items()}
    return UsageRecord.objects.filter(started_at__gte=start, started_at__lt=end, **chosen)


def _sums() -> dict[str, Any]:
    outcome = UsageRecord.Outcome
    return {
        "attempts": Count("id"),
        "requests": Count("request_id", distinct=True),
        "completed": Count("id", filter=Q(outcome=outcome.COMPLETED)),
        "failed": Count("id", filter=Q(outcome=outcome.FAILED)),
        "unpriced": Count("id", filter=Q(cost_nanos__isnull=True)),
        "estimated": Count("id", filter=Q(usage_source=UsageRecord.UsageSource.ESTIMATED)),
        "cost_sum": Sum("cost_nanos"),
    } | {f"sum_{name}": Sum(name) for name in BUCKETS + COUNTED}


def _total(key: Any, sums: Mapping[str, Any]) -> Total:
    """Postgres sums bigint as numeric, and a sum of nothing is NULL: both become int."""
    return Total(
        key=key,
        attempts=sums["attempts"],
        requests=sums["requests"],
        completed=sums["completed"],
        failed=sums["failed"],
        unpriced=sums["unpriced"],
        estimated=sums["estimated"],
        cost_nanos=int(sums["cost_sum"] or 0),
        usage={name: int(sums[f"sum_{name}"] or 0) for name in BUCKETS + COUNTED},
    )
