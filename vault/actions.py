"""Changes of credential references. Control plane; the secrets themselves never pass through here."""

from __future__ import annotations

from typing import Any

from tokenhub.control.actors import Actor
from vault.audit import add, alter, check_fields, remove
from vault.models import Credential

CREDENTIAL_FIELDS = ("name", "source", "reference", "weight", "enabled")


def create_credential(actor: Actor, *, provider: Any, **fields: Any) -> Credential:
    """A credential of a `providers.Provider`. `fields`: CREDENTIAL_FIELDS."""
    check_fields(Credential, fields, CREDENTIAL_FIELDS)
    return add(actor, Credential(provider=provider, **fields))


def update_credential(actor: Actor, credential: Credential, **changes: Any) -> Credential:
    """Changes CREDENTIAL_FIELDS. Pointing it somewhere else makes it a new version."""
    before = Credential.objects.values_list("source", "reference").get(pk=credential.pk)

    def count_version(row: Credential) -> None:
        if (row.source, row.reference) != before:
            row.version += 1

    return alter(actor, credential, changes, allowed=CREDENTIAL_FIELDS, check=count_version)


def renew_credential(actor: Actor, credential: Credential) -> Credential:
    """Says that the secret behind the reference was replaced: a new version, whose health starts afresh."""
    version = Credential.objects.values_list("version", flat=True).get(pk=credential.pk)
    return alter(actor, credential, {"version": version + 1}, allowed=("version",))


def delete_credential(actor: Actor, credential: Credential) -> None:
    """Deletes the reference."""
    remove(actor, credential)
