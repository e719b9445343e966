"""The mock's Anthropic side, driven by Anthropic's own SDK over a real socket."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from providers.mock import MockProvider

TOOL: Any = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
    },
}
HELLO: Any = [{"role": "user", "content": "hello"}]


class Forecast(BaseModel):
    city: str
    days: int


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider() as started:
        yield started


@pytest.fixture
async def client(mock: MockProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=mock.origin, api_key="sk-ant-5678", max_retries=0) as made:
        yield made


async def test_a_message_answers_and_is_counted(client: anthropic.AsyncAnthropic, mock: MockProvider) -> None:
    made = await client.messages.create(model="sim-large", max_tokens=400, messages=HELLO)
    assert made.content[0].type == "text"
    assert made.stop_reason == "end_turn"
    usage = mock.stats()["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (
        made.usage.input_tokens,
        made.usage.output_tokens,
    )


async def test_the_stream_helper_gives_the_same_message(client: anthropic.AsyncAnthropic) -> None:
    plain = await client.messages.create(model="m", max_tokens=400, messages=HELLO)
    async with client.messages.stream(model="m", max_tokens=400, messages=HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert plain.content[0].type == "text"
    assert text == plain.content[0].text
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert final.usage.input_tokens == plain.usage.input_tokens


async def test_thinking_streams_and_can_be_sent_back(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(
        model="m", max_tokens=400, messages=HELLO, thinking={"type": "adaptive"}
    ) as stream:
        first = await stream.get_final_message()
    assert [block.type for block in first.content] == ["thinking", "text"]
    messages: Any = [
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "and?"},
    ]
    second = await client.messages.create(
        model="m", max_tokens=400, messages=messages, thinking={"type": "adaptive"}
    )
    assert second.content[0].type == "thinking"
    messages[1]["content"][0].signature = "AAAA"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        await client.messages.create(model="m", max_tokens=400, messages=messages)


async def test_a_tool_loop_ends_in_text(client: anthropic.AsyncAnthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "the weather please"}]
    async with client.messages.stream(model="m", max_tokens=400, messages=messages, tools=[TOOL]) as stream:
        first = await stream.get_final_message()
    use = next(block for block in first.content if block.type == "tool_use")
    assert isinstance(use.input, dict)
    assert set(use.input) == {"city", "days"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = await client.messages.create(model="m", max_tokens=400, messages=messages, tools=[TOOL])
    assert second.stop_reason == "end_turn"


async def test_parse_returns_a_model(client: anthropic.AsyncAnthropic) -> None:
    made = await client.messages.parse(model="m", max_tokens=400, messages=HELLO, output_format=Forecast)
    assert isinstance(made.parsed_output, Forecast)


async def test_count_tokens_matches_the_bill(client: anthropic.AsyncAnthropic) -> None:
    counted = await client.messages.count_tokens(model="m", messages=HELLO, tools=[TOOL])
    made = await client.messages.create(model="m", max_tokens=400, messages=HELLO, tools=[TOOL])
    assert counted.input_tokens == made.usage.input_tokens


async def test_the_prompt_cache_is_reported_and_booked(
    client: anthropic.AsyncAnthropic, mock: MockProvider
) -> None:
    system: Any = [{"type": "text", "text": "s" * 8000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    wrote = await client.messages.create(model="m", max_tokens=9, messages=HELLO, system=system)
    read = await client.messages.create(model="m", max_tokens=9, messages=HELLO, system=system)
    assert wrote.usage.cache_creation is not None
    assert wrote.usage.cache_creation.ephemeral_1h_input_tokens == 2000
    assert read.usage.cache_read_input_tokens == 2000
    usage = mock.stats()["usage"]
    assert (usage["cache_creation_1h_input_tokens"], usage["cache_read_input_tokens"]) == (2000, 2000)


async def test_models_come_in_anthropics_shape(client: anthropic.AsyncAnthropic) -> None:
    page = await client.models.list()
    assert page.data[0].type == "model"
    assert page.has_more is False


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("context", anthropic.BadRequestError, "prompt is too long: 213462 tokens > 200000 maximum"),
        ("401", anthropic.AuthenticationError, "invalid x-api-key"),
        ("403", anthropic.PermissionDeniedError, "permission_error"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("529", anthropic.InternalServerError, "overloaded_error"),
    ],
)
async def test_faults_raise_the_sdks_own_errors(
    client: anthropic.AsyncAnthropic, fault: str, kind: type[anthropic.APIError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await client.messages.create(model=f"fault-{fault}", max_tokens=9, messages=HELLO)


async def test_an_error_event_in_mid_stream_raises(client: anthropic.AsyncAnthropic) -> None:
    seen: list[str] = []

    async def drain() -> None:
        async with client.messages.stream(
            model="fault-error-event-2", max_tokens=99, messages=HELLO
        ) as stream:
            async for text in stream.text_stream:
                seen.append(text)

    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await drain()
    assert len(seen) == 2


async def test_both_versions_are_served_and_the_newer_refuses_sampling(mock: MockProvider) -> None:
    for version, works in (("2023-06-01", True), ("2026-10-21", False)):
        async with anthropic.AsyncAnthropic(
            base_url=mock.origin, api_key="k", max_retries=0, default_headers={"anthropic-version": version}
        ) as client:
            asked = client.messages.create(
                model="m", max_tokens=9, messages=HELLO, extra_body={"temperature": 0.5}
            )
            if works:
                assert (await asked).content
            else:
                with pytest.raises(anthropic.BadRequestError, match="temperature"):
                    await asked
