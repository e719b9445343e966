"""Resting endpoints are asked at their health page; one that can't be asked does not end the watch over the others."""

from __future__ import annotations

from gateway.probes import is_healthy
from gateway.upstream.http1 import Http1Client
from providers.mock import MockProvider
from tokenhub.core.specs import EndpointSpec


async def test_an_endpoint_is_healthy_if_its_page_answers_and_not_if_it_can_not_be_asked(
    mock: MockProvider,
) -> None:
    client = Http1Client()
    try:
        good = EndpointSpec("good", "http", "127.0.0.1", mock.port)
        assert await is_healthy(good, "/health", client)
        assert not await is_healthy(EndpointSpec("bad", "http", "no host", 80), "/health", client)
        assert not await is_healthy(
            EndpointSpec("odd", "http", "127.0.0.1", mock.port, "/a b"), "/health", client
        )
    finally:
        await client.aclose()
