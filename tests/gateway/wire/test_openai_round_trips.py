"""What passes through OpenAI's format and back stays what it was: calls, answers and streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.wire.openai_chat import OpenAIChat
from providers.adapters.openai import OpenAI
from tests.providers.adapters.openai_cast import (
    Told,
    build_target,
    cut_events,
    list_samples,
    needs_recordings,
    read_recordings,
    read_sample,
    tell,
)
from tokenhub.core.chat import (
    AudioPart,
    ChatAnswer,
    ChatCall,
    Choice,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Reasoning,
    RefusalPart,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from tokenhub.core.usage import Usage

ADAPTER = OpenAI()
FORMAT = OpenAIChat()
HOLDS_ALL = build_target(cache_control=True, top_k=True, reasoning_field="thinking_blocks", max_stops=0)

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NAMES = st.text("abc_1", min_size=1, max_size=6)
CACHES = st.sampled_from(["", "", "5m", "1h"])
DATA = st.text("ABCabc012+/", min_size=4, max_size=12)
SCHEMAS = st.one_of(
    st.none(),
    st.dictionaries(NAMES, st.one_of(WORDS, st.integers(), st.lists(WORDS, max_size=2)), max_size=3),
)
FLAGS = st.one_of(st.none(), st.booleans())
NUMBERS = st.one_of(st.none(), st.integers(0, 2), st.floats(0, 2, allow_nan=False))
COUNTS = st.one_of(st.none(), st.integers(1, 100_000))

TEXT = st.builds(TextPart, WORDS, CACHES)
IMAGE = st.one_of(
    st.builds(
        ImagePart,
        url=WORDS.map(lambda word: f"https://x/{word}"),
        detail=st.sampled_from(["", "low"]),
        cache=CACHES,
    ),
    st.builds(ImagePart, data=DATA, media_type=st.sampled_from(["image/png", "image/jpeg"]), cache=CACHES),
)
FILE = st.one_of(
    st.builds(FilePart, data=DATA, media_type=st.just("application/pdf"), filename=NAMES, cache=CACHES),
    st.builds(FilePart, file_id=NAMES, cache=CACHES),
)
THINKING = st.one_of(
    st.builds(ThinkingPart, text=WORDS, signature=DATA), st.builds(ThinkingPart, redacted=DATA)
)
CALL = st.builds(ToolCallPart, NAMES, NAMES, st.sampled_from(["{}", '{"a": 1}', "not json"]))


def some(*kinds: Any, most: int = 3) -> Any:
    return st.lists(st.one_of(*kinds), min_size=1, max_size=most).map(tuple)


USER = st.builds(
    Message, st.just("user"), some(TEXT, IMAGE, FILE, st.builds(AudioPart, DATA, st.just("wav"))), st.just("")
)
SYSTEM = st.builds(
    Message, st.sampled_from(["system", "developer"]), some(TEXT), st.sampled_from(["", "ann"])
)


@st.composite
def assistants(draw: st.DrawFn) -> Message:
    """An assistant's message in the order that OpenAI's members have: reasoning, one text, one refusal, calls."""
    parts: list[Any] = draw(st.lists(THINKING, max_size=2))
    parts += [TextPart(text) for text in draw(st.lists(WORDS, max_size=1))]
    parts += [RefusalPart(text) for text in draw(st.lists(WORDS, max_size=1))]
    parts += draw(st.lists(CALL, max_size=2))
    return Message("assistant", tuple(parts) or (TextPart("x"),))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Messages; results stand alone and between others, as consecutive ones become one message."""
    result = st.builds(ToolResultPart, NAMES, some(TEXT))
    results = st.builds(Message, st.just("user"), some(result), st.just(""))
    pieces = draw(
        st.lists(
            st.tuples(st.one_of(USER, SYSTEM, assistants()), st.lists(results, max_size=1)),
            min_size=1,
            max_size=4,
        )
    )
    return tuple(message for first, more in pieces for message in (first, *more))


FORMATS = st.one_of(
    st.none(),
    st.just(OutputFormat("json_object")),
    st.builds(
        OutputFormat,
        st.just("json_schema"),
        NAMES,
        st.just({"type": "object"}),
        FLAGS,
        st.sampled_from(["", "d"]),
    ),
)
CALLS = st.builds(
    ChatCall,
    messages=conversations(),
    tools=st.lists(
        st.builds(
            Tool,
            NAMES,
            st.sampled_from(["", "d"]),
            SCHEMAS.map(lambda schema: schema or {"type": "object"}),
            FLAGS,
            CACHES,
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("required"), ToolChoice("named", "f")]),
    parallel_tools=FLAGS,
    output_format=FORMATS,
    reasoning=st.sampled_from([None, Reasoning("low"), Reasoning("high")]),
    max_tokens=COUNTS,
    temperature=NUMBERS,
    top_p=NUMBERS,
    top_k=COUNTS,
    stop=st.lists(WORDS, max_size=5).map(tuple),
    seed=COUNTS,
    frequency_penalty=NUMBERS,
    presence_penalty=NUMBERS,
    n=st.integers(1, 3),
    user=st.sampled_from(["", "u"]),
    service_tier=st.sampled_from(["", "flex"]),
)


