"""Keeps the answers of projects that opted in, and counts what they save. Control plane; its rows are sealed.

It is what `gateway.answer_cache` calls its store; nothing of it is known to the data plane.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

from django.db import Error as DatabaseError
from django.db import close_old_connections, connection, transaction
from django.db.models import F, Sum
from django.utils import timezone

from access.models import CachedAnswer, CacheSaving, Project
from access.pooled import pooled
from tokenhub.control.actors import Actor
from vault.audit import record
from vault.trail import hold_trail

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 1.0
_PRUNE_SECONDS = 60.0
_PRUNE_AT_ONCE = 500
_PIECES_A_PRUNE = 20
SAVING_DAYS = 30


class Kept(Protocol):
    """An answer as the data plane has it. `at` is Unix seconds."""

    sealed: bytes
    model_id: str
    cost_nanos: int | None
    input_tokens: int
    output_tokens: int
    at: float


@dataclass(slots=True)
class Saved:
    """Answers given again, and what they had cost: nano-dollars and tokens."""

    hits: int = 0
    saved_nanos: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class CachedAnswers:
    """The store of one worker. `make_answer` makes what `find` returns, `unavailable` is raised while the database can't be asked.
    No more than `most` answers are kept."""

    def __init__(self, make_answer: Callable[..., Any], unavailable: type[Exception], *, most: int) -> None:
        self._make_answer = make_answer
        self._unavailable = unavailable
        self._most = most
        self._saved: dict[tuple[str, date], Saved] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Any:
        """The answer of that name; None where none is kept, or it is over."""
        with pooled(self._unavailable):
            row = CachedAnswer.objects.filter(name=name, expires_at__gt=timezone.now()).first()
        if row is None:
            return None
        return self._make_answer(
            bytes(row.sealed),
            row.model_id,
            row.cost_nanos,
            row.input_tokens,
            row.output_tokens,
            row.created_at.timestamp(),
        )

    def keep(self, name: str, tenant: str, answer: Kept, seconds: int) -> None:
        """Keeps an answer for so many seconds, in place of an older one."""
        at = datetime.fromtimestamp(answer.at, UTC)
        values = {
            "tenant": tenant,
            "sealed": answer.sealed,
            "model_id": answer.model_id,
            "cost_nanos": answer.cost_nanos,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "created_at": at,
            "expires_at": at + timedelta(seconds=seconds),
        }
        with pooled(self._unavailable):
            CachedAnswer.objects.bulk_create(
                [CachedAnswer(name=name, **values)],
                update_conflicts=True,
                unique_fields=["name"],
                update_fields=list(values),
            )

    def count_hit(self, tenant: str, answer: Kept) -> None:
        """Counts what an answer saved that was given again; `run` stores it."""
        with self._lock:
            saved = self._saved.setdefault((tenant, timezone.now().date()), Saved())
            saved.hits += 1
            saved.saved_nanos += answer.cost_nanos or 0
            saved.input_tokens += answer.input_tokens
            saved.output_tokens += answer.output_tokens

    def run(self, stop: threading.Event) -> None:
        """Stores what was saved and drops what is over until `stop` is set. While the database is away, it waits."""
        passes_a_prune, passes = int(_PRUNE_SECONDS / _FLUSH_SECONDS), 0
        try:
            while not stop.wait(_FLUSH_SECONDS):
                self._pass(pruning=passes % passes_a_prune == 0)
                passes += 1
            self._pass(pruning=False)
        finally:
            connection.close()

    def _pass(self, *, pruning: bool) -> None:
        try:
            close_old_connections()
            self.store_saved()
            if pruning:
                prune(timezone.now(), self._most)
        except DatabaseError as error:
            logger.warning("savings of the answer cache wait: %s", type(error).__name__)

    def store_saved(self) -> None:
        """Adds what was counted to the database. Raises DatabaseError, and holds what it could not store."""
        with self._lock:
            taken, self._saved = self._saved, {}
        while taken:
            (tenant, day), saved = next(iter(taken.items()))
            try:
                _add(tenant, day, saved)
            except DatabaseError:
                self._put_back(taken)
                raise
            del taken[tenant, day]

    def _put_back(self, taken: dict[tuple[str, date], Saved]) -> None:
        with self._lock:
            for key, saved in taken.items():
                held = self._saved.setdefault(key, Saved())
                for name, value in asdict(saved).items():
                    setattr(held, name, getattr(held, name) + value)


def _add(tenant: str, day: date, saved: Saved) -> None:
    figures = asdict(saved)
    with transaction.atomic():
        CacheSaving.objects.bulk_create([CacheSaving(tenant=tenant, day=day)], ignore_conflicts=True)
        CacheSaving.objects.filter(tenant=tenant, day=day).update(
            **{name: F(name) + value for name, value in figures.items()}
        )


def prune(now: datetime, most: int) -> int:
    """Deletes what is over, and the oldest above `most`, in small pieces; how many were deleted."""
    deleted = 0
    for _ in range(_PIECES_A_PRUNE):
        names = _names(CachedAnswer.objects.filter(expires_at__lte=now))
        if not names:
            above = CachedAnswer.objects.count() - most
            names = _names(CachedAnswer.objects.order_by("created_at"), above) if above > 0 else []
        if not names:
            break
        deleted += CachedAnswer.objects.filter(name__in=names).delete()[0]
    return deleted


def _names(rows: Any, most: int = _PRUNE_AT_ONCE) -> list[str]:
    return list(rows.values_list("name", flat=True)[: min(most, _PRUNE_AT_ONCE)])


def tenant_of(project: Project) -> str:
    """What the data plane calls a project: `tokenhub.core.specs.KeySpec.tenant`."""
    return f"{project.team.slug}/{project.slug}"


def read_cache(project: Project, days: int = SAVING_DAYS) -> dict[str, Any]:
    """How many answers of a project are kept now, and what they saved in the last `days`."""
    tenant, now = tenant_of(project), timezone.now()
    since = now.date() - timedelta(days=days - 1)
    sums = CacheSaving.objects.filter(tenant=tenant, day__gte=since).aggregate(
        hits=Sum("hits", default=0),
        saved_nanos=Sum("saved_nanos", default=0),
        input_tokens=Sum("input_tokens", default=0),
        output_tokens=Sum("output_tokens", default=0),
    )
    answers = CachedAnswer.objects.filter(tenant=tenant, expires_at__gt=now).count()
    return {"cache_seconds": project.cache_seconds, "answers": answers, "days": days, **sums}


def clear_cache(actor: Actor, project: Project) -> int:
    """Drops all kept answers of a project; how many those were."""
    actor.require("write")
    with transaction.atomic():
        hold_trail()
        deleted: int = CachedAnswer.objects.filter(tenant=tenant_of(project)).delete()[0]
        record(
            actor=actor,
            action="project.clear_cache",
            target=project,
            before={"answers": deleted},
            after={"answers": 0},
        )
    return deleted
