"""OpenAI's chat format as callers send and get it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.wire.openai_chat import OpenAIChat
from tokenhub.core.chat import (
    AudioPart,
    ChatAnswer,
    ChatCall,
    ChatEvent,
    Choice,
    Ended,
    FilePart,
    Finished,
    FinishReason,
    ImagePart,
    Message,
    OutputFormat,
    PartDelta,
    PartStarted,
    PartStopped,
    Reasoning,
    RefusalPart,
    SignatureDelta,
    Started,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    UsageSeen,
)
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.usage import Usage

FORMAT = OpenAIChat()
HI = [{"role": "user", "content": "hi"}]


def read(messages: Any = HI, **members: Any) -> ChatCall:
    return FORMAT.read_call({"model": "m", "messages": messages, **members})


def lost(call: ChatCall) -> set[str]:
    return set(call.losses.names())


def test_a_small_call_says_only_what_was_said() -> None:
    assert read() == ChatCall((Message("user", (TextPart("hi"),)),))


def test_null_means_not_said() -> None:
    names = (
        "temperature", "top_p", "n", "stop", "max_tokens", "tools", "tool_choice", "response_format", "stream", "seed", "user",
        "stream_options", "functions", "function_call", "reasoning_effort", "logit_bias", "parallel_tool_calls", "thinking",
    )  # fmt: skip
    call = read(**dict.fromkeys(names))
    assert (call, lost(call)) == (read(), set())


def test_a_conversation_is_read() -> None:
    call = read(
        [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "developer", "content": "Really."},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "Look"},
                    {"type": "image_url", "image_url": {"url": "https://x/i.png", "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,QUJD"}},
                    {"type": "image_url", "image_url": "https://x/j.png"},
                    {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
                    },
                    {"type": "file", "file": {"file_id": "file-1"}},
                ],
            },
            {
                "role": "assistant",
                "content": "Ok",
                "refusal": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": None, "refusal": "No."},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
        ]
    )
    assert call.messages == (
        Message("system", (TextPart("Be brief."),)),
        Message("developer", (TextPart("Really."),)),
        Message(
            "user",
            (
                TextPart("Look"),
                ImagePart(url="https://x/i.png", detail="high"),
                ImagePart(data="QUJD", media_type="image/png"),
                ImagePart(url="https://x/j.png"),
                AudioPart("UklG", "wav"),
                FilePart(data="JVBE", media_type="application/pdf", filename="a.pdf"),
                FilePart(file_id="file-1"),
            ),
            "ann",
        ),
        Message(
            "assistant", (TextPart("Ok"), ToolCallPart("c1", "f", '{"a":1}'), ToolCallPart("c2", "g", ""))
        ),
        Message("user", (ToolResultPart("c1", (TextPart("one"),)), ToolResultPart("c2", (TextPart("two"),)))),
        Message("assistant", (RefusalPart("No."),)),
        Message("assistant", (TextPart("a"), RefusalPart("b"))),
    )
    assert lost(call) == set()


def test_old_functions_become_tools_and_their_results_find_their_calls() -> None:
    call = read(
        [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "one"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "two"},
        ],
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )
    ids = [part.id for message in call.messages for part in message.parts if isinstance(part, ToolCallPart)]
    results = [
        part.call_id
        for message in call.messages
        for part in message.parts
        if isinstance(part, ToolResultPart)
    ]
    assert ids == results == ["call_1", "call_3"]
    assert (call.tools, call.tool_choice) == (
        (Tool("f", schema={"type": "object"}),),
        ToolChoice("named", "f"),
    )
    assert lost(call) == {"changed:functions"}


@pytest.mark.parametrize(
    ("choice", "read_as", "losses"),
    [
        ("auto", ToolChoice("auto"), set()),
        ("none", ToolChoice("none"), set()),
        ("required", ToolChoice("required"), set()),
        ("any", ToolChoice("required"), set()),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f"), set()),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function"}]}},
            ToolChoice("required"),
            {"changed:tool_choice"},
        ),
        ({"type": "custom", "custom": {"name": "x"}}, None, {"dropped:tool_choice"}),
    ],
)
def test_every_form_of_tool_choice_is_read(choice: Any, read_as: ToolChoice | None, losses: set[str]) -> None:
    call = read(tool_choice=choice)
    assert (call.tool_choice, lost(call)) == (read_as, losses)


def test_tools_and_their_extras_are_read() -> None:
    call = read(
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
            {"type": "custom", "custom": {"name": "x"}},
            {"function": {"name": "g", "parameters": None}},
        ],
        parallel_tool_calls=False,
    )
    assert call.tools == (Tool("f", "d", {"type": "object"}, True, "1h"), Tool("g"))
    assert call.parallel_tools is False
    assert lost(call) == {"dropped:tools[1]"}


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({"reasoning_effort": "minimal"}, Reasoning("minimal")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(budget_tokens=2048)),
        ({"thinking": {"type": "disabled"}}, Reasoning(budget_tokens=0)),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "low"}, Reasoning("low", adaptive=True)),
        ({"reasoning": {"effort": "high"}}, Reasoning("high")),
        ({"reasoning": {"max_tokens": 100}}, Reasoning(budget_tokens=100)),
        ({"reasoning": {"enabled": False}}, Reasoning(budget_tokens=0)),
    ],
)
def test_reasoning_is_read_in_every_callers_words(members: Any, reasoning: Reasoning) -> None:
    assert read(**members).reasoning == reasoning


def test_the_newer_output_limit_wins_by_name() -> None:
    assert read(max_tokens=5).max_tokens == 5
    call = read(max_tokens=5, max_completion_tokens=7)
    assert (call.max_tokens, lost(call)) == (7, {"dropped:max_tokens"})


def test_formats_sampling_and_stream_flags_are_read() -> None:
    schema = {"name": "o", "schema": {"type": "object"}, "strict": True, "description": "d"}
    call = read(
        response_format={"type": "json_schema", "json_schema": schema},
        temperature=0,
        top_p=0.9,
        top_k=4,
        n=2,
        stop="x",
        seed=1,
        frequency_penalty=1,
        presence_penalty=0.5,
        user="u",
        service_tier="flex",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert call.output_format == OutputFormat("json_schema", "o", {"type": "object"}, True, "d")
    assert (call.temperature, call.top_p, call.top_k, call.n, call.stop, call.seed) == (
        0,
        0.9,
        4,
        2,
        ("x",),
        1,
    )
    assert (call.frequency_penalty, call.presence_penalty, call.user, call.service_tier) == (
        1,
        0.5,
        "u",
        "flex",
    )
    assert (call.stream, call.include_usage, lost(call)) == (True, True, set())
    assert read(response_format={"type": "text"}).output_format is None
    assert read(response_format={"type": "json_object"}).output_format == OutputFormat("json_object")


def test_whatever_cannot_be_held_is_named_by_its_path() -> None:
    names = (
        "logit_bias", "logprobs", "top_logprobs", "modalities", "audio", "prediction", "web_search_options", "store", "metadata",
        "prompt_cache_key", "safety_identifier", "verbosity", "an_unknown_one",
    )  # fmt: skip
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x", "annotations": [1]}], "prefix": True},
        {"role": "assistant", "content": "x", "audio": {"id": "a1"}},
    ]
    call = read(messages, stream_options={"include_obfuscation": False}, **dict.fromkeys(names, 1))
    assert lost(call) == {f"dropped:{name}" for name in names} | {
        "dropped:messages[0].content[0].annotations",
        "dropped:messages[0].prefix",
        "dropped:messages[1].audio",
        "dropped:stream_options.include_obfuscation",
    }


def test_cache_breakpoints_stand_on_parts_and_messages() -> None:
    control = {"type": "ephemeral"}
    call = read(
        [
            {"role": "system", "content": "long", "cache_control": {**control, "ttl": "1h"}},
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": control}]},
        ]
    )
    assert call.messages[0].parts == (TextPart("long", "1h"),)
    assert call.messages[1].parts == (TextPart("a", "5m"),)


def test_a_thinking_round_trip_keeps_signatures_and_redacted_parts() -> None:
    parts = (
        ThinkingPart("Hm", "c2ln"),
        ThinkingPart(redacted="b3Bh"),
        TextPart("Yes"),
        ToolCallPart("c1", "f", "{}"),
    )
    answer = ChatAnswer("id", "p", (Choice(parts, "tool_calls"),))
    message = json.loads(FORMAT.write_answer(answer, model="m", call=read()))["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm"
    again = read([*HI, message, {"role": "tool", "tool_call_id": "c1", "content": "r"}])
    assert again.messages[1] == Message("assistant", parts)


def test_openrouters_details_and_plain_reasoning_are_taken_too() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm", "signature": "s", "index": 0},
        {"type": "reasoning.encrypted", "data": "b3Bh"},
    ]
    call = read([{"role": "assistant", "content": "x", "reasoning": "Hm", "reasoning_details": details}])
    assert call.messages[0].parts[:2] == (ThinkingPart("Hm", "s"), ThinkingPart(redacted="b3Bh"))
    call = read([{"role": "assistant", "content": "x", "reasoning_content": "Hm"}])
    assert call.messages[0].parts == (ThinkingPart("Hm"), TextPart("x"))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": 7}, "model"),
    ({"model": ""}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": ["x"]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "user", "content": ["x"]}]}, "messages[1].content[0]"),
    ({"messages": [*HI, {"role": "user", "content": [{}]}]}, "messages[1].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].image_url",
    ),
    (
        {
            "messages": [
                *HI,
                *HI,
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]},
            ]
        },
        "messages[2].content[0].image_url.url",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]}
            ]
        },
        "messages[0].content[0].image_url.url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": "x"}}]}]},
        "messages[0].content[0].file.file_data",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]},
        "messages[0].content[0].input_audio.format",
    ),
    (
        {
            "messages": [
                {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}
            ]
        },
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].id",
    ),
    (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]}
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "thinking_blocks": [{"type": "text"}]}]},
        "messages[0].thinking_blocks[0].type",
    ),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"n": 0}, "n"),
    ({"n": 1.5}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"stop": 7}, "stop"),
    ({"stop": ["a", 7]}, "stop[1]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": 7}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
]


@pytest.mark.parametrize(("members", "path"), BAD)
def test_a_wrong_member_is_named_by_its_exact_path(members: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        FORMAT.read_call({"model": "m", "messages": HI, **members})
    assert raised.value.param == path
    assert raised.value.message.startswith(f"{path}: ")
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": "2"}, "n"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_the_cheap_check_refuses_what_would_not_even_route(members: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        FORMAT.check({"model": "m", "messages": HI, **members})
    assert raised.value.param == path


def test_the_cheap_check_leaves_the_rest_of_a_native_body_to_the_provider() -> None:
    FORMAT.check({"model": "m", "messages": [{"role": "alien", "content": 7}], "temperature": "hot", "x": {}})


# Answers.

USAGE = Usage(input=10, cache_read=5, cache_write_1h=2, output=7, reasoning=3, audio_in=1, audio_out=4)


def test_an_answer_is_a_chat_completion_that_openais_own_types_accept() -> None:
    parts = (TextPart("a"), TextPart("b"), ToolCallPart("c1", "f", ""))
    answer = ChatAnswer(
        "id1", "provider-model", (Choice(parts, "tool_calls"), Choice((), "length")), USAGE, 1790000000
    )
    body = FORMAT.write_answer(answer, model="public", call=read())
    completion = ChatCompletion.model_validate_json(body)
    assert (completion.id, completion.model, completion.created) == ("id1", "public", 1790000000)
    first, second = completion.choices
    assert (first.message.content, first.finish_reason, first.index) == ("ab", "tool_calls", 0)
    assert first.message.tool_calls is not None
    assert first.message.tool_calls[0].model_dump() == {
        "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"},
    }  # fmt: skip
    assert (second.message.content, second.finish_reason, second.index) == ("", "length", 1)
    assert json.loads(body)["usage"] == {
        "prompt_tokens": 18,
        "completion_tokens": 14,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 1, "cache_write_tokens": 2},
        "completion_tokens_details": {
            "reasoning_tokens": 3, "audio_tokens": 4, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def test_a_refusal_answer_has_no_content_and_a_lost_part_is_named() -> None:
    refused = ChatAnswer("i", "p", (Choice((RefusalPart("No."),), "refusal"),))
    choice = json.loads(FORMAT.write_answer(refused, model="m", call=read()))["choices"][0]
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, "No.")
    assert choice["finish_reason"] == "stop"
    pictured = ChatAnswer("i", "p", (Choice((ImagePart(url="https://x"),), "stop"),))
    FORMAT.write_answer(pictured, model="m", call=read())
    assert pictured.losses.names() == ("dropped:choices[0].message.content",)


@pytest.mark.parametrize(
    ("finish", "written"),
    [
        ("stop", "stop"), ("stop_sequence", "stop"), ("length", "length"), ("context", "length"), ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"), ("refusal", "content_filter"), ("pause", "stop"), ("error", "stop"),
        ("other", "stop"),
    ],
)  # fmt: skip
def test_every_finish_reason_has_openais_word(finish: FinishReason, written: str) -> None:
    answer = ChatAnswer("i", "p", (Choice((TextPart("x"),), finish),))
    assert (
        json.loads(FORMAT.write_answer(answer, model="m", call=read()))["choices"][0]["finish_reason"]
        == written
    )


# Streams.


def stream(*events: ChatEvent, include_usage: bool = False) -> list[dict[str, Any]]:
    """The chunks of a whole stream, each accepted by OpenAI's own types; the end mark is checked and left out."""
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    encoder = FORMAT.stream_encoder(model="public", call=read(**options))
    written = b"".join(encoder.encode([event]) for event in events)
    assert b"[DONE]" not in written
    blocks = (written + encoder.end()).split(b"\n\n")
    assert blocks[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(block.removeprefix(b"data: ")) for block in blocks[:-2]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


START = Started("id1", "provider-model", 1790000000)


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def test_a_text_stream_has_role_text_and_finish_chunks_of_one_identity() -> None:
    chunks = stream(
        START,
        PartStarted(0, "text"),
        PartDelta(0, "Hel\n"),
        PartDelta(0, "lo"),
        PartStopped(0),
        UsageSeen(USAGE),
        Finished("stop"),
        Ended(),
    )
    assert deltas(chunks) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel\n"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("id1", 1790000000, "public", "chat.completion.chunk")
    }
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_last_and_only_if_it_was_asked_for() -> None:
    chunks = stream(
        START, UsageSeen(Usage(input=1)), UsageSeen(USAGE), Finished("stop"), Ended(), include_usage=True
    )
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 18
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_tool_calls_are_numbered_by_themselves_and_never_without_arguments() -> None:
    chunks = stream(
        START,
        PartStarted(0, "text"),
        PartDelta(0, "x"),
        PartStopped(0),
        PartStarted(1, "tool_call", id="c1", name="f"),
        PartDelta(1, '{"a"'),
        PartDelta(1, ":1}"),
        PartStopped(1),
        PartStarted(2, "tool_call", id="c2", name="g"),
        PartStopped(2),
        Finished("tool_calls"),
        Ended(),
    )
    calls = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
    assert calls == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]


def test_reasoning_streams_as_text_and_signed_blocks_come_whole() -> None:
    chunks = stream(
        START,
        PartStarted(0, "thinking"),
        PartDelta(0, "Let me "),
        PartDelta(0, "see."),
        SignatureDelta(0, "c2"),
        SignatureDelta(0, "ln"),
        PartStopped(0),
        PartStarted(1, "redacted_thinking", redacted="b3Bh"),
        PartStopped(1),
        PartStarted(2, "refusal"),
        PartDelta(2, "No."),
        PartStopped(2),
        Finished("refusal"),
        Ended(),
    )
    assert deltas(chunks)[1:] == [
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "b3Bh"}]},
        {"refusal": "No."},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_every_choice_gets_its_own_role_and_finish_chunk() -> None:
    chunks = stream(
        START,
        PartStarted(0, "text", choice=1),
        PartDelta(0, "two", choice=1),
        PartStopped(0, choice=1),
        Finished("length", choice=1),
        Ended(),
    )
    rows = [(chunk["choices"][0]["index"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert rows == [(0, None), (1, None), (1, None), (1, "length"), (0, "stop")]
    assert deltas(chunks)[2] == {"content": "two"}
