"""The price book: versions in force, and how a price is set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from providers.models import Model, Provider
from tokenhub.control.actors import Actor
from tokenhub.core.errors import InvalidRequest, PermissionDenied
from tokenhub.core.money import PriceSpec
from usage.actions import set_price
from usage.appendonly import AppendOnly
from usage.models import MAX_RATE, Price
from usage.prices import find_next_change, list_current_prices
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db

ACTOR = Actor.command("test")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def models() -> list[Model]:
    provider = Provider.objects.create(name="acme", kind="openai")
    return [Model.objects.create(provider=provider, name=f"m{n}", upstream_name=f"m{n}") for n in range(3)]


def test_the_newest_price_that_has_begun_is_in_force(models: list[Model]) -> None:
    old = set_price(actor=ACTOR, model=models[0], rates={"input": 1}, effective_from=NOW - 2 * DAY)
    new = set_price(actor=ACTOR, model=models[0], rates={"input": 2, "output": 3}, effective_from=NOW - DAY)
    set_price(actor=ACTOR, model=models[0], rates={"input": 9}, effective_from=NOW + DAY)
    other = set_price(actor=ACTOR, model=models[1], rates={}, effective_from=NOW)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        prices = list_current_prices(NOW)
    assert len(queries) == 1
    assert prices == {
        models[0].pk: PriceSpec(f"price-{new.pk}", (("input", 2), ("output", 3))),
        models[1].pk: PriceSpec(f"price-{other.pk}", ()),
    }
    assert list_current_prices(NOW - DAY - DAY / 2)[models[0].pk].version == f"price-{old.pk}"
    assert list_current_prices(NOW - 3 * DAY) == {}


def test_of_two_prices_from_one_instant_the_later_entered_counts(models: list[Model]) -> None:
    set_price(actor=ACTOR, model=models[0], rates={"input": 1}, effective_from=NOW)
    mended = set_price(
        actor=ACTOR, model=models[0], rates={"input": 2}, effective_from=NOW, note="typing error"
    )
    assert list_current_prices(NOW)[models[0].pk].version == mended.version


def test_the_next_change_is_known_ahead(models: list[Model]) -> None:
    assert find_next_change(NOW) is None
    for days in (5, 2, -1):
        set_price(actor=ACTOR, model=models[0], rates={}, effective_from=NOW + days * DAY)
    assert find_next_change(NOW) == NOW + 2 * DAY


def test_setting_a_price_is_audited_with_its_rates(models: list[Model]) -> None:
    price = set_price(
        actor=ACTOR, model=models[0], rates={"input": 2_500_000_000}, effective_from=NOW, note="list"
    )
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.object_id) == ("price.create", "test", str(price.pk))
    assert entry.after["rates"] == {"input": 2_500_000_000}
    assert (price.created_by, price.source, price.note) == ("test", "entered", "list")


@pytest.mark.parametrize(
    "rates",
    [
        {"inputs": 1},
        {"input": -1},
        {"input": 1.5},
        {"input": True},
        {"input": "1"},
        {"input": MAX_RATE + 1},
        {"input": None},
    ],
)
def test_rates_that_are_no_whole_nano_dollars_of_a_known_bucket_are_refused(
    models: list[Model], rates: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        set_price(actor=ACTOR, model=models[0], rates=rates, effective_from=NOW)
    assert caught.value.param == "rates"
    assert (Price.objects.count(), AuditEntry.objects.count()) == (0, 0)


def test_a_time_without_a_zone_is_refused(models: list[Model]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        set_price(actor=ACTOR, model=models[0], rates={}, effective_from=NOW.replace(tzinfo=None))
    assert caught.value.param == "effective_from"


def test_a_reader_may_not_set_prices(models: list[Model]) -> None:
    reader = Actor("token", "reader", scopes=frozenset({"read"}))
    with pytest.raises(PermissionDenied):
        set_price(actor=reader, model=models[0], rates={}, effective_from=NOW)
    assert Price.objects.count() == 0


def test_a_price_is_never_changed(models: list[Model]) -> None:
    price = set_price(actor=ACTOR, model=models[0], rates={"input": 1}, effective_from=NOW)
    price.rates = {"input": 2}
    with pytest.raises(AppendOnly):
        price.save()
    with pytest.raises(AppendOnly):
        Price.objects.update(note="x")
    with (
        pytest.raises(DatabaseError, match="never changed"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE usage_price SET note = 'x'")
    price.refresh_from_db()
    assert (price.rates, price.note) == ({"input": 1}, "")


def test_prices_go_with_their_model(models: list[Model]) -> None:
    set_price(actor=ACTOR, model=models[0], rates={"input": 1}, effective_from=NOW)
    models[0].delete()
    assert Price.objects.count() == 0