# Its strategies repeat names now and then, which they draw anew: on some seeds more often than the health check likes.
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(CALLS)
def test_a_call_that_openais_format_can_hold_survives_a_round_trip(call: ChatCall) -> None:
    _, body, losses = ADAPTER.encode_chat(call, HOLDS_ALL)
    assert losses.names() == ()
    again = FORMAT.read_call(json.loads(body))
    assert again == call
    assert again.losses.names() == ()


BUCKETS = ("input", "cache_read", "cache_write_5m", "output", "reasoning", "audio_in", "audio_out")
USAGES = st.builds(Usage, **{name: st.integers(0, 900) for name in BUCKETS})


@st.composite
def answers(draw: st.DrawFn) -> ChatAnswer:
    """An answer that the format holds whole: a finish reason that its parts allow."""
    choices = []
    for message in draw(st.lists(assistants(), min_size=1, max_size=3)):
        finish: Any = draw(st.sampled_from(["length", "content_filter"]))
        choices.append(Choice(message.parts, finish))
    return ChatAnswer(
        draw(NAMES), "public", tuple(choices), draw(USAGES), draw(st.integers(0, 2_000_000_000))
    )


@settings(max_examples=250, deadline=None)
@given(answers())
def test_an_answer_survives_a_round_trip(answer: ChatAnswer) -> None:
    again = ADAPTER.decode_chat(FORMAT.write_answer(answer, model="public", call=ChatCall(())))
    assert (again.id, again.model, again.created, again.choices) == (
        answer.id,
        "public",
        answer.created,
        answer.choices,
    )
    assert again.usage.counts() == answer.usage.counts()


def send_through(stream: bytes) -> tuple[Told, Told]:
    """What a provider's stream told, and what the stream that we wrote of it tells."""
    decoder = ADAPTER.stream_decoder()
    encoder = FORMAT.stream_encoder(model="public", call=ChatCall((), stream=True, include_usage=True))
    events = cut_events(stream)
    written = [encoder.encode(decoder.decode(event.name, event.data or b"")[1]) for event in events]
    return tell(ADAPTER.stream_decoder(), events), tell(
        ADAPTER.stream_decoder(), cut_events(b"".join(written) + encoder.end())
    )


def assert_same(first: Told, second: Told) -> None:
    # Providers write nothing, `{}` or a space for "no arguments"; we always write `{}`.
    for told in (first, second):
        for part in told.parts.values():
            if part["kind"] == "tool_call":
                part["text"] = part["text"] or "{}"
    assert second.parts == first.parts
    assert {at: end.finish for at, end in second.finished.items()} == {
        at: "stop" if end.finish in ("stop_sequence", "other", "error") else end.finish
        for at, end in first.finished.items()
    }
    assert second.ended
    if first.usage is not None:
        assert second.usage is not None
        assert (second.usage.input_total, second.usage.output_total) == (
            first.usage.input_total,
            first.usage.output_total,
        )


@pytest.mark.parametrize("name", [*list_samples("openai/*.sse"), *list_samples("vllm/*.sse")])
def test_a_stream_written_again_tells_the_same(name: str) -> None:
    # The one is no chat; the other has no end, so nobody writes one for it.
    if name not in ("openai/completions.sse", "openai/error_after_content.sse"):
        assert_same(*send_through(read_sample(name)))


@needs_recordings
@pytest.mark.parametrize(
    "vendor",
    [
        "azure",
        "deepseek",
        "groq",
        "huggingface",
        "mistral",
        "openai",
        "openrouter",
        "vllm-local",
        "xai",
        "zai",
    ],
)
def test_recorded_streams_written_again_tell_the_same(vendor: str) -> None:
    seen = 0
    for row in read_recordings(f"{vendor}_chat.jsonl"):
        if row["streaming"] and row["status"] == 200 and row["id"] != "groq_chat-0084":
            first, second = send_through(row["response_body_raw"].encode())
            assert_same(first, second)
            seen += 1
    assert seen
