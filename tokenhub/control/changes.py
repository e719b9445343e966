"""Tells subscribers that the configuration changed: once a transaction, and only when it commits. Control plane."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import transaction

from tokenhub.control.actors import Actor


@dataclass(slots=True)
class Changes:
    """What one transaction changed: areas ("providers", "access", …) and the actors who did."""

    areas: set[str] = field(default_factory=set)
    actors: dict[Actor, None] = field(default_factory=dict)
    told: bool = False


Subscriber = Callable[[Changes], None]

_subscribers: list[Subscriber] = []
_pending = threading.local()


def subscribe(subscriber: Subscriber) -> None:
    """Calls `subscriber` after each commit that changed something. Subscribing twice counts once."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Ends a subscription; unknown subscribers are ignored."""
    if subscriber in _subscribers:
        _subscribers.remove(subscriber)


def announce(area: str, *, actor: Actor | None = None) -> None:
    """Says that `area` changed. Subscribers hear of it after the commit, at once outside a transaction.

    Every call registers the same batch, whose first callback after the commit tells all of it. What a rolled-back
    transaction left in the batch only makes a later announcement name more areas than it had to.
    """
    changes: Changes | None = getattr(_pending, "changes", None)
    if changes is None:
        changes = _pending.changes = Changes()
    changes.areas.add(area)
    if actor is not None:
        changes.actors[actor] = None
    batch = changes
    # robust: the change is committed, a subscriber's fault must not make the writer believe otherwise
    transaction.on_commit(lambda: _tell(batch), robust=True)


def _tell(changes: Changes) -> None:
    if changes.told:
        return
    changes.told = True
    _pending.changes = None
    for subscriber in tuple(_subscribers):
        subscriber(changes)
