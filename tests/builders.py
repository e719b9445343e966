"""The cast of the data plane's tests: plain functions that build snapshots, keys and providers with sensible defaults."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from tokenhub.core.keys import digest_key, find_key_parts, mint_key
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
    Snapshot,
    TimeoutsSpec,
)

PEPPER = b"the pepper of the tests, 32 bytes"
EVERYTHING = frozenset(
    {"chat", "completions", "embeddings", "streaming", "tools", "vision", "json_schema", "thinking"}
)
A_PRICE = PriceSpec(
    "price-1", (("input", 2_500_000_000), ("cache_read", 1_250_000_000), ("output", 10_000_000_000))
)


def a_key(plaintext: str | None = None, **fields: Any) -> tuple[KeySpec, str]:
    """A key and its plaintext."""
    text = plaintext or mint_key()
    parts = find_key_parts(text)
    assert parts is not None
    digest = KeyDigestSpec(digest_key(text, PEPPER).hex())
    return KeySpec(**{"id": parts.key_id, "name": "the tests' key", "digests": (digest,), **fields}), text


def a_provider(name: str, kind: str, port: int, *ports: int, **fields: Any) -> ProviderSpec:
    """A provider on loopback; further ports are further endpoints."""
    endpoints = tuple(
        EndpointSpec(f"{name}-{number}", "http", "127.0.0.1", each)
        for number, each in enumerate((port, *ports))
    )
    defaults: dict[str, Any] = {
        "id": name,
        "name": name,
        "kind": kind,
        "endpoints": endpoints,
        "credentials": (CredentialSpec(f"{name}-key", "first", "env", "TOKENHUB_CRED_TESTS"),),
        "timeouts": TimeoutsSpec(connect=1.0, first_event=2.0, between_events=1.0, total=20.0),
    }
    return ProviderSpec(**{**defaults, **fields})


def a_model(provider: ProviderSpec, name: str, upstream_name: str = "", **fields: Any) -> ModelSpec:
    """A priced model that can do everything."""
    defaults: dict[str, Any] = {
        "id": f"{provider.id}:{name}",
        "name": name,
        "provider_id": provider.id,
        "upstream_name": upstream_name or name,
        "capabilities": EVERYTHING,
        "price": A_PRICE,
    }
    return ModelSpec(**{**defaults, **fields})


def an_alias(name: str, *models: ModelSpec) -> AliasSpec:
    """An alias whose targets are tried in this order."""
    return AliasSpec(name, tuple(AliasTargetSpec(model.id, number) for number, model in enumerate(models)))


def a_snapshot(
    *,
    providers: tuple[ProviderSpec, ...] = (),
    models: tuple[ModelSpec, ...] = (),
    aliases: tuple[AliasSpec, ...] = (),
    keys: tuple[KeySpec, ...] = (),
    policies: tuple[PolicySpec, ...] = (),
    revision: int = 1,
) -> Snapshot:
    """A snapshot of now."""
    return Snapshot(revision, time.time(), providers, models, aliases, keys, "", policies)


def with_timeouts(provider: ProviderSpec, **seconds: float) -> ProviderSpec:
    """The same provider with other deadlines."""
    return replace(provider, timeouts=replace(provider.timeouts, **seconds))


def list_origins(snapshot: Snapshot) -> str:
    """Every endpoint's origin, as TOKENHUB_CRED_TESTS__ORIGIN takes them."""
    endpoints = [endpoint for provider in snapshot.providers for endpoint in provider.endpoints]
    return ",".join(sorted({endpoint.origin for endpoint in endpoints}))
