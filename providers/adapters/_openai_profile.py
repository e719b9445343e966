"""How one OpenAI-compatible vendor differs: the profile settings of a provider, read. Data plane; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenhub.core.chat import Cache, Losses

FIELDS: Mapping[str, tuple[type, Any, str]] = {
    "api_path": (str, "/v1", "Path before /chat/completions; {model} is the upstream model's name (Azure deployments)."),
    "api_query": (str, "", "Query of every request, without the question mark, e.g. api-version=2024-10-21 (Azure)."),
    "auth_header": (str, "authorization", "Header of the credential, e.g. api-key (Azure)."),
    "auth_scheme": (str, "Bearer", "Word before the credential; empty for none."),
    "stream_usage": (bool, True, "Whether stream_options.include_usage is accepted."),
    "max_tokens_field": (
        str,
        "keep",
        "The only one accepted, max_tokens or max_completion_tokens; keep: the caller's own (translated: the newer).",
    ),
    "developer_role": (bool, True, "Whether the developer role is accepted; else system takes its place on translated routes."),
    "reasoning_field": (
        str,
        "",
        "Member of assistant messages that takes reasoning back: reasoning_content, reasoning or thinking_blocks; empty: none.",
    ),
    "reasoning_parameter": (
        str,
        "reasoning_effort",
        "How to ask for reasoning: reasoning_effort, reasoning (OpenRouter's object), thinking (DeepSeek, Z.ai); empty: never.",
    ),
    "supports_strict": (bool, True, "Whether strict is accepted in tools and schemas."),
    "json_schema": (bool, True, "Whether response_format json_schema is accepted; else json_object takes its place."),
    "seed_field": (str, "seed", "Name of the seed, e.g. random_seed (Mistral)."),
    "top_k": (bool, False, "Whether top_k is accepted."),
    "max_stops": (int, 4, "Most stop strings accepted; 0: no bound."),
    "service_tier": (bool, True, "Whether service_tier is accepted."),
    "cache_control": (bool, False, "Whether cache_control is accepted on parts and tools (OpenRouter, DashScope)."),
}  # fmt: skip
"""Profile settings of every OpenAI-style adapter: name → (type, default, what it does)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings as values. Names and meanings as in FIELDS; `max_tokens_field` is the field that a translated call uses."""

    api_path: str
    api_query: str
    auth_header: str
    auth_scheme: str
    stream_usage: bool
    max_tokens_field: str
    renames_max_tokens: bool
    developer_role: bool
    reasoning_field: str
    reasoning_parameter: str
    supports_strict: bool
    json_schema: bool
    seed_field: str
    top_k: bool
    max_stops: int
    service_tier: bool
    cache_control: bool

    def mark_cache(self, part: dict[str, Any], cache: Cache, losses: Losses) -> None:
        """Puts a cache breakpoint on a part or tool, or names it as lost."""
        if not self.cache_control:
            losses.dropped("cache_control")
        elif cache == "1h":
            part["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
        else:
            part["cache_control"] = {"type": "ephemeral"}


def read_profile(
    settings: Mapping[str, str | int | bool], fields: Mapping[str, tuple[type, Any, str]], newest: str
) -> Profile:
    """The profile of a provider's settings over an adapter's defaults; `newest` is what `keep` means on translated routes.

    Settings of other adapters are left alone. Raises ValueError for a value of the wrong type.
    """
    for name, (kind, _, _) in fields.items():
        if name in settings and type(settings[name]) is not kind:
            raise ValueError(f"the profile setting {name} must be {kind.__name__}")
    values = tuple(settings.get(name, default) for name, (_, default, _) in fields.items())
    return _build(tuple(fields), values, newest)


@lru_cache(maxsize=256)
def _build(names: tuple[str, ...], values: tuple[Any, ...], newest: str) -> Profile:
    found = dict(zip(names, values, strict=True))
    field = found["max_tokens_field"]
    known = {name: found[name] for name in FIELDS}
    return Profile(
        **{**known, "max_tokens_field": newest if field == "keep" else field},
        renames_max_tokens=field != "keep",
    )
