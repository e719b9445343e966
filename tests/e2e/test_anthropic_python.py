"""The unmodified Python SDK of Anthropic against a running installation: on its own format and across formats."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx
import pytest
from pydantic import BaseModel

from tests.e2e.catalogue import CHAT_MODELS, SIMULATED, VIA_ANTHROPIC, VIA_OPENAI, Accounts, a_picture
from tests.e2e.service import Service
from tokenhub.core.keys import mint_key

pytestmark = pytest.mark.slow

WEATHER: Any = {
    "name": "get_weather",
    "description": "Current weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
each_model = pytest.mark.parametrize("model", CHAT_MODELS)
signing_model = pytest.mark.parametrize("model", [SIMULATED, VIA_ANTHROPIC])


class Verdict(BaseModel):
    """What the structured answers must parse into."""

    verdict: Literal["accept", "reject"]
    confidence: int
    reasons: list[str]


@pytest.fixture
def client(gateway: Service) -> Iterator[anthropic.Anthropic]:
    """An Anthropic client that never retries, so that each call is one row."""
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=30) as made:
        yield made


def says(text: str) -> Any:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]


@each_model
def test_a_plain_answer(client: anthropic.Anthropic, accounts: Accounts, model: str) -> None:
    answer = client.messages.create(model=model, max_tokens=200, messages=says("Say hello."))
    [block] = answer.content
    assert block.type == "text"
    assert block.text
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
    [row] = accounts.check(model)
    assert (row["input"], row["output"]) == (answer.usage.input_tokens, answer.usage.output_tokens)
    assert bool(row["translated"]) == (model == VIA_OPENAI)


@each_model
def test_a_system_prompt_and_limits(client: anthropic.Anthropic, accounts: Accounts, model: str) -> None:
    messages = [*says("Tell a long story."), {"role": "assistant", "content": "Once"}, *says("Go on.")]
    system: Any = [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]
    answer = client.messages.create(
        model=model, max_tokens=5, system=system, messages=messages, stop_sequences=["\n\n"]
    )
    assert answer.stop_reason == "max_tokens"
    [row] = accounts.check(model)
    assert row["output"] == 5


@each_model
def test_the_stream_helper_accumulates_the_answer(
    client: anthropic.Anthropic, accounts: Accounts, model: str
) -> None:
    with client.messages.stream(model=model, max_tokens=200, messages=says("Say hello.")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert text == "".join(block.text for block in final.content if block.type == "text")
    assert final.stop_reason == "end_turn"
    [row] = accounts.check(model)
    assert (row["input"], row["output"]) == (final.usage.input_tokens, final.usage.output_tokens)
    assert row["streamed"]


@each_model
def test_the_events_of_a_raw_stream_are_in_order(
    client: anthropic.Anthropic, accounts: Accounts, model: str
) -> None:
    with client.messages.create(
        model=model, max_tokens=200, messages=says("Say hello."), stream=True
    ) as stream:
        kinds = [event.type for event in stream if event.type != "ping"]  # type: ignore[comparison-overlap]
    assert kinds[0] == "message_start"
    assert kinds[1] == "content_block_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    accounts.check(model)


@each_model
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_call_and_the_turn_with_its_result(
    client: anthropic.Anthropic, accounts: Accounts, model: str, streamed: bool
) -> None:
    messages = says("What is the weather in Oslo?")
    first = _ask(client, streamed, model=model, max_tokens=500, messages=messages, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    [call] = [block for block in first.content if block.type == "tool_use"]
    assert call.name == "get_weather"
    assert set(call.input) == {"city", "unit"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = _ask(client, streamed, model=model, max_tokens=500, messages=messages, tools=[WEATHER])
    assert second.stop_reason == "end_turn"
    accounts.check(model, 2)


def _ask(client: anthropic.Anthropic, streamed: bool, **request: Any) -> Any:
    """One message, in one piece or put together by the SDK from its stream."""
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


@each_model
def test_parallel_tool_calls_and_both_results(
    client: anthropic.Anthropic, accounts: Accounts, model: str
) -> None:
    messages = says("Compare the weather of Oslo and Rome, in parallel.")
    first = _ask(client, True, model=model, max_tokens=500, messages=messages, tools=[WEATHER])
    calls = [block for block in first.content if block.type == "tool_use"]
    assert len({call.id for call in calls}) == 2
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "4 degrees"}]}
        for call in calls
    ]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = client.messages.create(model=model, max_tokens=500, messages=messages, tools=[WEATHER])
    assert second.stop_reason == "end_turn"
    accounts.check(model, 2)


@each_model
def test_a_forced_tool(client: anthropic.Anthropic, accounts: Accounts, model: str) -> None:
    choice: Any = {"type": "tool", "name": "get_weather"}
    answer = client.messages.create(
        model=model, max_tokens=500, messages=says("Hello."), tools=[WEATHER], tool_choice=choice
    )
    assert [block.type for block in answer.content] == ["tool_use"]
    accounts.check(model)


@each_model
def test_a_picture_is_seen(client: anthropic.Anthropic, accounts: Accounts, model: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(a_picture()).decode()}
    parts: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What colour is it?"}]
    answer = client.messages.create(
        model=model, max_tokens=200, messages=[{"role": "user", "content": parts}]
    )
    assert answer.content
    accounts.check(model)


@signing_model
@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_comes_signed_and_goes_back_in_the_next_turns(
    client: anthropic.Anthropic, accounts: Accounts, model: str, streamed: bool
) -> None:
    messages = says("What is the weather in Oslo?")
    request = {"model": model, "max_tokens": 4000, "thinking": THINKING, "tools": [WEATHER]}
    first = _ask(client, streamed, messages=messages, **request)
    assert first.content[0].type == "thinking"
    assert first.content[0].thinking
    assert first.content[0].signature
    call = first.content[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = _ask(client, streamed, messages=messages, **request)
    messages += [{"role": "assistant", "content": second.content}, *says("Thanks.")]
    third = _ask(client, streamed, messages=messages, **request)
    assert third.stop_reason == "end_turn"
    accounts.check(model, 3)


@signing_model
def test_thoughts_that_the_vendor_did_not_sign_are_left_out_and_told(
    client: anthropic.Anthropic, accounts: Accounts, model: str
) -> None:
    forged = {"type": "thinking", "thinking": "I think so.", "signature": base64.b64encode(b"no").decode()}
    messages: Any = [
        *says("Hello."),
        {"role": "assistant", "content": [forged, {"type": "text", "text": "Hi."}]},
        *says("Go on."),
    ]
    answer = client.messages.with_raw_response.create(
        model=model, max_tokens=4000, thinking=THINKING, messages=messages
    )
    assert answer.headers["x-tokenhub-translation"] == "dropped:messages.thinking"
    assert answer.parse().stop_reason == "end_turn"
    assert [row["outcome"] for row in accounts.rows(2)] == ["failed", "completed"]


def test_thinking_asked_of_a_vendor_of_the_other_format_answers_and_goes_on(
    client: anthropic.Anthropic, accounts: Accounts
) -> None:
    messages = says("Say hello.")
    request: Any = {"model": VIA_OPENAI, "max_tokens": 4000, "thinking": THINKING}
    first = client.messages.create(messages=messages, **request)
    messages += [{"role": "assistant", "content": first.content}, *says("Thanks.")]
    second = client.messages.create(messages=messages, **request)
    assert second.stop_reason == "end_turn"
    accounts.check(VIA_OPENAI, 2)


@each_model
def test_a_structured_answer_parses(client: anthropic.Anthropic, accounts: Accounts, model: str) -> None:
    answer = client.messages.parse(
        model=model, max_tokens=500, messages=says("Judge it."), output_format=Verdict
    )
    assert isinstance(answer.parsed_output, Verdict)
    accounts.check(model)


@each_model
def test_tokens_are_counted_before_they_are_spent(client: anthropic.Anthropic, model: str) -> None:
    request: Any = {"model": model, "messages": says("What is the weather in Oslo?"), "tools": [WEATHER]}
    counted = client.messages.count_tokens(**request).input_tokens
    assert counted > 10
    if model != VIA_OPENAI:
        used = client.messages.create(max_tokens=100, **request).usage
        assert counted == used.input_tokens


def test_the_models_are_listed_and_found(client: anthropic.Anthropic) -> None:
    assert set(CHAT_MODELS) <= {model.id for model in client.models.list()}
    assert [model.id for model in client.models.list(limit=1)] == sorted(
        model.id for model in client.models.list(limit=1000)
    )
    assert client.models.retrieve(SIMULATED).type == "model"


@each_model
@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_either_key_header_and_either_api_version_is_taken(
    gateway: Service, accounts: Accounts, model: str, version: str, header: str
) -> None:
    secret = f"Bearer {gateway.key}" if header == "authorization" else gateway.key
    answer = httpx.post(
        f"{gateway.url}/v1/messages",
        headers={header: secret, "anthropic-version": version},
        json={"model": model, "max_tokens": 50, "messages": says("Hello.")},
    )
    assert answer.status_code == 200, answer.text
    accounts.check(model)


def test_a_key_given_as_token_is_taken(gateway: Service, accounts: Accounts) -> None:
    with anthropic.Anthropic(base_url=gateway.url, auth_token=gateway.key, max_retries=0) as client:
        client.messages.create(model=SIMULATED, max_tokens=50, messages=says("Hello."))
    accounts.check(SIMULATED)


@each_model
def test_sampling_parameters_of_a_client_of_the_old_version_are_kept(
    gateway: Service, accounts: Accounts, model: str
) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=gateway.key, max_retries=0, default_headers=headers
    ) as client:
        extra = {"temperature": 0.3, "top_p": 0.9}
        client.messages.create(model=model, max_tokens=50, messages=says("Hello."), extra_body=extra)
    accounts.check(model)


async def test_the_asynchronous_client_streams(gateway: Service, accounts: Accounts) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client,
        client.messages.stream(model=SIMULATED, max_tokens=50, messages=says("Hello.")) as stream,
    ):
        assert "".join([text async for text in stream.text_stream])
    accounts.check(SIMULATED)


def test_a_wrong_key_raises_the_sdks_own_error(gateway: Service) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=mint_key(), max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model=SIMULATED, max_tokens=50, messages=says("Hello."))
    assert caught.value.type == "authentication_error"
    assert caught.value.request_id


def test_an_unknown_model_raises_the_sdks_own_error(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="sim-smal", max_tokens=50, messages=says("Hello."))
    assert caught.value.type == "not_found_error"
    assert SIMULATED in str(caught.value.body)


@each_model
def test_a_bad_parameter_raises_the_sdks_own_error(client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=model, max_tokens=-1, messages=says("Hello."))
    assert caught.value.type == "invalid_request_error"
