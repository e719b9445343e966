"""What the vault's pages tell: is it open and where, its keys, whether its rows are sound, what a lock would stop. Control plane.

Reads only, in a number of queries that does not grow with workers, secrets or providers; needs no open vault.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from django.conf import settings
from django.db.models import Count, Q

from providers.models import Model, Provider
from vault.engine.manifest import Change
from vault.engine.slots import HEADLESS_KINDS
from vault.models import (
    AuditEntry,
    Credential,
    SealedSecret,
    Vault,
    VaultDataKey,
    VaultManifest,
    VaultSlot,
    VaultWorker,
)
from vault.opened import opened_vault
from vault.rotations import LIVE, Progress, read_progress
from vault.vault_actions import SETTINGS
from vault.vault_manifest import MANIFEST_TABLE

Phase = Literal["none", "locked", "partly", "unlocked"]
NAMES_SHOWN = 20
FOLLOWS = timedelta(seconds=10)
"""How long after unlocking the other workers are given before a page says that they do not follow."""


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker's report, read against the vault as it is: `live` if it reported lately, `unlocked` in the present epoch."""

    worker: VaultWorker
    live: bool
    unlocked: bool
    has_active_key: bool
    has_root: bool

    @property
    def state(self) -> str:
        """In a word or two, for the badge."""
        if not self.live:
            return "stale"
        return "unlocked" if self.unlocked else "locked"

    @property
    def tone(self) -> str:
        """The badge's."""
        return {"unlocked": "good", "locked": "warn"}.get(self.state, "plain")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A data key: how many sealed secrets it seals, and since when it is there."""

    version: int
    active: bool
    secrets: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """A sealed secret that is not as it was signed, or does not open; `url_id` is its credential's id, None where it is gone."""

    what: str
    name: str
    url_id: int | None


@dataclass(frozen=True, slots=True)
class VaultState:
    """All that the status page shows of a vault that exists; `here`: this very process has it open."""

    vault: Vault
    here: bool
    now: datetime
    workers: tuple[WorkerLine, ...]
    slots: tuple[VaultSlot, ...]
    keys: tuple[KeyLine, ...]
    progress: Progress
    manifest: VaultManifest | None
    credentials: int

    @property
    def live(self) -> tuple[WorkerLine, ...]:
        """The workers that reported lately."""
        return tuple(line for line in self.workers if line.live)

    @property
    def unlocked_workers(self) -> int:
        """How many of them are unlocked."""
        return sum(line.unlocked for line in self.live)

    @property
    def stale_workers(self) -> int:
        """How many have not reported lately."""
        return len(self.workers) - len(self.live)

    @property
    def phase(self) -> Phase:
        """By what the workers report; by this process where none does."""
        if not self.live:
            return "unlocked" if self.here else "locked"
        if self.unlocked_workers == len(self.live):
            return "unlocked"
        return "partly" if self.unlocked_workers or self.here else "locked"

    @property
    def headless(self) -> bool:
        """Whether a slot unlocks it at a start without anyone; then nothing locks by itself."""
        return any(slot.kind in HEADLESS_KINDS for slot in self.slots)

    @property
    def follows_not(self) -> bool:
        """Whether workers stay locked because nothing hands the key on to them."""
        since = self.vault.unlocked_at
        slow = since is not None and self.now - since > FOLLOWS
        return self.phase == "partly" and slow and not settings.TOKENHUB.cluster_secret

    @property
    def sealed(self) -> int:
        """How many secrets are sealed."""
        return sum(key.secrets for key in self.keys)

    @property
    def resealed_percent(self) -> int:
        """How much of them the active key seals, 0 to 100."""
        whole = self.progress.done + self.progress.left
        return 100 if not whole else int(100 * self.progress.done / whole)

    @property
    def sound(self) -> bool:
        """Whether the last check found nothing. A vault without a manifest was tampered with."""
        manifest = self.manifest
        return manifest is not None and manifest.differs_since is None and not manifest.unopenable

    @property
    def key(self) -> str:
        """Changes when the page has to be drawn anew, not only its numbers."""
        vault = self.vault
        changed = max((slot.changed_at.timestamp() for slot in self.slots), default=0)
        parts = [
            self.phase,
            vault.lock_epoch,
            vault.root_version,
            vault.active_key,
            self.sound,
            self.follows_not,
        ]
        return "-".join(map(str, [*parts, len(self.keys), len(self.slots), int(changed)]))


