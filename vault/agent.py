"""Keeps one worker's vault in step with the others': unlocks it from peers or by itself, and locks it. Control plane.

A thread of each process looks at the vault's row every second; Postgres' NOTIFY only makes it come earlier.

    locked     announces this worker (signed with TOKENHUB_CLUSTER_SECRET), and takes the grant that a peer writes for it
    unlocked   grants ROOT to peers that announced themselves, follows new data keys, looks after the sealed rows
    any        drops all keys when the vault was locked, when another root came that it can't follow, and when the database
               has been away for too long; locks the vault for all when it was idle or open for too long
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Max
from django.db.models.functions import Now

from snapshots.connection import own_connection
from snapshots.publish import CHANNEL as CONFIG_CHANNEL
from tokenhub.control.actors import Actor
from tokenhub.core.errors import TokenhubError
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.grants import ClusterKey
from vault.engine.slots import SlotSecret
from vault.granting import Granting
from vault.keyring import Keyring
from vault.leftovers import leftovers
from vault.notify import CHANNEL
from vault.opened import OpenedVault, VaultHolder, opened_vault
from vault.tending import tend_vault
from vault.tries import get_vault
from vault.vault_actions import has_headless_slot, lock, unlock_headless
from vault.vault_models import Vault, VaultDataKey, VaultGrant, VaultWorker

GRANT_SECONDS = 60.0
FORGET_SECONDS = 60.0
TEND_SECONDS = 5.0
FOLLOW_SECONDS = 30.0
"""How long a worker goes on with its data keys while it waits for a rotated root. The data keys are the same."""
FOLLOW_ALONE_SECONDS = 2.0
"""The same where no peer can grant it: what the rotating process itself takes to hold the new root."""
SETTLE_SECONDS = 3.0
"""For how long a worker that starts waits for a peer's grant before it serves."""
HURRY_SECONDS = 5.0
"""For how long a locked worker looks more often after it started, or after somebody unlocked the vault elsewhere."""
_HURRIED_POLL_SECONDS = 0.2
_GLANCE_SECONDS = 0.1
_ALIVE_SECONDS = 15.0
AGAIN_SECONDS = 10.0
"""When a way to unlock at the start is tried again that failed for a reason that passes: a KMS that did not answer."""
SLACK_SECONDS = 5.0
"""What a poll may take longer than it should, before the keyring refuses on its own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Headless:
    """A way to unlock at the start: its name for the log, and what gives the secret, None where there is none.

    A key's buffer is wiped after the try. `give` may raise TokenhubError.
    """

    name: str
    give: Callable[[], SlotSecret | None]


@dataclass(slots=True)
class _Report:
    """What the worker's row says, but for its times."""

    state: str
    lock_epoch: int
    root_version: int
    key_versions: tuple[int, ...]
    problem: str
    announced_at: int


