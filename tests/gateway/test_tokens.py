"""Estimates of prompts: characters by kind, frames by format, and what is learned from what providers count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens import estimate_tokens
from gateway.wire.anthropic_count_tokens import AnthropicCountTokens
from providers.adapters.base import Operation
from providers.mock import MockProvider
from routing.engine.decide import Ask, decide
from routing.engine.health import LEAST_FACTOR, MOST_FACTOR, TargetHealth
from routing.engine.plan import Features, make_plan
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_body, a_head, call
from tests.gateway.serving import running_gateway
from tests.providers.adapters.openai_cast import RECORDINGS, needs_recordings, read_recordings

ANTHROPIC, OPENAI = Operation.ANTHROPIC_MESSAGES, Operation.OPENAI_CHAT


@pytest.mark.parametrize(
    ("content", "least", "most"),
    [
        ("hi", 1, 14),
        ("word " * 700, 650, 1_000),
        ("字" * 100, 70, 120),
        ("é" * 100, 40, 70),
        ([{"type": "image", "source": {"type": "base64", "data": "A" * 100_000}}], 1_600, 1_620),
        ([{"type": "document", "source": {"type": "base64", "data": "A" * 40_000}}], 1_000, 1_020),
        ([{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b" * 350}}], 75, 120),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "a" * 350}]}], 75, 100),
    ],
)
def test_characters_count_by_class_and_media_by_constants(content: Any, least: int, most: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    assert least <= estimate_tokens(ANTHROPIC, body) <= most


def test_tools_systems_and_schemas_count() -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}]}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    assert estimate_tokens(ANTHROPIC, {**plain, "tools": [tool]}) > estimate_tokens(ANTHROPIC, plain) + 480
    assert estimate_tokens(OPENAI, {**plain, "tools": [tool]}) > estimate_tokens(OPENAI, plain) + 12
    assert estimate_tokens(ANTHROPIC, {**plain, "system": "a" * 46}) == estimate_tokens(ANTHROPIC, plain) + 10
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert estimate_tokens(ANTHROPIC, {**plain, "tools": [search]}) > 2_000
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert estimate_tokens(OPENAI, {**plain, "response_format": schema}) > estimate_tokens(OPENAI, plain) + 10
    low = [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]
    assert 85 <= estimate_tokens(OPENAI, {"messages": [{"role": "user", "content": low}]}) < 110
    assert json.loads(AnthropicCountTokens().write_count(7)) == {"input_tokens": 7}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_any_value_anywhere_has_an_estimate(value: Any) -> None:
    body = {"messages": value, "system": value, "tools": value, "input": value, "response_format": value}
    for operation in Operation:
        assert estimate_tokens(operation, body) >= 1


def test_a_bottomless_body_ends() -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert estimate_tokens(OPENAI, {"messages": [{"role": "user", "content": deep}], "tools": [deep]}) >= 1


def read_counts(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Recorded bodies of texts alone, with what the provider counted."""
    for row in read_recordings(path.name):
        body, told = row.get("request_body"), row.get("response_body_raw") or ""
        if row.get("status") != 200 or not isinstance(body, dict) or not told.startswith("{"):
            continue
        try:
            usage = json.loads(told).get("usage") or {}
        except ValueError:
            continue  # Longer than what was recorded of it.
        cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
        count = usage.get("prompt_tokens") or (usage.get("input_tokens") or 0) + cached
        text = json.dumps(body)
        if count and not any(
            f'"{kind}' in text for kind in ("image", "document", "file", "input_audio", "video")
        ):
            yield body, count


