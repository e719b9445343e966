"""Decisions as the data plane keeps them: what is in one, which are kept, and who may read them."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from gateway.decisions import DecisionLog
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_body, a_head, call
from tests.gateway.serving import CREDENTIAL, RunningGateway, running_gateway
from tokenhub.core.policies import PolicySpec
from tokenhub.core.specs import Snapshot

SECRET_TEXT = "a question that nobody else may read"


async def two_targets(stack: AsyncExitStack) -> tuple[list[MockProvider], Snapshot, str]:
    """`work` goes to one provider, then to another, by score under a policy."""
    mocks = [await stack.enter_async_context(MockProvider()) for _ in range(2)]
    providers = tuple(a_provider(f"p{number}", "openai", mock.port) for number, mock in enumerate(mocks))
    models = (
        a_model(providers[0], "first", weight=9),
        a_model(providers[1], "second", weight=5),
        a_model(providers[1], "small", weight=5, context_tokens=1),
    )
    key, text = a_key(project="apollo")
    policy = PolicySpec("1", "confident", 2, mode="high_confidence")
    snapshot = a_snapshot(
        providers=providers,
        models=models,
        aliases=(an_alias("work", *models),),
        keys=(key,),
        policies=(policy,),
    )
    return mocks, snapshot, text


def kept(gateway: RunningGateway) -> list[dict[str, Any]]:
    """The documents that wait."""
    return [json.loads(one.document) for one in gateway.worker.decisions.take(1000)]


async def test_a_decision_has_each_candidate_and_each_attempt(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        mocks, snapshot, key = await two_targets(stack)
        mocks[0].fail_next("503", 1)
        async with running_gateway(snapshot, tmp_path) as gateway:
            body = a_body("openai", "work", text=f"@@tokenhub mode=high_confidence colour=red\n{SECRET_TEXT}")
            answer = await call(http, gateway, key, "openai", body)
            assert answer.status == 200
            [one] = gateway.worker.decisions.take(10)
            told = json.loads(one.document)
    assert (one.request_id, one.project, one.asked) == (
        answer.headers["x-tokenhub-request-id"],
        "apollo",
        "work",
    )
    assert (one.policy, one.model, one.provider) == ("confident@2", "second", "p1")
    assert (one.status, one.attempts) == (200, 2)
    assert told["reason"] == answer.headers["x-tokenhub-reason"]
    assert [(c["model"], c["order"]) for c in told["candidates"]] == [
        ("first", 0),
        ("second", 1),
        ("small", None),
    ]
    assert told["candidates"][2]["refused"]["rule"] == "context"
    assert told["candidates"][0]["score"] < told["candidates"][1]["score"]
    assert told["directives"] == {"mode": "high_confidence"}
    assert told["directives_ignored"] == ["colour"]
    first, second = told["attempts"]
    assert (first["outcome"], first["failure"], first["upstream_status"]) == ("failed", "transient", 503)
    assert (second["outcome"], second["purpose"], second["credential"]) == ("completed", "request", "first")
    assert told["cost_nanos"] == second["cost_nanos"] > 0
    text = one.document.decode()
    assert SECRET_TEXT not in text
    assert CREDENTIAL not in text
    assert "@@tokenhub" not in text


async def test_a_refusal_is_kept_with_its_reasons(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, snapshot, key = await two_targets(stack)
        async with running_gateway(snapshot, tmp_path) as gateway:
            body = a_body("openai", "work", text="@@tokenhub min_weight=10\nhi")
            assert (await call(http, gateway, key, "openai", body)).status == 422
            assert (await call(http, gateway, key, "openai", a_body("openai", "nothing"))).status == 404
            [told] = kept(gateway)
    assert (told["error"], told["attempts"]) == ("nothing_eligible", [])
    assert {c["refused"]["rule"] for c in told["candidates"]} == {"min_weight"}


async def test_a_lone_target_has_its_decision_too(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        await call(http, gateway, text, "openai", a_body("openai", "work"))
        [told] = kept(gateway)
        assert [c["model"] for c in told["candidates"]] == ["work"]
        assert (told["policy"], told["reason"]) == (None, "model")


async def test_above_a_rate_quiet_requests_are_left_out_and_failures_are_not(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    async with running_gateway(snapshot, tmp_path, decisions_per_second=3.0) as gateway:
        gateway.worker.decisions = DecisionLog(3.0, wall=lambda: 1.0, clock=lambda: 50.0)
        for _ in range(6):
            await call(http, gateway, text, "openai", a_body("openai", "work"))
        mock.fail_next("401", 1)
        assert (await call(http, gateway, text, "openai", a_body("openai", "work"))).status == 502
        told = kept(gateway)
    assert [one["status"] for one in told] == [200, 200, 200, 502]


async def test_none_are_kept_where_nobody_wants_them_and_never_more_than_may_wait(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    async with running_gateway(snapshot, tmp_path, decisions_per_second=0.0) as gateway:
        await call(http, gateway, text, "openai", a_body("openai", "work"))
        assert kept(gateway) == []
        log = DecisionLog(1e9, wall=lambda: 1.0, clock=lambda: 50.0, most_waiting=1)
        gateway.worker.decisions = log
        for _ in range(2):
            await call(http, gateway, text, "openai", a_body("openai", "work"))
        assert log.dropped == 1
        assert b"tokenhub_decisions_dropped_total 1" in gateway.worker.gauged_metrics().render()


async def test_a_key_reads_its_own_decisions_only(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, snapshot, key = await two_targets(stack)
        other, other_text = a_key()
        asked: list[tuple[str, str]] = []

        async def find(request_id: str, key_id: str) -> bytes | None:
            asked.append((request_id, key_id))
            return b'{"reason":"x"}' if key_id == snapshot.keys[0].id else None

        snapshot = replace(snapshot, keys=(*snapshot.keys, other))
        async with running_gateway(snapshot, tmp_path, find_decision=find) as gateway:
            url = f"{gateway.origin}/v1/decisions/req_1"
            answer = await http.get(url, headers=a_head("openai", key))
            assert (answer.status_code, answer.json()) == (200, {"reason": "x"})
            assert asked == [("req_1", snapshot.keys[0].id)]
            missing = await http.get(url, headers=a_head("openai", other_text))
            assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
            assert (await http.get(url)).status_code == 401
            assert (await http.post(url, headers=a_head("openai", key))).status_code == 405