class Agent:
    """One process's part in the vault.

    `headless` are tried in order at the start, and again where a worker lost its keys without anybody's doing. `cluster` is
    wiped at the end. `clock` is monotonic seconds, the keyring's too.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        instance: str,
        cluster: ClusterKey | None = None,
        headless: Sequence[Headless] = (),
        holder: VaultHolder = opened_vault,
        poll_seconds: float = 1.0,
        status_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._instance = instance
        self._boot_id = uuid.uuid4().hex
        self._alone = cluster is None
        self._granting = Granting(instance, self._boot_id, cluster, holder=holder, clock=clock)
        self._headless = tuple(headless)
        self._holder = holder
        self._poll_seconds = poll_seconds
        self._status_seconds = status_seconds
        self._clock = clock
        self._reported: tuple[_Report, float] | None = None
        self._problem = ""
        self._headless_due: float | None = clock()
        self._started_at = clock()
        self.settled = threading.Event()
        """Set once this worker is unlocked, or has nothing to wait for: then it may serve."""
        self._seen_at = clock()
        self._coast_seconds = 0.0
        self._outdated_since: float | None = None
        self._expected: tuple[Any, ...] = ()
        self._hurry_until = 0.0
        self._tidied_at = self._tended_at = -1e9
        self._exists = False
        self._begun = clock()
        self._listening: Any = None
        self._database_error = ""

    def run(self, stop: threading.Event) -> None:
        """Polls until `stop` is set, then overwrites all keys and takes this worker's row away. Blocks: give it a thread."""
        watch = threading.Thread(target=self._watch, args=(stop,), name="tokenhub-vault-watch", daemon=True)
        watch.start()
        with own_connection() as own:
            while not stop.is_set():
                try:
                    self.poll(own)
                except Exception:
                    # This thread's end would leave a lock unnoticed for good.
                    log.exception("looking after the vault failed; it goes on")
                    self._check_away()
                    self._tell_keyring()
                self._wait(stop, own)
            self._drop()
            with contextlib.suppress(DatabaseError):
                VaultWorker.objects.filter(instance=self._instance).delete()
                VaultGrant.objects.filter(instance=self._instance).delete()
        self._granting.close()

    def poll(self, own: Any) -> None:
        """One look, and all that follows of it. Never raises for a database that is away."""
        begun = self._begun = self._clock()
        try:
            vault = _read_vault()
            self._seen_at = begun
            if self._database_error:
                log.warning("the database is back")
                self._database_error = ""
            self._follow(vault)
            # Before the row says so: who reads that a worker is unlocked may send it requests.
            self._tell_keyring()
            self._report(vault)
            self._settle(vault)
            if begun - self._tidied_at >= self._status_seconds:
                self._tidy()
                self._tidied_at = begun
        except VaultLocked:
            # Somebody locked it within this look; the next one sees it.
            log.debug("the vault was locked meanwhile")
        except DatabaseError as error:
            self._note_database_down(error, own)
            self._check_away()
            self.settled.set()
        self._tell_keyring()
        leftovers.collect()

    def _settle(self, vault: Any) -> None:
        """Waits on only where a peer is unlocked and will answer this worker's announcement."""
        if self.settled.is_set():
            return
        waits = vault is not None and self._holder.find() is None and self._granting.announced is not None
        if waits and self._clock() - self._started_at < SETTLE_SECONDS:
            peers = VaultWorker.objects.exclude(instance=self._instance).filter(
                state=VaultWorker.State.UNLOCKED,
                lock_epoch=vault.lock_epoch,
                seen_at__gt=vault.db_now - timedelta(seconds=_ALIVE_SECONDS),
            )
            if peers.exists():
                return
        self.settled.set()

    # What the vault's row asks for

    def _follow(self, vault: Any) -> None:
        self._exists = vault is not None
        if vault is None:
            self._drop()
            self._problem = ""
            return
        self._coast_seconds = float(vault.coast_seconds)
        opened = self._holder.find()
        if opened is not None and opened.epoch > vault.lock_epoch:
            # Locked and unlocked again within this process since the row was read.
            vault = _read_vault() or vault
        if opened is not None and (opened.vault_id, opened.epoch) != (vault.vault_id, vault.lock_epoch):
            log.warning(
                "the vault was locked (%s); this worker's keys are gone",
                vault.locked_because or "no reason given",
            )
            self._drop()
            opened = None
        self._expect_grant(vault)
        if opened is None:
            self._try_headless(vault)
            self._ask(vault)
        else:
            self._stay(vault, opened)

    def _expect_grant(self, vault: Any) -> None:
        """Notes when the vault was unlocked or its root rotated: a grant is due soon, and Postgres alone tells when."""
        seen = (vault.lock_epoch, vault.unlocked_at, vault.root_version)
        if seen != self._expected:
            self._expected = seen
            if vault.unlocked_at is not None:
                self._hurry_until = self._clock() + HURRY_SECONDS

    def _stay(self, vault: Any, opened: OpenedVault) -> None:
        """Unlocked, and in the vault's epoch."""
        self._headless_due = None
        if opened.root.version != vault.root_version:
            self._follow_root(vault)
            return
        self._outdated_since = None
        self._granting.forget_key()
        self._problem = ""
        versions = set(VaultDataKey.objects.values_list("version", flat=True))
        if versions != set(opened.keys.versions) or vault.active_key != opened.keys.active:
            try:
                self._holder.refresh()
            except VaultLocked:
                return
            except DoesNotOpen:
                self._problem = "a data key does not open under this root key"
        self._granting.answer(vault, opened)
        if self._lock_if_over(vault):
            return
        if self._clock() - self._tended_at >= TEND_SECONDS:
            self._tended_at = self._clock()
            tend_vault(vault.db_now)

    def _follow_root(self, vault: Any) -> None:
        """Another root came. The data keys are the same, so that this worker serves on until a peer grants the new root."""
        now = self._clock()
        if self._outdated_since is None:
            self._outdated_since = now
        self._problem = "waits for the rotated root key"
        if now - self._outdated_since > (FOLLOW_ALONE_SECONDS if self._alone else FOLLOW_SECONDS):
            log.error("the vault's root key was rotated, and this worker can't follow; its keys are gone")
            self._drop()
            self._headless_due = now
        self._ask(vault)

    def _try_headless(self, vault: Any) -> None:
        """At the start, and when it is due again. What somebody locked stays locked: a worker must not undo it."""
        if self._headless_due is None or self._clock() < self._headless_due:
            return
        self._headless_due = None
        problems = []
        if vault.locked_at is not None and vault.unlocked_at is None:
            return
        for way in self._headless:
            try:
                secret = way.give()
                if secret is None:
                    continue
                try:
                    unlock_headless(Actor.system(), secret)
                finally:
                    key = getattr(secret, "key", None)
                    if key is not None:
                        key.wipe()
            except TokenhubError as error:
                problems.append(f"{way.name}: {error.message}")
                if error.retryable:
                    self._headless_due = self._clock() + AGAIN_SECONDS
                continue
            except DatabaseError:
                self._headless_due = self._clock() + AGAIN_SECONDS
                raise
            log.info("the vault was unlocked without anyone, by %s", way.name)
            self._headless_due = None
            self._problem = ""
            return
        if problems:
            self._problem = "; ".join(problems)[:300]
            log.error("the vault does not unlock by itself: %s", self._problem)

    def _ask(self, vault: Any) -> None:
        if self._granting.ask(vault):
            self._outdated_since = None
            self._problem = ""

    # Locking

    def _lock_if_over(self, vault: Any) -> bool:
        """Locks the vault for all where it was idle or open for too long; not while something would unlock it by itself."""
        now: datetime = vault.db_now
        since = vault.unlocked_at or now
        open_for = now - since
        too_long = vault.max_hours and open_for >= timedelta(hours=vault.max_hours)
        maybe_idle = vault.idle_minutes and open_for >= timedelta(minutes=vault.idle_minutes)
        if not (too_long or maybe_idle) or has_headless_slot():
            return False
        reason = f"open for {vault.max_hours} h" if too_long else ""
        if not reason:
            latest = VaultWorker.objects.aggregate(last=Max("used_at"))["last"]
            own = self._used_at(now)
            used = max(moment for moment in (since, latest, own) if moment is not None)
            if now - used < timedelta(minutes=vault.idle_minutes):
                return False
            reason = f"idle for {vault.idle_minutes} min"
        with transaction.atomic():
            if get_vault(lock=True).lock_epoch != vault.lock_epoch:
                return False
            lock(Actor.system(), reason)
        log.warning("the vault was locked: %s", reason)
        self._drop()
        return True

    def _check_away(self) -> None:
        """Locks this worker when the database has been away for longer than the vault allows."""
        if self._holder.find() is None or self._seen_at >= self._begun:
            return
        away = self._clock() - self._seen_at
        if away >= self._coast_seconds:
            log.error("the database has been away for %.0f s; this worker's keys are gone", away)
            self._drop()
            self._headless_due = self._clock()

    def check_overdue(self) -> None:
        """Locks this worker when no poll has come through for longer than the keyring serves: one hangs in the database.

        For another thread than the one that polls.
        """
        overdue = self._clock() - self._seen_at
        if self._holder.find() is None or overdue <= self._coast_limit():
            return
        log.error("no word from the database for %.0f s; this worker's keys are gone", overdue)
        self._drop()
        self._headless_due = self._clock()
        self._keyring.vault_state, self._keyring.vault_reason = "locked", "the database does not answer"

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self._poll_seconds):
            self.check_overdue()

    def _coast_limit(self) -> float:
        """For how many seconds after the last word from the database sealed secrets are given."""
        return max(self._coast_seconds, self._poll_seconds) + SLACK_SECONDS

    def _drop(self) -> None:
        self._holder.drop()
        self._lock_keyring()
        self._outdated_since = None

    def _lock_keyring(self) -> None:
        if not self._keyring.holds(None):
            self._keyring.lock()
            leftovers.collect(at_once=True)

    # Telling

    def _tell_keyring(self) -> None:
        """The data plane's view: the keys that are held, for how long without a word from the database, and why not."""
        opened = self._holder.find()
        keyring = self._keyring
        if opened is not None:
            keyring.coast_until(self._seen_at + self._coast_limit())
            if not keyring.holds(opened.keys):
                keyring.unlock(opened.keys)
            keyring.vault_state, keyring.vault_reason = "unlocked", ""
            return
        if not keyring.holds(None):
            self._lock_keyring()
        keyring.vault_state = "locked" if self._exists else "none"
        waits = "waits for somebody to unlock it" if self._exists else ""
        keyring.vault_reason = self._database_error or self._problem or self._granting.problem or waits

    def _report(self, vault: Any) -> None:
        """Writes this worker's row when it changed, and now and then to say that it is alive."""
        opened = self._holder.find()
        broken = self._keyring.list_broken()
        problem = self._problem or self._granting.problem
        if broken:
            problem = f"does not open: the sealed key of {', '.join(broken)}"
        state = VaultWorker.State.UNLOCKED if opened else VaultWorker.State.LOCKED
        announced = self._granting.announced
        report = _Report(
            state=VaultWorker.State.NONE if vault is None else state,
            lock_epoch=0 if opened is None else opened.epoch,
            root_version=0 if opened is None else opened.root.version,
            key_versions=() if opened is None else opened.keys.versions,
            problem=problem[:300],
            announced_at=0 if announced is None else announced.created_at,
        )
        now = self._clock()
        if self._reported is not None:
            before, at = self._reported
            if before == report and now - at < self._status_seconds:
                return
        values: dict[str, Any] = {
            "boot_id": self._boot_id,
            "state": report.state,
            "lock_epoch": report.lock_epoch,
            "root_version": report.root_version,
            "key_versions": list(report.key_versions),
            "problem": report.problem,
            "announced_at": report.announced_at,
            "public_key": b"" if announced is None else announced.public_key,
            "mac": b"" if announced is None else announced.mac,
            "seen_at": Now(),
        }
        used = None if vault is None else self._used_at(vault.db_now)
        if used is not None:
            values["used_at"] = used
        if not VaultWorker.objects.filter(instance=self._instance).update(**values):
            VaultWorker.objects.create(instance=self._instance, **values)
        self._reported = (report, now)
        self._granting.tell_if_new()

    def _used_at(self, db_now: datetime) -> datetime | None:
        """When a sealed secret was last used here, in the database's time."""
        used = self._keyring.last_used
        return None if used is None else db_now - timedelta(seconds=max(0.0, self._clock() - used))

    def _tidy(self) -> None:
        """Takes away grants that nobody took, and workers that are gone."""
        VaultGrant.objects.filter(created_at__lt=Now() - timedelta(seconds=GRANT_SECONDS)).delete()
        gone = VaultWorker.objects.exclude(instance=self._instance)
        gone.filter(seen_at__lt=Now() - timedelta(seconds=FORGET_SECONDS)).delete()

    def _note_database_down(self, error: DatabaseError, own: Any) -> None:
        """Logs once for each change of state. Closing makes the next query connect afresh."""
        if not self._database_error:
            log.error("the vault's state can't be read: %s", str(error).strip().partition("\n")[0])
        self._database_error = "the database can't be read"
        if not own.in_atomic_block:
            own.close()

    def _wait(self, stop: threading.Event, own: Any) -> None:
        """Until the next poll is due: at most `poll_seconds`, less if something happens in this process or Postgres tells."""
        held = self._holder.find()
        lacks = held is None or self._outdated_since is not None
        hurried = lacks and self._clock() < self._hurry_until
        seconds = min(self._poll_seconds, _HURRIED_POLL_SECONDS) if hurried else self._poll_seconds
        if own.vendor != "postgresql" or own.connection is None or own.in_atomic_block:
            until = self._clock() + seconds
            while self._holder.find() is held and (left := until - self._clock()) > 0:
                if stop.wait(min(left, _GLANCE_SECONDS)):
                    return
            return
        try:
            with own.wrap_database_errors:
                if self._listening is not own.connection:
                    own.connection.execute(f"LISTEN {CHANNEL}")
                    own.connection.execute(f"LISTEN {CONFIG_CHANNEL}")
                    self._listening = own.connection
                for _ in own.connection.notifies(timeout=seconds, stop_after=1):
                    pass
        except DatabaseError as error:
            self._note_database_down(error, own)
            stop.wait(self._poll_seconds)


def _read_vault() -> Any:
    """The vault's row with the database's time as `db_now`, which all workers share; None without a vault."""
    return Vault.objects.annotate(db_now=Now()).filter(pk=Vault.ID).first()