def read_state(now: datetime) -> VaultState | None:
    """The vault's state; None where there is no vault."""
    vault = Vault.objects.filter(pk=Vault.ID).first()
    if vault is None:
        return None
    counted = SealedSecret.objects.order_by().values_list("key_version").annotate(rows=Count("pk"))
    by_key: dict[int, int] = dict(counted)
    return VaultState(
        vault=vault,
        here=opened_vault.epoch == vault.lock_epoch,
        now=now,
        workers=tuple(_read_worker(vault, worker, now) for worker in VaultWorker.objects.all()),
        slots=tuple(VaultSlot.objects.defer("document")),
        keys=tuple(
            KeyLine(key.version, key.version == vault.active_key, by_key.get(key.version, 0), key.created_at)
            for key in VaultDataKey.objects.defer("wrapped")
        ),
        progress=read_progress(now=now),
        manifest=VaultManifest.objects.defer("lines", "mac").filter(pk=VaultManifest.ID).first(),
        credentials=Credential.objects.filter(source=Credential.Source.VAULT).count(),
    )


def _read_worker(vault: Vault, worker: VaultWorker, now: datetime) -> WorkerLine:
    unlocked = worker.state == VaultWorker.State.UNLOCKED and worker.lock_epoch == vault.lock_epoch
    return WorkerLine(
        worker=worker,
        live=now - worker.seen_at < LIVE,
        unlocked=unlocked,
        has_active_key=vault.active_key in (worker.key_versions or []),
        has_root=worker.root_version == vault.root_version,
    )


_SAYS = {
    Change.MISSING: "was deleted by other hands",
    Change.UNKNOWN: "was put in by other hands",
    Change.CHANGED: "was changed by other hands, or put back from a backup",
}


def list_findings(manifest: VaultManifest | None) -> list[Finding]:
    """What the last check and the last re-sealing found, each secret by the name of its credential."""
    if manifest is None:
        return []
    differing = [(one["row_id"], one["table"], one["change"]) for one in manifest.differences]
    ids = [row_id for row_id, _, _ in differing] + list(manifest.unopenable)
    rows = SealedSecret.objects.filter(pk__in=ids).select_related("credential__provider").defer("record")
    known = {row.pk: row for row in rows}
    found = []
    for row_id, table, change in differing:
        if table == MANIFEST_TABLE:
            found.append(Finding("The manifest itself was changed, or put back from a backup", "", None))
        else:
            found.append(_name(known.get(row_id), row_id, _SAYS[Change(change)]))
    return found + [
        _name(known[row_id], row_id, "does not open") for row_id in manifest.unopenable if row_id in known
    ]


def _name(row: SealedSecret | None, row_id: str, what: str) -> Finding:
    if row is None:
        return Finding(what, f"A secret that is not there any more ({row_id[:8]})", None)
    credential: Any = row.credential
    return Finding(what, f"{credential.provider.name}, {credential.name}, at {row.origin}", credential.pk)


@dataclass(frozen=True, slots=True)
class Stopping:
    """What a locked vault stops: providers all of whose credentials are sealed, and those that go on with another one."""

    stops: tuple[str, ...]
    goes_on: tuple[str, ...]
    models: int

    @property
    def more(self) -> int:
        """How many of those that stop are not named."""
        return max(0, len(self.stops) - NAMES_SHOWN)

    @property
    def named(self) -> tuple[str, ...]:
        """The first of those that stop."""
        return self.stops[:NAMES_SHOWN]


def find_stopping() -> Stopping:
    """Which enabled providers need the vault open."""
    enabled = Q(credentials__enabled=True)
    sealed = enabled & Q(credentials__source=Credential.Source.VAULT)
    rows = Provider.objects.filter(enabled=True).annotate(
        sealed=Count("credentials", filter=sealed), usable=Count("credentials", filter=enabled)
    )
    rows = rows.filter(sealed__gt=0).order_by("name").values_list("pk", "name", "sealed", "usable")
    stops = [(pk, name) for pk, name, number, usable in rows if number == usable]
    return Stopping(
        stops=tuple(name for _, name in stops),
        goes_on=tuple(name for _, name, number, usable in rows if number != usable),
        models=Model.objects.filter(enabled=True, provider__in=[pk for pk, _ in stops]).count(),
    )


def find_root_made(vault: Vault) -> datetime:
    """When the present root key was made."""
    made: datetime | None = None
    if vault.root_version > 1:
        entries = AuditEntry.objects.filter(action="vault.rotate_root").order_by("-seq")
        made = entries.values_list("at", flat=True).first()
    return made or vault.created_at


def describe_settings(vault: Vault) -> list[tuple[str, str]]:
    """When the vault locks itself, as label and text."""
    idle, most, coast = (getattr(vault, name) for name in SETTINGS)
    return [
        ("Without use", f"after {idle:,} min" if idle else "never"),
        ("At the latest", f"{most:,} h after unlocking" if most else "never"),
        (
            "Database away",
            f"a worker locks itself after {coast:,} s" if coast else "a worker locks itself at once",
        ),
    ]
