"""Changes of credential references. Control plane; a sealed secret is `vault.sealing`'s."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from tokenhub.control.actors import Actor
from tokenhub.core.errors import InvalidRequest
from vault.audit import add, alter, check_fields, remove
from vault.models import Credential
from vault.sealing import delete_secrets, seal_secret

CREDENTIAL_FIELDS = ("name", "source", "reference", "weight", "enabled")
NO_OVERLAP = timedelta(0)


def create_credential(
    actor: Actor,
    *,
    provider: Any,
    secret: str | None = None,
    overlap: timedelta = NO_OVERLAP,
    **fields: Any,
) -> Credential:
    """A credential of a `providers.Provider`. `fields`: CREDENTIAL_FIELDS. A `secret` is sealed, for the source vault only."""
    check_fields(Credential, fields, CREDENTIAL_FIELDS)
    if secret is None:
        return add(actor, Credential(provider=provider, **fields))
    _check_source(fields)
    with transaction.atomic():
        row = add(actor, Credential(provider=provider, **{**fields, "source": Credential.Source.VAULT}))
        return seal_secret(actor, row, secret)


def update_credential(
    actor: Actor,
    credential: Credential,
    *,
    secret: str | None = None,
    overlap: timedelta = NO_OVERLAP,
    **changes: Any,
) -> Credential:
    """Changes CREDENTIAL_FIELDS. Pointing it somewhere else makes it a new version, and deletes what was sealed for it.

    A `secret` is sealed in place of the one before, which stays good for `overlap`.
    """
    if secret is not None:
        _check_source(changes)
        changes.pop("source", None)
        check_fields(Credential, changes, CREDENTIAL_FIELDS)
        with transaction.atomic():
            seal_secret(actor, credential, secret, overlap=overlap)
            return update_credential(actor, credential, **changes) if changes else credential
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


def _check_source(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest where a secret comes together with another source, or a reference."""
    if fields.get("source", Credential.Source.VAULT) != Credential.Source.VAULT or fields.get("reference"):
        raise InvalidRequest(
            "a secret is sealed in the vault; leave source and reference out", param="secret"
        )
