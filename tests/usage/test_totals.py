"""Totals: computed over everything, equal to the rows' sum for any grouping, range and zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.usage.cast import make_final, make_intent, settled_cost
from tests.usage.conftest import make_record
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage.models import UsageRecord
from usage.rows import make_row, make_unsettled_row
from usage.totals import DIMENSIONS, find_first_day, get_total, list_totals

pytestmark = pytest.mark.django_db

START = datetime(2026, 10, 31, 22, tzinfo=UTC)
END = START + timedelta(hours=30)


@pytest.fixture(autouse=True)
def rows() -> list[UsageRecord]:
    """An attempt an hour for thirty hours; every fifth unpriced, every seventh unsettled."""
    made = []
    for number in range(30):
        intent = make_intent(
            number,
            started_at=(START + timedelta(hours=number)).timestamp(),
            provider=f"p{number % 3}",
            model=f"m{number % 4}",
            team="ab"[number % 2],
        )
        unpriced: dict[str, Any] = {} if number % 5 else {"cost_nanos": None}
        row = make_row(intent, make_final(number, **unpriced)) if number % 7 else make_unsettled_row(intent)
        made.append(make_record(row))
    UsageRecord.objects.bulk_create(made)
    return made


@pytest.mark.parametrize("by", DIMENSIONS)
def test_groups_add_up_to_the_rows_in_one_query(by: str, rows: list[UsageRecord]) -> None:
    with CaptureQueriesContext(connection) as queries:
        groups = list_totals(by, START, END)
    assert len(queries) == 1
    assert sum(group.cost_nanos for group in groups) == sum(row.cost_nanos or 0 for row in rows)
    assert sum(group.attempts for group in groups) == 30
    assert sum(group.unpriced for group in groups) == sum(row.cost_nanos is None for row in rows)
    for name in BUCKETS + COUNTED:
        assert sum(group.usage[name] for group in groups) == sum(getattr(row, name) for row in rows)


def test_the_grand_total_is_the_sum_of_the_groups(rows: list[UsageRecord]) -> None:
    total = get_total(START, END)
    assert (total.key, total.attempts, total.requests) == (None, 30, 15)
    assert total.cost_nanos == sum(group.cost_nanos for group in list_totals("model", START, END))
    assert total.estimated == sum(row.usage_source == "estimated" for row in rows)
    assert isinstance(total.cost_nanos, int)
    assert isinstance(total.usage["input"], int)


def test_the_range_is_half_open() -> None:
    hour = timedelta(hours=1)
    assert get_total(START + hour, START + 2 * hour).cost_nanos == settled_cost(1)
    assert get_total(START + hour, START + hour).attempts == 0
    assert get_total(START + hour, START + hour).cost_nanos == 0


def test_a_day_begins_where_the_reader_is() -> None:
    utc = list_totals("day", START, END)
    assert [(group.key, group.attempts) for group in utc] == [
        (date(2026, 10, 31), 2),
        (date(2026, 11, 1), 24),
        (date(2026, 11, 2), 4),
    ]
    berlin = list_totals("day", START, END, zone=ZoneInfo("Europe/Berlin"))
    assert [(group.key, group.attempts) for group in berlin] == [
        (date(2026, 10, 31), 1),
        (date(2026, 11, 1), 24),
        (date(2026, 11, 2), 5),
    ]


def test_the_dearest_group_comes_first_and_filters_hold() -> None:
    groups = list_totals("provider", START, END, filters={"team": "a"})
    assert [group.cost_nanos for group in groups] == sorted(
        (group.cost_nanos for group in groups), reverse=True
    )
    assert sum(group.attempts for group in groups) == 15
    assert get_total(START, END, filters={"key": "key-1"}).attempts == 30
    assert get_total(START, END, filters={"key": "key-2"}).attempts == 0


def test_sums_beyond_64_bits_of_tokens_are_exact_where_the_database_can(database_kind: str) -> None:
    usage = Usage(input=2**62)
    for number in (100, 101):
        intent = make_intent(number, started_at=END.timestamp())
        make_record(make_row(intent, make_final(number, usage=usage, cost_nanos=0))).save()
    if database_kind == "postgres":
        assert get_total(END, END + timedelta(days=1)).usage["input"] == 2**63
    else:
        with pytest.raises(Exception, match="integer overflow"):
            get_total(END, END + timedelta(days=1))


@pytest.mark.parametrize(
    ("by", "filters", "start"),
    [
        ("colour", None, START),
        ("model", {"colour": "red"}, START),
        ("model", None, START.replace(tzinfo=None)),
    ],
)
def test_what_can_not_be_answered_is_refused(
    by: str, filters: dict[str, str] | None, start: datetime
) -> None:
    with pytest.raises(ValueError, match=r"can't|zone"):
        list_totals(by, start, END, filters=filters)


def test_the_first_attempts_time_is_known() -> None:
    assert find_first_day() == START
