"""Asks resting endpoints that have a health page whether they are back, so that they return before their rest ends. Data plane.

Only endpoints that failed are asked, at most every 0.4 s, and only where the adapter names an unbilled health page.
"""

from __future__ import annotations

import asyncio

from gateway.health import HealthBoard
from gateway.upstream.seam import Origin, Upstream, UpstreamFault, UpstreamRequest
from providers.adapters.registry import get_adapter
from tokenhub.core.current import Current
from tokenhub.core.specs import EndpointSpec

INTERVAL = 0.4
TIMEOUT = 2.0


async def watch_resting(current: Current, board: HealthBoard, upstream: Upstream) -> None:
    """Runs until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL)
        for endpoint, path in find_askable(current, board):
            if await is_healthy(endpoint, path, upstream):
                board.endpoint_works(endpoint.id)


def find_askable(current: Current, board: HealthBoard) -> list[tuple[EndpointSpec, str]]:
    """The resting endpoints whose adapter has a health page, with its path."""
    resting = set(board.resting_endpoints())
    snapshot = current.find()
    if not resting or snapshot is None:
        return []
    return [
        (endpoint, path)
        for provider in snapshot.providers
        if (path := get_adapter(provider.kind).health_path)
        for endpoint in provider.endpoints
        if endpoint.id in resting
    ]


async def is_healthy(endpoint: EndpointSpec, path: str, upstream: Upstream) -> bool:
    """Whether the endpoint's health page answers 2xx within 2 s."""
    try:
        origin = Origin(endpoint.scheme, endpoint.host, endpoint.port)
        request = UpstreamRequest(origin, b"GET", (endpoint.base_path + path).encode(), (), b"")
        response = await upstream.send(request, connect_timeout=TIMEOUT, head_timeout=TIMEOUT)
    except (UpstreamFault, ValueError):
        return False  # ValueError: an address that can't be asked must not end the watch over the others.
    response.close()
    return 200 <= response.status < 300
