"""The snapshot: everything the data plane knows, as immutable values. Secrets are references here, never values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import PolicySpec, StickyBy

CAPABILITIES = (
    "chat",
    "completions",
    "embeddings",
    "streaming",
    "tools",
    "vision",
    "json_schema",
    "thinking",
    "audio",
    "documents",
)
"""What a model may be able to do. A request goes only to models that have its operation (chat, completions, embeddings); the
others are told to operators, and decide nothing yet."""

SCOPES = ("chat", "completions", "embeddings", "models", "count_tokens")
"""What a key may be allowed to do; an empty scope list on a key allows nothing."""


@dataclass(frozen=True, slots=True)
class TimeoutsSpec:
    """Four deadlines in seconds, each by our own clock: connect, first event with content, between events, total."""

    connect: float = 5.0
    first_event: float = 300.0
    between_events: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One place where a provider is reached: scheme, host, port, and a path prefix without a trailing slash."""

    id: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    base_path: str = ""
    weight: int = 1
    draining: bool = False

    @property
    def origin(self) -> str:
        """`scheme://host:port`, always with the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SealedSpec:
    """One secret of a credential as the vault sealed it for one origin: a row's id and versions, and ciphertext.

    It opens only in its place: `vault.places` builds that from what the provider *is* (kind, the endpoint's origin, the
    adapter's auth header), never from what this row says of itself. `good_until` is Unix seconds, 0 = the current secret.
    """

    id: str
    version: int
    origin: str
    provider_kind: str
    auth_header: str
    row_version: int
    record: bytes = field(repr=False)
    good_until: float = 0.0


@dataclass(frozen=True, slots=True)
class CredentialSpec:
    """A reference to a secret: an environment variable's name, a file's path, sealed in the vault, or none. Never the secret.

    `sealed` are the source `vault`'s, newest version first; one without a row for an endpoint's origin can't be used there.
    """

    id: str
    name: str
    source: Literal["env", "file", "none", "vault"]
    reference: str = ""
    weight: int = 1
    version: int = 1
    sealed: tuple[SealedSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A provider: which adapter speaks to it, where, with which credentials, and the vendor's differences (`profile`).

    `profile` is the adapter's own settings by name; an adapter documents and checks its own. `on_disconnect` says what
    happens upstream when the caller goes away. `heartbeat` is the interval in seconds of comments on slow streams, 0 = off.
    `region` "" and `retention_days` −1: nobody said where it computes, and how long it keeps what it was sent.
    """

    id: str
    name: str
    kind: str
    endpoints: tuple[EndpointSpec, ...]
    credentials: tuple[CredentialSpec, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    profile: Mapping[str, str | int | bool] = field(default_factory=dict)
    timeouts: TimeoutsSpec = TimeoutsSpec()
    on_disconnect: Literal["abort", "drain"] = "abort"
    heartbeat: float = 0.0
    enabled: bool = True
    draining: bool = False
    region: str = ""
    retention_days: int = -1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model at one provider. `name` is what callers ask for, `upstream_name` what the provider calls it.

    Limits are tokens (0 = unknown); `weight` is capability from 0 to 10; `expected_latency_ms` is the time to the first
    token (0 = unknown). `price` is None where nobody entered one: its calls are counted as unpriced, never as free.
    """

    id: str
    name: str
    provider_id: str
    upstream_name: str
    weight: int = 5
    context_tokens: int = 0
    max_output_tokens: int = 0
    capabilities: frozenset[str] = frozenset({"chat", "streaming"})
    price: PriceSpec | None = None
    expected_latency_ms: int = 0
    priority: int = 100
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class AliasTargetSpec:
    """One target of an alias: a model's id, tried in the order of `priority` (lowest first)."""

    model_id: str
    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class AliasSpec:
    """A name that stands for ordered targets. `sticky_by`: which requests keep the target that was drawn by weight."""

    name: str
    targets: tuple[AliasTargetSpec, ...]
    sticky_by: StickyBy = "request"


@dataclass(frozen=True, slots=True)
class KeyDigestSpec:
    """One live secret of a key: its keyed digest in hexadecimal, the pepper's version, and its end (Unix seconds, 0 = none)."""

    digest: str
    pepper_version: int = 1
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class KeySpec:
    """An API key as admission sees it. `allowed_models` None: every model; names are models', `provider/model`s or aliases'.

    Two digests are live during a rotation's overlap. `expires_at` is Unix seconds, 0 = never. `cache_seconds` is for how long its
    project gives the same answer again to the same request, 0 = never.
    """

    id: str
    name: str
    digests: tuple[KeyDigestSpec, ...]
    scopes: frozenset[str] = frozenset(SCOPES)
    allowed_models: frozenset[str] | None = None
    expires_at: float = 0.0
    enabled: bool = True
    team: str = ""
    project: str = ""
    cache_seconds: int = 0

    @property
    def tenant(self) -> str:
        """Whose requests belong together: the project's, which is unique in its team, else the key's own."""
        return f"{self.team}/{self.project}" if self.project else f"key/{self.id}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it, of one revision. Look-ups are dictionaries, built once when it is decoded.

    `vault_id` is the vault's that sealed the credentials' secrets, "" where there is none. `policies` are in the order in which
    they are asked.
    """

    revision: int
    created_at: float
    providers: tuple[ProviderSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    aliases: tuple[AliasSpec, ...] = ()
    keys: tuple[KeySpec, ...] = ()
    vault_id: str = ""
    policies: tuple[PolicySpec, ...] = ()
    provider_by_id: Mapping[str, ProviderSpec] = field(init=False, repr=False, compare=False)
    model_by_id: Mapping[str, ModelSpec] = field(init=False, repr=False, compare=False)
    models_by_name: Mapping[str, tuple[ModelSpec, ...]] = field(init=False, repr=False, compare=False)
    alias_by_name: Mapping[str, AliasSpec] = field(init=False, repr=False, compare=False)
    key_by_id: Mapping[str, KeySpec] = field(init=False, repr=False, compare=False)
    policy_by_name: Mapping[str, PolicySpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        provider_by_id = {provider.id: provider for provider in self.providers}
        for name, index in (
            ("provider_by_id", provider_by_id),
            ("model_by_id", {model.id: model for model in self.models}),
            ("models_by_name", _group_models(self.models, provider_by_id)),
            ("alias_by_name", {alias.name: alias for alias in self.aliases}),
            ("key_by_id", {key.id: key for key in self.keys}),
            ("policy_by_name", {policy.name: policy for policy in self.policies}),
        ):
            object.__setattr__(self, name, MappingProxyType(index))


def _group_models(
    models: tuple[ModelSpec, ...], providers: Mapping[str, ProviderSpec]
) -> dict[str, tuple[ModelSpec, ...]]:
    """Models by each name a caller may use: `model` (several providers may serve it) and `provider/model`."""
    groups: dict[str, list[ModelSpec]] = {}
    for model in sorted(models, key=lambda item: (item.priority, item.id)):
        groups.setdefault(model.name, []).append(model)
        provider = providers.get(model.provider_id)
        if provider is not None:
            groups.setdefault(f"{provider.name}/{model.name}", []).append(model)
    return {name: tuple(group) for name, group in groups.items()}
