"""Credentials and the audit trail; the vault's own tables are in `vault.vault_models`. Control plane; no secret in the clear."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from vault.keyring import FILE_NAME_RULE, check_env_name, check_file_name
from vault.vault_models import (
    SealedSecret,
    Vault,
    VaultDataKey,
    VaultGrant,
    VaultManifest,
    VaultSlot,
    VaultTry,
    VaultWorker,
)

# Django finds an app's models by way of this module.
__all__ = [
    "AppendOnly",
    "AuditEntry",
    "AuditQuerySet",
    "Credential",
    "SealedSecret",
    "Vault",
    "VaultDataKey",
    "VaultGrant",
    "VaultManifest",
    "VaultSlot",
    "VaultTry",
    "VaultWorker",
    "check_credential_name",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", re.ASCII)


def check_credential_name(value: str) -> None:
    """Raises ValidationError for a name with other characters than letters, digits, space, dot, dash, underscore."""
    if _NAME.fullmatch(value) is None:
        raise ValidationError(
            "Use letters, digits, spaces, '.', '_' or '-', beginning with a letter or digit."
        )


class Credential(models.Model):
    """Where a provider's secret is found: the vault, an environment variable, a mounted file, or nowhere (no authentication)."""

    class Source(models.TextChoices):
        ENV = "env", "Environment variable"
        FILE = "file", "Mounted file"
        NONE = "none", "No credential"
        VAULT = "vault", "Sealed in the vault"

    provider = models.ForeignKey("providers.Provider", on_delete=models.CASCADE, related_name="credentials")
    name = models.CharField(
        max_length=100, validators=[check_credential_name], help_text="Unique per provider."
    )
    source = models.CharField(max_length=8, choices=Source.choices, default=Source.ENV)
    reference = models.CharField(
        max_length=255,
        blank=True,
        help_text="The variable's name (TOKENHUB_CRED_…), or the file's path below the credentials directory. "
        "Never the secret itself.",
    )
    weight = models.PositiveSmallIntegerField(
        default=1,
        validators=[MaxValueValidator(1000)],
        help_text="Share of the requests among the provider's credentials, 0 to 1000.",
    )
    version = models.PositiveIntegerField(
        default=1,
        validators=[MinValueValidator(1)],
        help_text="Counts up when the secret behind the reference changed.",
    )
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["provider_id", "name"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="vault_credential_unique_name")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"

    def audit_related(self) -> dict[str, Any]:
        """What is sealed for it, without anything readable, and the manifest's counter, which never goes back."""
        if self.source != self.Source.VAULT:
            return {}
        rows = self.sealed_secrets.order_by("-version", "origin")
        sealed = [
            {"version": row.version, "origin": row.origin, "fingerprint": row.fingerprint}
            for row in rows.defer("record")
        ]
        counter = VaultManifest.objects.values_list("counter", flat=True).first()
        # Told where nothing is sealed (any more) too: rows that were deleted and put back are older than that.
        return {"sealed": sealed, "manifest": counter} if counter else {}

    def clean(self) -> None:
        """Raises ValidationError for a reference that its source does not allow."""
        if self.source in (self.Source.NONE, self.Source.VAULT):
            if self.reference:
                raise ValidationError(
                    {
                        "reference": "Leave the reference empty: this source has none. A secret has a field of its own."
                    }
                )
            return
        try:
            if self.source == self.Source.ENV:
                check_env_name(self.reference)
            else:
                check_file_name(self.reference)
        except ValueError as error:
            # The reference is not repeated: people paste the secret itself into this field.
            raise ValidationError({"reference": str(error)}) from None
        if self.source == self.Source.FILE and posixpath.normpath(self.reference) != self.reference:
            raise ValidationError({"reference": FILE_NAME_RULE})


class AppendOnly(Exception):
    """Someone tried to change or delete an audit entry."""


class AuditQuerySet(models.QuerySet):
    """Reads and appends; refuses everything else."""

    def update(self, **kwargs: Any) -> int:
        raise AppendOnly("audit entries can't be changed")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise AppendOnly("audit entries can't be deleted")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise AppendOnly("audit entries can't be changed")


class AuditEntry(models.Model):
    """One change of the configuration: who, from where, what, before and after. Append-only, by database trigger too."""

    class ActorKind(models.TextChoices):
        USER = "user", "User"
        TOKEN = "token", "Admin token"
        BOOTSTRAP = "bootstrap", "Bootstrap"
        SYSTEM = "system", "Tokenhub"
        COMMAND = "command", "Command"
        ANONYMOUS = "anonymous", "Not signed in"

    seq = models.PositiveBigIntegerField(
        unique=True, help_text="Its place in the trail: 1, 2, 3, … without a gap."
    )
    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=200)
    actor_kind = models.CharField(max_length=16, choices=ActorKind.choices)
    address = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64, db_index=True)
    object_type = models.CharField(max_length=64)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=255)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    prev_hash = models.CharField(max_length=64, help_text="The hash of the entry before it.")
    hash = models.CharField(max_length=64, help_text="SHA-256 over all of the above but the ID.")

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-seq"]
        verbose_name_plural = "audit entries"
        permissions = [("export_auditentry", "Can export the audit trail")]
        indexes = [models.Index(fields=["object_type", "object_id"], name="vault_audit_object")]

    def __str__(self) -> str:
        return f"{self.action} {self.object_label} by {self.actor}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Appends a new entry. Raises AppendOnly for one that is stored already."""
        if not self._state.adding:
            raise AppendOnly("audit entries can't be changed")
        kwargs["force_insert"] = True
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Raises AppendOnly."""
        raise AppendOnly("audit entries can't be deleted")


class AuditHead(models.Model):
    """Where the audit trail ends: one row, locked by whoever appends, so that there is one order across all processes.

    A database trigger lets it only count up by one.
    """

    ONLY = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY)
    seq = models.PositiveBigIntegerField(default=0)
    hash = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.seq} {self.hash}"
