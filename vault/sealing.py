"""Seals, replaces and deletes the secrets of credentials. Control plane; write-only.

A secret is sealed once for each origin that its provider has when it is entered, and bound to the provider's kind and the
header that carries it. Whoever points the provider elsewhere afterwards gets a provider without a key, not the key.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from providers.adapters.registry import list_adapters
from tokenhub.control.actors import Actor
from tokenhub.core.errors import InvalidRequest
from vault.audit import change
from vault.engine.buffers import SecretBuffer
from vault.engine.hierarchy import fingerprint
from vault.engine.origins import origin_of
from vault.keyring import MAX_SECRET_BYTES
from vault.leftovers import leftovers
from vault.models import Credential
from vault.opened import OpenedVault, opened_vault
from vault.places import place_of_secret
from vault.trail import hold_trail
from vault.vault_manifest import changing_rows
from vault.vault_models import SealedSecret, make_id

MAX_OVERLAP = timedelta(days=30)
SHOWN_FROM = 16
"""Secrets of so many characters or more show their last four: of a shorter one that would be too much."""


def seal_secret(
    actor: Actor,
    credential: Credential,
    plaintext: str,
    *,
    overlap: timedelta = timedelta(0),
    now: datetime | None = None,
) -> Credential:
    """Seals a secret as the credential's next version, whose source becomes `vault`. Replaces what was sealed before.

    With an `overlap` the version before stays good for so long beside the new one. Raises VaultLocked; RowsDiffer;
    InvalidRequest (`param` secret) for what can't stand in a header, or where the provider has no endpoint.
    """
    leftovers.note()
    check_secret(plaintext)
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise InvalidRequest(f"an overlap is between 0 and {MAX_OVERLAP.days} days", param="overlap_seconds")
    moment = now or timezone.now()
    opened = opened_vault.get()
    with (
        SecretBuffer.adopt(bytearray(plaintext, "ascii")) as secret,
        change(actor, "credential.seal", credential),
    ):
        credential.refresh_from_db()
        with changing_rows(opened):
            _end_earlier(credential, moment, overlap)
            credential.source, credential.reference = Credential.Source.VAULT, ""
            credential.version += 1
            credential.full_clean()
            credential.save(update_fields=["source", "reference", "version"])
            shown = plaintext[-4:] if len(plaintext) >= SHOWN_FROM else ""
            for origin in list_origins(credential.provider):
                _seal_row(opened, credential, origin, secret, shown)
    return credential


def delete_secrets(actor: Actor, credentials: QuerySet[Credential]) -> int:
    """Deletes what is sealed for these credentials; how many rows. Before they are deleted, or point elsewhere.

    Nothing sealed needs no vault. Raises VaultLocked: only an open vault can sign that rows are gone.
    """
    rows = SealedSecret.objects.filter(credential__in=credentials)
    count = 0
    with transaction.atomic():
        # Before the look: a key that is being sealed meanwhile would come after it, and be cascaded away unsigned.
        hold_trail()
        if not rows.exists():
            return 0
        for credential in credentials.order_by("pk"):
            with change(actor, "credential.delete_secrets", credential), changing_rows(opened_vault.get()):
                count += SealedSecret.objects.filter(credential=credential).delete()[0]
    return count


def delete_expired(*, now: datetime | None = None) -> int:
    """Deletes replaced secrets whose overlap is over; how many rows. Raises VaultLocked."""
    moment = now or timezone.now()
    over = SealedSecret.objects.filter(good_until__lte=moment)
    if not over.exists():
        return 0
    count = 0
    for credential in Credential.objects.filter(sealed_secrets__in=over).distinct().order_by("pk"):
        with transaction.atomic():
            hold_trail()
            # Every worker comes here at the same moment; the first has done it.
            if not over.filter(credential=credential).exists():
                continue
            with (
                change(Actor.system(), "credential.delete_expired", credential),
                changing_rows(opened_vault.get()),
            ):
                count += over.filter(credential=credential).delete()[0]
    return count


def check_secret(plaintext: str) -> None:
    """Raises InvalidRequest for a secret that can't stand in a header. The message never repeats it."""
    problem = ""
    if not plaintext:
        problem = "is empty"
    elif len(plaintext) > MAX_SECRET_BYTES:
        problem = f"is longer than {MAX_SECRET_BYTES} characters"
    elif not all("\x20" <= character <= "\x7e" for character in plaintext) or plaintext != plaintext.strip():
        problem = "holds control characters, line breaks, outer spaces or other than ASCII"
    if problem:
        raise InvalidRequest(
            f"the secret {problem}", param="secret", details={"fields": {"secret": [problem]}}
        )


def list_origins(provider: Any) -> list[str]:
    """The distinct origins of a provider's endpoints, also disabled ones. Raises InvalidRequest for none."""
    try:
        origins = sorted({origin_of(url) for url in provider.endpoints.values_list("url", flat=True)})
    except ValueError as error:
        raise InvalidRequest(
            f"an endpoint of {provider} can't be sealed to: {error}", param="secret"
        ) from None
    if not origins:
        raise InvalidRequest(
            f"{provider} has no endpoint yet: a secret is sealed to where it goes",
            param="secret",
            hint="add an endpoint first",
        )
    return origins


def auth_header_of(provider: Any) -> str:
    """The name of the header that carries this provider's credentials. Raises InvalidRequest for an unknown kind."""
    adapter = list_adapters().get(provider.kind)
    if adapter is None:
        raise InvalidRequest(f"unknown provider kind {provider.kind!r}")
    return adapter.auth_header(provider.profile)


def _end_earlier(credential: Credential, now: datetime, overlap: timedelta) -> None:
    rows = SealedSecret.objects.filter(credential=credential)
    if overlap:
        rows.filter(good_until=None).update(good_until=now + overlap)
        rows.filter(good_until__lte=now).delete()
    else:
        rows.delete()


def _seal_row(
    opened: OpenedVault, credential: Credential, origin: str, secret: SecretBuffer, shown: str
) -> None:
    provider: Any = credential.provider
    row = SealedSecret(
        id=make_id(),
        credential=credential,
        version=credential.version,
        origin=origin,
        provider_kind=provider.kind,
        auth_header=auth_header_of(provider),
        key_version=opened.keys.active,
        last4=shown,
        fingerprint=fingerprint(opened.fingerprint_key, secret),
    )
    try:
        place = place_of_secret(
            opened.vault_id,
            row.id,
            row.row_version,
            provider_kind=row.provider_kind,
            origin=row.origin,
            auth_header=row.auth_header,
        )
    except ValueError as error:
        raise InvalidRequest(f"the secret can't be sealed to {provider}: {error}", param="secret") from None
    row.record = opened.keys.seal(place, secret)
    row.full_clean(exclude=["credential"])
    row.save(force_insert=True)
