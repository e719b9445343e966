"""Where each key of a provider can go, and what a change of the provider takes away: to be said before it is saved. Control plane.

Read before and after the change, within its transaction, so that every way to change a provider is told of by one rule:
another URL, kind or auth header, an endpoint switched on, a credential deleted or pointed elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Prefetch
from django.utils import timezone

from providers.adapters.registry import list_adapters
from tokenhub.core.errors import TokenhubError
from tokenhub.core.specs import CredentialSpec
from vault.engine.origins import origin_of
from vault.keyring import Destination, Keyring
from vault.models import Credential, SealedSecret
from vault.sealing import auth_header_of


@dataclass(frozen=True, slots=True)
class CredentialReach:
    """A credential: where its key can go, and for each origin where it can't, what mends that. `sealed`: it has rows."""

    name: str
    source: str
    reference: str
    sealed: bool
    usable: frozenset[str]
    barred: Mapping[str, str]


Reach = Mapping[int, CredentialReach]
"""By the credential's id."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A key that a change makes unusable at an origin, or deletes (`origin` ""); `mend` says what brings it back."""

    credential_id: int
    name: str
    origin: str
    mend: str
    deleted: bool = False

    def tell(self, *, named: bool = True) -> str:
        """A sentence; without the credential's name for those who may not see credentials."""
        which = f"The key {self.name}" if named else "A key"
        if self.deleted:
            return f"{which}, sealed in the vault, is deleted. It can’t be brought back; it would have to be entered again."
        return f"{which} can’t be used at {self.origin} until {self.mend if named else 'it is set up for that address'}."


def read_reach(provider_id: int, *, urls: Iterable[str] | None = None) -> Reach:
    """Of the provider as it is stored: every credential, also disabled ones, at the origins of its enabled endpoints.

    `urls` in place of those endpoints', to ask before they are saved. Reads the same number of queries for any provider.
    """
    sealed = Prefetch("sealed_secrets", SealedSecret.objects.defer("record"))
    rows = Credential.objects.filter(provider_id=provider_id).select_related("provider").order_by("name")
    credentials = list(rows.prefetch_related(sealed))
    if not credentials:
        return {}
    provider: Any = credentials[0].provider
    adapter = list_adapters().get(provider.kind)
    header = "" if adapter is None else auth_header_of(provider)
    if urls is None:
        urls = provider.endpoints.filter(enabled=True).values_list("url", flat=True)
    places = [Destination(origin, provider.kind, header) for origin in sorted({_spell(url) for url in urls})]
    keyring = Keyring(os.environ, settings.TOKENHUB.credentials_dir)
    return {row.pk: _reach_of(row, places, keyring) for row in credentials}


def _reach_of(row: Credential, places: list[Destination], keyring: Keyring) -> CredentialReach:
    usable, barred = set[str](), dict[str, str]()
    secrets = list(row.sealed_secrets.all()) if row.source == Credential.Source.VAULT else []
    now = timezone.now()
    live = {
        Destination(one.origin, one.provider_kind, one.auth_header)
        for one in secrets
        if one.good_until is None or one.good_until > now
    }
    spec = CredentialSpec(id=str(row.pk), name=row.name, source=row.source, reference=row.reference)  # type: ignore[arg-type]
    for place_there in places:
        mend = _find_bar(spec, place_there, live, keyring)
        if mend is None:
            usable.add(place_there.origin)
        else:
            barred[place_there.origin] = mend
    return CredentialReach(row.name, row.source, row.reference, bool(secrets), frozenset(usable), barred)


def _find_bar(
    spec: CredentialSpec, place: Destination, sealed_for: set[Destination], keyring: Keyring
) -> str | None:
    """What has to be done before the key can go there; None: it can."""
    if spec.source == "vault":
        return None if place in sealed_for else "it is entered again"
    try:
        # As this process knows its variables and files: the workers' are the same, or they would not serve it now.
        keyring.get_secret(spec, place)
    except TokenhubError:
        if spec.source == "env":
            return f"{spec.reference}__ORIGIN names that address too and Tokenhub was started again"
        return f"the file {spec.reference}.origin names that address too"
    return None


def find_losses(before: Reach, after: Reach) -> list[Loss]:
    """What could be used before and can't any more where the provider is then. New credentials have lost nothing."""
    losses = []
    for credential_id, had in before.items():
        has = after.get(credential_id)
        if had.sealed and (has is None or not has.sealed):
            losses.append(Loss(credential_id, had.name, "", "", deleted=True))
        elif has is not None and had.usable and (had.source, had.reference) == (has.source, has.reference):
            losses += [
                Loss(credential_id, has.name, origin, mend)
                for origin, mend in has.barred.items()
                if origin not in had.barred
            ]
    return losses


def _spell(url: str) -> str:
    try:
        return origin_of(url)
    except ValueError:
        return url
