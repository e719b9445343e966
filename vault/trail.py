"""The stored audit trail: appending to its chain, walking along it, reading it out. Control plane.

The order of entries is that of the lock on the head row: `hold_trail` takes it, and the transaction keeps it to its end. It is the
first lock of every audited change. Taken last, two transactions with several changes each (a form with its rows, a declaration)
would hold it and each other's rows crosswise, and Postgres would end one of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.core.errors import InternalError
from vault.chain import CONTENT, GENESIS, Break, Link, Walk, digest_of, normalise
from vault.models import AuditEntry, AuditHead

CHUNK = 1_000
"""Entries read at once."""

_RETRY_SECONDS = 5.0

log = logging.getLogger("tokenhub.audit")


class TrailBroken(InternalError):
    """The head row is gone though there are entries: nothing is appended, and so nothing changed, until that is looked into."""


def hold_trail() -> AuditHead:
    """Locks the end of the trail for the rest of the open transaction. Raises TrailBroken.

    To be called before any row is locked by whoever writes an entry later. On SQLite the transaction is the lock.
    """
    heads = AuditHead.objects.select_for_update()
    head = heads.first()
    if head is None:
        if AuditEntry.objects.exists():
            raise TrailBroken("the audit trail's head row is missing", hint="run `manage.py audit verify`")
        AuditHead.objects.bulk_create([AuditHead(hash=GENESIS)], ignore_conflicts=True)
        head = heads.get()
    return head


def append(
    *,
    actor: Actor,
    action: str,
    object_type: str,
    object_id: str = "",
    object_label: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Appends one entry, in the transaction that is open or in one of its own, and tells the log after the commit."""
    entry = AuditEntry(
        actor=actor.name[:200],
        actor_kind=actor.kind,
        address=actor.address[:64],
        action=action,
        object_type=object_type,
        object_id=object_id[:64],
        object_label=object_label[:255],
        before=normalise(before),
        after=normalise(after),
    )
    with transaction.atomic():
        head = hold_trail()
        entry.at = timezone.now()
        entry.seq, entry.prev_hash = head.seq + 1, head.hash
        entry.hash = digest_of(entry.seq, entry.prev_hash, {name: getattr(entry, name) for name in CONTENT})
        entry.save()
        head.seq, head.hash = entry.seq, entry.hash
        head.save(force_update=True)
        transaction.on_commit(lambda: _tell(entry), robust=True)
    return entry


def show(entry: AuditEntry) -> dict[str, Any]:
    """An entry as plain values, for the log and for exports."""
    return {
        "seq": entry.seq,
        "at": entry.at.isoformat(),
        **{name: getattr(entry, name) for name in CONTENT[1:]},
        "prev_hash": entry.prev_hash,
        "hash": entry.hash,
    }


def _tell(entry: AuditEntry) -> None:
    log.info("%s %s by %s", entry.action, entry.object_label, entry.actor, extra={"audit": show(entry)})


def find_head() -> AuditHead | None:
    """Where the trail ends, without a lock; None before the first entry."""
    return AuditHead.objects.first()


def tell_head_once(stop: threading.Event) -> None:
    """Tells the log where the trail ends, as soon as the database answers: for a thread of its own at a process' start."""
    while True:
        try:
            tell_head()
            return
        except DatabaseError as error:
            log.debug("the end of the audit trail can't be read yet: %s", type(error).__name__)
        finally:
            connection.close()
        if stop.wait(_RETRY_SECONDS):
            return


def tell_head() -> None:
    """Tells the log where the trail ends, so that whoever keeps the log can notice a trail that was cut or written anew."""
    head = find_head() or AuditHead(hash=GENESIS)
    log.info(
        "the audit trail ends at entry %d",
        head.seq,
        extra={"audit_head": {"seq": head.seq, "hash": head.hash}},
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verification found: entries `first` to `last` were checked, `hash` is that of the last one.

    `broken` is the first break, or None. `complete`: it got to the end of the trail, and compared it with the head row.
    """

    first: int
    last: int
    hash: str
    checked: int
    broken: Break | None
    complete: bool


def verify(
    *,
    start: int = 1,
    seconds: float | None = None,
    known: Mapping[int, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Walks along the chain from entry `start`, in bounded memory, for at most `seconds` and one chunk.

    `known` are hashes by `seq` that were kept elsewhere. `progress` hears the entries walked and the head row's count after each
    chunk. Entries appended meanwhile are walked along too. A start after the first entry takes the entry before it as sound.
    """
    walk, broken = _begin(start, known)
    deadline = None if seconds is None else clock() + seconds
    complete = broken is not None
    while not complete:
        links = _read(walk)
        if links:
            broken = walk.follow(links)
            if broken is not None:
                break
            head = find_head()
            progress(walk.seq, head.seq if head else walk.seq)
            if deadline is not None and clock() >= deadline:
                break
            continue
        head = find_head()  # after the entries: it never counts fewer than there are
        if head is not None and head.seq > walk.seq and AuditEntry.objects.filter(seq__gt=walk.seq).exists():
            continue
        broken, complete = walk.end(None if head is None else (head.seq, head.hash)), True
    return Outcome(start, walk.seq, walk.hash, walk.checked, broken, complete)


def _begin(start: int, known: Mapping[int, str] | None) -> tuple[Walk, Break | None]:
    """A walk that stands before entry `start`."""
    if start <= 1:
        return Walk(known=known), None
    before = AuditEntry.objects.filter(seq=start - 1).values_list("hash", flat=True).first()
    walk = Walk(start - 1, before or GENESIS, known=known)
    if before is None:
        return walk, Break("missing", start - 1, f"entry {start - 1}, which {start} follows, is missing")
    return walk, None


def _read(walk: Walk) -> list[Link]:
    """The next chunk. The first one begins before entry 1, where nothing may be."""
    entries = AuditEntry.objects.order_by("seq")
    after = entries.filter(seq__gt=walk.seq) if walk.seq else entries
    rows = after.values("seq", "prev_hash", "hash", *CONTENT)[:CHUNK]
    return [Link(row["seq"], row["prev_hash"], row["hash"], row) for row in rows]


def read_out(entries: QuerySet[AuditEntry], chunk: int = CHUNK) -> Iterator[AuditEntry]:
    """Every entry of a query, oldest first, chunk by chunk: no cursor stays open, and memory is bounded."""
    last = 0
    while rows := list(entries.filter(seq__gt=last).order_by("seq")[:chunk]):
        yield from rows
        last = rows[-1].seq
