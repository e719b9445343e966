"""Routing on a running gateway: policies, auto, fallbacks by cause, what keeps to one target, and what a dead one costs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.mock import MockProvider, closed_port
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import Answered, a_body, a_head, call
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import AffinitySpec, BoundsSpec, ConditionSpec, PolicySpec
from tokenhub.core.specs import AliasSpec, AliasTargetSpec, Snapshot

CHEAP = PriceSpec("cheap", (("input", 10**8), ("output", 10**8)))
DEAR = PriceSpec("dear", (("input", 10**10), ("output", 10**10)))


def two_models(port: int, **key_fields: Any) -> tuple[Snapshot, str]:
    """`small` (cheap, weight 2) and `large` (dear, weight 9), each at its own provider."""
    one, two = a_provider("one", "openai", port), a_provider("two", "openai", port)
    models = (
        a_model(one, "small", weight=2, price=CHEAP, context_tokens=1000),
        a_model(two, "large", weight=9, price=DEAR, context_tokens=100_000),
    )
    key, text = a_key(**key_fields)
    return a_snapshot(providers=(one, two), models=models, keys=(key,)), text


def under(snapshot: Snapshot, *policies: PolicySpec) -> Snapshot:
    """The same under these policies."""
    return replace(snapshot, policies=policies)


async def ask(
    http: httpx.AsyncClient, gateway: RunningGateway, key: str, body: dict[str, Any], **headers: str
) -> httpx.Response:
    """One chat request with more headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post(
        f"{gateway.origin}/v1/chat/completions", json=body, headers={**a_head("openai", key), **named}
    )


def served_by(answer: Answered | httpx.Response) -> str:
    return str(answer.headers["x-tokenhub-model"])


