"""A conversation with signed thoughts that moves between providers: no signature error ever reaches the caller."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.body import Body
from gateway.thoughts import LOSS, LOSS_OF_THINKING, strip_body, strip_call
from providers.adapters.registry import get_adapter
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_head
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.chat import ChatCall, Message, Reasoning, TextPart, ThinkingPart, ToolCallPart
from tokenhub.core.sse import EventReader

WEATHER = {
    "name": "get_weather",
    "description": "Current weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TURNS = 50
EVERY = 5


def assemble(raw: bytes) -> dict[str, Any]:
    """The message of a stream."""
    reader = EventReader()
    blocks: list[dict[str, Any]] = []
    arguments: dict[int, str] = {}
    stop = ""
    for event in (*reader.feed(raw), *reader.finish()):
        told = json.loads(event.data or b"{}")
        if told.get("type") == "content_block_start":
            blocks.append(told["content_block"])
        elif told.get("type") == "content_block_delta":
            block, delta = blocks[told["index"]], told["delta"]
            if delta["type"] == "input_json_delta":
                arguments[told["index"]] = arguments.get(told["index"], "") + delta["partial_json"]
            else:
                name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
                block[name[delta["type"]]] += delta[name[delta["type"]]]
        elif told.get("type") == "message_delta":
            stop = told["delta"]["stop_reason"]
    for index, text in arguments.items():
        blocks[index]["input"] = json.loads(text or "{}")
    return {"content": blocks, "stop_reason": stop}


def follow(messages: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    """Goes on with the conversation as a client with tools does: it sends back what it was given."""
    messages.append({"role": "assistant", "content": answer["content"]})
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "4 degrees"}
        for block in answer["content"]
        if block["type"] == "tool_use"
    ]
    messages.append({"role": "user", "content": results or "And what is the weather in Rome?"})


async def ask(
    http: httpx.AsyncClient, gateway: RunningGateway, key: str, messages: Any, *, stream: bool
) -> tuple[httpx.Response, dict[str, Any]]:
    body = {
        "model": "mind",
        "max_tokens": 4000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [WEATHER],
        "messages": messages,
        "stream": stream,
    }
    answer = await http.post(f"{gateway.origin}/v1/messages", json=body, headers=a_head("anthropic", key))
    return answer, (assemble(answer.content) if stream else answer.json())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_fifty_turns_with_tools_and_thoughts_survive_a_failover_every_five(
    http: httpx.AsyncClient, tmp_path: Path, stream: bool
) -> None:
    async with AsyncExitStack() as stack:
        mocks = [await stack.enter_async_context(MockProvider()) for _ in range(2)]
        providers = tuple(
            a_provider(name, "anthropic", mock.port) for name, mock in zip(("one", "two"), mocks, strict=True)
        )
        models = tuple(a_model(provider, f"mind-of-{provider.name}") for provider in providers)
        key, text = a_key()
        snapshot = a_snapshot(
            providers=providers, models=models, aliases=(an_alias("mind", *models),), keys=(key,)
        )
        messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Oslo?"}]
        served: list[str] = []
        statuses, thought, called, dropped = [], 0, 0, 0
        async with running_gateway(snapshot, tmp_path) as gateway:
            for turn in range(1, TURNS + 1):
                if turn % EVERY == 0:
                    # Where the conversation is now fails, so that it moves; what rests is the last resort, and works again.
                    mocks[("one", "two").index(served[-1])].fail_next("503", 1)
                answer, message = await ask(http, gateway, text, messages, stream=stream)
                statuses.append(answer.status_code)
                assert answer.status_code == 200, answer.text
                served.append(answer.headers["x-tokenhub-provider"])
                if turn % EVERY == 0:
                    gateway.worker.board.endpoint_works(f"{served[-1]}-0")
                thought += any(block["type"] == "thinking" for block in message["content"])
                called += message["stop_reason"] == "tool_use"
                if LOSS in answer.headers.get("x-tokenhub-translation", ""):
                    dropped += 1
                    assert answer.headers["x-tokenhub-reason"].endswith("thoughts_dropped")
                follow(messages, message)
            moves = sum(before != after for before, after in pairwise(served))
            assert moves >= TURNS // EVERY - 1
            assert called >= TURNS // 3
            assert thought >= TURNS // 3
            assert dropped >= moves
            _, finals = gateway.records()
            refused = [final for final in finals if final.error_class == "fatal"]
            assert refused, "no provider refused foreign thoughts, so nothing was shown"
            assert sum(mock.stats()["calls"] for mock in mocks) == len(finals)


async def test_a_conversation_that_stays_keeps_its_thoughts(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "anthropic", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "mind"),), keys=(key,))
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    async with running_gateway(snapshot, tmp_path) as gateway:
        for _ in range(4):
            answer, message = await ask(http, gateway, text, messages, stream=False)
            assert "x-tokenhub-translation" not in answer.headers
            follow(messages, message)
        assert mock.stats()["calls"] == 4
    sent = json.loads(mock.bodies()[-1].body)["messages"]
    assert [block["type"] for block in sent[1]["content"]] == ["thinking", "tool_use"]


async def test_thoughts_of_a_chat_client_are_dropped_for_a_provider_that_did_not_have_them(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "anthropic", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "mind"),), keys=(key,))
    thought = {"type": "thinking", "thinking": "So it is.", "signature": "bm90IHlvdXJz"}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello.", "thinking_blocks": [thought]},
        {"role": "user", "content": "go on"},
    ]
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await http.post(
            f"{gateway.origin}/v1/chat/completions",
            json={"model": "mind", "messages": messages, "max_tokens": 50},
            headers=a_head("openai", text),
        )
        assert answer.status_code == 200, answer.text
        assert LOSS in answer.headers["x-tokenhub-translation"]
        finals = await gateway.settled(2)
        assert [final.outcome for final in finals] == ["failed", "completed"]


async def test_a_request_is_tried_without_its_thoughts_once(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    """What is still refused then is the caller's to hear, and nothing is asked a third time."""
    provider = a_provider("one", "anthropic", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "mind"),), keys=(key,))
    forged = {"type": "thinking", "thinking": "So.", "signature": "bm90IHlvdXJz"}
    result = {"type": "tool_result", "tool_use_id": "toolu_unknown", "content": "x"}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [forged, {"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [result]},
    ]
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer, told = await ask(http, gateway, text, messages, stream=False)
        assert (answer.status_code, told["type"]) == (400, "error")
        assert "tool_use_id" in told["error"]["message"]
        await asyncio.sleep(0)
        assert mock.stats()["calls"] <= 2


def test_a_message_of_thoughts_alone_goes_and_other_bytes_stay() -> None:
    thought = {"type": "thinking", "thinking": "a", "signature": "b"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {}}
    data = {
        "model": "m",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_1"}]},
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [thought]},
            {"role": "user", "content": "y"},
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "z"}, call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]},
        ],
        "metadata": {"user_id": "é"},
    }
    raw = json.dumps(data, ensure_ascii=False).encode()
    stripped = strip_body(Body(raw, data))
    assert stripped is not None
    body, losses = stripped
    assert losses == (LOSS, LOSS_OF_THINKING)
    assert json.loads(body.raw) == body.data
    assert "thinking" not in body.data
    assert body.data["context_management"] == {"edits": [{"type": "clear_tool_uses_1"}]}
    messages = [data["messages"][0], data["messages"][2], {"role": "assistant", "content": [call]}]
    assert body.data["messages"] == [*messages, data["messages"][4]]
    assert body.data["metadata"] == data["metadata"]
    assert strip_body(body) is None


