"""Follows the published revisions and hands each new snapshot on, from a thread of its own. Control plane.

The guarantee is a poll of the last revision's number, one indexed read; Postgres' NOTIFY only makes it come earlier.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db import DatabaseError

from snapshots.connection import own_connection
from snapshots.last_good import read_last_good, write_last_good
from snapshots.models import ConfigRevision, WorkerStatus
from snapshots.publish import CHANNEL, publish, publish_if_due
from tokenhub.control.actors import Actor
from tokenhub.core.errors import ConfigurationError, SnapshotInvalid, TokenhubError
from tokenhub.core.snapshot import decode_snapshot
from tokenhub.core.specs import Snapshot

REFUSED_AGAIN_SECONDS = 10.0
"""How long a refused revision rests before it is tried again."""

DATABASE_AWAY = "the database can't be read"

log = logging.getLogger(__name__)


class Subscriber:
    """One process's view of the published configuration.

    `on_snapshot` is called in the thread of `run` with each snapshot above the last one; what it raises is a refusal, and
    the one before stays. `last_good` is the file that is kept for a start without a database. `clock` is Unix seconds.
    """

    def __init__(
        self,
        *,
        on_snapshot: Callable[[Snapshot], None],
        last_good: Path,
        instance: str,
        poll_seconds: float = 1.0,
        status_seconds: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_snapshot = on_snapshot
        self._last_good = last_good
        self._instance = instance
        self._poll_seconds = poll_seconds
        self._status_seconds = status_seconds
        self._clock = clock
        self._revision = 0
        self._confirmed_at = clock()
        self._error = self._public_error = ""
        self._database_error = ""
        self._refused: tuple[int, float] = (0, 0.0)
        self._listening: Any = None
        self._reported: tuple[int, str, float] = (-1, "", 0.0)

    @property
    def revision(self) -> int:
        """The revision that was handed on last, 0 before the first."""
        return self._revision

    @property
    def last_error(self) -> str:
        """What is wrong now, "" if nothing: the database's error, or why the newest revision was refused."""
        return self._database_error or self._error

    @property
    def public_error(self) -> str:
        """`last_error` for a page that anybody may read: without the texts of libraries, which name hosts, users and paths."""
        return DATABASE_AWAY if self._database_error else self._public_error

    @property
    def age_seconds(self) -> float:
        """Seconds since the database last said which revision is the newest."""
        return max(0.0, self._clock() - self._confirmed_at)

    def load_initial(self) -> Snapshot | None:
        """The newest revision, from the database or else from the last-good file; None if neither has a usable one.

        An empty database gets its first revision here. Blocks on the database (an event loop calls it in a thread);
        never raises because of it.
        """
        snapshot = None
        with own_connection() as connection:
            try:
                if not ConfigRevision.objects.exists():
                    publish("first start", Actor.system(), now=self._now())
                newest = self._find_newest()
                snapshot = self._fetch(newest) if newest else None
                self._note_database_up()
            except DatabaseError as error:
                self._note_database_down(error, connection)
            except ConfigurationError as error:
                self._note(error.message)
                log.error("the newest configuration is refused: %s", error.message)
        if snapshot is None:
            snapshot = self._load_last_good()
        if snapshot is not None:
            self._revision = snapshot.revision
        return snapshot

    def run(self, stop: threading.Event) -> None:
        """Polls until `stop` is set, then takes this worker's status away. Blocks: give it a thread."""
        with own_connection() as connection:
            while not stop.is_set():
                try:
                    self._poll(connection)
                except Exception as error:
                    # This thread's end would freeze the configuration of its process for good.
                    log.exception("following the configuration failed; it goes on")
                    self._note_failure("following the configuration failed", error)
                self._wait(stop, connection)
            with contextlib.suppress(DatabaseError):
                WorkerStatus.objects.filter(instance=self._instance).delete()

    def _poll(self, connection: Any) -> None:
        try:
            self._follow()
            self._note_database_up()
            publish_if_due(self._now())
            self._report()
        except DatabaseError as error:
            self._note_database_down(error, connection)

    def _follow(self) -> None:
        """Hands the newest revision on if it is above ours. What is refused rests for a while."""
        newest = self._find_newest()
        if newest == self._revision:
            self._note("")
        elif newest < self._revision:
            self._note(
                f"the database's newest revision {newest} is below {self._revision}, which stays in force"
            )
        elif self._refused[0] != newest or self._clock() - self._refused[1] >= REFUSED_AGAIN_SECONDS:
            self._take(newest)

    def _take(self, revision: int) -> None:
        try:
            snapshot = self._fetch(revision)
            self._on_snapshot(snapshot)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - a snapshot that can't come into force must not end the old one
            self._refused = (revision, self._clock())
            self._note_failure(f"revision {revision} is refused", error)
            log.error("%s; revision %d stays in force", self._error, self._revision)
            return
        self._revision = revision
        self._note("")

    def _find_newest(self) -> int:
        """The newest revision's number, 0 if there is none: the one indexed read of each poll."""
        revision: int | None = (
            ConfigRevision.objects.values_list("revision", flat=True).order_by("-revision").first()
        )
        self._confirmed_at = self._clock()
        return revision or 0

    def _fetch(self, revision: int) -> Snapshot:
        """That revision, its digest verified, decoded and kept on disk. Raises SnapshotInvalid."""
        row = ConfigRevision.objects.get(revision=revision)
        payload = bytes(row.payload or b"")
        if not row.is_intact():
            raise SnapshotInvalid(f"revision {revision} in the database does not match its digest")
        snapshot = decode_snapshot(payload)
        if snapshot.revision != revision:
            raise SnapshotInvalid(f"revision {revision} in the database says that it is {snapshot.revision}")
        self._keep(payload)
        return snapshot

    def _keep(self, payload: bytes) -> None:
        try:
            if read_last_good(self._last_good) != payload:
                write_last_good(self._last_good, payload)
        except OSError as error:
            log.error("the last-good snapshot can't be kept in %s: %s", self._last_good, error.strerror)

    def _load_last_good(self) -> Snapshot | None:
        try:
            payload = read_last_good(self._last_good)
            snapshot = None if payload is None else decode_snapshot(payload)
        except (OSError, SnapshotInvalid) as error:
            self._note_failure("the last-good snapshot can't be used", error)
            log.error("%s", self._error)
            return None
        if snapshot is not None:
            log.warning("starting with the last-good configuration, revision %d", snapshot.revision)
        return snapshot

    def _note(self, error: str, public: str | None = None) -> None:
        """What is wrong now, "" if nothing; `public` where it differs."""
        self._error, self._public_error = error, error if public is None else public

    def _note_failure(self, what: str, error: Exception) -> None:
        """An error of ours is fit to be shown; of any other only the kind."""
        if isinstance(error, TokenhubError):
            self._note(f"{what}: {error.message}")
        else:
            kind = type(error).__name__
            self._note(f"{what}: {kind}: {error}", f"{what}: {kind}")

    def _note_database_up(self) -> None:
        if self._database_error:
            log.warning("the database is back")
        self._database_error = ""

    def _note_database_down(self, error: DatabaseError, connection: Any) -> None:
        """Logs once for each change of state. Closing makes the next query connect afresh."""
        shown = f"{DATABASE_AWAY}: {str(error).strip().partition(chr(10))[0]}"
        if not self._database_error:
            log.error("%s; revision %d stays in force", shown, self._revision)
        self._database_error = shown
        if not connection.in_atomic_block:
            connection.close()

    def _report(self) -> None:
        """Writes this worker's status when it changed, and now and then to say that it is alive."""
        revision, error, at = self._reported
        now = self._clock()
        if (revision, error) == (self._revision, self._error) and now - at < self._status_seconds:
            return
        WorkerStatus.objects.update_or_create(
            instance=self._instance,
            defaults={
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "revision": self._revision,
                "seen_at": self._now(),
                "error": self._error,
            },
        )
        self._reported = (self._revision, self._error, now)

    def _wait(self, stop: threading.Event, connection: Any) -> None:
        """Until the next poll is due: at most `poll_seconds`, less if Postgres tells of a new revision."""
        if connection.vendor != "postgresql" or connection.connection is None or connection.in_atomic_block:
            stop.wait(self._poll_seconds)
            return
        try:
            with connection.wrap_database_errors:
                if self._listening is not connection.connection:
                    connection.connection.execute(f"LISTEN {CHANNEL}")
                    self._listening = connection.connection
                for _ in connection.connection.notifies(timeout=self._poll_seconds, stop_after=1):
                    pass
        except DatabaseError as error:
            self._note_database_down(error, connection)
            stop.wait(self._poll_seconds)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
