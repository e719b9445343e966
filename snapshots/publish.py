"""Publishes the configuration: compile, encode, check, and give it the next revision. Control plane.

Publishers go one after another: each begins by changing the one row of PublishState. On SQLite that takes the write
lock. On Postgres the transaction is REPEATABLE READ, so one that waited for another's commit fails with a serialization
error and starts again with a fresh view: what is published under a higher revision was read later, never earlier.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Max
from django.utils import timezone

from snapshots.compile import compile_snapshot, find_due
from snapshots.models import ConfigRevision, PublishState, WorkerStatus
from tokenhub.control.actors import Actor
from tokenhub.control.changes import Changes
from tokenhub.core.errors import TokenhubError
from tokenhub.core.snapshot import decode_snapshot, encode_snapshot
from tokenhub.core.specs import Snapshot

CHANNEL = "tokenhub_config"
"""The Postgres channel on which a new revision is told; the payload is its number."""

KEEP_PAYLOADS = 50
CHECK_SECONDS = 30.0
"""How often publishing is tried without a change being announced: a publisher that died."""

_MAX_TRIES = 50
_FORGET_WORKERS = timedelta(days=1)
_SERIALIZATION_FAILURES = frozenset({"40001", "40P01"})

Compiler = Callable[[datetime], Snapshot]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing came to: the revision in force (0 = none yet), whether it is new, and why it failed ("" = it did not)."""

    revision: int
    created: bool = False
    failure: str = ""


def publish(
    note: str, actor: Actor, *, now: datetime | None = None, compiler: Compiler = compile_snapshot
) -> Published:
    """Publishes what is committed. Identical content makes no new revision.

    What does not compile or check is refused: the last revision stays in force, the failure is kept in PublishState and
    logged. Raises DatabaseError only where the database itself fails.
    """
    moment = now or timezone.now()
    try:
        published = _publish_in_turn(note, actor, moment, compiler)
    except DatabaseError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the content, the old stays and people are told
        return _keep_failure(error, moment)
    if published.created:
        log.info("configuration revision %d published: %s", published.revision, note)
    return published


def publish_changes(changes: Changes) -> None:
    """Publishes after a commit; subscribed to `tokenhub.control.changes`. The writer's change stands whatever happens."""
    names = ", ".join(actor.name for actor in changes.actors) or "tokenhub"
    actor = (
        next(iter(changes.actors)) if len(changes.actors) == 1 else replace(Actor.system(), name=names[:200])
    )
    try:
        publish(f"changed: {', '.join(sorted(changes.areas))}", actor)
    except DatabaseError:
        log.exception("publishing failed in the database; it is tried again within %g s", CHECK_SECONDS)


def publish_if_due(now: datetime, *, check_seconds: float = CHECK_SECONDS) -> Published | None:
    """Publishes if an expiry passed or nobody tried for `check_seconds`. None: not due, or another worker does it."""
    state = PublishState.objects.filter(pk=PublishState.ID).first()
    if state is not None:
        rested = state.checked_at is not None and now - state.checked_at < timedelta(seconds=check_seconds)
        if rested and (state.due_at is None or state.due_at > now):
            return None
        mine = PublishState.objects.filter(pk=state.pk, checked_at=state.checked_at, due_at=state.due_at)
        if not mine.update(checked_at=now, due_at=None):
            return None
    WorkerStatus.objects.filter(seen_at__lt=now - _FORGET_WORKERS).delete()
    return publish("became due", Actor.system(), now=now)


def _publish_in_turn(note: str, actor: Actor, now: datetime, compiler: Compiler) -> Published:
    PublishState.objects.bulk_create([PublishState(pk=PublishState.ID)], ignore_conflicts=True)
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            return _publish_once(note, actor, now, compiler)
        except OperationalError as error:
            if (
                getattr(error.__cause__, "sqlstate", None) not in _SERIALIZATION_FAILURES
                or attempt == _MAX_TRIES
            ):
                raise
    raise AssertionError("unreachable")


def _publish_once(note: str, actor: Actor, now: datetime, compiler: Compiler) -> Published:
    nested = connection.in_atomic_block
    with transaction.atomic():
        if connection.vendor == "postgresql" and not nested:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        PublishState.objects.filter(pk=PublishState.ID).update(checked_at=now)
        snapshot = compiler(now)
        return _store(snapshot, note, actor, now)


def _store(snapshot: Snapshot, note: str, actor: Actor, now: datetime) -> Published:
    """Inserts the snapshot under the next revision, unless the last one has the same content."""
    content = hashlib.sha256(encode_snapshot(replace(snapshot, revision=0, created_at=0.0))).hexdigest()
    last = ConfigRevision.objects.order_by("-revision").first()
    due_at = find_due(snapshot, now)
    state = PublishState.objects.filter(pk=PublishState.ID)
    if last is not None and last.content_sha256 == content and last.is_intact():
        state.update(due_at=due_at, failed_at=None, failure="")
        return Published(last.revision)
    revision = max(state.values_list("revision", flat=True).get(), last.revision if last else 0) + 1
    payload = encode_snapshot(replace(snapshot, revision=revision, created_at=now.timestamp()))
    decode_snapshot(payload)
    ConfigRevision.objects.create(
        revision=revision,
        created_at=now,
        sha256=hashlib.sha256(payload).hexdigest(),
        content_sha256=content,
        payload=payload,
        note=note[:500],
        actor=actor.name[:200],
    )
    state.update(revision=revision, due_at=due_at, failed_at=None, failure="")
    old = ConfigRevision.objects.filter(revision__lte=revision - KEEP_PAYLOADS, payload__isnull=False)
    old.update(payload=None)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(revision)])
    return Published(revision, created=True)


def _keep_failure(error: Exception, now: datetime) -> Published:
    expected = isinstance(error, TokenhubError)
    failure = error.message if isinstance(error, TokenhubError) else f"{type(error).__name__}: {error}"
    log.error("the configuration can't be published, the old one stays: %s", failure, exc_info=not expected)
    PublishState.objects.filter(pk=PublishState.ID).update(checked_at=now, failed_at=now, failure=failure)
    revision = ConfigRevision.objects.aggregate(last=Max("revision"))["last"] or 0
    return Published(revision, failure=failure)
