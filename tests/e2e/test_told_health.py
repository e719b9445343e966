"""Four workers and a provider that limits: what one of them hears, all of them heed within two seconds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from providers.mock import mock_process
from tests.e2e.service import Service
from tests.e2e.test_crashes import stats

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("told-health")]


async def ask_all(service: Service, count: int) -> list[int]:
    """Statuses of so many requests, each on a connection of its own, so that all workers get some."""
    body = {"model": "work", "messages": [{"role": "user", "content": "hello"}]}

    async def one() -> int:
        async with httpx.AsyncClient(timeout=30) as client:
            head = {"authorization": f"Bearer {service.key}"}
            answer = await client.post(f"{service.url}/v1/chat/completions", json=body, headers=head)
            return answer.status_code

    return list(await asyncio.gather(*(one() for _ in range(count))))


TWO_PLACES = """
providers:
  - name: first
    kind: openai
    endpoints: ["{first}"]
    credentials: [{{name: main, source: env, reference: TOKENHUB_CRED_MOCK}}]
  - name: second
    kind: openai
    endpoints: ["{second}"]
    credentials: [{{name: main, source: env, reference: TOKENHUB_CRED_MOCK}}]
models:
  - {{provider: first, name: one, upstream_name: model}}
  - {{provider: second, name: two, upstream_name: model}}
aliases:
  - name: work
    targets: [{{model: first/one, priority: 0}}, {{model: second/two, priority: 1}}]
"""


async def test_a_limit_that_one_worker_meets_keeps_all_of_them_away(tmp_path: Path) -> None:
    with mock_process() as first, mock_process() as second:
        environment = {
            "TOKENHUB_CRED_MOCK": "sk-mock-0123456789",
            "TOKENHUB_CRED_MOCK__ORIGIN": f"{first.origin},{second.origin}",
        }
        with Service(tmp_path / "service", workers=4, environment=environment) as service:
            service.apply_config(TWO_PLACES.format(first=first.origin, second=second.origin))
            assert set(await ask_all(service, 20)) == {200}
            assert (stats(first)["calls"], stats(second)["calls"]) == (20, 0)
            fault = {"fault": "429:60", "count": 1}
            httpx.post(f"{first.origin}/_faults", json=fault, timeout=10).raise_for_status()
            assert await ask_all(service, 1) == [200]
            limited = time.monotonic()
            with service.admin() as admin:
                [credential] = service.until(
                    lambda: admin.request("GET", "health").json()["providers"][0]["credentials"],
                    lambda credentials: bool(credentials[0]["rests"]),
                )
            assert 50 < credential["rests"][0]["rest"] <= 60
            await asyncio.sleep(max(0.0, 2.5 - (time.monotonic() - limited)))
            before = stats(first)["calls"]
            assert set(await ask_all(service, 40)) == {200}
            assert stats(first)["calls"] == before
