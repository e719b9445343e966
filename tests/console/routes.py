"""Every URL of the project with an example, found by walking the URLconf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.urls import get_resolver

_NAMED = re.compile(r"\(\?P<(\w+)>(?:\[[^\]]*\]\{1,\d+\}|\.\*|[\w|]+)\)")


def list_routes(resolver: Any = None, prefix: str = "") -> Iterator[str]:
    """Each route as Django states it, joined, without anchors: `admin/v1/teams/<pk>`."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from list_routes(pattern, route)
        else:
            yield (
                re.sub(r"<(?:path|str|int):", "<", _NAMED.sub(r"<\1>", route))
                .replace("^", "")
                .replace("$", "")
            )


API_MODELS = {
    "providers": "providers.provider",
    "endpoints": "providers.endpoint",
    "credentials": "vault.credential",
    "models": "providers.model",
    "prices": "usage.price",
    "aliases": "routing.alias",
    "policies": "routing.policy",
    "model-groups": "access.modelgroup",
    "decisions": "routing.decisionrecord",
    "teams": "access.team",
    "projects": "access.project",
    "api-keys": "access.apikey",
    "admin-tokens": "access.admintoken",
    "audit": "vault.auditentry",
    "usage": "usage.usagerecord",
    "workers": "snapshots.workerstatus",
}


def fill(route: str, ids: dict[str, str]) -> str:
    """An example URL of a route: existing ids out of `ids`, by model."""
    parts = route.split("/")
    model = (
        f"{parts[1]}.{parts[2]}"
        if len(parts) > 2 and parts[1] != "v1"
        else API_MODELS.get(parts[2] if len(parts) > 2 else "", "")
    )
    values = {
        "object_id": ids.get(model, "1"),
        "id": ids.get(model, "1"),
        "pk": ids.get(model, "1"),
        "request_id": "request-1",
        "revision": "1",
        "number": "1",
        "rest": "nowhere",
        "url": "nowhere",
        "app_label": "access",
        "content_type_id": "1",
        "kind": "password",
        "slot_id": "0" * 32,
    }
    return "/" + re.sub(r"<(\w+)>", lambda found: values[found[1]], route)
