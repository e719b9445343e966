"""Compiles the configuration in the database into one snapshot, in a constant number of queries. Control plane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Q

from access.models import GROUP_PREFIX, ApiKey, ApiKeySecret, ModelGroup
from providers.models import Endpoint, Model, Provider
from routing.documents import parse_document
from routing.models import Alias, AliasTarget, PolicyVersion
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import PolicySpec
from tokenhub.core.specs import (
    AliasSpec,
    AliasTargetSpec,
    CredentialSpec,
    EndpointSpec,
    KeyDigestSpec,
    KeySpec,
    ModelSpec,
    ProviderSpec,
    SealedSpec,
    Snapshot,
    TimeoutsSpec,
)
from usage.prices import find_next_change, list_current_prices
from vault.models import Credential, SealedSecret, Vault

_PORTS = {"http": 80, "https": 443}
NOTHING_SEALED: Mapping[int, tuple[SealedSpec, ...]] = {}


def compile_snapshot(now: datetime) -> Snapshot:
    """What is enabled and live at `now`, as a snapshot of revision 0. Run it where all queries see one state.

    Left out: disabled providers (with their models), endpoints, credentials and models; keys that are disabled, revoked,
    expired, without a live secret, or whose team or project is disabled. An alias keeps the targets that remain. A policy keeps its
    version whatever has become of the names in it.
    """
    providers = _compile_providers(list_sealed(now, credential__enabled=True))
    models = _compile_models({provider.id for provider in providers}, list_current_prices(now))
    return Snapshot(
        revision=0,
        created_at=0.0,
        providers=providers,
        models=models,
        aliases=_compile_aliases({model.id for model in models}),
        keys=_compile_keys(now),
        vault_id=Vault.objects.values_list("vault_id", flat=True).first() or "",
        policies=_compile_policies(),
    )


def find_due(snapshot: Snapshot, now: datetime) -> datetime | None:
    """When a snapshot's content next changes by itself, by an expiry or a coming price; None if never."""
    moment = now.timestamp()
    ends = [key.expires_at for key in snapshot.keys]
    ends += [digest.expires_at for key in snapshot.keys for digest in key.digests]
    ends += [
        sealed.good_until
        for provider in snapshot.providers
        for credential in provider.credentials
        for sealed in credential.sealed
    ]
    coming = [datetime.fromtimestamp(end, UTC) for end in ends if end > moment]
    price_at = find_next_change(now)
    return min(coming if price_at is None else [*coming, price_at], default=None)


def build_provider(
    provider: Provider,
    endpoints: Iterable[Endpoint],
    credentials: Iterable[Credential],
    sealed: Mapping[int, tuple[SealedSpec, ...]] = NOTHING_SEALED,
) -> ProviderSpec:
    """One provider as the data plane knows it; `sealed` are its credentials' secrets in the vault, by credential."""
    return ProviderSpec(
        id=str(provider.pk),
        name=provider.name,
        kind=provider.kind,
        endpoints=tuple(build_endpoint(endpoint) for endpoint in endpoints),
        credentials=tuple(
            build_credential(credential, sealed.get(credential.pk, ())) for credential in credentials
        ),
        headers=tuple((name, value) for name, value in provider.headers),
        profile=dict(provider.profile),
        timeouts=TimeoutsSpec(
            connect=provider.connect_timeout,
            first_event=provider.first_event_timeout,
            between_events=provider.between_events_timeout,
            total=provider.total_timeout,
        ),
        on_disconnect=provider.on_disconnect,
        heartbeat=provider.heartbeat_seconds,
        enabled=provider.enabled,
        draining=provider.draining,
        region=provider.region,
        retention_days=provider.retention_days,
    )


def build_endpoint(endpoint: Endpoint) -> EndpointSpec:
    """One endpoint, its URL taken apart."""
    parts = urlsplit(endpoint.url)
    scheme: Any = parts.scheme
    return EndpointSpec(
        id=str(endpoint.pk),
        scheme=scheme,
        host=parts.hostname or "",
        port=parts.port or _PORTS[scheme],
        base_path=parts.path.rstrip("/"),
        weight=endpoint.weight,
        draining=endpoint.draining,
    )


def build_credential(credential: Credential, sealed: tuple[SealedSpec, ...] = ()) -> CredentialSpec:
    """One reference to a secret."""
    return CredentialSpec(
        id=str(credential.pk),
        name=credential.name,
        source=credential.source,
        reference=credential.reference,
        weight=credential.weight,
        version=credential.version,
        sealed=sealed if credential.source == Credential.Source.VAULT else (),
    )


def build_sealed(row: SealedSecret) -> SealedSpec:
    """One sealed secret: ciphertext, and what it was sealed to."""
    return SealedSpec(
        id=row.id,
        version=row.version,
        origin=row.origin,
        provider_kind=row.provider_kind,
        auth_header=row.auth_header,
        row_version=row.row_version,
        record=bytes(row.record),
        good_until=_seconds(row.good_until),
    )


def list_sealed(now: datetime, **which: Any) -> dict[int, tuple[SealedSpec, ...]]:
    """Sealed secrets of `which` credentials by credential, newest first; those whose overlap is over are left out."""
    found: dict[int, tuple[SealedSpec, ...]] = {}
    live = SealedSecret.objects.filter(Q(good_until=None) | Q(good_until__gt=now), **which)
    for row in live.order_by("credential_id", "-version", "origin"):
        found[row.credential_id] = (*found.get(row.credential_id, ()), build_sealed(row))
    return found


