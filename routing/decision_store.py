"""Stores the decisions that the data plane keeps, and drops old ones: a thread of each worker. Control plane."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.db import Error as DatabaseError
from django.db import close_old_connections, connection
from django.utils import timezone

from routing.models import DecisionRecord

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 0.5
_AT_ONCE = 200
_PRUNE_EVERY = timedelta(minutes=1)
_PRUNE_AT_ONCE = 500
_PIECES_A_PRUNE = 20


class Kept(Protocol):
    """One decision as the data plane gives it. `at` is Unix seconds, `document` JSON."""

    request_id: str
    at: float
    key_id: str
    team: str
    project: str
    asked: str
    policy: str
    model: str
    provider: str
    status: int
    attempts: int
    document: bytes


class DecisionWriter:
    """Takes decisions by `take(most)` and stores them. Decisions are kept for `days`, and no more of them than `most`."""

    def __init__(self, take: Callable[[int], Sequence[Any]], *, days: int, most: int) -> None:
        self._take = take
        self._days = days
        self._most = most
        self._held: Sequence[Kept] = ()
        self._pruned_at: datetime | None = None

    def run(self, stop: threading.Event) -> None:
        """Stores until `stop` is set, and then what is left. While the database is away one batch is held, the rest waits."""
        try:
            while not stop.wait(_EVERY_SECONDS):
                self._pass()
            self._pass()
        finally:
            connection.close()

    def _pass(self) -> None:
        try:
            close_old_connections()
            self.store()
            now = timezone.now()
            if self._pruned_at is None or now - self._pruned_at >= _PRUNE_EVERY:
                self._pruned_at = now
                prune(now - timedelta(days=self._days), self._most)
        except DatabaseError as error:
            logger.warning("decisions wait: %s", type(error).__name__)

    def store(self) -> int:
        """Stores what waits; how many those were. Raises DatabaseError, and holds what it could not store."""
        stored = 0
        while True:
            self._held = self._held or self._take(_AT_ONCE)
            if not self._held:
                return stored
            DecisionRecord.objects.bulk_create([_row(kept) for kept in self._held], ignore_conflicts=True)
            stored += len(self._held)
            self._held = ()


def _row(kept: Kept) -> DecisionRecord:
    return DecisionRecord(
        request_id=kept.request_id,
        at=datetime.fromtimestamp(kept.at, UTC),
        key_id=kept.key_id,
        team=kept.team,
        project=kept.project,
        asked=kept.asked.replace("\0", "\ufffd"),
        policy=kept.policy,
        provider=kept.provider,
        model=kept.model,
        status=kept.status,
        attempts=kept.attempts,
        document=json.loads(kept.document.replace(b"\\u0000", b"\\ufffd")),
    )


def prune(before: datetime, most: int) -> int:
    """Deletes decisions from before that moment, and the oldest above `most`, in small pieces; how many were deleted."""
    deleted = 0
    newest = DecisionRecord.objects.order_by("-id").values_list("id", flat=True).first()
    for _ in range(_PIECES_A_PRUNE):
        old = DecisionRecord.objects.filter(at__lt=before).order_by("id")
        ids = list(old.values_list("id", flat=True)[:_PRUNE_AT_ONCE])
        if not ids and newest is not None:
            # Ids only go up, so that this bound leaves at most so many.
            ids = list(
                DecisionRecord.objects.filter(id__lte=newest - most)
                .order_by("id")
                .values_list("id", flat=True)[:_PRUNE_AT_ONCE]
            )
        if not ids:
            break
        deleted += DecisionRecord.objects.filter(id__in=ids).delete()[0]
    return deleted


def find_decision(request_id: str, key_id: str | None = None) -> DecisionRecord | None:
    """The decision of a request, of this key's if one is given; None where none is kept."""
    rows = DecisionRecord.objects.filter(request_id=request_id)
    return (rows if key_id is None else rows.filter(key_id=key_id)).first()


def show_decision(row: DecisionRecord) -> dict[str, Any]:
    """A decision as the APIs tell it."""
    return {
        "request_id": row.request_id,
        "at": row.at.isoformat(),
        "key_id": row.key_id,
        "team": row.team,
        "project": row.project,
        "asked": row.asked,
        **row.document,
    }


def answer_decision(request_id: str, key_id: str) -> bytes | None:
    """For the data plane: JSON of the key's own decision, None where none is kept. Run it in a thread."""
    try:
        row = find_decision(request_id, key_id)
        return None if row is None else json.dumps(show_decision(row)).encode()
    finally:
        connection.close()
