"""The unmodified Python SDK of OpenAI against a running installation: on its own format and across formats."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageToolCall
from pydantic import BaseModel

from tests.e2e.catalogue import CHAT_MODELS, OPENAI_MODELS, VIA_ANTHROPIC, Accounts, a_picture
from tests.e2e.service import Service
from tokenhub.core.keys import mint_key

pytestmark = pytest.mark.slow

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
each_model = pytest.mark.parametrize("model", CHAT_MODELS)


class Verdict(BaseModel):
    """What the structured answers must parse into."""

    verdict: Literal["accept", "reject"]
    confidence: int
    reasons: list[str]


@pytest.fixture
def client(gateway: Service) -> Iterator[openai.OpenAI]:
    """An OpenAI client that never retries, so that each call is one row."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=30) as made:
        yield made


def says(text: str) -> Any:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]


@each_model
def test_a_plain_answer(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=says("Say hello."))
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    [row] = accounts.check(model)
    assert (row["input"], row["output"]) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert bool(row["translated"]) == (model == VIA_ANTHROPIC)


@each_model
def test_a_system_prompt_and_limits(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    messages: Any = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Tell a long story."},
        {"role": "assistant", "content": "Once"},
        {"role": "user", "content": "Go on."},
    ]
    answer = client.chat.completions.create(
        model=model, messages=messages, max_completion_tokens=5, temperature=0.2, stop=["\n\n"]
    )
    assert answer.choices[0].finish_reason == "length"
    [row] = accounts.check(model)
    assert row["output"] == 5


@each_model
def test_a_streamed_answer_with_its_usage(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=says("Say hello."), stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "stop"
    ]
    assert len({c.id for c in chunks}) == 1
    [usage] = [c.usage for c in chunks if c.usage]
    [row] = accounts.check(model)
    assert (row["input"], row["output"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert row["streamed"]
    assert row["first_token_ms"] is not None


@each_model
def test_a_stream_that_did_not_ask_for_usage_gets_none_and_is_accounted(
    client: openai.OpenAI, accounts: Accounts, model: str
) -> None:
    with client.chat.completions.create(model=model, messages=says("Say hello."), stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    accounts.check(model)


@each_model
def test_the_stream_helper_accumulates_the_answer(
    client: openai.OpenAI, accounts: Accounts, model: str
) -> None:
    with client.chat.completions.stream(model=model, messages=says("Say hello.")) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    accounts.check(model)


@each_model
def test_a_tool_call_and_the_turn_with_its_result(
    client: openai.OpenAI, accounts: Accounts, model: str
) -> None:
    messages = says("What is the weather in Oslo?")
    first = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    [call] = first.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageToolCall)
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    messages += [
        first.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 4}'},
    ]
    second = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    assert second.choices[0].message.content
    accounts.check(model, 2)


@each_model
def test_a_streamed_tool_call_accumulates(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=says("What is the weather in Oslo?"), tools=[WEATHER]
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    assert final.choices[0].finish_reason == "tool_calls"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    accounts.check(model)


@each_model
@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_tool_calls_and_both_results(
    client: openai.OpenAI, accounts: Accounts, model: str, streamed: bool
) -> None:
    messages = says("Compare the weather of Oslo and Rome, in parallel.")
    if streamed:
        with client.chat.completions.stream(model=model, messages=messages, tools=[WEATHER]) as stream:
            stream.until_done()
            message: Any = stream.get_final_completion().choices[0].message
    else:
        answer = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
        message = answer.choices[0].message
    calls = message.tool_calls or []
    assert len(calls) == 2
    assert len({call.id for call in calls}) == 2
    for call in calls:
        assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    messages.append({"role": "assistant", "tool_calls": [_as_sent(call) for call in calls]})
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "4 degrees"} for call in calls]
    second = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"
    accounts.check(model, 2)


def _as_sent(call: Any) -> Any:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


@each_model
def test_a_forced_tool(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(
        model=model, messages=says("Hello."), tools=[WEATHER], tool_choice=choice
    )
    assert answer.choices[0].message.tool_calls
    accounts.check(model)


@each_model
def test_a_picture_is_seen(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(a_picture()).decode()
    parts: Any = [
        {"type": "text", "text": "What colour is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content
    accounts.check(model)


@each_model
def test_a_structured_answer_parses(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    answer = client.chat.completions.parse(model=model, messages=says("Judge it."), response_format=Verdict)
    assert isinstance(answer.choices[0].message.parsed, Verdict)
    accounts.check(model)


@each_model
def test_a_streamed_structured_answer_parses(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=says("Judge it."), response_format=Verdict
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Verdict)
    accounts.check(model)


@pytest.mark.parametrize("model", OPENAI_MODELS)
def test_embeddings(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    answer = client.embeddings.create(model=model, input=["a cat", "a dog"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(isinstance(number, float) for number in answer.data[0].embedding)
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1
    accounts.check(model, output=False)


@pytest.mark.parametrize("model", OPENAI_MODELS)
def test_legacy_completions(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8)
    assert answer.choices[0].text
    assert answer.object == "text_completion"
    accounts.check(model)


@pytest.mark.parametrize("model", OPENAI_MODELS)
def test_streamed_legacy_completions(client: openai.OpenAI, accounts: Accounts, model: str) -> None:
    with client.completions.create(model=model, prompt="Once", max_tokens=8, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    accounts.check(model)


def test_the_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert set(CHAT_MODELS) <= {model.id for model in client.models.list()}
    assert client.models.retrieve("sim-small").id == "sim-small"


def test_several_choices_and_logprobs(client: openai.OpenAI, accounts: Accounts) -> None:
    answer = client.chat.completions.create(
        model="sim-small", messages=says("Say hello."), n=2, logprobs=True, top_logprobs=2, seed=7
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is not None
    accounts.check("sim-small")


async def test_the_asynchronous_client_streams(gateway: Service, accounts: Accounts) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="sim-small", messages=says("Say hello."), stream=True
        )
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    accounts.check("sim-small")


def test_a_wrong_key_raises_the_sdks_own_error(gateway: Service) -> None:
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=mint_key(), max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model="sim-small", messages=says("Hello."))
    assert caught.value.request_id


def test_an_unknown_model_raises_the_sdks_own_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="sim-smal", messages=says("Hello."))
    assert caught.value.code == "model_not_found"
    assert "sim-small" in json.dumps(caught.value.body)


@each_model
def test_a_bad_parameter_raises_the_sdks_own_error(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=says("Hello."), max_completion_tokens=-1)