async def test_auto_takes_what_serves_best_out_of_the_keys_models(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    cheap = PolicySpec("1", "cheap", 1, mode="cheap", when=ConditionSpec(models=frozenset({"auto"})))
    confident = PolicySpec("2", "confident", 3, mode="high_confidence")
    async with running_gateway(under(snapshot, cheap, confident), tmp_path) as gateway:
        answer = await ask(http, gateway, key, a_body("openai", "auto"))
        assert (answer.status_code, served_by(answer)) == (200, "small")
        assert answer.headers["x-tokenhub-reason"].startswith("policy=cheap@1;score")
        named = await ask(http, gateway, key, a_body("openai", "*"), x_tokenhub_policy="confident")
        assert (named.status_code, served_by(named)) == (200, "large")
        assert mock.stats()["calls"] == 2


async def test_auto_never_leaves_the_keys_models(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port, allowed_models=frozenset({"large"}))
    async with running_gateway(snapshot, tmp_path) as gateway:
        for name in ("auto", "*"):
            answer = await ask(http, gateway, key, a_body("openai", name))
            assert served_by(answer) == "large"


async def test_a_request_too_long_for_one_goes_to_the_other_and_one_too_long_for_all_is_told_why(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    policy = PolicySpec("1", "cheap", 1, mode="cheap")
    async with running_gateway(under(snapshot, policy), tmp_path) as gateway:
        body = a_body("openai", "auto", text="word " * 2000)
        answer = await ask(http, gateway, key, body)
        assert served_by(answer) == "large"
        assert "context" in answer.headers["x-tokenhub-reason"]
        refused = await ask(http, gateway, key, a_body("openai", "auto", text="word " * 100_000))
        assert refused.status_code == 422
        told = refused.json()["error"]
        assert told["code"] == "nothing_eligible"
        assert "one/small: needs" in told["message"]
        assert "two/large: needs" in told["message"]


async def test_bounds_of_a_policy_are_kept_and_told(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    bounds = BoundsSpec(max_cost_nanos=1_000_000, regions=frozenset({"eu"}))
    one, two = snapshot.providers
    snapshot = replace(snapshot, providers=(replace(one, region="us"), replace(two, region="eu")))
    async with running_gateway(under(snapshot, PolicySpec("1", "p", 1, bounds=bounds)), tmp_path) as gateway:
        refused = await ask(http, gateway, key, {**a_body("openai", "auto"), "max_tokens": 1000})
        assert refused.status_code == 422
        message = refused.json()["error"]["message"]
        assert "one/small: its region is us, not eu" in message
        assert "two/large: may cost" in message
        assert mock.stats()["calls"] == 0


async def test_an_unknown_policy_is_named(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await ask(http, gateway, key, a_body("openai", "small"), x_tokenhub_policy="gone")
        assert answer.status_code == 400
        assert "no policy in force is named 'gone'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "cause"), [("context", "context"), ("429", "rate_limit"), ("500", "any"), ("reset", "any")]
)
async def test_fallbacks_follow_the_cause_of_the_failure(
    fault: str, cause: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    other = a_provider("other", "openai", mock.port)
    causes = ("any", "context", "content_policy", "rate_limit")
    models = (
        a_model(provider, "first", f"model@{fault}", context_tokens=1000),
        *(a_model(other, f"after-{name}", context_tokens=10_000) for name in causes),
    )
    key, text = a_key()
    policy = PolicySpec(
        "1",
        "p",
        1,
        targets=("first",),
        fallbacks={name: (f"after-{name}",) for name in causes},  # type: ignore[misc]
    )
    snapshot = a_snapshot(providers=(provider, other), models=models, keys=(key,), policies=(policy,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        for stream in (False, True):
            answer = await call(http, gateway, text, "openai", a_body("openai", "auto", stream=stream))
            assert (answer.status, served_by(answer)) == (200, f"after-{cause}")
        assert len(await gateway.settled(4)) == 4


async def test_a_fallback_that_is_not_the_keys_is_never_called(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    models = (a_model(provider, "first", "model@500"), a_model(provider, "secret"))
    key, text = a_key(allowed_models=frozenset({"first"}))
    policy = PolicySpec("1", "p", 1, fallbacks={"any": ("secret",)})
    snapshot = a_snapshot(providers=(provider,), models=models, keys=(key,), policies=(policy,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, text, "openai", a_body("openai", "first"))
        assert answer.status == 502
        assert mock.stats()["calls"] == 1


async def test_one_dead_provider_of_three_costs_no_request_and_few_attempts(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider() as one, MockProvider() as two:
        with closed_port() as dead:
            providers = [
                a_provider(name, "openai", port)
                for name, port in (("one", one.port), ("two", two.port), ("dead", dead))
            ]
            models = tuple(a_model(provider, f"at-{provider.name}") for provider in providers)
            targets = tuple(AliasTargetSpec(model.id) for model in models)
            key, text = a_key()
            snapshot = a_snapshot(
                providers=tuple(providers), models=models, aliases=(AliasSpec("work", targets),), keys=(key,)
            )
            async with running_gateway(snapshot, tmp_path) as gateway:
                for _ in range(10):
                    answers = await asyncio.gather(
                        *(call(http, gateway, text, "openai", a_body("openai", "work")) for _ in range(30))
                    )
                    assert {answer.status for answer in answers} == {200}
                intents, _ = gateway.records()
                assert len(intents) <= 1.1 * 300 + 30


async def test_with_every_provider_failing_upstream_sees_hardly_more_than_the_callers_sent(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    models = tuple(a_model(provider, f"m{number}", "model@500") for number in range(4))
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=models, aliases=(an_alias("work", *models),), keys=(key,)
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        answers = [await call(http, gateway, text, "openai", a_body("openai", "work")) for _ in range(600)]
        assert {answer.status for answer in answers} == {502}
        assert mock.stats()["calls"] <= 1.1 * 600 + 50


async def test_a_sessions_requests_keep_to_the_target_that_was_drawn(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    models = tuple(a_model(provider, f"m{number}") for number in range(3))
    targets = tuple(AliasTargetSpec(model.id) for model in models)
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=models, aliases=(AliasSpec("work", targets, "session"),), keys=(key,)
    )
    seen: dict[str, set[str]] = {}
    for folder in ("one", "another"):
        async with running_gateway(snapshot, tmp_path / folder) as gateway:
            for _ in range(3):
                for session in map(str, range(12)):
                    answer = await ask(
                        http, gateway, text, a_body("openai", "work"), x_tokenhub_session=session
                    )
                    seen.setdefault(session, set()).add(served_by(answer))
    assert {len(models) for models in seen.values()} == {1}
    assert len(set.union(*seen.values())) == 3


async def test_conversations_keep_their_endpoint_and_its_cache(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Three equal endpoints: each conversation's turns all arrive at one of them."""
    async with AsyncExitStack() as stack:
        mocks = [await stack.enter_async_context(MockProvider()) for _ in range(3)]
        provider = a_provider("only", "vllm", *(mock.port for mock in mocks))
        key, text = a_key()
        snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
        async with running_gateway(snapshot, tmp_path) as gateway:
            for turn in range(1, 5):
                for number in range(30):
                    messages = [{"role": "user", "content": f"conversation {number}"}]
                    for at in range(1, turn):
                        messages += [
                            {"role": "assistant", "content": f"answer {at}"},
                            {"role": "user", "content": f"and {at}?"},
                        ]
                    body = {"model": "work", "messages": messages, "max_tokens": 5}
                    assert (await call(http, gateway, text, "openai", body)).status == 200
        places: dict[str, set[int]] = {}
        for at, mock in enumerate(mocks):
            for received in mock.bodies():
                first = json.loads(received.body)["messages"][0]["content"]
                places.setdefault(first, set()).add(at)
        assert {len(where) for where in places.values()} == {1}
        spread = Counter(next(iter(where)) for where in places.values())
        assert all(spread[at] for at in range(3))


async def test_a_policys_conversations_stay_where_they_were_served_although_another_is_better_now(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    policy = PolicySpec("1", "p", 1, mode="cheap", affinity=AffinitySpec("conversation", 300))
    async with running_gateway(under(snapshot, policy), tmp_path) as gateway:
        body = a_body("openai", "auto")
        assert served_by(await ask(http, gateway, key, body)) == "small"
        health = gateway.worker.board.measure(snapshot.models[0])
        health.ttft, health.failure = 60.0, 1.0
        other = a_body("openai", "auto", text="another conversation")
        dear = under(snapshot, replace(policy, mode="high_confidence"))
        gateway.current.swap(replace(dear, revision=2))
        assert served_by(await ask(http, gateway, key, other)) == "large"
        kept = await ask(http, gateway, key, body)
        assert served_by(kept) == "small"
        assert "pinned" in kept.headers["x-tokenhub-reason"]


async def test_tools_go_to_a_model_that_has_them_and_a_lone_one_is_not_second_guessed(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    plain, able = (
        a_model(provider, "plain", capabilities=frozenset({"chat", "streaming"})),
        a_model(provider, "able"),
    )
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=(plain, able), aliases=(an_alias("work", plain, able),), keys=(key,)
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    async with running_gateway(snapshot, tmp_path) as gateway:
        assert served_by(await ask(http, gateway, text, a_body("openai", "work"))) == "plain"
        assert served_by(await ask(http, gateway, text, a_body("openai", "work", tools=[tool]))) == "able"
        assert served_by(await ask(http, gateway, text, a_body("openai", "plain", tools=[tool]))) == "plain"