@needs_recordings
@pytest.mark.parametrize(
    ("pattern", "operation", "most"), [("anthropic_messages", ANTHROPIC, 0.2), ("*_chat", OPENAI, 0.25)]
)
def test_recorded_prompts_are_met_better_than_by_their_bytes(
    pattern: str, operation: Operation, most: float
) -> None:
    ours, theirs = [], []
    for path in sorted(RECORDINGS.glob(f"{pattern}.jsonl")):
        if path.name.startswith("cohere"):
            continue
        for body, count in read_counts(path):
            ours.append(abs(estimate_tokens(operation, body) - count) / count)
            theirs.append(abs(len(json.dumps(body, ensure_ascii=False).encode()) / 4 - count) / count)
    print(f"{pattern}: {len(ours)} prompts, median error {median(ours):.2f} against {median(theirs):.2f}")
    assert len(ours) > 200
    assert median(ours) < most < median(theirs)


def test_a_target_learns_what_its_tokenizer_makes_of_estimates() -> None:
    health = TargetHealth()
    for number in range(40):
        assert health.calibrated == (number >= 5)
        assert health.token_factor == 1.0 or health.calibrated
        health.counted(1000, 1500)
    assert health.token_factor == pytest.approx(1.5, rel=0.01)
    before = health.token_factor
    health.counted(1000, 1_000_000)
    assert health.token_factor < before * 1.04
    health.counted(5, 500)
    assert health.token_factor < before * 1.04


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50))
def test_a_factor_stays_within_its_bounds(counts: list[tuple[int, int]]) -> None:
    health = TargetHealth()
    for estimate, told in counts:
        health.counted(estimate, told)
        assert LEAST_FACTOR <= health.token_factor <= MOST_FACTOR


def test_a_decision_corrects_the_estimate_for_each_target_and_never_what_was_counted() -> None:
    provider = a_provider("one", "openai", 9)
    models = tuple(a_model(provider, name, context_tokens=10_000) for name in ("coarse", "fine"))
    key, _ = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=models, aliases=(an_alias("both", *models),), keys=(key,)
    )
    plan = make_plan(snapshot, key, Features("both", frozenset({"chat"})))
    coarse, fine = TargetHealth(), TargetHealth()
    for _ in range(40):
        fine.counted(1000, 2000)
    decision = decide(plan, Ask(input_tokens=6_000, max_output_tokens=100), (coarse, fine), 0.0, lambda: 0.5)
    assert [one.model.name for one in decision.candidates] == ["coarse"]
    assert next(iter(decision.refused.values()))[0] == "context"
    told = decide(
        plan, Ask(input_tokens=6_000, counted=True, max_output_tokens=100), (coarse, fine), 0.0, lambda: 0.5
    )
    assert len(told.candidates) == 2


async def test_estimates_of_a_model_are_calibrated_by_its_answers_and_say_so(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    body = a_body("openai", "work", text="x y " * 400)
    count = {"model": "work", "messages": [{"role": "user", "content": "x y " * 400}]}
    async with running_gateway(snapshot, tmp_path) as gateway:

        async def ask_count() -> tuple[int, str]:
            path = f"{gateway.origin}/v1/messages/count_tokens"
            answer = await http.post(path, json=count, headers=a_head("anthropic", text))
            return answer.json()["input_tokens"], answer.headers["x-tokenhub-reason"]

        _, before = await ask_count()
        for _ in range(30):
            await call(http, gateway, text, "openai", body)
        intents, finals = gateway.records()
        told = finals[-1].usage.input_total
        assert abs(intents[-1].input_estimate - told) < abs(intents[0].input_estimate - told)
        assert intents[-1].input_estimate == pytest.approx(told, rel=0.03)
        tokens, after = await ask_count()
        assert (before, after) == ("estimated", "estimated;calibrated")
        assert tokens == pytest.approx(told, rel=0.05)
        attempts = [json.loads(one.document)["attempts"] for one in gateway.worker.decisions.take(100)]
        first, *_, last = [made[0] for made in attempts if made]
        assert (first["estimated"], last["estimated"]) == ("heuristic", "calibrated")
        mock.fail_next("silent", 1)
        await call(http, gateway, text, "openai", body)
        assert gateway.records()[1][-1].usage.method.endswith(", calibrated")
