"""Writes of the price book, used alike by the admin, the API and commands. Control plane."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.utils import timezone

from providers.models import Model
from tokenhub.control.actors import Actor
from tokenhub.core.errors import InvalidRequest
from usage.models import Price
from vault.audit import add


def set_price(
    *,
    actor: Actor,
    model: Model,
    rates: Mapping[str, int],
    effective_from: datetime | None = None,
    note: str = "",
    source: str = "entered",
) -> Price:
    """Appends a price of `model`, audited and announced; `effective_from` None = now.

    `rates` are nano-dollars per million tokens by bucket (a piece for counted things). Raises InvalidRequest (a naive
    time, an unknown bucket, a rate that is not a whole number >= 0), PermissionDenied. Earlier prices stay as they are,
    and so does every ledger row that was priced with them.
    """
    now = timezone.now()
    if effective_from is not None and timezone.is_naive(effective_from):
        raise InvalidRequest("effective_from needs a time zone", param="effective_from")
    price = Price(
        model=model,
        effective_from=effective_from or now,
        rates=dict(rates),
        source=source,
        note=note,
        created_at=now,
        created_by=actor.name[:200],
    )
    return add(actor, price)
