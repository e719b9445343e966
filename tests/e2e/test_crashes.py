"""Crash drills on the whole product: whatever dies with 500 requests in flight, the ledger ends equal to the provider's count."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.mock import MockProcess, mock_process
from tests.e2e.service import Row, Service
from tests.fakes.temporary_postgres import TemporaryPostgres, start_postgres

IN_FLIGHT = 500
OUTAGE_SECONDS = float(os.environ.get("TEST_OUTAGE_SECONDS", "8"))
PROVIDER = """
providers:
  - name: mock
    kind: openai
    endpoints: ["{origin}"]
    credentials: [{{name: main, source: env, reference: TOKENHUB_CRED_MOCK}}]
    first_event_timeout: 60
    between_events_timeout: 60
models:
  - {{provider: mock, name: work, upstream_name: model, weight: 5, price: {{input: "2.50", output: "10"}}}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("crashes"),
]  # one after the other, however many test processes


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TemporaryPostgres | None]:
    """None for SQLite, or a Postgres server of this test's own."""
    if request.param == "sqlite":
        yield None
        return
    server = start_postgres(tmp_path / "postgres")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def installation(
    folder: Path, mock: MockProcess, database: TemporaryPostgres | None, workers: int = 2
) -> Iterator[Service]:
    """A running service whose model `work` is the mock's."""
    environment = {
        "TOKENHUB_CRED_MOCK": "sk-mock-0123456789",
        "TOKENHUB_CRED_MOCK__ORIGIN": mock.origin,
        "TOKENHUB_SHUTDOWN_GRACE_SECONDS": "20",
    }
    if database is not None:
        environment["TOKENHUB_DATABASE_URL"] = database.url
    with Service(folder, workers=workers, environment=environment) as service:
        service.apply_config(PROVIDER.format(origin=mock.origin))
        yield service


def stats(mock: MockProcess) -> dict[str, Any]:
    """The mock's own count."""
    counted: dict[str, Any] = httpx.get(f"{mock.origin}/_stats", params={"limit": 0}, timeout=10).json()
    return counted


async def until_calls(mock: MockProcess, count: int, seconds: float = 30.0) -> None:
    """Waits until the mock has this many calls."""
    deadline = time.monotonic() + seconds
    while (seen := (await asyncio.to_thread(stats, mock))["calls"]) < count:
        assert time.monotonic() < deadline, f"the mock has {seen} calls, {count} were sent"
        await asyncio.sleep(0.05)


async def send_many(service: Service, count: int = IN_FLIGHT) -> list[asyncio.Task[int]]:
    """Starts so many requests, half of them streamed; each task gives its status, 0 if it broke."""
    client = httpx.AsyncClient(
        base_url=service.url, timeout=120, limits=httpx.Limits(max_connections=None), trust_env=False
    )
    left = count

    async def one(number: int) -> int:
        nonlocal left
        body = {
            "model": "work",
            "messages": [{"role": "user", "content": f"hello {number}"}],
            "stream": number % 2 == 0,
        }
        try:
            response = await client.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {service.key}"}
            )
        except httpx.TransportError:
            return 0
        finally:
            left -= 1
            if not left:
                await client.aclose()
        return response.status_code

    return [asyncio.create_task(one(number)) for number in range(count)]


def settled_rows(service: Service, count: int, seconds: float = 40.0) -> list[Row]:
    """The ledger's rows of the mock provider once there are so many; fails on one too many or a duplicate."""

    def look() -> list[Row]:
        return service.sql("SELECT * FROM usage_usagerecord WHERE provider = 'mock'")

    rows = service.until(look, lambda rows: len(rows) >= count, seconds)
    time.sleep(1.5)
    rows = look()
    assert len(rows) == count
    assert len({row["attempt_id"] for row in rows}) == count
    return rows


def assert_tokens_equal(rows: list[Row], counted: dict[str, Any]) -> None:
    """What the ledger says was used is what the mock says it gave."""
    assert sum(row["input"] for row in rows) == counted["usage"]["input_tokens"]
    assert sum(row["output"] for row in rows) == counted["usage"]["output_tokens"]
    for row in rows:
        assert row["cost_nanos"] == row["input"] * 2500 + row["output"] * 10000


