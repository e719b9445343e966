"""Changes of credential references. Control plane; a sealed secret is `vault.sealing`'s."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from tokenhub.control.actors import Actor
from vault.audit import add, alter, check_fields, remove
from vault.models import Credential
from vault.sealing import delete_secrets

CREDENTIAL_FIELDS = ("name", "source", "reference", "weight", "enabled")


def create_credential(actor: Actor, *, provider: Any, **fields: Any) -> Credential:
    """A credential of a `providers.Provider`. `fields`: CREDENTIAL_FIELDS."""
    check_fields(Credential, fields, CREDENTIAL_FIELDS)
    return add(actor, Credential(provider=provider, **fields))


def update_credential(actor: Actor, credential: Credential, **changes: Any) -> Credential:
    """Changes CREDENTIAL_FIELDS. Pointing it somewhere else makes it a new version, and deletes what was sealed for it."""
    before = Credential.objects.values_list("source", "reference").get(pk=credential.pk)

    def count_version(row: Credential) -> None:
        if (row.source, row.reference) != before:
            row.version += 1

    with transaction.atomic():
        if changes.get("source", Credential.Source.VAULT) != Credential.Source.VAULT:
            delete_secrets(actor, Credential.objects.filter(pk=credential.pk))
        return alter(actor, credential, changes, allowed=CREDENTIAL_FIELDS, check=count_version)


def renew_credential(actor: Actor, credential: Credential) -> Credential:
    """Says that the secret behind the reference was replaced: a new version, whose health starts afresh."""
    version = Credential.objects.values_list("version", flat=True).get(pk=credential.pk)
    return alter(actor, credential, {"version": version + 1}, allowed=("version",))


def delete_credential(actor: Actor, credential: Credential) -> None:
    """Deletes the reference, and what is sealed for it. Raises VaultLocked for a sealed one while the vault is locked."""
    with transaction.atomic():
        delete_secrets(actor, Credential.objects.filter(pk=credential.pk))
        remove(actor, credential)
