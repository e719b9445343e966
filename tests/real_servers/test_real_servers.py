"""vLLM and llama.cpp themselves behind the gateway, asked by OpenAI's and Anthropic's clients: `pytest -m real_server`.

Both serve random weights: what they say means nothing, but at temperature 0 it is the same with and without the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.catalogue import Accounts
from tests.real_servers.conftest import MODEL, Behind

pytestmark = pytest.mark.real_server

PARAMETERS = {
    "type": "object",
    "properties": {"celsius": {"type": "boolean"}},
    "required": ["celsius"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True},
}
FORCED: Any = {"type": "function", "function": {"name": "get_weather"}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": PARAMETERS, "strict": True}}
LONG = "word " * 40_000
STEADY: Any = {"temperature": 0, "seed": 7}


def says(text: str) -> Any:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]


def wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    """Fails when `holds` stays false."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


def test_a_chat_is_what_the_server_itself_answers(behind: Behind, accounts: Accounts) -> None:
    request: Any = {"messages": says("Hello."), "max_tokens": 40, **STEADY}
    expected = behind.direct.chat.completions.create(model=MODEL, **request)
    answer = behind.openai.chat.completions.create(model=behind.model, **request)
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.choices[0].finish_reason == expected.choices[0].finish_reason
    assert answer.usage is not None
    assert expected.usage is not None
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    [row] = accounts.check(behind.model)
    assert (row["input"] + row["cache_read"], row["output"]) == (
        expected.usage.prompt_tokens,
        expected.usage.completion_tokens,
    )


