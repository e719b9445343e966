"""`Idempotency-Key`: one call for however many equal requests, and one answer for all. Workers share a store in memory here."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.idempotency import Claim
from gateway.keeping import StoreUnavailable
from gateway.sealing import Sealer
from providers.mock import MockOptions, MockProvider
from providers.simulation import Settings
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import PATHS, Client, a_body, a_head
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.specs import Snapshot

TENANTS = (
    ("red", "apollo"),
    ("red", "gemini"),
    ("red", "apollo"),
    # A project's name is unique in its team only, and a key without one stands for itself.
    ("blue", "apollo"),
    ("red", ""),
    ("red", ""),
)
REPLAYED = "x-tokenhub-idempotent-replayed"


class Kept:
    """A store in memory, shared by several gateways."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.away = False
        self._lock = threading.Lock()

    def claim(self, name: str, fingerprint: str, owner: str, lease: float) -> Claim:
        self._check()
        with self._lock:
            row = self.rows.get(name)
            if row is None or (not row["done"] and row["until"] < time.monotonic()):
                until = time.monotonic() + lease
                self.rows[name] = {
                    "print": fingerprint,
                    "owner": owner,
                    "done": False,
                    "until": until,
                    "sealed": b"",
                }
                return Claim("claimed")
            if row["print"] != fingerprint:
                return Claim("other")
            return Claim("done", row["sealed"]) if row["done"] else Claim("running")

    def renew(self, name: str, owner: str, lease: float) -> None:
        self._check()
        self.rows[name]["until"] = time.monotonic() + lease

    def finish(self, name: str, owner: str, sealed: bytes) -> None:
        self._check()
        self.rows[name].update(done=True, sealed=sealed)

    def release(self, name: str, owner: str) -> None:
        self._check()
        with self._lock:
            if self.rows[name]["owner"] == owner:
                del self.rows[name]

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable


def one_model(port: int, **fields: Any) -> tuple[Snapshot, str]:
    provider = a_provider("one", "openai", port, **fields)
    key, text = a_key()
    return a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,)), text


