"""`Idempotency-Key` and the answer cache on running installations of four workers: one call, whichever worker is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.accounting import process_tree
from providers.mock import MockProcess, mock_process
from tests.e2e.service import Service
from tests.e2e.test_crashes import installation, stats, until_calls
from tests.fakes.temporary_postgres import start_postgres

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("idempotency")]


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with mock_process(latency=0.4) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def service(
    request: pytest.FixtureRequest, mock: MockProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("idempotency")
    server = start_postgres(folder / "postgres") if request.param == "postgres" else None
    try:
        with installation(folder / "service", mock, server, workers=4) as running:
            yield running
    finally:
        if server is not None:
            server.stop()


async def ask(client: httpx.AsyncClient, service: Service, name: str, text: str = "hello") -> httpx.Response:
    body = {"model": "work", "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": f"Bearer {service.key}", "idempotency-key": name}
    return await client.post(f"{service.url}/v1/chat/completions", json=body, headers=headers)


async def test_fifty_at_once_are_one_call_and_one_answer(service: Service, mock: MockProcess) -> None:
    before = stats(mock)["calls"]
    # A connection for each, so that the kernel spreads them over the workers.
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=50)) as client:
        answers = await asyncio.gather(*(ask(client, service, "order-1") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("x-tokenhub-idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert stats(mock)["calls"] == before + 1
    async with httpx.AsyncClient(timeout=60) as client:
        conflict = await ask(client, service, "order-1", "another text")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "idempotency_conflict")


async def until_told(service: Service, admin: httpx.Client, path: str, name: str, value: int) -> None:
    """Waits until the admin API tells that figure."""
    await asyncio.to_thread(
        service.until, lambda: [admin.get(path).json()], lambda told: told[0][name] == value
    )


async def test_a_project_that_keeps_answers_pays_once_over_all_workers(
    service: Service, mock: MockProcess
) -> None:
    with service.admin() as admin:

        def make(path: str, **fields: Any) -> dict[str, Any]:
            answer = admin.post(path, json=fields)
            assert answer.status_code == 201, answer.text
            made: dict[str, Any] = answer.json()
            return made

        team = make("teams", name="Red", slug="red")
        project = make("projects", team=team["id"], name="Apollo", slug="apollo", cache_seconds=600)
        key = make("api-keys", name="apollo", team=team["id"], project=project["id"])["secret"]
        service.wait_revision()
        before = stats(mock)["calls"]
        body = {"model": "work", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {key}"}

        async def one() -> httpx.Response:
            async with httpx.AsyncClient(timeout=60) as client:
                return await client.post(f"{service.url}/v1/chat/completions", json=body, headers=headers)

        first = await one()
        assert (first.status_code, first.headers["x-tokenhub-cache"]) == (200, "miss")
        cache = f"projects/{project['id']}/cache"
        await until_told(service, admin, cache, "answers", 1)
        # New connections, so that the kernel spreads them over the workers.
        answers = [await one() for _ in range(20)]
        assert {answer.headers["x-tokenhub-cache"] for answer in answers} == {"hit"}
        assert {answer.content for answer in answers} == {first.content}
        assert stats(mock)["calls"] == before + 1
        await until_told(service, admin, cache, "hits", 20)
        with service.administrator() as person:
            page = person.page(f"/admin/access/project/{project['id']}/change/")
        assert "1 answer kept; in 30 days 20 answers given again" in page
        assert admin.delete(cache).status_code == 204
        assert (await one()).headers["x-tokenhub-cache"] == "miss"


async def test_a_killed_workers_key_is_taken_over(
    service: Service, mock: MockProcess, tmp_path: Path
) -> None:
    before = stats(mock)["calls"]
    async with httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(ask(client, service, "order-2"))
        await until_calls(mock, before + 1)
        for pid in process_tree(service.process.pid)[1:]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await asking
    await asyncio.to_thread(service.wait_ready)
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await ask(client, service, "order-2")
        again = await ask(client, service, "order-2")
    assert (answer.status_code, "x-tokenhub-idempotent-replayed" in answer.headers) == (200, False)
    assert again.content == answer.content
    assert stats(mock)["calls"] == before + 2