def build_model(model: Model, price: PriceSpec | None) -> ModelSpec:
    """One model with the price in force."""
    return ModelSpec(
        id=str(model.pk),
        name=model.name,
        provider_id=str(model.provider_id),
        upstream_name=model.upstream_name,
        weight=model.weight,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        capabilities=frozenset(model.capabilities),
        price=price,
        expected_latency_ms=model.expected_latency_ms,
        priority=model.priority,
        enabled=model.enabled,
    )


def _compile_providers(sealed: Mapping[int, tuple[SealedSpec, ...]]) -> tuple[ProviderSpec, ...]:
    endpoints, credentials = defaultdict(list), defaultdict(list)
    for endpoint in Endpoint.objects.filter(enabled=True).order_by("id"):
        endpoints[endpoint.provider_id].append(endpoint)
    for credential in Credential.objects.filter(enabled=True).order_by("id"):
        credentials[credential.provider_id].append(credential)
    return tuple(
        build_provider(provider, endpoints[provider.pk], credentials[provider.pk], sealed)
        for provider in Provider.objects.filter(enabled=True).order_by("id")
    )


def _compile_models(provider_ids: set[str], prices: Mapping[int, PriceSpec]) -> tuple[ModelSpec, ...]:
    return tuple(
        build_model(model, prices.get(model.pk))
        for model in Model.objects.filter(enabled=True).order_by("id")
        if str(model.provider_id) in provider_ids
    )


def _compile_aliases(model_ids: set[str]) -> tuple[AliasSpec, ...]:
    targets = defaultdict(list)
    rows = AliasTarget.objects.order_by("priority", "id").values_list(
        "alias_id", "model_id", "priority", "weight"
    )
    for alias_id, model_id, priority, weight in rows:
        if str(model_id) in model_ids:
            targets[alias_id].append(AliasTargetSpec(str(model_id), priority, weight))
    rows = Alias.objects.order_by("id").values_list("id", "name", "sticky_by")
    return tuple(AliasSpec(name, tuple(targets[alias_id]), sticky_by) for alias_id, name, sticky_by in rows)


def build_policy(version: PolicyVersion) -> PolicySpec:
    """One version of a policy, which is joined. Raises InvalidRequest where its document can't be read."""
    policy = version.policy
    return parse_document(
        version.document,
        id=str(policy.pk),
        name=policy.name,
        version=version.number,
        priority=policy.priority,
    )


def _compile_policies() -> tuple[PolicySpec, ...]:
    """The published versions of enabled policies, in the order in which they are asked."""
    rows = PolicyVersion.objects.filter(state=PolicyVersion.State.PUBLISHED, policy__enabled=True)
    ordered = rows.select_related("policy").order_by("policy__priority", "policy_id")
    return tuple(build_policy(version) for version in ordered)


def _compile_groups() -> dict[str, frozenset[str]]:
    """What `group:NAME` stands for in a key's list: `provider/model` names."""
    found: dict[str, set[str]] = defaultdict(set)
    rows = ModelGroup.objects.exclude(models=None)
    for group, provider, name in rows.values_list("name", "models__provider__name", "models__name"):
        found[f"{GROUP_PREFIX}{group}"].add(f"{provider}/{name}")
    return {name: frozenset(models) for name, models in found.items()}


def _expand(allowed: Iterable[str] | None, groups: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    """A key's models, groups replaced by their models; one that is gone or empty stands for none."""
    if allowed is None:
        return None
    names: set[str] = set()
    for name in allowed:
        names |= groups.get(name, frozenset()) if name.startswith(GROUP_PREFIX) else {name}
    return frozenset(names)


def _compile_keys(now: datetime) -> tuple[KeySpec, ...]:
    """Keys by id; `KeySpec.id` is the 12 characters that stand in the key itself, which admission looks up."""
    digests, groups = _compile_digests(now), _compile_groups()
    live = ApiKey.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now),
        Q(team=None) | Q(team__enabled=True),
        Q(project=None) | Q(project__enabled=True, project__team__enabled=True),
        enabled=True,
        revoked_at=None,
    )
    rows = live.order_by("id").values_list(
        "pk",
        "key_id",
        "name",
        "scopes",
        "allowed_models",
        "expires_at",
        "team__slug",
        "project__slug",
        "project__cache_seconds",
    )
    return tuple(
        KeySpec(
            id=key_id,
            name=name,
            digests=tuple(digests[pk]),
            scopes=frozenset(scopes),
            allowed_models=_expand(allowed, groups),
            expires_at=_seconds(expires_at),
            team=team or "",
            project=project or "",
            cache_seconds=cache_seconds or 0,
        )
        for pk, key_id, name, scopes, allowed, expires_at, team, project, cache_seconds in rows
        if pk in digests
    )


def _compile_digests(now: datetime) -> dict[int, list[KeyDigestSpec]]:
    found: dict[int, list[KeyDigestSpec]] = {}
    live = ApiKeySecret.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
    rows = live.order_by("-id").values_list("key_id", "digest", "pepper_version", "expires_at")
    for key_pk, digest, version, expires_at in rows:
        found.setdefault(key_pk, []).append(KeyDigestSpec(digest, version, _seconds(expires_at)))
    return found


def _seconds(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
