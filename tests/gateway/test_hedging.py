"""A second attempt beside a slow first one: who answers, what the other costs, and what bounds it. Real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.mock import MockOptions, MockProvider
from providers.simulation import Settings
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import Client, a_body, a_head, call
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.policies import HedgeSpec, PolicySpec
from tokenhub.core.specs import Snapshot, TimeoutsSpec

AFTER = HedgeSpec(enabled=True, after_ms=60, max_share=1.0)
BOTH = pytest.mark.parametrize("client", ["openai", "anthropic"])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def two_places(slow: MockProvider, quick: MockProvider, hedge: HedgeSpec = AFTER) -> tuple[Snapshot, str]:
    """`work` is asked of `slow` first, under a policy that hedges."""
    one, two = a_provider("slow", "openai", slow.port), a_provider("quick", "anthropic", quick.port)
    models = (a_model(one, "first"), a_model(two, "second"))
    policy = PolicySpec("p", "hedged", 1, strategy="priority", hedge=hedge)
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(one, two),
        models=models,
        aliases=(an_alias("work", *models),),
        keys=(key,),
        policies=(policy,),
    )
    return snapshot, text


@asynccontextmanager
async def a_slow_one(seconds: float) -> AsyncIterator[MockProvider]:
    async with MockProvider(MockOptions(settings=Settings(latency=seconds))) as slow:
        yield slow


@BOTH
@STREAM
async def test_the_second_answers_for_a_slow_first_one_and_both_are_accounted(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    async with a_slow_one(5.0) as slow:
        snapshot, key = two_places(slow, mock)
        async with running_gateway(snapshot, tmp_path) as gateway:
            began = time.monotonic()
            answer = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
            took = time.monotonic() - began
            assert (answer.status, answer.headers["x-tokenhub-provider"]) == (200, "quick")
            assert answer.headers["x-tokenhub-attempts"] == "2"
            assert answer.text
            assert answer.ended or not stream
            assert 0.06 <= took < 4.0
            finals = await gateway.settled(2)
            intents, _ = gateway.records()
            purposes = {intent.attempt_id: (intent.number, intent.purpose) for intent in intents}
            told = {purposes[final.attempt_id]: final for final in finals}
            loser, winner = told[1, "request"], told[2, "hedge"]
            assert (winner.outcome, loser.outcome) == ("completed", "cancelled")
            assert (loser.usage.input, loser.usage.source) == (intents[0].input_estimate, "estimated")
            assert loser.cost_nanos
            assert gateway.worker.board.total_in_flight == 0
            assert gateway.worker.metrics.counters["hedges"] == {("quick", "won"): 1}
            assert gateway.worker.board.measure(snapshot.models[0]).ttft >= 0.06
        await slow.until(lambda stats: stats["in_progress"] == 0)
        assert slow.calls()[0].closed_by_client


@STREAM
async def test_the_first_one_may_still_win(http: httpx.AsyncClient, tmp_path: Path, stream: bool) -> None:
    async with a_slow_one(0.4) as slow, a_slow_one(5.0) as slower:
        snapshot, key = two_places(slow, slower)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, "openai", a_body("openai", "work", stream=stream))
            assert (answer.status, answer.headers["x-tokenhub-provider"]) == (200, "slow")
            finals = await gateway.settled(2)
            assert sorted(final.outcome for final in finals) == ["cancelled", "completed"]
            assert gateway.worker.metrics.counters["hedges"] == {("quick", "lost"): 1}
            assert gateway.worker.board.total_in_flight == 0


@STREAM
async def test_a_quick_first_one_is_not_hedged(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, stream: bool
) -> None:
    async with MockProvider() as second:
        snapshot, key = two_places(mock, second, replace(AFTER, after_ms=2000))
        async with running_gateway(snapshot, tmp_path) as gateway:
            for _ in range(5):
                answer = await call(http, gateway, key, "openai", a_body("openai", "work", stream=stream))
                assert answer.headers["x-tokenhub-provider"] == "slow"
            await gateway.settled(5)
            assert second.stats()["calls"] == 0


@STREAM
async def test_two_that_fail_are_two_failures_and_another_target_is_tried(
    http: httpx.AsyncClient, tmp_path: Path, stream: bool
) -> None:
    async with a_slow_one(0.3) as slow, a_slow_one(0.3) as also, MockProvider() as third:
        snapshot, key = two_places(slow, also)
        last = a_provider("third", "openai", third.port)
        models = (*snapshot.models, a_model(last, "third"))
        snapshot = replace(
            snapshot,
            providers=(*snapshot.providers, last),
            models=models,
            aliases=(an_alias("work", *models),),
        )
        slow.fail_next("503", 1)
        also.fail_next("503", 1)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, "openai", a_body("openai", "work", stream=stream))
            assert (answer.status, answer.headers["x-tokenhub-provider"]) == (200, "third")
            assert answer.headers["x-tokenhub-attempts"] == "3"
            finals = await gateway.settled(3)
            assert [final.outcome for final in finals] == ["failed", "failed", "completed"]


async def test_a_policys_share_bounds_its_second_attempts(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with a_slow_one(0.15) as slow, a_slow_one(0.15) as also:
        snapshot, key = two_places(slow, also, HedgeSpec(enabled=True, after_ms=20, max_share=0.1))
        async with running_gateway(snapshot, tmp_path) as gateway:
            for _ in range(30):
                answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
                assert answer.status == 200
            hedged = sum(gateway.worker.metrics.counters["hedges"].values())
            # Two from the start, and one of ten.
            assert 3 <= hedged <= 5
            await gateway.settled(30 + hedged)


@STREAM
@pytest.mark.parametrize("why", ["caller", "total"])
async def test_whatever_ends_the_request_ends_both(
    http: httpx.AsyncClient, tmp_path: Path, stream: bool, why: str
) -> None:
    async with a_slow_one(30.0) as slow, a_slow_one(30.0) as also:
        snapshot, key = two_places(slow, also)
        timeouts = TimeoutsSpec(connect=1, first_event=20, between_events=20, total=0.6)
        if why == "total":
            providers = tuple(replace(provider, timeouts=timeouts) for provider in snapshot.providers)
        else:
            longer = replace(timeouts, total=20)
            providers = tuple(replace(provider, timeouts=longer) for provider in snapshot.providers)
        async with running_gateway(replace(snapshot, providers=providers), tmp_path) as gateway:
            body = a_body("openai", "work", stream=stream)
            if why == "total":
                answer = await call(http, gateway, key, "openai", body)
                assert answer.status == 504
                assert answer.body is not None
                assert answer.body["error"]["code"] == "deadline_total"
                outcome = "failed"
            else:
                outcome = "cancelled"
                await leave(http, gateway, key, body)
            finals = await gateway.settled(2)
            assert [final.outcome for final in finals] == [outcome, outcome]
            assert gateway.worker.board.total_in_flight == 0
        await slow.until(lambda stats: stats["in_progress"] == 0)
        await also.until(lambda stats: stats["in_progress"] == 0)


async def leave(http: httpx.AsyncClient, gateway: RunningGateway, key: str, body: dict[str, Any]) -> None:
    """Goes away once both attempts are under way."""
    url = f"{gateway.origin}/v1/chat/completions"
    asking = asyncio.create_task(http.post(url, json=body, headers=a_head("openai", key)))
    async with asyncio.timeout(10):
        while gateway.worker.board.total_in_flight < 2:
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_stream_is_hedged_after_its_targets_own_95th_percentile(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider() as usual, MockProvider() as second:
        snapshot, key = two_places(usual, second, HedgeSpec(enabled=True, max_share=1.0))
        async with running_gateway(snapshot, tmp_path) as gateway:
            body = a_body("openai", "work", stream=True)
            for _ in range(25):
                await call(http, gateway, key, "openai", body)
            assert gateway.worker.board.measure(snapshot.models[0]).quantile(0.95) is not None
            before = second.stats()["calls"]
            usual.fail_next("slow:3000", 1)
            answer = await call(http, gateway, key, "openai", body)
            assert answer.headers["x-tokenhub-provider"] == "quick"
            assert second.stats()["calls"] == before + 1
