"""The answer cache: the same request of the same project costs once, and nobody gets what he may not."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.answer_cache import MOST_BYTES, KeptAnswer
from gateway.keeping import StoreUnavailable
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import PATHS, Client, a_body, a_head
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.specs import Snapshot

CACHE = "x-tokenhub-cache"
SECONDS = 60


class Kept:
    """A store in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, KeptAnswer]] = {}
        self.hits: list[tuple[str, KeptAnswer]] = []
        self.away = False
        self._lock = threading.Lock()

    def find(self, name: str) -> KeptAnswer | None:
        self._check()
        with self._lock:
            row = self.rows.get(name)
        return row[1] if row is not None else None

    def keep(self, name: str, tenant: str, answer: KeptAnswer, seconds: int) -> None:
        self._check()
        assert seconds == SECONDS
        with self._lock:
            self.rows[name] = (tenant, answer)

    def count_hit(self, tenant: str, answer: KeptAnswer) -> None:
        self.hits.append((tenant, answer))

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable

    async def until(self, count: int) -> None:
        """Waits until so many answers are kept."""
        async with asyncio.timeout(5):
            while len(self.rows) < count:  # the store is a thread's
                await asyncio.sleep(0.005)

    async def until_other_than(self, before: KeptAnswer) -> None:
        """Waits until another answer stands in the place of the only one."""
        async with asyncio.timeout(5):
            while next(iter(self.rows.values()))[1] is before:
                await asyncio.sleep(0.005)


def one_model(port: int, *keys: dict[str, Any]) -> tuple[Snapshot, list[str]]:
    """A snapshot with a model `work` and a key for each of `keys`, whose projects keep answers unless they say otherwise."""
    provider = a_provider("one", "openai", port)
    made = [
        a_key(**{"team": "red", "project": "apollo", "cache_seconds": SECONDS, **fields})
        for fields in (keys or ({},))
    ]
    models = (a_model(provider, "work"), a_model(provider, "other"))
    snapshot = a_snapshot(
        providers=(provider,),
        models=models,
        aliases=(an_alias("both", *models),),
        keys=tuple(key for key, _ in made),
    )
    return snapshot, [text for _, text in made]


