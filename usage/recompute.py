"""Proves the ledger: every row, priced again from its own figures, must cost the same to the last digit. Control plane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tokenhub.core.money import PriceSpec, price_usage
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage.models import UsageRecord

_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """A row whose cost is not what its own figures give; nano-dollars, None = unpriced."""

    attempt_id: str
    recorded: int | None
    recomputed: int | None


@dataclass(slots=True)
class Recomputation:
    """What was looked at: `rows`, and the sum of their recorded costs in nano-dollars."""

    rows: int = 0
    cost_nanos: int = 0


def find_differences(
    since: datetime | None = None, *, seen: Recomputation | None = None
) -> Iterator[Difference]:
    """Prices every row that started at or after `since` (None = all) again, one row in memory at a time.

    `seen` is filled on the way.
    """
    rows = UsageRecord.objects.order_by("id")
    if since is not None:
        rows = rows.filter(started_at__gte=since)
    seen = Recomputation() if seen is None else seen
    names = BUCKETS + COUNTED
    columns = ("attempt_id", "cost_nanos", "price_version", "price_rates", *names)
    for attempt_id, recorded, version, rates, *counts in rows.values_list(*columns).iterator(
        chunk_size=_CHUNK
    ):
        usage = Usage(**dict(zip(names, counts, strict=True)))
        price = None if rates is None else PriceSpec(version, tuple(rates.items()))
        recomputed = price_usage(usage, price)
        seen.rows += 1
        seen.cost_nanos += recorded or 0
        if recomputed != recorded:
            yield Difference(attempt_id, recorded, recomputed)
