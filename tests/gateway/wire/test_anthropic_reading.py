"""Messages requests become calls, or are refused by the exact path of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.wire.anthropic_count_tokens import AnthropicCountTokens
from gateway.wire.anthropic_messages import AnthropicMessages
from tokenhub.core.chat import (
    ChatCall,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Reasoning,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from tokenhub.core.errors import InvalidRequest

WIRE = AnthropicMessages()
CACHE = {"type": "ephemeral"}


def build_body(**members: Any) -> dict[str, Any]:
    """A request with these members over a minimal one."""
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **members}


def read_user(*blocks: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The parts of a user's message, and the losses."""
    call = WIRE.read_call(build_body(messages=[{"role": "user", "content": list(blocks)}]))
    return call.messages[0].parts if call.messages else (), call.losses.names()


def read_assistant(*blocks: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The parts of an assistant's message, and the losses."""
    call = WIRE.read_call(build_body(messages=[{"role": "assistant", "content": list(blocks)}]))
    return call.messages[0].parts if call.messages else (), call.losses.names()


def test_a_full_request_is_read() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    call = WIRE.read_call(
        {
            "model": "m",
            "max_tokens": 99,
            "system": [
                {"type": "text", "text": "Be brief.", "cache_control": {**CACHE, "ttl": "1h"}},
                {"type": "text", "text": "Be kind.", "cache_control": CACHE},
            ],
            "messages": [
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "sig"},
                        {"type": "redacted_thinking", "data": "b3A="},
                        {"type": "text", "text": "so"},
                        {
                            "type": "tool_use",
                            "id": "t1",
                            "name": "f",
                            "input": {"a": 1},
                            "cache_control": CACHE,
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "r", "is_error": True},
                        {"type": "text", "text": "go on", "cache_control": None},
                    ],
                },
                {"role": "system", "content": "now in German"},
            ],
            "tools": [
                {
                    "name": "f",
                    "description": "d",
                    "input_schema": schema,
                    "strict": True,
                    "cache_control": CACHE,
                }
            ],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": schema}},
            "temperature": 1,
            "top_p": 0.9,
            "top_k": 4,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "stream": True,
        }
    )
    assert call == ChatCall(
        messages=(
            Message("system", (TextPart("Be brief.", "1h"), TextPart("Be kind.", "5m"))),
            Message("user", (TextPart("hi"),)),
            Message(
                "assistant",
                (
                    ThinkingPart("hm", "sig"),
                    ThinkingPart(redacted="b3A="),
                    TextPart("so"),
                    ToolCallPart("t1", "f", '{"a":1}', "5m"),
                ),
            ),
            Message("user", (ToolResultPart("t1", (TextPart("r"),), is_error=True), TextPart("go on"))),
            Message("system", (TextPart("now in German"),)),
        ),
        tools=(Tool("f", "d", schema, strict=True, cache="5m"),),
        tool_choice=ToolChoice("named", "f"),
        parallel_tools=False,
        output_format=OutputFormat("json_schema", schema=schema),
        reasoning=Reasoning("high", 2000),
        max_tokens=99,
        temperature=1.0,
        top_p=0.9,
        top_k=4,
        stop=("END",),
        user="u",
        service_tier="auto",
        stream=True,
        include_usage=True,
    )
    assert call.losses.names() == ()


def test_images_and_documents_of_every_source_are_read() -> None:
    parts, losses = read_user(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://x.invalid/a"}, "cache_control": CACHE},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {
            "type": "document",
            "title": "t",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
        {"type": "document", "source": {"type": "url", "url": "https://x.invalid/b"}, "title": None},
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}, "citations": {"enabled": True}},
        {
            "type": "document",
            "source": {
                "type": "content",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        },
        {
            "type": "search_result",
            "title": "T",
            "source": "https://x.invalid/",
            "content": [{"type": "text", "text": "c"}],
        },
    )
    assert parts == (
        ImagePart(data="aGk=", media_type="image/png"),
        ImagePart(url="https://x.invalid/a", cache="5m"),
        FilePart(file_id="file_1", media_type="image/*"),
        FilePart(data="JVBE", media_type="application/pdf", filename="t"),
        FilePart(text="x", media_type="text/plain"),
        FilePart(url="https://x.invalid/b"),
        FilePart(file_id="file_2"),
        FilePart(text="a\nb", media_type="text/plain"),
        TextPart("T\nhttps://x.invalid/\n\nc"),
    )
    assert losses == (
        "dropped:messages.content.citations",
        "changed:messages.content.source.content",
        "changed:messages.content.type",
    )


def test_a_tool_result_holds_texts_images_and_documents() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    parts, losses = read_user(
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": [{"type": "text", "text": "a"}, image, {"type": "tool_reference", "tool_name": "f"}],
        },
        {"type": "tool_result", "tool_use_id": "u"},
    )
    assert parts == (
        ToolResultPart("t", (TextPart("a"), ImagePart(data="aGk=", media_type="image/png"))),
        ToolResultPart("u", ()),
    )
    assert losses == ("dropped:messages.content.content.tool_reference",)


