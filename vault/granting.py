"""How an unlocked worker unlocks the others: announcements and sealed grants of ROOT in the database. Control plane.

A worker that lacks ROOT writes a public key of its own, signed with TOKENHUB_CLUSTER_SECRET; any worker that has ROOT
seals it to that key (HPKE). Neither the database nor whoever reads it learns anything; `vault.engine.grants` has the format.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from vault.engine.errors import AnnouncementRefused, DoesNotOpen, VaultLocked
from vault.engine.grants import (
    MAX_AGE,
    Announcement,
    ClusterKey,
    Occasion,
    WorkerKey,
    check_announcement,
    grant_root,
)
from vault.notify import tell_workers
from vault.opened import OpenedVault, VaultHolder
from vault.vault_models import VaultGrant, VaultWorker

ANNOUNCE_AGAIN = MAX_AGE / 2
ALONE = "without TOKENHUB_CLUSTER_SECRET each worker must be unlocked by itself, or by a key file, variable or KMS"

log = logging.getLogger(__name__)


class Granting:
    """One worker's part in it. `vault` is the vault's row with the database's time as `db_now`; `clock` monotonic seconds.

    `problem` says for operators why ROOT does not come or was not given. `cluster` is wiped by `close`.
    """

    def __init__(
        self,
        instance: str,
        boot_id: str,
        cluster: ClusterKey | None,
        *,
        holder: VaultHolder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instance = instance
        self._boot_id = boot_id
        self._cluster = cluster
        self._holder = holder
        self._clock = clock
        self._key: WorkerKey | None = None
        self._announced: Announcement | None = None
        self._announced_at = 0.0
        self._untold = False
        self._refused: set[tuple[str, int]] = set()
        self.problem = ""

    @property
    def announced(self) -> Announcement | None:
        """What this worker's row must say, so that a peer can grant; None where nothing is asked for."""
        return self._announced if self._key is not None else None

    def ask(self, vault: Any) -> bool:
        """Takes this worker's grant where there is one, else announces it. Whether ROOT came."""
        held = self._holder.find()
        if held is not None and held.root.version == vault.root_version:
            return False
        if self._cluster is None:
            others = VaultWorker.objects.exclude(instance=self._instance).exists()
            self.problem = ALONE if others else ""
            return False
        if self._key is not None and self._key.vault_id != vault.vault_id:
            self.forget_key()
        if self._key is None:
            self._key = WorkerKey(vault.vault_id, self._instance, self._boot_id)
        for row in VaultGrant.objects.filter(instance=self._instance, boot_id=self._boot_id):
            row.delete()
            of_now = (row.lock_epoch, row.root_version) == (vault.lock_epoch, vault.root_version)
            if of_now and self._take(self._cluster, self._key, vault, row):
                return True
        if self._announced is None or self._clock() - self._announced_at >= ANNOUNCE_AGAIN:
            self._announced = self._key.announce(self._cluster, vault.db_now.timestamp())
            self._announced_at = self._clock()
            self._untold = True
        return False

    def tell_if_new(self) -> None:
        """Wakes the peers once after a new announcement was written."""
        if self._untold:
            self._untold = False
            tell_workers()

    def answer(self, vault: Any, opened: OpenedVault) -> None:
        """Grants ROOT to every worker that announced itself and can prove that it is one of ours."""
        self.problem = ""
        if self._cluster is None:
            return
        now = vault.db_now.timestamp()
        waiting = VaultWorker.objects.filter(announced_at__gt=now - MAX_AGE).exclude(instance=self._instance)
        waiting = waiting.filter(
            ~Q(state=VaultWorker.State.UNLOCKED) | Q(root_version__lt=vault.root_version)
        )
        granted = set(
            VaultGrant.objects.filter(
                lock_epoch=vault.lock_epoch, root_version=vault.root_version
            ).values_list("instance", "boot_id")
        )
        told = False
        for row in waiting:
            if (row.instance, row.boot_id) in granted:
                continue
            announcement = Announcement(
                vault_id=vault.vault_id,
                instance=row.instance,
                boot_id=row.boot_id,
                public_key=bytes(row.public_key),
                created_at=row.announced_at,
                mac=bytes(row.mac),
            )
            told |= self._grant(self._cluster, vault, opened, announcement)
        if told:
            tell_workers()

    def forget_key(self) -> None:
        """Throws this worker's private key away, and with it every grant that was sealed to it."""
        if self._key is not None:
            self._key.discard()
        self._key = self._announced = None

    def close(self) -> None:
        """Overwrites what it holds."""
        self.forget_key()
        if self._cluster is not None:
            self._cluster.wipe()

    def _take(self, cluster: ClusterKey, key: WorkerKey, vault: Any, row: VaultGrant) -> bool:
        try:
            root = key.open(
                bytes(row.grant),
                cluster,
                row.root_version,
                Occasion(row.lock_epoch, bytes(row.nonce)),
                bytes(vault.root_check),
            )
            # It takes the root over, and wipes it where it refuses it.
            self._holder.put(root, epoch=row.lock_epoch)
        except VaultLocked:
            return False
        except DoesNotOpen as error:
            log.error("a grant for this worker does not open (%s); it is thrown away", error.reason)
            self.problem = "a grant does not open: give all workers the same TOKENHUB_CLUSTER_SECRET"
            return False
        self.forget_key()
        self.problem = ""
        return True

    def _grant(
        self, cluster: ClusterKey, vault: Any, opened: OpenedVault, announcement: Announcement
    ) -> bool:
        now = vault.db_now.timestamp()
        occasion = Occasion.create(vault.lock_epoch)
        try:
            check_announcement(announcement, cluster, vault.vault_id, now)
            sealed = grant_root(opened.root, announcement, cluster, occasion, now)
        except AnnouncementRefused as error:
            mark = (announcement.instance, announcement.created_at)
            if mark not in self._refused:
                self._refused = {*list(self._refused)[-99:], mark}
                log.error(
                    "worker %s asks for the root key and is refused: %s", announcement.instance, error.message
                )
            self.problem = f"{announcement.instance} is refused: {error.message}"[:300]
            return False
        with contextlib.suppress(IntegrityError), transaction.atomic():
            # An older grant, of another epoch or root, makes room; a peer that was faster is as good.
            VaultGrant.objects.filter(instance=announcement.instance, boot_id=announcement.boot_id).exclude(
                lock_epoch=vault.lock_epoch, root_version=vault.root_version
            ).delete()
            VaultGrant.objects.create(
                instance=announcement.instance,
                boot_id=announcement.boot_id,
                lock_epoch=vault.lock_epoch,
                root_version=vault.root_version,
                nonce=occasion.nonce,
                grant=sealed,
                created_at=vault.db_now,
            )
            return True
        return False
