"""An endpoint that leads to a denied address: a clear 502 without the address, nothing used in the books, the next target tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import httpx
import pytest

from gateway.probes import is_healthy
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import Client, a_body, call
from tests.gateway.serving import running_gateway
from tests.outbound.listening import listening
from tokenhub.core.addresses import PrivateOrigins, read_private_origins
from tokenhub.core.specs import EndpointSpec, ProviderSpec

CLIENTS: tuple[Client, ...] = get_args(Client)
NOWHERE_PRIVATE = PrivateOrigins(())


def at(provider: ProviderSpec, host: str, port: int) -> ProviderSpec:
    """The provider with one endpoint there."""
    return replace(provider, endpoints=(EndpointSpec(f"{provider.id}-0", "http", host, port),))


@pytest.mark.parametrize("upstream_client", ["http1", "aiohttp"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "host", ["10.20.30.40", "169.254.169.254", "fd00:ec2::254", "localhost", "127.0.0.1"]
)
async def test_the_caller_is_told_the_mend_and_no_address(
    http: httpx.AsyncClient, tmp_path: Path, upstream_client: str, client: Client, stream: bool, host: str
) -> None:
    with listening("127.0.0.1") as door:
        provider = at(a_provider("inner", "openai", 1), host, door.port)
        model = a_model(provider, "m")
        key, text = a_key()
        snapshot = a_snapshot(providers=(provider,), models=(model,), keys=(key,))
        async with running_gateway(
            snapshot, tmp_path, upstream_client=upstream_client, private_origins=NOWHERE_PRIVATE
        ) as gateway:
            answered = await call(http, gateway, text, client, a_body(client, "m", stream=stream))
            (final,) = await gateway.settled(1)
        assert door.count() == 0
        assert door.attempts().count(host) == (1 if host == "127.0.0.1" else 0), "only the test's own call"
    assert answered.status == 502
    told = answered.raw.decode()
    assert "inner/m" in told
    assert "endpoint is not allowed" in told
    assert "TOKENHUB_ALLOW_PRIVATE_ORIGINS" in told
    assert "endpoint_not_allowed" in told
    assert host not in told
    assert str(door.port) not in told
    assert (final.outcome, final.status, final.usage.source, final.cost_nanos) == ("failed", 0, "none", 0)
    assert final.usage.input == final.usage.output == 0


async def test_the_next_target_serves_and_the_denied_one_rests(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    inner = at(a_provider("inner", "openai", 1), "10.20.30.40", 8000)
    outer = a_provider("outer", "openai", mock.port)
    first, second = a_model(inner, "first"), a_model(outer, "second", "model")
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(inner, outer),
        models=(first, second),
        aliases=(an_alias("work", first, second),),
        keys=(key,),
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        answered = await call(http, gateway, text, "openai", a_body("openai", "work"))
        finals = await gateway.settled(2)
        assert list(gateway.worker.board.resting_endpoints()) == ["inner-0"]
    assert (answered.status, answered.headers["x-tokenhub-attempts"]) == (200, "2")
    assert [final.outcome for final in finals] == ["failed", "completed"]


async def test_health_pages_are_asked_through_the_same_guard(mock: MockProvider, tmp_path: Path) -> None:
    key, _ = a_key()
    for private, healthy in (
        (NOWHERE_PRIVATE, False),
        (read_private_origins(["localhost"]), True),
    ):
        async with running_gateway(
            a_snapshot(keys=(key,)), tmp_path / str(healthy), private_origins=private
        ) as gateway:
            endpoint = EndpointSpec("e", "http", "localhost", mock.port)
            assert await is_healthy(endpoint, "/health", gateway.worker.network) is healthy
