"""The vault's own tables: the vault, its slots, data keys, sealed secrets, and its workers. Control plane; nothing readable.

Whoever reads these rows learns no secret, and whoever writes them can at most keep the vault from opening: everything that
matters is authenticated under keys that are not here (`docs/vault.md`). Rows change in `vault.vault_actions`, `vault.sealing`,
`vault.rotations`, `vault.vault_manifest` and `vault.destruction` only; tries in `vault.tries`; workers and grants in `vault.agent`
and `vault.granting`.
"""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from vault.engine.slots import SlotKind


def make_id() -> str:
    """A new random id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


class Vault(models.Model):
    """The one vault of an installation; no row: none was initialised yet.

    `lock_epoch` counts explicit and automatic locks: a worker that holds keys of a lower epoch drops them.
    """

    ID = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ID)
    vault_id = models.CharField(max_length=32, unique=True, default=make_id, editable=False)
    root_version = models.PositiveIntegerField(default=1)
    root_check = models.BinaryField(help_text="Opens under the true root key only.")
    active_key = models.PositiveIntegerField(default=1, help_text="Version of the data key that seals now.")
    lock_epoch = models.PositiveBigIntegerField(default=1)
    locked_at = models.DateTimeField(null=True, blank=True)
    locked_because = models.CharField(max_length=200, blank=True)
    unlocked_at = models.DateTimeField(null=True, blank=True, help_text="First unlocking of this epoch.")
    idle_minutes = models.PositiveIntegerField(
        default=30,
        validators=[MaxValueValidator(100_000)],
        help_text="Locks after so many minutes without use. 0 = never. Without effect while a headless slot exists.",
    )
    max_hours = models.PositiveIntegerField(
        default=12,
        validators=[MaxValueValidator(100_000)],
        help_text="Locks so many hours after unlocking. 0 = never. Without effect while a headless slot exists.",
    )
    coast_seconds = models.PositiveIntegerField(
        default=180,
        validators=[MaxValueValidator(86_400)],
        help_text="A worker that can't reach the database for so long locks itself. 0 = at once.",
    )
    kept_subkeys = models.JSONField(
        default=list,
        blank=True,
        help_text="Earlier roots' subkeys, sealed: a list of purpose, root_version, sealed (base64).",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    audit_ignored = ("root_check", "kept_subkeys")

    class Meta:
        verbose_name_plural = "vault"
        permissions = [
            ("unlock_vault", "Can unlock and lock the vault"),
            ("manage_vault", "Can initialise the vault, change its slots and rotate its keys"),
        ]
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="vault_vault_is_one")]

    def __str__(self) -> str:
        return f"vault {self.vault_id[:8]}"


class VaultSlot(models.Model):
    """One way to the root key. `document` is `engine.slots.encode_slot`'s: all of it authenticated, none of it secret."""

    slot_id = models.CharField(max_length=32, primary_key=True, default=make_id, editable=False)
    kind = models.CharField(
        max_length=16, choices=[(kind.value, kind.name.capitalize()) for kind in SlotKind]
    )
    label = models.CharField(max_length=100)
    document = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now_add=True)
    opened_at = models.DateTimeField(null=True, blank=True)

    audit_ignored = ("document", "opened_at")

    class Meta:
        ordering = ["created_at", "slot_id"]

    def __str__(self) -> str:
        return f"{self.label} ({self.get_kind_display().lower()})"


class VaultDataKey(models.Model):
    """A version of the data key, sealed by the root key. One that seals no record any more is retired and deleted."""

    version = models.PositiveIntegerField(primary_key=True)
    wrapped = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    audit_ignored = ("wrapped",)

    class Meta:
        ordering = ["version"]

    def __str__(self) -> str:
        return f"data key {self.version}"


