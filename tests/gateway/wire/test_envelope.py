"""`POST /v1/chat`: Tokenhub's envelope, from request to answer, over real sockets."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.directives import Directives
from gateway.wire.envelope import Envelope
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.serving import RunningGateway, running_gateway
from tests.gateway.test_websocket import collect, socket_to
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import ConditionSpec, PolicySpec
from tokenhub.core.specs import Snapshot
from tokenhub.core.sse import EventReader

MESSAGES = [{"role": "user", "content": "What is two and two?"}]
FIGURES = (
    "negotiated_model",
    "provider",
    "estimated_cost_usd",
    "cost_usd",
    "routing_reason",
    "usage",
    "decision_id",
)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def an_envelope(**fields: Any) -> dict[str, Any]:
    """A small request; `request` is merged with a hint and a message."""
    request = {"model_hint": "gpt", "messages": MESSAGES, **fields.pop("request", {})}
    return {**fields, "request": request}


def a_world(port: int, **key_fields: Any) -> tuple[Snapshot, str]:
    """OpenAI's model `gpt`, Anthropic's `claude`, and a key."""
    openai, anthropic = a_provider("oa", "openai", port), a_provider("an", "anthropic", port)
    key, text = a_key(**key_fields)
    models = (a_model(openai, "gpt", "gpt-upstream"), a_model(anthropic, "claude"))
    policies = (PolicySpec("1", "secret-policy", 1, when=ConditionSpec(keys=frozenset({"nobody"}))),)
    return a_snapshot(providers=(openai, anthropic), models=models, keys=(key,), policies=policies), text


async def post(http: httpx.AsyncClient, gateway: RunningGateway, key: str, body: Any) -> httpx.Response:
    """One envelope."""
    return await http.post(gateway.origin + "/v1/chat", json=body, headers={"authorization": f"Bearer {key}"})


@pytest.mark.parametrize(("model", "provider"), [("gpt", "oa"), ("claude", "an")])
async def test_the_answer_tells_model_provider_cost_and_reason_beside_the_response(
    model: str, provider: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        response = await post(http, gateway, key, an_envelope(request={"model_hint": model}))
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        # Anthropic's format wants a bound on the answer, and nobody gave one.
        lost = {"gpt": None, "claude": "changed:max_tokens"}
        assert response.headers.get("x-tokenhub-translation") == lost[model]
        told = response.json()
        assert tuple(told) == (*FIGURES, "response")
        assert (told["negotiated_model"], told["provider"], told["routing_reason"]) == (
            model,
            provider,
            "model",
        )
        assert told["decision_id"] == response.headers["x-tokenhub-request-id"]
        (final,) = await gateway.settled(1)
        assert round(told["cost_usd"] * 1e9) == final.cost_nanos
        assert response.headers["x-tokenhub-cost-usd"] == f"{told['cost_usd']:.9f}".rstrip("0")
        assert told["estimated_cost_usd"] > told["cost_usd"] > 0
        assert told["response"]["object"] == "chat.completion"
        assert told["response"]["choices"][0]["message"]["content"]
        assert told["usage"] == told["response"]["usage"]
        assert told["usage"]["completion_tokens"] == final.usage.output_total
        assert final.usage.source == "provider"


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_stream_is_openais_and_ends_with_the_figures(
    model: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        asked = an_envelope(request={"model_hint": model, "stream": True})
        response = await post(http, gateway, key, asked)
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = EventReader()
        events = reader.feed(response.content)
        assert reader.tail == b""
        assert events[-1].name == "tokenhub"
        assert events[-2].data == b"[DONE]"
        assert events[-1].data is not None
        told = json.loads(events[-1].data)
        assert tuple(told) == FIGURES
        assert told["negotiated_model"] == model
        (final,) = await gateway.settled(1)
        assert round(told["cost_usd"] * 1e9) == final.cost_nanos
        chunks = [json.loads(event.data) for event in events[:-2] if event.data]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_what_is_asked_reaches_the_provider_and_nothing_else_does(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    snapshot, key = a_world(mock.port)
    asked = an_envelope(
        capabilities={"planning": True},
        policy={"mode": "cheap", "max_budget_usd": 0.05, "policy": "secret-policy"},
        orchestration={"iterations": 2},
        output_format={"type": "json", "schema": {"type": "object"}, "max_tokens": 9},
        request={
            "id": "secret-id",
            "meta": {"secret": "meta"},
            "parameters": {"temperature": 0.5, "stop": ["x"], "max_tokens": 500},
            "tools": [WEATHER],
            "messages": [{"role": "user", "content": "@@tokenhub mode=cheap wish=1\nhello"}],
        },
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        response = await post(http, gateway, key, asked)
        assert response.status_code == 200, response.text
        assert response.headers["x-tokenhub-directives-ignored"] == "wish"
        sent = json.loads(mock.bodies()[-1].body)
        await gateway.settled(1)
        journal = b"".join(
            path.read_bytes() for path in gateway.journal.directory.rglob("*") if path.is_file()
        )
    assert sent["model"] == "gpt-upstream"
    assert sent["messages"] == [{"role": "user", "content": "hello"}]
    assert (sent["temperature"], sent["stop"]) == (0.5, ["x"])
    assert 9 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    for place in (json.dumps(sent).encode(), journal, caplog.text.encode()):
        assert b"secret" not in place
        assert b"@@tokenhub" not in place


def test_the_fields_become_directives() -> None:
    chat, directives = Envelope().unwrap(
        an_envelope(
            capabilities={"planning": True, "tools": False},
            policy={
                "mode": "planning",
                "max_budget_usd": 0.05,
                "max_latency_ms": 20000,
                "min_weight": 6,
                "policy": "night",
            },
            orchestration={
                "mode": "planning",
                "iterations": 3,
                "primary_min_weight": 6,
                "review_min_weight": 9,
            },
            output_format={"type": "json", "max_tokens": 0, "strip_think": True},
            request={"estimated_input_tokens": 123, "parameters": {"seed": 1}},
        )
    )
    assert chat == {"model": "gpt", "messages": MESSAGES, "seed": 1}
    assert directives == Directives(
        mode="planning",
        policy="night",
        min_weight=6,
        review_min_weight=9,
        iterations=3,
        budget_nanos=50_000_000,
        latency_ms=20_000,
        strip_think=True,
        output="json",
        input_tokens=123,
        capabilities=frozenset({"planning"}),
    )
    chat, directives = Envelope().unwrap({"request": {"messages": MESSAGES}})
    assert chat == {"model": "auto", "messages": MESSAGES}
    assert directives == Directives()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"polcy": {}}, "polcy"),
        ({"request": []}, "request"),
        ({"policy": {"mode": "fast"}}, "policy.mode"),
        ({"policy": {"budget": 1}}, "policy.budget"),
        ({"policy": {"max_budget_usd": 0}}, "policy.max_budget_usd"),
        ({"policy": {"max_budget_usd": True}}, "policy.max_budget_usd"),
        ({"policy": {"max_latency_ms": 1.5}}, "policy.max_latency_ms"),
        ({"policy": {"min_weight": 11}}, "policy.min_weight"),
        ({"policy": {"policy": ""}}, "policy.policy"),
        ({"policy": "cheap"}, "policy"),
        ({"orchestration": {"iterations": 6}}, "orchestration.iterations"),
        ({"orchestration": {"steps": []}}, "orchestration.steps"),
        ({"policy": {"mode": "cheap"}, "orchestration": {"mode": "planning"}}, "orchestration.mode"),
        ({"output_format": {"type": "xml"}}, "output_format.type"),
        ({"output_format": {"max_tokens": -1}}, "output_format.max_tokens"),
        ({"output_format": {"max_tokens": False}}, "output_format.max_tokens"),
        ({"output_format": {"schema": [1]}}, "output_format.schema"),
        ({"output_format": {"strip_think": 1}}, "output_format.strip_think"),
        ({"capabilities": {"planning": 1}}, "capabilities.planning"),
        ({"capabilities": {str(n): True for n in range(40)}}, "capabilities"),
        ({"request": {"model": "gpt"}}, "request.model"),
        ({"request": {"id": "x" * 201}}, "request.id"),
        ({"request": {"meta": {str(n): 1 for n in range(99)}}}, "request.meta"),
        ({"request": {"model_hint": 1}}, "request.model_hint"),
        ({"request": {"estimated_input_tokens": -1}}, "request.estimated_input_tokens"),
        ({"request": {"estimated_input_tokens": 1e12}}, "request.estimated_input_tokens"),
        ({"request": {"stream": "yes"}}, "request.stream"),
        ({"request": {"messages": []}}, "request.messages"),
        ({"request": {"messages": [{"content": "hi"}]}}, "request.messages[0].role"),
        ({"request": {"messages": [{"role": "user", "content": 7}]}}, "request.messages[0].content"),
        ({"request": {"parameters": {"temprature": 1}}}, "request.parameters.temprature"),
        ({"request": {"parameters": {"messages": []}}}, "request.parameters.messages"),
        ({"request": {"parameters": {"max_tokens": 0}}}, "request.parameters.max_tokens"),
        ({"request": {"parameters": {"temperature": "hot"}}}, "request.parameters.temperature"),
        ({"request": {"tools": [{"function": {}}]}}, "request.tools[0].function.name"),
        (
            {"request": {"messages": [{"role": "user", "content": "@@tokenhub iterations=9\nhi"}]}},
            "request.messages[0].content",
        ),
        (
            {
                "policy": {"mode": "cheap"},
                "request": {"messages": [{"role": "user", "content": "@@tokenhub mode=normal\nhi"}]},
            },
            "mode",
        ),
    ],
)
async def test_what_is_wrong_is_a_problem_with_its_path(
    fields: dict[str, Any], path: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    body = {**an_envelope(), **fields} if isinstance(fields.get("request"), list) else an_envelope(**fields)
    async with running_gateway(snapshot, tmp_path) as gateway:
        response = await post(http, gateway, key, body)
        assert response.status_code == 400, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["param"] == path
        assert (problem["status"], problem["code"]) == (400, "invalid_request")
        assert problem["type"] == "urn:tokenhub:problem:invalid_request"
        assert problem["title"] == "Bad Request"
        assert problem["detail"].startswith(path)
        assert problem["request_id"] == response.headers["x-tokenhub-request-id"]
        assert not mock.bodies()


async def test_other_errors_are_problems_too(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answers = [
            (401, "invalid_api_key", await post(http, gateway, key[:-1] + "x", an_envelope())),
            (
                404,
                "model_not_found",
                await post(http, gateway, key, an_envelope(request={"model_hint": "gtp"})),
            ),
            (405, "method_not_allowed", await http.get(gateway.origin + "/v1/chat")),
        ]
        mock.fail_next("500", count=9)
        answers.append((502, "all_attempts_failed", await post(http, gateway, key, an_envelope())))
        mock.reset()
        mock.fail_next("context", count=9)
        answers.append((400, "context_length_exceeded", await post(http, gateway, key, an_envelope())))
        mock.reset()
        mock.fail_next("401", count=9)
        answers.append((502, "all_attempts_failed", await post(http, gateway, key, an_envelope())))
        for status, code, response in answers:
            assert response.status_code == status, response.text
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == code
        assert answers[1][2].json()["details"]["near"] == ["gpt"]


async def test_a_stream_that_breaks_off_ends_with_a_problem_and_no_figures(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        mock.fail_next("cut")
        response = await post(http, gateway, key, an_envelope(request={"stream": True}))
        events = EventReader().feed(response.content)
        assert events[-1].name == "error"
        assert events[-1].data is not None
        problem = json.loads(events[-1].data)
        assert problem["code"] == "stream_interrupted"
        assert problem["request_id"] == response.headers["x-tokenhub-request-id"]
        assert b"[DONE]" not in response.content
        assert b"event: tokenhub" not in response.content


async def test_it_needs_the_scope_of_chats(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = a_world(mock.port, scopes=frozenset({"embeddings"}))
    async with running_gateway(snapshot, tmp_path) as gateway:
        response = await post(http, gateway, key, an_envelope())
        assert response.status_code == 403
        assert response.json()["details"] == {"scope": "chat"}


async def test_an_unpriced_answer_says_so_rather_than_nothing(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("oa", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "gpt", price=None),), keys=(key,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        told = (await post(http, gateway, text, an_envelope())).json()
        assert told["cost_usd"] is None
        assert told["estimated_cost_usd"] is None


async def test_over_a_websocket_the_envelope_is_the_same(mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = a_world(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway, socket_to(gateway, key) as socket:
        await socket.send(json.dumps({"id": "a", "path": "/v1/chat", "body": an_envelope()}))
        await socket.send(
            json.dumps({"id": "b", "path": "/v1/chat", "body": an_envelope(request={"stream": True})})
        )
        told = await collect(socket, 2)
        assert told["a"][1]["body"]["negotiated_model"] == "gpt"
        assert told["b"][-2]["event"] == "tokenhub"
        assert told["b"][-2]["data"]["provider"] == "oa"


def test_without_an_envelope_nothing_is_unwrapped() -> None:
    with pytest.raises(InvalidRequest, match="request"):
        Envelope().unwrap({"messages": MESSAGES})