def test_a_call_keeps_its_thinking_where_no_tool_was_called() -> None:
    parts = (ThinkingPart("a", "b"), TextPart("c"))
    call = ChatCall(
        (Message("user", (TextPart("x"),)), Message("assistant", parts)), reasoning=Reasoning("high")
    )
    stripped = strip_call(call)
    assert stripped is not None
    assert stripped[0].messages[1].parts == (TextPart("c"),)
    assert (stripped[0].reasoning, stripped[1]) == (Reasoning("high"), (LOSS,))
    tools = ChatCall(
        (Message("assistant", (ThinkingPart("a"), ToolCallPart("1", "t", "{}"))),),
        reasoning=Reasoning("high"),
    )
    stripped = strip_call(tools)
    assert stripped is not None
    assert (stripped[0].reasoning, stripped[1]) == (None, (LOSS, LOSS_OF_THINKING))
    assert strip_call(stripped[0]) is None


@pytest.mark.parametrize(
    ("message", "of_thoughts"),
    [
        ("messages.1.content.0: Invalid `signature` in `thinking` block", True),
        ("messages.1.content.0.thinking.signature: Field required", True),
        (
            "messages.3.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
            True,
        ),
        ("messages.1.content.0: Invalid `data` in `redacted_thinking` block", True),
        (
            "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.",
            True,
        ),
        ("`max_tokens` must be greater than `thinking.budget_tokens`.", False),
        ("Thinking may not be enabled when tool_choice forces tool use.", False),
    ],
)
def test_a_refusal_of_thoughts_is_told_from_other_refusals(message: str, of_thoughts: bool) -> None:
    told = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    failure = get_adapter("anthropic").classify(400, {}, json.dumps(told).encode())
    assert (failure.kind, failure.of_thoughts) == ("fatal", of_thoughts)