class SealedSecret(models.Model):
    """One secret of a credential, sealed for one origin. A provider with endpoints at two origins has two rows a secret.

    `id` is the row's name in the additional data. The secret's version is the credential's at the time; an older one is good
    until `good_until` (a replacement's overlap). Never written again but by a data key's rotation (`record`, `row_version`).
    """

    id = models.CharField(max_length=32, primary_key=True, default=make_id, editable=False)
    credential = models.ForeignKey(
        "vault.Credential", on_delete=models.CASCADE, related_name="sealed_secrets"
    )
    version = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    origin = models.CharField(max_length=300, help_text="scheme://host:port that the secret was entered for.")
    provider_kind = models.CharField(max_length=64)
    auth_header = models.CharField(max_length=100)
    row_version = models.PositiveIntegerField(default=1)
    key_version = models.PositiveIntegerField()
    record = models.BinaryField()
    last4 = models.CharField(max_length=4, blank=True)
    fingerprint = models.CharField(max_length=16, blank=True)
    good_until = models.DateTimeField(null=True, blank=True, help_text="Empty: the current secret.")
    created_at = models.DateTimeField(auto_now_add=True)

    audit_ignored = ("record",)

    class Meta:
        ordering = ["credential_id", "-version", "origin"]
        constraints = [
            models.UniqueConstraint(
                fields=["credential", "version", "origin"], name="vault_sealedsecret_unique_origin"
            )
        ]
        indexes = [models.Index(fields=["key_version"], name="vault_sealedsecret_key")]

    def __str__(self) -> str:
        return f"secret {self.version} of {self.credential_id} for {self.origin}"


class VaultManifest(models.Model):
    """One row (id 1): the keyed MAC over all sealed secrets, the lines that it is over, and what the last check found.

    Apart from `Vault`, which every worker reads each second: the lines are as many as the secrets.
    """

    ID = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ID)
    counter = models.PositiveBigIntegerField(default=0, help_text="Counts the changes of sealed secrets.")
    rows = models.PositiveIntegerField(default=0)
    mac = models.BinaryField(default=bytes)
    lines = models.BinaryField(default=bytes, help_text="MessagePack: row id, row version, digest of each.")
    checked_at = models.DateTimeField(null=True, blank=True)
    differs_since = models.DateTimeField(null=True, blank=True)
    differences = models.JSONField(
        default=list, blank=True, help_text="What the last check found: change, row_id."
    )
    unopenable = models.JSONField(default=list, blank=True, help_text="Ids of secrets that do not open.")

    audit_ignored = ("mac", "lines", "checked_at")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="vault_manifest_is_one")]

    def __str__(self) -> str:
        return f"manifest {self.counter}"

    def audit_related(self) -> dict[str, int]:
        """The counter under the name that every entry has it by."""
        return {"manifest": self.counter}


class VaultTry(models.Model):
    """Somebody tries a password or key, or did so in vain lately. Counted before it is tried, deleted when it opens."""

    actor = models.CharField(max_length=220)
    at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "vault tries"

    def __str__(self) -> str:
        return f"try by {self.actor}"


class VaultWorker(models.Model):
    """A worker process as it last reported itself: its announcement for a grant, and whether it is unlocked.

    The announcement's fields are `engine.grants.Announcement`'s; empty without a cluster secret. Times are the database's.
    """

    class State(models.TextChoices):
        NONE = "none", "No vault"
        LOCKED = "locked", "Locked"
        UNLOCKED = "unlocked", "Unlocked"

    instance = models.CharField(max_length=128, primary_key=True)
    boot_id = models.CharField(max_length=32)
    public_key = models.BinaryField(default=bytes)
    announced_at = models.PositiveBigIntegerField(
        default=0, help_text="Unix seconds; 0 = waits for no grant."
    )
    mac = models.BinaryField(default=bytes)
    state = models.CharField(max_length=16, choices=State.choices, default=State.LOCKED)
    lock_epoch = models.PositiveBigIntegerField(default=0)
    root_version = models.PositiveIntegerField(default=0)
    key_versions = models.JSONField(default=list, help_text="Data keys that it holds.")
    used_at = models.DateTimeField(null=True, blank=True, help_text="When a sealed secret was last used.")
    seen_at = models.DateTimeField()
    problem = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["instance"]

    def __str__(self) -> str:
        return self.instance


class VaultGrant(models.Model):
    """The root key sealed for one locked worker, by an unlocked one. Deleted when taken, or after a minute."""

    instance = models.CharField(max_length=128)
    boot_id = models.CharField(max_length=32)
    lock_epoch = models.PositiveBigIntegerField()
    root_version = models.PositiveIntegerField()
    nonce = models.BinaryField()
    grant = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["instance", "boot_id"], name="vault_grant_one_a_worker")
        ]

    def __str__(self) -> str:
        return f"grant for {self.instance}"