async def ask(
    http: httpx.AsyncClient,
    gateway: RunningGateway,
    key: str,
    body: Any,
    name: str,
    client: Client = "openai",
    **more: str,
) -> httpx.Response:
    headers = {**a_head(client, key), "idempotency-key": name, **more}
    return await http.post(gateway.origin + PATHS[client], json=body, headers=headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_a_request_that_comes_again_gets_the_same_bytes_and_costs_nothing(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path, idempotency=Kept()) as gateway:
        body = a_body(client, "work", stream=stream)
        first = await ask(http, gateway, key, body, "a", client)
        again = await ask(http, gateway, key, body, "a", client)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.content == first.content
        assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
        kept = dict(again.headers)
        del kept[REPLAYED]
        assert {**kept, "date": ""} == {**first.headers, "date": ""}
        other = await ask(http, gateway, key, body, "b", client)
        assert REPLAYED not in other.headers
        await gateway.settled(2)
        assert mock.stats()["calls"] == 2


async def test_fifty_at_once_over_several_workers_are_one_call(tmp_path: Path) -> None:
    store = Kept()
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(MockProvider(MockOptions(settings=Settings(latency=0.3))))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        snapshot, key = one_model(slow.port)
        gateways = [
            await stack.enter_async_context(
                running_gateway(snapshot, tmp_path / str(number), idempotency=store)
            )
            for number in range(4)
        ]
        body = a_body("openai", "work")
        answers = await asyncio.gather(
            *(ask(http, gateways[number % 4], key, body, "same") for number in range(50))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert slow.stats()["calls"] == 1


async def test_the_same_key_with_another_request_is_a_conflict(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path, idempotency=Kept()) as gateway:
        await ask(http, gateway, key, a_body("openai", "work"), "a")
        for body, more in (
            (a_body("openai", "work", text="else"), {}),
            (a_body("openai", "work"), {"x-tokenhub-tags": "t"}),
        ):
            answer = await ask(http, gateway, key, body, "a", **more)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
        assert mock.stats()["calls"] == 1


@pytest.mark.parametrize("name", ["", "x" * 256, "with space"])
async def test_a_key_that_is_none_is_refused(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, name: str
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path, idempotency=Kept()) as gateway:
        answer = await ask(http, gateway, key, a_body("openai", "work"), name)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")
        assert mock.stats()["calls"] == 0


async def test_what_failed_may_be_tried_again_and_a_refusal_of_the_request_is_kept(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path, idempotency=Kept()) as gateway:
        mock.fail_next("401", 1)
        assert (await ask(http, gateway, key, a_body("openai", "work"), "a")).status_code == 502
        gateway.worker.board.endpoint_works("one-0")
        again = await ask(http, gateway, key, a_body("openai", "work"), "a")
        assert (again.status_code, REPLAYED in again.headers) == (200, False)
        wrong = a_body("openai", "work", temperature=9)
        refused = await ask(http, gateway, key, wrong, "b")
        calls = mock.stats()["calls"]
        kept = await ask(http, gateway, key, wrong, "b")
        assert (refused.status_code, kept.status_code, kept.content) == (400, 400, refused.content)
        assert mock.stats()["calls"] == calls


async def test_another_tenants_key_of_the_same_name_is_another(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    made = [a_key(team=team, project=project) for team, project in TENANTS]
    keys = tuple(key for key, _ in made)
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=keys)
    async with running_gateway(snapshot, tmp_path, idempotency=Kept()) as gateway:
        body = a_body("openai", "work")
        for (_, text), replayed in zip(made, (False, False, True, False, False, False), strict=True):
            answer = await ask(http, gateway, text, body, "a")
            assert (REPLAYED in answer.headers) is replayed
        assert mock.stats()["calls"] == 5


async def test_without_its_store_nothing_is_sent(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    store = Kept()
    store.away = True
    async with running_gateway(snapshot, tmp_path, idempotency=store) as gateway:
        answer = await ask(http, gateway, key, a_body("openai", "work"), "a")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert (
            await http.post(
                gateway.origin + PATHS["openai"], json=a_body("openai", "work"), headers=a_head("openai", key)
            )
        ).status_code == 200
        assert mock.stats()["calls"] == 1


async def test_a_caller_who_left_leaves_the_key_free(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with slow_provider(5.0) as slow:
        snapshot, key = one_model(slow.port)
        store = Kept()
        async with running_gateway(snapshot, tmp_path, idempotency=store) as gateway:
            asking = asyncio.create_task(ask(http, gateway, key, a_body("openai", "work"), "a"))
            async with asyncio.timeout(10):
                while gateway.worker.board.total_in_flight == 0:
                    await asyncio.sleep(0.01)
            asking.cancel()
            async with asyncio.timeout(10):
                while store.rows:
                    await asyncio.sleep(0.01)


async def test_one_that_is_long_under_way_is_told_so(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with slow_provider(1.5) as slow:
        snapshot, key = one_model(slow.port)
        async with running_gateway(snapshot, tmp_path, idempotency=Kept(), idempotency_wait=0.2) as gateway:
            body = a_body("openai", "work")
            first, second = await asyncio.gather(*(ask(http, gateway, key, body, "a") for _ in range(2)))
            early, late = sorted((first, second), key=lambda answer: -answer.status_code)
            assert (early.status_code, early.json()["error"]["code"]) == (409, "idempotency_running")
            assert early.headers["retry-after"] == "5"
            assert late.status_code == 200


@asynccontextmanager
async def slow_provider(seconds: float) -> Any:
    async with MockProvider(MockOptions(settings=Settings(latency=seconds))) as slow:
        yield slow


async def test_what_is_kept_shows_nothing(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    store = Kept()
    async with running_gateway(snapshot, tmp_path, idempotency=store) as gateway:
        answer = await ask(http, gateway, key, a_body("openai", "work"), "order-4711")
        text = answer.json()["choices"][0]["message"]["content"]
        [(name, row)] = store.rows.items()
        async with asyncio.timeout(10):
            while not row["done"]:
                await asyncio.sleep(0.01)
        assert b"order-4711" not in name.encode() + row["sealed"] + row["print"].encode()
        assert text.encode()[:20] not in row["sealed"]
        row["sealed"] = row["sealed"][:-1] + bytes([row["sealed"][-1] ^ 1])
        altered = await ask(http, gateway, key, a_body("openai", "work"), "order-4711")
        assert (altered.status_code, altered.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_what_one_request_sealed_another_does_not_open() -> None:
    one = Sealer(b"p" * 32, "test", b"name", b"content")
    sealed = one.seal(b"answer")
    assert one.open(sealed) == b"answer"
    assert sealed != one.seal(b"answer")
    for other in (
        Sealer(b"q" * 32, "test", b"name", b"content"),
        Sealer(b"p" * 32, "tests", b"name", b"content"),
        Sealer(b"p" * 32, "test", b"names", b"content"),
        Sealer(b"p" * 32, "test", b"name", b"contents"),
        Sealer(b"p" * 32, "test", b"name", b"conten", b"t"),
    ):
        assert other.open(sealed) is None
    assert one.open(sealed[:11]) is None