async def test_sigkill_with_500_in_flight_loses_and_doubles_no_row(
    database: TemporaryPostgres | None, tmp_path: Path
) -> None:
    with mock_process(latency=20.0) as slow, installation(tmp_path / "service", slow, database) as service:
        tasks = await send_many(service)
        await until_calls(slow, IN_FLIGHT)
        service.kill()
        await asyncio.gather(*tasks)
        service.start()
        service.wait_ready()
        rows = await asyncio.to_thread(settled_rows, service, stats(slow)["calls"])
        assert {row["outcome"] for row in rows} == {"unsettled"}
        assert {row["usage_source"] for row in rows} == {"estimated"}
        assert all(row["input"] > 0 and row["cost_nanos"] > 0 for row in rows)


async def test_sigkill_of_one_worker_leaves_the_other_serving_and_every_row_in_place(
    database: TemporaryPostgres | None, tmp_path: Path
) -> None:
    with mock_process(latency=3.0) as mock, installation(tmp_path / "service", mock, database) as service:
        tasks = await send_many(service)
        await until_calls(mock, IN_FLIGHT)
        victim = service.sql("SELECT pid FROM snapshots_workerstatus")[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        statuses = await asyncio.gather(*tasks)
        rows = await asyncio.to_thread(settled_rows, service, stats(mock)["calls"])
        assert {row["outcome"] for row in rows} == {"completed", "unsettled"}
        assert statuses.count(200) == sum(row["outcome"] == "completed" for row in rows)


async def test_sigterm_with_500_in_flight_lets_each_one_end_and_books_it(
    database: TemporaryPostgres | None, tmp_path: Path
) -> None:
    with (
        mock_process(latency=2.0, gap=0.02) as mock,
        installation(tmp_path / "service", mock, database) as service,
    ):
        tasks = await send_many(service)
        await until_calls(mock, IN_FLIGHT)
        code = await asyncio.to_thread(service.terminate, 60)
        statuses = await asyncio.gather(*tasks)
        assert code == 0
        assert set(statuses) == {200}
        rows = await asyncio.to_thread(settled_rows, service, IN_FLIGHT)
        assert {row["outcome"] for row in rows} == {"completed"}
        assert_tokens_equal(rows, stats(mock))


async def test_a_stopped_database_costs_no_request_and_no_row(tmp_path: Path) -> None:
    server = start_postgres(tmp_path / "postgres")
    try:
        with mock_process(latency=1.0) as mock, installation(tmp_path / "service", mock, server) as service:
            tasks = await send_many(service)
            await until_calls(mock, IN_FLIGHT)
            server.process.send_signal(
                signal.SIGSTOP
            )  # A database that hangs is worse than one that is gone.
            statuses = await asyncio.gather(*tasks)
            assert set(statuses) == {200}
            more = await send_many(service, 100)
            assert set(await asyncio.gather(*more)) == {200}
            assert httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200
            await asyncio.sleep(OUTAGE_SECONDS)
            server.process.send_signal(signal.SIGCONT)
            rows = await asyncio.to_thread(settled_rows, service, IN_FLIGHT + 100)
            assert_tokens_equal(rows, stats(mock))
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


async def test_the_service_starts_and_serves_while_its_database_is_gone(tmp_path: Path) -> None:
    server = start_postgres(tmp_path / "postgres")
    try:
        with mock_process() as mock, installation(tmp_path / "service", mock, server, workers=1) as service:
            service.terminate()
            server.process.send_signal(signal.SIGSTOP)
            service.start()
            await asyncio.to_thread(service.wait_ready, 60)
            assert set(await asyncio.gather(*await send_many(service, 20))) == {200}
            server.process.send_signal(signal.SIGCONT)
            rows = await asyncio.to_thread(settled_rows, service, 20)
            assert_tokens_equal(rows, stats(mock))
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()