def test_a_stream_says_the_same_and_is_accounted_as_the_server_counts(
    behind: Behind, accounts: Accounts
) -> None:
    request: Any = {"messages": says("Hello."), "max_tokens": 40, **STEADY}
    expected = behind.direct.chat.completions.create(model=MODEL, **request)
    with behind.openai.chat.completions.create(
        model=behind.model, stream=True, stream_options={"include_usage": True}, **request
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected.choices[0].message.content
    [usage] = [chunk.usage for chunk in chunks if chunk.usage and not chunk.choices]
    [row] = accounts.check(behind.model)
    assert (row["input"] + row["cache_read"], row["output"]) == (usage.prompt_tokens, usage.completion_tokens)


def test_a_chat_of_an_anthropic_client_says_the_same(behind: Behind, accounts: Accounts) -> None:
    expected = behind.direct.chat.completions.create(
        model=MODEL, messages=says("Hello."), max_tokens=40, temperature=0
    )
    answer = behind.anthropic.messages.create(
        model=behind.model, max_tokens=40, messages=says("Hello."), extra_body={"temperature": 0}
    )
    text = "".join(block.text for block in answer.content if block.type == "text")
    assert text == (expected.choices[0].message.content or "")
    assert (
        answer.stop_reason == {"length": "max_tokens", "stop": "end_turn"}[expected.choices[0].finish_reason]
    )
    accounts.check(behind.model)


def test_a_stream_of_an_anthropic_client_says_the_same(behind: Behind, accounts: Accounts) -> None:
    request: Any = {"max_tokens": 40, "messages": says("Hello."), "extra_body": {"temperature": 0}}
    expected = behind.anthropic.messages.create(model=behind.model, **request)
    with behind.anthropic.messages.create(model=behind.model, stream=True, **request) as stream:
        events = list(stream)
    text = "".join(
        event.delta.text
        for event in events
        if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    assert text == "".join(block.text for block in expected.content if block.type == "text")
    assert events[-1].type == "message_stop"
    accounts.check(behind.model, 2)


def test_a_forced_tool_is_called_as_the_server_itself_calls_it(behind: Behind, accounts: Accounts) -> None:
    request: Any = {"messages": says("Hello."), "tools": [TOOL], "tool_choice": FORCED, "max_tokens": 200}
    expected = behind.direct.chat.completions.create(model=MODEL, **request, **STEADY).choices[0]
    answer = behind.openai.chat.completions.create(model=behind.model, **request, **STEADY).choices[0]
    assert answer.finish_reason == expected.finish_reason
    assert answer.message.content == expected.message.content
    assert _calls(answer.message) == _calls(expected.message)
    assert bool(_calls(answer.message)) == behind.server.schemas
    accounts.check(behind.model)


def _calls(message: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def test_a_forced_tool_of_an_anthropic_client(behind: Behind, accounts: Accounts) -> None:
    answer = behind.anthropic.messages.create(
        model=behind.model,
        max_tokens=200,
        messages=says("Hello."),
        tools=[{"name": "get_weather", "input_schema": PARAMETERS, "strict": True}],
        tool_choice={"type": "tool", "name": "get_weather"},
        extra_body={"temperature": 0},
    )
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert bool(calls) == behind.server.schemas
    assert all(isinstance(call.input, dict) for call in calls)
    accounts.check(behind.model)


def test_an_answer_to_a_schema(behind: Behind, accounts: Accounts) -> None:
    request: Any = {"messages": says("Hello."), "response_format": FORMAT, "max_tokens": 60, **STEADY}
    expected = _outcome(lambda: behind.direct.chat.completions.create(model=MODEL, **request))
    answer = _outcome(lambda: behind.openai.chat.completions.create(model=behind.model, **request))
    assert answer == expected
    if behind.server.schemas:
        assert set(json.loads(answer[1])) == {"celsius"}
        accounts.check(behind.model)


def _outcome(call: Callable[[], Any]) -> tuple[int, str]:
    """The status, and the text where it is 200."""
    try:
        return 200, call().choices[0].message.content or ""
    except openai.APIStatusError as error:
        return error.status_code, ""


def test_a_prompt_that_is_too_long_is_told_in_openais_words(behind: Behind) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        behind.openai.chat.completions.create(model=behind.model, messages=says(LONG), max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_that_is_too_long_is_told_in_anthropics_words(behind: Behind) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        behind.anthropic.messages.create(model=behind.model, messages=says(LONG), max_tokens=5)
    assert caught.value.type == "invalid_request_error"
    # Claude Code and others look for these words to know that they must shorten the conversation.
    assert "prompt is too long" in str(caught.value)


def test_a_parameter_that_the_server_refuses_is_a_400_with_its_words(behind: Behind) -> None:
    extra: Any = {"model": behind.model, "messages": says("Hello."), "max_tokens": 5, "top_k": "many"}
    with pytest.raises(openai.BadRequestError) as caught:
        behind.openai.post("/chat/completions", body=extra, cast_to=object)
    assert "top_k" in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_a_refused_request_costs_nothing_and_the_next_one_is_served(
    behind: Behind, accounts: Accounts
) -> None:
    with pytest.raises(openai.BadRequestError):
        behind.openai.chat.completions.create(model=behind.model, messages=says(LONG), max_tokens=5)
    behind.openai.chat.completions.create(model=behind.model, messages=says("Hello."), max_tokens=5)
    refused, served = accounts.rows(2)
    assert (refused["outcome"], refused["status"], refused["output"]) == ("failed", 400, 0)
    assert not refused["cost_nanos"]
    assert served["outcome"] == "completed"


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_the_server_stops_when_the_client_goes_away(behind: Behind, accounts: Accounts, client: str) -> None:
    request: Any = {"model": behind.model, "messages": says("Hello."), "stream": True}
    wait_until(lambda: behind.count_running() == 0)
    if client == "openai":
        stream: Any = behind.openai.chat.completions.create(max_tokens=1900, **request)
    else:
        stream = behind.anthropic.messages.create(max_tokens=1900, **request)
    for _ in range(3):
        next(iter(stream))
    assert behind.count_running() == 1
    stream.close()
    # The whole answer would take the server many times as long.
    wait_until(lambda: behind.count_running() == 0, 5)
    [row] = accounts.rows(1)
    assert (row["outcome"], row["client_disconnected"]) == ("cancelled", 1), row
    assert row["input"] > 0
    assert row["output"] > 0
    assert row["cost_nanos"] > 0


def test_legacy_completions(behind: Behind, accounts: Accounts) -> None:
    request: Any = {"prompt": "Once", "max_tokens": 20, **STEADY}
    expected = behind.direct.completions.create(model=MODEL, **request)
    answer = behind.openai.completions.create(model=behind.model, **request)
    assert answer.choices[0].text == expected.choices[0].text
    accounts.check(behind.model)