async def ask(
    http: httpx.AsyncClient,
    gateway: RunningGateway,
    key: str,
    body: Any,
    client: Client = "openai",
    path: str = "",
    **more: str,
) -> httpx.Response:
    headers = {**a_head(client, key), "content-type": "application/json", **more}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await http.post(gateway.origin + (path or PATHS[client]), content=content, headers=headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_the_same_request_gets_the_same_answer_at_no_cost(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    snapshot, [key] = one_model(mock.port)
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        body = a_body(client, "work", stream=stream)
        first = await ask(http, gateway, key, body, client)
        assert (first.status_code, first.headers[CACHE]) == (200, "miss")
        await store.until(1)
        again = await ask(http, gateway, key, json.dumps(body, indent=3, sort_keys=True).encode(), client)
        assert (again.status_code, again.headers[CACHE]) == (200, "hit")
        assert again.content == first.content
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["x-tokenhub-model"] == "work"
        assert again.headers["x-tokenhub-attempts"] == "0"
        assert float(again.headers["x-tokenhub-cost-usd"]) == 0
        assert again.headers["x-tokenhub-reason"].endswith("cached")
        assert 0 <= int(again.headers["age"]) <= SECONDS
        assert again.headers["x-tokenhub-request-id"] != first.headers["x-tokenhub-request-id"]
        await gateway.settled(1)
        [final] = gateway.records()[1]
    [(tenant, saved)] = store.hits
    assert (tenant, saved.cost_nanos) == ("red/apollo", final.cost_nanos)
    assert (saved.input_tokens, saved.output_tokens) == (final.usage.input_total, final.usage.output_total)
    assert mock.stats()["calls"] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_envelope_tells_what_its_own_request_cost(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, stream: bool
) -> None:
    snapshot, [key] = one_model(mock.port)
    store = Kept()

    def figures(answer: httpx.Response) -> dict[str, Any]:
        text = answer.text.split("event: tokenhub\ndata: ")[-1] if stream else answer.text
        told: dict[str, Any] = json.loads(text)
        return told

    def body(name: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hello"}]
        return {"request": {"id": name, "model_hint": "work", "messages": messages, "stream": stream}}

    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        first = await ask(http, gateway, key, body("a"), path="/v1/chat")
        assert first.status_code == 200, first.text
        await store.until(1)
        again = await ask(http, gateway, key, body("b"), path="/v1/chat")
        assert (first.headers[CACHE], again.headers[CACHE]) == ("miss", "hit")
    before, after = figures(first), figures(again)
    assert (before["cost_usd"] > 0, after["cost_usd"]) == (True, 0)
    assert after["decision_id"] == again.headers["x-tokenhub-request-id"] != before["decision_id"]
    assert after["routing_reason"].endswith("cached")
    changed = {"cost_usd", "decision_id", "routing_reason"}
    assert {name: before[name] for name in before.keys() - changed} == {
        name: after[name] for name in after.keys() - changed
    }


async def test_what_makes_it_another_request_is_asked_anew(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, keys = one_model(
        mock.port, {}, {"project": "gemini"}, {"team": "blue"}, {"project": ""}, {"cache_seconds": 0}
    )
    body = a_body("openai", "work")
    directed = {**body, "messages": [{"role": "user", "content": "@@tokenhub mode=cheap\nhello"}]}
    others = [
        (keys[0], {**body, "temperature": 0.5}, {}),
        (keys[0], {**body, "stream": True}, {}),
        (keys[0], {**body, "model": "both"}, {}),
        (keys[0], directed, {}),
        (keys[0], body, {"x-tokenhub-tags": "night"}),
        (keys[1], body, {}),
        (keys[2], body, {}),
        (keys[3], body, {}),
    ]
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        await ask(http, gateway, keys[0], body)
        for number, (key, other, headers) in enumerate(others, start=2):
            await store.until(number - 1)
            answer = await ask(http, gateway, key, other, **headers)
            assert (answer.status_code, answer.headers[CACHE]) == (200, "miss"), other
        plain = await ask(http, gateway, keys[4], body)
        assert CACHE not in plain.headers
    assert mock.stats()["calls"] == 2 + len(others)
    assert not store.hits


async def test_a_key_gets_no_answer_of_a_model_that_it_may_not_use(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, [every, *bounded_to] = one_model(
        mock.port, {}, *({"allowed_models": frozenset({f"one/{name}"})} for name in ("work", "other"))
    )
    body = a_body("openai", "auto")
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        given = await ask(http, gateway, every, body)
        await store.until(1)
        name = given.headers["x-tokenhub-model"]
        at = ("work", "other").index(name)
        may = await ask(http, gateway, bounded_to[at], body)
        assert (may.headers[CACHE], may.headers["x-tokenhub-model"]) == ("hit", name)
        may_not = await ask(http, gateway, bounded_to[1 - at], body)
        assert (may_not.status_code, may_not.headers[CACHE]) == (200, "miss")
        assert may_not.headers["x-tokenhub-model"] != name


async def test_a_caller_passes_it_by(mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path) -> None:
    snapshot, [key] = one_model(mock.port)
    body = a_body("openai", "work")
    directed = {**body, "messages": [{"role": "user", "content": "@@tokenhub cache=off\nhello"}]}
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        unkept = await ask(http, gateway, key, body, **{"cache-control": "no-store"})
        directed_by = await ask(http, gateway, key, directed)
        assert (unkept.headers[CACHE], directed_by.headers[CACHE]) == ("bypass", "bypass")
        assert "x-tokenhub-directives-ignored" not in directed_by.headers
        await ask(http, gateway, key, body)
        await store.until(1)
        [(_, before)] = store.rows.values()
        anew = await ask(http, gateway, key, body, **{"cache-control": "no-cache"})
        assert anew.headers[CACHE] == "miss"
        await store.until_other_than(before)
    assert len(store.rows) == 1
    assert mock.stats()["calls"] == 4


@pytest.mark.parametrize("fault", ["503", "cut:3", "error-event:3"])
async def test_nothing_but_a_whole_good_answer_is_kept(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, fault: str
) -> None:
    snapshot, [key] = one_model(mock.port)
    body = a_body("openai", "work", stream=True)
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        mock.fail_next(fault, 1)
        await ask(http, gateway, key, body)
        gateway.worker.board.endpoint_works("one-0")
        good = await ask(http, gateway, key, body)
        assert (good.status_code, good.headers[CACHE]) == (200, "miss")
        await store.until(1)
        assert (await ask(http, gateway, key, body)).content == good.content
    assert len(store.rows) == 1


async def test_what_is_old_or_altered_or_another_peppers_is_asked_anew(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, [key] = one_model(mock.port)
    body = a_body("openai", "work")
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        await ask(http, gateway, key, body)
        await store.until(1)
        [(name, (tenant, kept))] = store.rows.items()
        old = KeptAnswer(kept.sealed, kept.model_id, 1, 1, 1, kept.at - SECONDS - 1)
        flipped = bytes([kept.sealed[0] ^ 1]) + kept.sealed[1:]
        altered = KeptAnswer(flipped, kept.model_id, 1, 1, 1, kept.at)
        short = KeptAnswer(b"", kept.model_id, 1, 1, 1, kept.at)
        for unfit in (old, altered, short):
            store.rows[name] = (tenant, unfit)
            assert (await ask(http, gateway, key, body)).headers[CACHE] == "miss"
            await store.until_other_than(unfit)
        store.rows[name] = (tenant, kept)
        assert (await ask(http, gateway, key, body)).headers[CACHE] == "hit"
    assert b"hello" not in kept.sealed
    assert name not in json.dumps(body)


async def test_a_store_that_is_away_costs_no_request(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, [key] = one_model(mock.port)
    body = a_body("openai", "work")
    store = Kept()
    store.away = True
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        answer = await ask(http, gateway, key, body)
        assert (answer.status_code, answer.headers[CACHE]) == (200, "bypass")
        large = {**body, "messages": [{"role": "user", "content": "x" * MOST_BYTES}]}
        store.away = False
        assert (await ask(http, gateway, key, large)).headers[CACHE] == "bypass"
    assert not store.rows


async def test_a_cached_answer_does_not_stand_in_for_an_idempotency_key(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Where no answers to keys are kept such a request is refused, whatever is cached."""
    snapshot, [key] = one_model(mock.port)
    body = a_body("openai", "work")
    store = Kept()
    async with running_gateway(snapshot, tmp_path, answers=store) as gateway:
        await ask(http, gateway, key, body)
        await store.until(1)
        refused = await ask(http, gateway, key, body, **{"idempotency-key": "a"})
        assert refused.status_code == 503
