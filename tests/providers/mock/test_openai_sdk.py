"""The mock's OpenAI side, driven by OpenAI's own SDK over a real socket."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from providers.mock import MockProvider

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
HELLO: Any = [{"role": "user", "content": "hello"}]


class Forecast(BaseModel):
    city: str
    days: int
    warnings: list[str]


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider() as started:
        yield started


@pytest.fixture
async def client(mock: MockProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{mock.origin}/v1", api_key="sk-test-1234", max_retries=0
    ) as made:
        yield made


async def test_a_chat_answers_and_is_counted(client: openai.AsyncOpenAI, mock: MockProvider) -> None:
    made = await client.chat.completions.create(model="sim-small", messages=HELLO)
    assert made.choices[0].message.content
    assert made.usage is not None
    stats = mock.stats()
    assert stats["by_model"] == {"sim-small": 1}
    assert stats["usage"]["input_tokens"] == made.usage.prompt_tokens
    assert stats["usage"]["output_tokens"] == made.usage.completion_tokens
    assert stats["list"][0]["headers"]["authorization"] == "…1234"


async def test_a_stream_ends_with_usage_that_matches_the_stats(
    client: openai.AsyncOpenAI, mock: MockProvider
) -> None:
    stream = await client.chat.completions.create(
        model="sim-small", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert usage is not None
    assert (await mock.until(lambda s: s["finished"] == 1))["usage"][
        "output_tokens"
    ] == usage.completion_tokens
    assert mock.calls()[0].stream


async def test_the_stream_helper_accumulates_tool_calls(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "the weather here and there, in parallel"}]
    async with client.chat.completions.stream(model="m", messages=messages, tools=[TOOL]) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert len(calls) == 2
    assert final.choices[0].finish_reason == "tool_calls"


async def test_a_tool_loop_ends_in_text(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "the weather please"}]
    first = await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
    second = await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
    assert second.choices[0].message.content
    assert second.choices[0].finish_reason == "stop"


async def test_parse_returns_a_model(client: openai.AsyncOpenAI) -> None:
    made = await client.chat.completions.parse(model="m", messages=HELLO, response_format=Forecast)
    assert isinstance(made.choices[0].message.parsed, Forecast)


async def test_embeddings_are_decoded_by_the_sdk(client: openai.AsyncOpenAI) -> None:
    made = await client.embeddings.create(model="sim-embedding", input=["one", "two"], dimensions=32)
    again = await client.embeddings.create(
        model="sim-embedding", input="two", dimensions=32, encoding_format="float"
    )
    assert [len(entry.embedding) for entry in made.data] == [32, 32]
    assert made.data[1].embedding == pytest.approx(again.data[0].embedding)


async def test_legacy_completions_stream(client: openai.AsyncOpenAI) -> None:
    plain = await client.completions.create(model="m", prompt="p", max_tokens=9)
    stream = await client.completions.create(model="m", prompt="p", max_tokens=9, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == plain.choices[0].text


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert "sim-small" in names
    assert (await client.models.retrieve("sim-small")).id == "sim-small"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nope")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("context", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("404", openai.NotFoundError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("reset", openai.APIConnectionError),
    ],
)
async def test_faults_raise_the_sdks_own_errors(
    client: openai.AsyncOpenAI, fault: str, kind: type[openai.APIError]
) -> None:
    with pytest.raises(kind):
        await client.chat.completions.create(model=f"fault-{fault}", messages=HELLO)


async def test_an_error_event_in_mid_stream_raises(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="fault-error-event-2", messages=HELLO, stream=True)
    seen: list[str | None] = []

    async def drain() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="had an error while processing"):
        await drain()
    assert len([text for text in seen if text]) == 2


async def test_the_sdk_retries_a_rate_limit_that_ends(mock: MockProvider) -> None:
    mock.fail_next("429:0", count=2)
    async with openai.AsyncOpenAI(base_url=f"{mock.origin}/v1", api_key="k", max_retries=2) as client:
        made = await client.chat.completions.create(model="m", messages=HELLO)
    assert made.choices[0].message.content
    assert mock.stats()["by_status"] == {"429": 2, "200": 1}
