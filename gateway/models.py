"""`GET /v1/models` and `/v1/models/{id}`: what this key may use, in OpenAI's or Anthropic's shape. Data plane."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from routing.engine.resolve import list_visible_names
from tokenhub.core.errors import InvalidRequest, ModelNotFound
from tokenhub.core.specs import KeySpec, ModelSpec, Snapshot

_MOST = 1000


def list_models(snapshot: Snapshot, key: KeySpec, headers: Mapping[bytes, bytes], query: bytes) -> bytes:
    """The list as JSON. A caller that sends `anthropic-version` gets Anthropic's pages (`limit`, `after_id`, `before_id`)."""
    names = list_visible_names(snapshot, key)
    if b"anthropic-version" in headers:
        return msgspec.json.encode(_anthropic_page(snapshot, names, query))
    return msgspec.json.encode({"object": "list", "data": [_openai_model(snapshot, name) for name in names]})


def get_model(snapshot: Snapshot, key: KeySpec, headers: Mapping[bytes, bytes], name: str) -> bytes:
    """One model as JSON. Raises ModelNotFound, also for one that this key may not see."""
    visible = list_visible_names(snapshot, key)
    if name not in visible and not _is_qualified(snapshot, visible, name):
        raise ModelNotFound(f"no model or alias is named {name[:100]!r}", param="model")
    if b"anthropic-version" in headers:
        return msgspec.json.encode(_anthropic_model(snapshot, name))
    return msgspec.json.encode(_openai_model(snapshot, name))


def _is_qualified(snapshot: Snapshot, visible: list[str], name: str) -> bool:
    """Whether it is `provider/model` of a visible model."""
    return any(model.name in visible for model in snapshot.models_by_name.get(name, ()))


def _first_model(snapshot: Snapshot, name: str) -> ModelSpec:
    alias = snapshot.alias_by_name.get(name)
    if alias is not None:
        return snapshot.model_by_id[min(alias.targets, key=lambda target: target.priority).model_id]
    return snapshot.models_by_name[name][0]


def _openai_model(snapshot: Snapshot, name: str) -> dict[str, Any]:
    model = _first_model(snapshot, name)
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": int(snapshot.created_at),
        "owned_by": snapshot.provider_by_id[model.provider_id].name,
    }
    if model.context_tokens:
        entry["max_model_len"] = entry["context_window"] = model.context_tokens
    return entry


def _anthropic_model(snapshot: Snapshot, name: str) -> dict[str, Any]:
    model = _first_model(snapshot, name)
    created = datetime.fromtimestamp(snapshot.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry: dict[str, Any] = {"type": "model", "id": name, "display_name": name, "created_at": created}
    if model.context_tokens:
        entry["max_input_tokens"] = model.context_tokens
    if model.max_output_tokens:
        entry["max_tokens"] = model.max_output_tokens
    return entry


def _anthropic_page(snapshot: Snapshot, names: list[str], query: bytes) -> dict[str, Any]:
    asked = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    text = asked.get("limit", "20")
    # At most four ASCII digits: `isdigit` takes "²", and `int` refuses thousands of digits, each with a ValueError.
    if re.fullmatch(r"[0-9]{1,4}", text) is None or not 1 <= int(text) <= _MOST:
        raise InvalidRequest(f"limit must be a whole number from 1 to {_MOST}", param="limit")
    if "after_id" in asked:
        names = [name for name in names if name > asked["after_id"]]
    page = names[: int(text)]
    if "before_id" in asked:
        names = [name for name in names if name < asked["before_id"]]
        page = names[-int(text) :]
    return {
        "data": [_anthropic_model(snapshot, name) for name in page],
        "has_more": len(names) > len(page),
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
