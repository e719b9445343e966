"""Keeps claims on idempotency keys and the answers to them, for all workers and replicas. Control plane; its rows are sealed.

It is what `gateway.idempotency` calls its store; nothing of it is known to the data plane.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from access.models import IdempotentAnswer
from access.pooled import pooled

_PRUNE_SECONDS = 60.0
_PRUNE_AT_ONCE = 500
_TRIES = 5


class AnswerStore:
    """The store. Answers are kept for `hours`. `make_claim(state, sealed)` makes what `claim` returns, and `unavailable` is what
    is raised while the database can't be asked."""

    def __init__(
        self, make_claim: Callable[[Any, bytes], Any], unavailable: type[Exception], *, hours: int
    ) -> None:
        self._make_claim = make_claim
        self._unavailable = unavailable
        self._kept = timedelta(hours=hours)
        self._pruned_at = time.monotonic()
        self._pruning = threading.Lock()

    def claim(self, name: str, fingerprint: str, owner: str, lease: float) -> Any:
        """Claims the name for `lease` seconds: `claimed`, `running`, `done` with the sealed answer, or `other`."""
        return self._do(self._claim, name, fingerprint, owner, lease)

    def renew(self, name: str, owner: str, lease: float) -> None:
        """Holds a claim for longer."""
        until = timezone.now() + timedelta(seconds=lease)
        self._do(self._own(name, owner).update, lease_until=until)

    def finish(self, name: str, owner: str, sealed: bytes) -> None:
        """Keeps the answer of a claim."""
        expires = timezone.now() + self._kept
        self._do(self._own(name, owner).update, done=True, sealed=sealed, expires_at=expires)
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS and self._pruning.acquire(blocking=False):
            try:
                self._pruned_at = time.monotonic()
                self._do(prune, timezone.now())
            finally:
                self._pruning.release()

    def release(self, name: str, owner: str) -> None:
        """Gives a claim up."""
        self._do(self._own(name, owner).delete)

    def _own(self, name: str, owner: str) -> Any:
        return IdempotentAnswer.objects.filter(name=name, owner=owner, done=False)

    def _do(self, work: Callable[..., Any], *arguments: Any, **values: Any) -> Any:
        with pooled(self._unavailable):
            return work(*arguments, **values)

    def _claim(self, name: str, fingerprint: str, owner: str, lease: float) -> Any:
        for _ in range(_TRIES):
            now = timezone.now()
            until = now + timedelta(seconds=lease)
            try:
                with transaction.atomic():
                    IdempotentAnswer.objects.create(
                        name=name,
                        fingerprint=fingerprint,
                        owner=owner,
                        lease_until=until,
                        expires_at=now + self._kept,
                    )
            except IntegrityError:
                state = self._look(name, fingerprint, owner, now, until)
                if state is not None:
                    return state
            else:
                return self._make_claim("claimed", b"")
        return self._make_claim("running", b"")

    def _look(self, name: str, fingerprint: str, owner: str, now: datetime, until: datetime) -> Any:
        """What the row of this name says; None where it went meanwhile, or is over."""
        row = IdempotentAnswer.objects.filter(name=name).first()
        if row is None:
            return None
        if row.expires_at <= now:
            IdempotentAnswer.objects.filter(name=name, expires_at=row.expires_at).delete()
            return None
        if row.fingerprint != fingerprint:
            return self._make_claim("other", b"")
        if row.done:
            return self._make_claim("done", bytes(row.sealed))
        if row.lease_until > now:
            return self._make_claim("running", b"")
        # Its owner is gone. Whoever changes the row first has it.
        unchanged = IdempotentAnswer.objects.filter(
            name=name, owner=row.owner, lease_until=row.lease_until, done=False
        )
        taken = unchanged.update(owner=owner, lease_until=until)
        return self._make_claim("claimed" if taken else "running", b"")


def prune(now: datetime) -> int:
    """Deletes what is over, a piece at a time; how many rows."""
    deleted = 0
    while True:
        names = list(
            IdempotentAnswer.objects.filter(expires_at__lte=now).values_list("name", flat=True)[
                :_PRUNE_AT_ONCE
            ]
        )
        if not names:
            return deleted
        deleted += IdempotentAnswer.objects.filter(name__in=names).delete()[0]
