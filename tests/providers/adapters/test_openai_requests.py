"""What goes to OpenAI-style vendors: paths, headers, edits of native bodies, translated bodies; and their model lists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.base import Inbound, Operation
from providers.adapters.openai import OpenAI
from providers.adapters.registry import get_adapter
from providers.adapters.vllm import VLLM
from tests.providers.adapters.openai_cast import NO_CALLER, build_target, read_sample
from tokenhub.core.chat import (
    AudioPart,
    ChatAnswer,
    ChatCall,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)

ADAPTER = OpenAI()
CHAT = Operation.OPENAI_CHAT


def user(*parts: Part) -> Message:
    return Message("user", parts)


def encode(call: ChatCall, **profile: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    operation, body, losses = ADAPTER.encode_chat(call, build_target(**profile))
    assert operation is CHAT
    return json.loads(body), losses.names()


def test_both_adapters_are_found_by_their_kind() -> None:
    assert isinstance(get_adapter("openai"), OpenAI)
    assert isinstance(get_adapter("vllm"), VLLM)


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (CHAT, b"/prefix/v1/chat/completions"),
        (Operation.OPENAI_COMPLETIONS, b"/prefix/v1/completions"),
        (Operation.OPENAI_EMBEDDINGS, b"/prefix/v1/embeddings"),
    ],
)
def test_a_request_has_its_path_the_providers_own_auth_and_the_body_untouched(
    operation: Operation, path: bytes
) -> None:
    request = ADAPTER.request(build_target(), operation, b'{"a": 1}', NO_CALLER, stream=False)
    assert (request.path, request.method, request.body) == (path, b"POST", b'{"a": 1}')
    assert dict(request.headers) == {
        b"content-type": b"application/json",
        b"accept": b"application/json",
        b"authorization": b"Bearer sk-upstream",
    }


def test_of_the_callers_headers_only_the_allowed_ones_go_upstream() -> None:
    names = (
        "authorization", "x-api-key", "openai-organization", "openai-project", "idempotency-key", "cookie", "openai-beta",
        "x-client-request-id", "x-forwarded-for",
    )  # fmt: skip
    inbound = Inbound({name.encode(): b"theirs" for name in names})
    request = ADAPTER.request(build_target(), CHAT, b"{}", inbound, stream=True)
    headers = dict(request.headers)
    assert [name for name, value in headers.items() if value == b"theirs"] == [
        b"openai-beta",
        b"x-client-request-id",
    ]
    assert headers[b"accept"] == b"text/event-stream"
    assert len(headers) == len(request.headers)


def test_azure_is_only_configuration() -> None:
    target = build_target(
        api_path="/openai/deployments/{model}",
        api_query="api-version=2024-10-21",
        auth_header="api-key",
        auth_scheme="",
    )
    request = ADAPTER.request(target, CHAT, b"{}", NO_CALLER, stream=False)
    assert request.path == b"/prefix/openai/deployments/upstream-1/chat/completions?api-version=2024-10-21"
    assert dict(request.headers)[b"api-key"] == b"sk-upstream"
    assert b"authorization" not in dict(request.headers)


def test_a_provider_without_a_secret_gets_no_auth_header() -> None:
    request = ADAPTER.request(build_target(secret=""), CHAT, b"{}", NO_CALLER, stream=False)
    assert b"authorization" not in dict(request.headers)


def test_no_secret_shows_in_a_repr() -> None:
    target = build_target()
    request = ADAPTER.request(target, CHAT, b"{}", NO_CALLER, stream=False)
    assert "sk-upstream" not in repr(request) + repr(target)


def test_an_operation_that_is_not_native_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="natively"):
        ADAPTER.request(build_target(), Operation.ANTHROPIC_MESSAGES, b"{}", NO_CALLER, stream=False)


def test_a_profile_setting_of_the_wrong_type_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="stream_usage"):
        ADAPTER.request(build_target(stream_usage="yes"), CHAT, b"{}", NO_CALLER, stream=False)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            {"include_obfuscation": False, "include_usage": True},
        ),
        ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, None),
        ({"stream": False}, None),
        ({}, None),
    ],
)
def test_usage_is_asked_for_in_streams_whose_caller_did_not(body: dict[str, Any], options: Any) -> None:
    for operation in (CHAT, Operation.OPENAI_COMPLETIONS):
        edits = ADAPTER.edits(build_target(), operation, {"model": "public-1", **body})
        assert edits == {"model": "upstream-1", **({"stream_options": options} if options else {})}


def test_a_vendor_without_stream_options_is_not_asked() -> None:
    assert ADAPTER.edits(build_target(stream_usage=False), CHAT, {"stream": True}) == {"model": "upstream-1"}


def test_embeddings_change_only_the_model() -> None:
    assert ADAPTER.edits(build_target(), Operation.OPENAI_EMBEDDINGS, {"stream": True}) == {
        "model": "upstream-1"
    }


@pytest.mark.parametrize(
    ("field", "body", "changes"),
    [
        ("keep", {"max_tokens": 5}, {}),
        ("max_completion_tokens", {"max_tokens": 5}, {"max_tokens": None, "max_completion_tokens": 5}),
        ("max_tokens", {"max_completion_tokens": 5}, {"max_completion_tokens": None, "max_tokens": 5}),
        ("max_tokens", {"max_completion_tokens": 5, "max_tokens": 7}, {"max_completion_tokens": None}),
        ("max_tokens", {"max_completion_tokens": None}, {"max_completion_tokens": None}),
        ("max_tokens", {"max_tokens": 7}, {}),
    ],
)
def test_the_output_limit_gets_the_only_name_that_the_vendor_knows(
    field: str, body: Any, changes: Any
) -> None:
    edits = ADAPTER.edits(build_target(max_tokens_field=field), CHAT, body)
    assert edits == {"model": "upstream-1", **changes}


def test_a_whole_call_is_written() -> None:
    call = ChatCall(
        messages=(
            Message("system", (TextPart("Be brief."),)),
            Message("developer", (TextPart("One."), TextPart("Two."))),
            Message(
                "user",
                (
                    TextPart("Look:"),
                    ImagePart(url="https://x/i.png", detail="low"),
                    ImagePart(data="QUJD", media_type="image/png"),
                    AudioPart("UklG", "wav"),
                    FilePart(data="JVBE", media_type="application/pdf", filename="a.pdf"),
                    FilePart(file_id="file-1"),
                ),
                "ann",
            ),
            Message("assistant", (TextPart("I'll "), TextPart("look."), ToolCallPart("c1", "f", ""))),
            user(ToolResultPart("c1", (TextPart("done"),))),
            Message("assistant", (RefusalPart("No."),)),
        ),
        tools=(Tool("f", "does f", {"type": "object"}, True), Tool("g")),
        tool_choice=ToolChoice("named", "f"),
        parallel_tools=False,
        output_format=OutputFormat("json_schema", "out", {"type": "object"}, True, "the answer"),
        reasoning=Reasoning("high"),
        max_tokens=10,
        temperature=0,
        top_p=0.5,
        stop=("a", "b"),
        seed=7,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        n=2,
        user="u1",
        service_tier="flex",
        stream=True,
    )
    body, losses = encode(call)
    assert losses == ()
    assert body == {
        "model": "upstream-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "developer",
                "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
            },
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image_url", "image_url": {"url": "https://x/i.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
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
                "content": "I'll look.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
            {"role": "assistant", "content": None, "refusal": "No."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "does f",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
            },
            {
                "type": "function",
                "function": {"name": "g", "parameters": {"type": "object", "properties": {}}},
            },
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "out",
                "schema": {"type": "object"},
                "strict": True,
                "description": "the answer",
            },
        },
        "reasoning_effort": "high",
        "max_completion_tokens": 10,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["a", "b"],
        "seed": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "n": 2,
        "user": "u1",
        "service_tier": "flex",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_was_not_said_is_not_sent() -> None:
    body, losses = encode(ChatCall((user(TextPart("hi")),)))
    assert body == {"model": "upstream-1", "messages": [{"role": "user", "content": "hi"}]}
    assert losses == ()


def test_images_of_tool_results_follow_in_a_user_message_behind_all_results() -> None:
    image = ImagePart(data="QUJD", media_type="image/png")
    call = ChatCall(
        (
            Message("assistant", (ToolCallPart("c1", "f", "{}"), ToolCallPart("c2", "g", "{}"))),
            user(ToolResultPart("c1", (TextPart("see"), image))),
            user(ToolResultPart("c2", (TextPart("two"),), is_error=True), TextPart("And now?")),
        )
    )
    body, losses = encode(call)
    assert [message["role"] for message in body["messages"]] == ["assistant", "tool", "tool", "user", "user"]
    assert body["messages"][1]["content"] == "see"
    assert body["messages"][3]["content"][0]["type"] == "image_url"
    assert body["messages"][4]["content"] == "And now?"
    assert losses == ("changed:messages.tool_result.image", "dropped:messages.tool_result.is_error")


THOUGHT = (ThinkingPart("Hm", "c2ln"), ThinkingPart(redacted="b3Bh"), TextPart("Yes."))


@pytest.mark.parametrize(
    ("field", "members", "losses"),
    [
        ("", {}, ("dropped:messages.thinking",)),
        ("reasoning_content", {"reasoning_content": "Hm"}, ("dropped:messages.thinking.signature",)),
        ("reasoning", {"reasoning": "Hm"}, ("dropped:messages.thinking.signature",)),
        (
            "thinking_blocks",
            {
                "reasoning_content": "Hm",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "b3Bh"},
                ],
            },
            (),
        ),
    ],
)
def test_reasoning_goes_back_where_the_vendor_takes_it(
    field: str, members: Any, losses: tuple[str, ...]
) -> None:
    body, lost = encode(ChatCall((Message("assistant", THOUGHT),)), reasoning_field=field)
    assert body["messages"] == [{"role": "assistant", "content": "Yes.", **members}]
    assert lost == losses


@pytest.mark.parametrize(
    ("parameter", "wanted", "members", "losses"),
    [
        ("reasoning_effort", Reasoning("low"), {"reasoning_effort": "low"}, ()),
        ("reasoning_effort", Reasoning("max"), {"reasoning_effort": "xhigh"}, ("changed:reasoning",)),
        (
            "reasoning_effort",
            Reasoning(budget_tokens=1024),
            {"reasoning_effort": "low"},
            ("changed:reasoning",),
        ),
        (
            "reasoning_effort",
            Reasoning(budget_tokens=8000),
            {"reasoning_effort": "medium"},
            ("changed:reasoning",),
        ),
        (
            "reasoning_effort",
            Reasoning(budget_tokens=32000),
            {"reasoning_effort": "high"},
            ("changed:reasoning",),
        ),
        ("reasoning_effort", Reasoning(budget_tokens=0), {}, ("dropped:reasoning",)),
        ("reasoning_effort", Reasoning(adaptive=True), {}, ("dropped:reasoning",)),
        (
            "reasoning_effort",
            Reasoning("high", adaptive=True),
            {"reasoning_effort": "high"},
            ("dropped:reasoning",),
        ),
        ("reasoning", Reasoning(budget_tokens=2000), {"reasoning": {"max_tokens": 2000}}, ()),
        ("reasoning", Reasoning("high"), {"reasoning": {"effort": "high"}}, ()),
        ("reasoning", Reasoning(budget_tokens=0), {"reasoning": {"enabled": False}}, ()),
        ("thinking", Reasoning(budget_tokens=0), {"thinking": {"type": "disabled"}}, ()),
        ("thinking", Reasoning("high"), {"thinking": {"type": "enabled"}}, ("changed:reasoning",)),
        ("", Reasoning("high"), {}, ("dropped:reasoning",)),
    ],
)
def test_reasoning_is_asked_for_in_the_vendors_words(
    parameter: str, wanted: Reasoning, members: Any, losses: tuple[str, ...]
) -> None:
    call = ChatCall((user(TextPart("hi")),), reasoning=wanted)
    body, lost = encode(call, reasoning_parameter=parameter)
    assert {name: value for name, value in body.items() if name not in ("model", "messages")} == members
    assert lost == losses


def test_what_a_vendor_lacks_is_changed_or_dropped_by_name() -> None:
    call = ChatCall(
        (
            Message("developer", (TextPart("x", cache="5m"),)),
            user(FilePart(text="plain"), FilePart(url="https://x/a.pdf")),
        ),
        tools=(Tool("f", strict=True, cache="1h"),),
        output_format=OutputFormat("json_schema", schema={"type": "object"}, strict=True),
        max_tokens=5,
        top_k=3,
        seed=9,
        stop=("1", "2", "3", "4", "5"),
        service_tier="priority",
    )
    body, losses = encode(
        call,
        developer_role=False,
        json_schema=False,
        supports_strict=False,
        service_tier=False,
        seed_field="random_seed",
        max_tokens_field="max_tokens",
    )
    assert body["messages"][0] == {"role": "system", "content": "x"}
    assert body["messages"][1] == {"role": "user", "content": "plain"}
    assert (body["max_tokens"], body["random_seed"], body["stop"]) == (5, 9, ["1", "2", "3", "4"])
    assert body["response_format"] == {"type": "json_object"}
    assert not {"top_k", "service_tier", "seed", "max_completion_tokens"} & body.keys()
    assert set(losses) == {
        "changed:messages.role", "dropped:cache_control", "changed:messages.file", "dropped:messages.file.url",
        "dropped:top_k", "changed:stop", "dropped:tools.strict", "changed:response_format", "dropped:service_tier",
    }  # fmt: skip


def test_cache_breakpoints_are_kept_where_the_vendor_takes_them() -> None:
    call = ChatCall(
        (
            Message("system", (TextPart("x", cache="1h"),)),
            user(
                ToolResultPart("c", (TextPart("r"),), cache="5m"),
                ImagePart(url="https://x/i.png", cache="5m"),
            ),
        ),
        tools=(Tool("f", cache="5m"),),
    )
    body, losses = encode(call, cache_control=True)
    assert losses == ()
    assert body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][2]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral"}


def test_a_tool_choice_without_tools_is_dropped_by_name() -> None:
    body, losses = encode(ChatCall((user(TextPart("hi")),), tool_choice=ToolChoice("required")))
    assert "tool_choice" not in body
    assert losses == ("dropped:tool_choice",)


def test_vllms_defaults_differ_and_it_takes_its_own_fields() -> None:
    call = ChatCall(
        (Message("assistant", THOUGHT[:1]),), max_tokens=5, top_k=3, stop=tuple("abcdef"), service_tier="flex"
    )
    _, data, losses = VLLM().encode_chat(call, build_target("vllm"))
    body = json.loads(data)
    assert (body["max_tokens"], body["top_k"], len(body["stop"])) == (5, 3, 6)
    assert body["messages"][0]["reasoning"] == "Hm"
    assert losses.names() == ("dropped:messages.thinking.signature", "dropped:service_tier")


def test_a_whole_answer_is_read() -> None:
    answer = ADAPTER.decode_chat(read_sample("openai/answer.json"))
    assert isinstance(answer, ChatAnswer)
    assert (answer.id, answer.model, answer.created) == ("chatcmpl-whole", "small-1", 1790000001)
    assert answer.choices[0].parts == (TextPart("Good morning."),)
    assert (answer.choices[0].finish, answer.usage.input, answer.usage.output) == ("stop", 9, 4)


def test_tool_calls_and_reasoning_of_an_answer_are_read_and_stop_means_tool_calls() -> None:
    choice = ADAPTER.decode_chat(read_sample("openai/answer_tools.json")).choices[0]
    assert choice.parts == (
        ThinkingPart("I need the weather."),
        ToolCallPart("call_a", "weather", '{"city":"Oslo"}'),
        ToolCallPart("call_b", "clock", "{}"),
    )
    assert choice.finish == "tool_calls"


@pytest.mark.parametrize(
    ("operation", "sample", "found"),
    [
        (CHAT, "answer", (9, 4, "stop", "small-1")),
        (Operation.OPENAI_COMPLETIONS, "answer_completions", (2, 3, "length", "instruct-1")),
        (Operation.OPENAI_EMBEDDINGS, "answer_embeddings", (3, 0, "", "embed-1")),
    ],
)
def test_native_answers_tell_usage_finish_and_model(operation: Operation, sample: str, found: Any) -> None:
    usage, finish, model = ADAPTER.read_answer(operation, read_sample(f"openai/{sample}.json"))
    assert usage is not None
    assert (usage.input, usage.output, finish, model) == found


def test_models_are_asked_for_and_read_with_their_limits() -> None:
    request = ADAPTER.models_request(build_target())
    assert (request.method, request.path, request.body) == (b"GET", b"/prefix/v1/models", b"")
    models = ADAPTER.read_models(read_sample("openai/models.json"))
    assert models == (
        {"id": "small-1"},
        {
            "id": "router/big",
            "context_tokens": 200000,
            "max_output_tokens": 64000,
            "capabilities": frozenset({"chat", "streaming", "tools", "thinking", "vision"}),
        },
        {"id": "groq-like", "context_tokens": 131072, "max_output_tokens": 8192},
        {"id": "m", "context_tokens": 32768, "capabilities": frozenset({"chat", "streaming", "tools"})},
    )
    assert VLLM().read_models(read_sample("vllm/models.json")) == ({"id": "tiny", "context_tokens": 512},)
    with pytest.raises(ValueError, match="data"):
        ADAPTER.read_models(b'{"object":"list"}')
