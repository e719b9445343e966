"""Reading the price book: which price is in force for each model. Control plane."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from django.db.models import Min, OuterRef, Subquery

from tokenhub.core.money import PriceSpec
from usage.models import Price


def list_current_prices(now: datetime) -> dict[int, PriceSpec]:
    """The price in force at `now` by the model's primary key, in one query; models without one are absent.

    Of two prices from the same instant the one entered later counts: that is how a mistake is corrected.
    """
    newest = Price.objects.filter(model=OuterRef("model"), effective_from__lte=now).order_by(
        "-effective_from", "-pk"
    )
    current = Price.objects.filter(pk=Subquery(newest.values("pk")[:1])).order_by("model_id")
    return {price.model_id: price.as_spec() for price in current}


def find_next_change(now: datetime) -> datetime | None:
    """When the next price after `now` comes into force, so that whoever publishes knows when to look again; None: never."""
    later = Price.objects.filter(effective_from__gt=now).aggregate(next=Min("effective_from"))
    return cast("datetime | None", later["next"])