def test_what_anthropics_own_tools_left_in_the_history_is_dropped_and_named() -> None:
    parts, losses = read_assistant(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "brand_new_thing"},
        {"type": "compaction", "content": "They said hello."},
        {"type": "text", "text": "so", "citations": [{"type": "x"}]},
    )
    assert parts == (TextPart("They said hello."), TextPart("so"))
    assert losses == (
        "dropped:messages.content.server_tool_use",
        "dropped:messages.content.web_search_tool_result",
        "dropped:messages.content.brand_new_thing",
        "changed:messages.content.type",
        "dropped:messages.content.citations",
    )


def test_members_and_tools_that_only_anthropic_has_are_dropped_and_named() -> None:
    call = WIRE.read_call(
        build_body(
            tools=[
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
                {"type": "custom", "name": "f", "input_schema": {}, "defer_loading": True},
            ],
            mcp_servers=[{}],
            container="c",
            context_management={"edits": []},
            speed=None,
            cache_control=CACHE,
            thinking={"type": "adaptive", "display": "summarized"},
            output_config={"task_budget": {}},
            metadata={"other": 1},
            **{"made\r\nup": 1},
        )
    )
    assert call.tools == (Tool("f", schema={}),)
    assert call.reasoning == Reasoning(adaptive=True)
    assert sorted(call.losses.names()) == [
        "dropped:cache_control",
        "dropped:container",
        "dropped:context_management",
        "dropped:mcp_servers",
        "dropped:metadata.other",
        "dropped:output_config.task_budget",
        "dropped:thinking.display",
        "dropped:tools.defer_loading",
        "dropped:tools.web_search_20250305",
        "dropped:unknown",
    ]


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, Reasoning(budget_tokens=0)),
        ({"output_config": {"effort": "low"}}, Reasoning(effort="low")),
        ({"thinking": {"type": "between_tools"}}, Reasoning(adaptive=True)),
    ],
)
def test_thinking_is_read(members: dict[str, Any], reasoning: Reasoning | None) -> None:
    assert WIRE.read_call(build_body(**members)).reasoning == reasoning


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        ({"type": "auto"}, (ToolChoice("auto"), None)),
        ({"type": "any", "disable_parallel_tool_use": False}, (ToolChoice("required"), None)),
        ({"type": "none", "disable_parallel_tool_use": True}, (ToolChoice("none"), False)),
    ],
)
def test_tool_choices_are_read(choice: dict[str, Any], read: Any) -> None:
    call = WIRE.read_call(build_body(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice))
    assert (call.tool_choice, call.parallel_tools) == read


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def user(*blocks: Any) -> dict[str, Any]:
    """A member `messages` with one user message of these blocks."""
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (user("x"), "messages[0].content[0]"),
        (user({"text": "x"}), "messages[0].content[0].type"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user({"type": "text", "text": None}), "messages[0].content[0].text"),
        (
            user({"type": "text", "text": "x", "cache_control": {"type": "eternal"}}),
            "messages[0].content[0].cache_control.type",
        ),
        (
            user({"type": "text", "text": "x", "cache_control": {**CACHE, "ttl": "2h"}}),
            "messages[0].content[0].cache_control.ttl",
        ),
        (user({"type": "image"}), "messages[0].content[0].source"),
        (user({"type": "image", "source": {"type": "ftp"}}), "messages[0].content[0].source.type"),
        (user({"type": "document", "source": {"type": "ftp"}}), "messages[0].content[0].source.type"),
        (user({"type": "tool_use", "id": "x"}), "messages[0].content[0].type"),
        (user({"type": "brand_new"}), "messages[0].content[0].type"),
        (user({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
        (
            user({"type": "tool_result", "tool_use_id": "t", "is_error": "no"}),
            "messages[0].content[0].is_error",
        ),
        (
            user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "thinking"}]}),
            "messages[0].content[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f"}]}]},
            "messages[0].content[0].input",
        ),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {}, "strict": 1}]}, "tools[0].strict"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"thinking": {}}, "thinking.type"),
        ({"output_config": {"effort": 3}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"temperature": 1.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": ["x", 1]}, "stop_sequences[1]"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"stream": "yes"}, "stream"),
        ({"service_tier": 1}, "service_tier"),
    ],
)
def test_a_wrong_member_is_refused_by_its_path(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        WIRE.read_call(build_body(**members))
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": {}}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": 1}, "stream"),
    ],
)
def test_the_cheap_check_names_what_is_missing(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        WIRE.check(build_body(**members))
    assert caught.value.param == param


def test_the_cheap_check_lets_through_what_it_does_not_know() -> None:
    WIRE.check(build_body(messages=[{"role": "brand_new", "content": 3}], anything=[1]))
    AnthropicCountTokens().check({"model": "m", "messages": [{"role": "user", "content": "x"}]})


def test_counting_needs_model_and_messages_alone() -> None:
    with pytest.raises(InvalidRequest) as caught:
        AnthropicCountTokens().check({"model": "m"})
    assert caught.value.param == "messages"
