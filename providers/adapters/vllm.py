"""vLLM's OpenAI-compatible server: OpenAI's formats, its own error envelopes and limits. Data plane; pure, no I/O.

Since 0.11 vLLM serves /v1/messages too, but its errors there are not Anthropic's (`BadRequestError` types, OpenAI's envelope
for malformed bodies) and older servers answer 404. So Anthropic calls are translated, which serves every version alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from providers.adapters._openai_profile import FIELDS
from providers.adapters.openai import OpenAI

_DEFAULTS: Mapping[str, Any] = {
    "reasoning_field": "reasoning",
    "supports_strict": True,
    "top_k": True,
    "max_stops": 0,
    "service_tier": False,
}


class VLLM(OpenAI):
    """vLLM 0.6 and newer. Errors with integer codes and the flat envelope of 0.9 and older are read as OpenAI's are."""

    kind: ClassVar[str] = "vllm"
    label: ClassVar[str] = "vLLM"
    default_origin: ClassVar[str] = "http://localhost:8000"
    profile_fields: ClassVar[Mapping[str, tuple[type, Any, str]]] = {
        name: (field[0], _DEFAULTS.get(name, field[1]), field[2]) for name, field in FIELDS.items()
    }
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"chat", "completions", "streaming", "tools", "json_schema"}
    )
    health_path: ClassVar[str] = "/health"
    """200 with an empty body while the engine lives; outside of `api_path`, without a credential."""
    newest_limit: ClassVar[str] = "max_tokens"
