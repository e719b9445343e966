"""What goes to Anthropic for a translated call, field by field, and what is named as lost."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Operation, Target
from tests.providers.adapters.anthropic_cast import build_target, say
from tokenhub.core.chat import (
    AudioPart,
    ChatCall,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from tokenhub.core.errors import InvalidRequest, SettingInvalid

ADAPTER = Anthropic()
HELLO = (say("hello"),)
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})


def encode(call: ChatCall, target: Target | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body and the losses of a call."""
    operation, body, losses = ADAPTER.encode_chat(call, target or build_target())
    assert operation == Operation.ANTHROPIC_MESSAGES
    return json.loads(body), losses.names()


def encode_messages(*messages: Message) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body and the losses of a conversation with a bound on its output."""
    return encode(ChatCall(messages, max_tokens=100))


def test_a_plain_call_loses_nothing() -> None:
    call = ChatCall(HELLO, max_tokens=100, temperature=0.5, stop=("END",), user="u1", stream=True)
    body, losses = encode(call)
    assert body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "stream": True,
    }
    assert losses == ()


@pytest.mark.parametrize(
    ("wanted", "limit", "sent", "named"),
    [
        (None, 0, 4096, True),
        (None, 8_000, 8_000, True),
        (50, 8_000, 50, False),
        (9_000, 8_000, 8_000, True),
    ],
)
def test_the_bound_that_the_api_requires(wanted: int | None, limit: int, sent: int, named: bool) -> None:
    body, losses = encode(ChatCall(HELLO, max_tokens=wanted), build_target(max_output_tokens=limit))
    assert body["max_tokens"] == sent
    assert ("changed:max_tokens" in losses) is named


def test_system_text_comes_first_and_later_system_text_is_hoisted_and_named() -> None:
    body, losses = encode_messages(
        Message("system", (TextPart("Be brief.", cache="1h"), TextPart(""))),
        Message("developer", (TextPart("In French."),)),
        say("a"),
        Message("assistant", (TextPart("b"),)),
        Message("system", (TextPart("Now in German."),)),
        say("c"),
    )
    assert body["system"] == [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "In French."},
        {"type": "text", "text": "Now in German."},
    ]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert losses == ("changed:messages.role",)


def test_a_call_of_system_text_alone_is_asked_as_the_users() -> None:
    body, losses = encode_messages(
        Message("system", (TextPart("Be brief."),)), Message("system", (TextPart("Say hi."),))
    )
    assert body["system"] == [{"type": "text", "text": "Be brief."}]
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}]
    assert losses == ("changed:messages.role",)


def test_messages_of_one_role_are_merged_and_tool_results_stand_first() -> None:
    calls = (ToolCallPart("c1", "weather", '{"city":"Oslo"}'), ToolCallPart("c2", "weather", ""))
    body, losses = encode(
        ChatCall(
            (
                say("a"),
                say("b"),
                Message("assistant", (TextPart("calling"),)),
                Message("assistant", calls),
                say("and hurry"),
                Message("user", (ToolResultPart("c1", (TextPart("rain"),), cache="5m"),)),
                Message("user", (ToolResultPart("c2", (), is_error=True), TextPart("please"))),
            ),
            tools=(WEATHER,),
            max_tokens=9,
        )
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"][1:] == [
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
    ]
    assert body["messages"][2]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "c1",
            "content": [{"type": "text", "text": "rain"}],
            "cache_control": {"type": "ephemeral", "ttl": "5m"},
        },
        {"type": "tool_result", "tool_use_id": "c2", "is_error": True},
        {"type": "text", "text": "and hurry"},
        {"type": "text", "text": "please"},
    ]
    assert losses == ()


def test_a_conversation_that_an_assistant_opens_gets_a_user_in_front() -> None:
    body, losses = encode_messages(Message("assistant", (TextPart("Hi, I am"),)), say("who?"))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert losses == ("changed:messages",)


def test_a_prefill_stays_without_its_trailing_whitespace() -> None:
    body, losses = encode_messages(say("go on"), Message("assistant", (TextPart("Once \n"),)))
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "Once"}]}
    assert losses == ("changed:messages.assistant.text",)


def test_signed_thinking_stays_in_place_and_foreign_thinking_is_dropped() -> None:
    parts = (
        ThinkingPart("hm", "sig"),
        ThinkingPart(redacted="b3BhcXVl"),
        TextPart("x"),
        ThinkingPart("unsigned"),
    )
    body, losses = encode_messages(say("a"), Message("assistant", parts), say("b"))
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "text", "text": "x"},
    ]
    assert losses == ("dropped:messages.assistant.thinking",)


def test_call_ids_that_the_api_refuses_are_mapped_alike_on_both_sides() -> None:
    call_id = "functions.weather:0|é"
    body, losses = encode(
        ChatCall(
            (
                say("a"),
                Message("assistant", (ToolCallPart(call_id, "weather", "{}"),)),
                Message("user", (ToolResultPart(call_id, (TextPart("r"),)),)),
            ),
            tools=(WEATHER,),
            max_tokens=9,
        )
    )
    mapped = body["messages"][1]["content"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", mapped)
    assert body["messages"][2]["content"][0]["tool_use_id"] == mapped
    assert losses == ("changed:messages.tool_call.id", "changed:messages.tool_result.id")


@pytest.mark.parametrize(
    ("arguments", "sent", "good"),
    [
        ("", {}, True),
        (" \n", {}, True),
        ('{"a": 1}', {"a": 1}, True),
        ('{"a": 1', {"_raw": '{"a": 1'}, False),
        ("[1]", {"_raw": "[1]"}, False),
        ("null", {"_raw": "null"}, False),
    ],
)
def test_arguments_that_are_no_object_keep_their_text(arguments: str, sent: Any, good: bool) -> None:
    call = ChatCall(
        (say("a"), Message("assistant", (ToolCallPart("c", "weather", arguments),)), say("b")),
        tools=(WEATHER,),
        max_tokens=9,
    )
    body, losses = encode(call)
    assert body["messages"][1]["content"][0]["input"] == sent
    assert ("changed:messages.tool_call.arguments" not in losses) is good


def test_digits_of_arguments_are_not_touched() -> None:
    call = ChatCall(
        (say("a"), Message("assistant", (ToolCallPart("c", "weather", '{"n":1.10,"m":1e2}'),)), say("b")),
        tools=(WEATHER,),
        max_tokens=9,
    )
    assert b'"input":{"n":1.10,"m":1e2}' in ADAPTER.encode_chat(call, build_target())[1]


def test_images_and_documents_of_every_source() -> None:
    text = base64.b64encode("héllo".encode()).decode()
    body, losses = encode_messages(
        Message(
            "user",
            (
                ImagePart(data="aGk=", media_type="image/png", cache="5m"),
                ImagePart(url="https://x.invalid/a.png", detail="high"),
                ImagePart(url="data:image/gif;base64,R0lG"),
                FilePart(data="JVBERi0=", media_type="application/pdf", filename="a.pdf"),
                FilePart(url="https://x.invalid/a.pdf"),
                FilePart(file_id="file_011abc"),
                FilePart(file_id="file_011img", media_type="image/*"),
                FilePart(text="plain", filename="notes"),
                FilePart(data=text, media_type="text/markdown"),
            ),
        )
    )
    assert [(block["type"], block["source"]) for block in body["messages"][0]["content"]] == [
        ("image", {"type": "base64", "media_type": "image/png", "data": "aGk="}),
        ("image", {"type": "url", "url": "https://x.invalid/a.png"}),
        ("image", {"type": "base64", "media_type": "image/gif", "data": "R0lG"}),
        ("document", {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}),
        ("document", {"type": "url", "url": "https://x.invalid/a.pdf"}),
        ("document", {"type": "file", "file_id": "file_011abc"}),
        ("image", {"type": "file", "file_id": "file_011img"}),
        ("document", {"type": "text", "media_type": "text/plain", "data": "plain"}),
        ("document", {"type": "text", "media_type": "text/plain", "data": "héllo"}),
    ]
    assert body["messages"][0]["content"][3]["title"] == "a.pdf"
    assert losses == ("dropped:messages.image.detail",)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (AudioPart("aGk=", "wav"), "messages[0].content[1]"),
        (FilePart(data="aGk=", media_type="application/zip"), "messages[0].content[1]"),
        (FilePart(data="/w==", media_type="text/plain"), "messages[0].content[1]"),
        (FilePart(file_id="file-openai"), "messages[0].content[1]"),
    ],
)
def test_what_can_not_be_held_is_refused_by_its_path(part: Part, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode_messages(Message("user", (TextPart("a"), part)))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (ChatCall(HELLO, n=2), "n"),
        (ChatCall(()), "messages"),
        (ChatCall((say("  "),)), "messages"),
        (ChatCall((say("\ud83d"),)), "messages"),
    ],
)
def test_calls_that_would_mean_something_else_are_refused(call: ChatCall, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(call)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", "weather"), None, {"type": "tool", "name": "weather"}),
    ],
)
def test_tool_choices(choice: ToolChoice | None, parallel: bool | None, sent: Any) -> None:
    call = ChatCall(HELLO, tools=(WEATHER,), tool_choice=choice, parallel_tools=parallel, max_tokens=9)
    body, losses = encode(call)
    assert body.get("tool_choice") == sent
    assert losses == ()


def test_tools_without_a_schema_or_its_type_get_one() -> None:
    tools = (Tool("a"), Tool("b", schema={"properties": {}}, strict=True, cache="1h"), WEATHER)
    body, losses = encode(ChatCall(HELLO, tools=tools, max_tokens=9))
    assert body["tools"][0] == {"name": "a", "input_schema": {"type": "object", "properties": {}}}
    assert body["tools"][1] == {
        "name": "b",
        "input_schema": {"type": "object", "properties": {}},
        "strict": True,
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    assert losses == ("changed:tools.parameters",)


def test_calls_in_the_history_without_tools_get_them_declared_and_shut() -> None:
    body, losses = encode_messages(
        say("a"),
        Message("assistant", (ToolCallPart("c", "weather", "{}"),)),
        Message("user", (ToolResultPart("c", (TextPart("r"),)),)),
    )
    assert [tool["name"] for tool in body["tools"]] == ["weather"]
    assert body["tool_choice"] == {"type": "none"}
    assert losses == ("changed:tools",)


@pytest.mark.parametrize(
    ("wanted", "profile", "sent", "instructed"),
    [
        (OutputFormat("json_schema", "n", {"type": "object"}), {}, True, False),
        (OutputFormat("json_schema", "n", {"type": "object"}), {"structured_outputs": False}, False, True),
        (OutputFormat("json_object"), {}, False, True),
    ],
)
def test_output_formats(wanted: OutputFormat, profile: dict[str, Any], sent: bool, instructed: bool) -> None:
    body, losses = encode(ChatCall(HELLO, output_format=wanted, max_tokens=9), build_target(**profile))
    schema = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert (body.get("output_config") == schema) is sent
    assert ("JSON object" in json.dumps(body.get("system", ""))) is instructed
    assert ("changed:response_format" in losses) is instructed


BUDGET, ADAPTIVE = "claude-sonnet-4-5-20250929", "claude-opus-4-6"


@pytest.mark.parametrize(
    ("model", "reasoning", "max_tokens", "thinking", "effort", "losses"),
    [
        (BUDGET, Reasoning(budget_tokens=2_000), 4_000, ("enabled", 2_000), None, ()),
        (BUDGET, Reasoning(budget_tokens=10), 4_000, ("enabled", 1_024), None, ("changed:reasoning",)),
        (BUDGET, Reasoning(budget_tokens=9_000), 4_000, ("enabled", 3_000), None, ("changed:reasoning",)),
        (BUDGET, Reasoning(budget_tokens=9_000), 1_024, None, None, ("dropped:reasoning",)),
        (BUDGET, Reasoning(effort="low"), 4_000, ("enabled", 2_048), None, ("changed:reasoning",)),
        (BUDGET, Reasoning(effort="none"), 4_000, ("disabled", None), None, ()),
        (BUDGET, Reasoning(budget_tokens=0), 4_000, ("disabled", None), None, ()),
        (BUDGET, Reasoning(adaptive=True), 40_000, ("enabled", 8_192), None, ("changed:reasoning",)),
        (ADAPTIVE, Reasoning(adaptive=True), 4_000, ("adaptive", None), None, ()),
        (ADAPTIVE, Reasoning(effort="high"), 4_000, ("adaptive", None), "high", ()),
        (
            ADAPTIVE,
            Reasoning(effort="minimal"),
            4_000,
            ("adaptive", None),
            "low",
            ("changed:reasoning.effort",),
        ),
        (ADAPTIVE, Reasoning(effort="vast"), 4_000, ("adaptive", None), None, ("dropped:reasoning.effort",)),
        (
            ADAPTIVE,
            Reasoning(budget_tokens=6_000),
            9_000,
            ("adaptive", None),
            "medium",
            ("changed:reasoning.budget_tokens",),
        ),
    ],
)
def test_thinking(
    model: str,
    reasoning: Reasoning,
    max_tokens: int,
    thinking: Any,
    effort: str | None,
    losses: tuple[str, ...],
) -> None:
    body, named = encode(ChatCall(HELLO, reasoning=reasoning, max_tokens=max_tokens), build_target(model))
    found = body.get("thinking")
    assert (found and (found["type"], found.get("budget_tokens"))) == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert named == losses


@pytest.mark.parametrize(
    ("model", "adaptive"),
    [
        ("claude-3-7-sonnet-20250219", False),
        ("claude-opus-4-20250514", False),
        ("claude-haiku-4-5-20251001", False),
        ("claude-sonnet-4-6", True),
        ("claude-opus-5", True),
        ("claude-fable-5-1", True),
        ("claude-sonnet-5-20260629", True),
        ("anthropic/claude-sonnet-4.6", True),
        ("qwen3", False),
    ],
)
def test_how_a_model_thinks_is_read_from_its_name(model: str, adaptive: bool) -> None:
    call = ChatCall(HELLO, reasoning=Reasoning(effort="low"), max_tokens=9_000)
    assert (encode(call, build_target(model))[0]["thinking"]["type"] == "adaptive") is adaptive


def test_a_profile_says_how_models_think_and_a_wrong_one_is_refused() -> None:
    call = ChatCall(HELLO, reasoning=Reasoning(effort="low"), max_tokens=9_000)
    assert encode(call, build_target("x", thinking="adaptive"))[0]["thinking"] == {"type": "adaptive"}
    with pytest.raises(SettingInvalid):
        encode(call, build_target("x", thinking="deep"))


def test_a_default_bound_leaves_room_behind_the_thinking() -> None:
    body, _ = encode(ChatCall(HELLO, reasoning=Reasoning(budget_tokens=5_000)), build_target(BUDGET))
    assert body["max_tokens"] == 5_000 + 4_096


def test_a_forced_tool_wins_over_thinking() -> None:
    call = ChatCall(
        HELLO,
        tools=(WEATHER,),
        tool_choice=ToolChoice("required"),
        reasoning=Reasoning(effort="high"),
        max_tokens=9_000,
    )
    body, losses = encode(call)
    assert "thinking" not in body
    assert losses == ("dropped:reasoning",)


def test_an_open_tool_loop_without_thinking_goes_on_without_it() -> None:
    messages = (
        say("a"),
        Message("assistant", (ToolCallPart("c", "weather", "{}"),)),
        Message("user", (ToolResultPart("c", ()),)),
    )
    call = ChatCall(messages, tools=(WEATHER,), reasoning=Reasoning(budget_tokens=2_000), max_tokens=9_000)
    assert "thinking" not in encode(call, build_target(BUDGET))[0]
    assert encode(call, build_target(ADAPTIVE))[0]["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("call", "sent", "losses"),
    [
        (ChatCall(HELLO, temperature=1.7), {"temperature": 1.0}, ("changed:temperature",)),
        (ChatCall(HELLO, temperature=0.2, top_p=0.9), {"temperature": 0.2}, ("dropped:top_p",)),
        (ChatCall(HELLO, top_p=0.9, top_k=5), {"top_p": 0.9, "top_k": 5}, ()),
        (ChatCall(HELLO, stop=(" ", "x", "\n")), {"stop_sequences": ["x"]}, ("dropped:stop",)),
        (ChatCall(HELLO, seed=1, frequency_penalty=0.0), {}, ("dropped:seed", "dropped:frequency_penalty")),
        (ChatCall(HELLO, presence_penalty=1.0), {}, ("dropped:presence_penalty",)),
        (ChatCall(HELLO, user="u" * 300), {}, ("dropped:user",)),
        (ChatCall(HELLO, service_tier="auto"), {"service_tier": "auto"}, ()),
        (
            ChatCall(HELLO, service_tier="default"),
            {"service_tier": "standard_only"},
            ("changed:service_tier",),
        ),
        (ChatCall(HELLO, service_tier="flex"), {}, ("dropped:service_tier",)),
        (ChatCall(HELLO, tool_choice=ToolChoice("none")), {}, ("dropped:tool_choice",)),
        (
            ChatCall(HELLO, reasoning=Reasoning(adaptive=True), temperature=0.1, top_k=3, top_p=0.5),
            {"thinking": {"type": "adaptive"}},
            ("dropped:temperature", "dropped:top_p", "dropped:top_k"),
        ),
    ],
)
def test_members_without_an_equal(call: ChatCall, sent: dict[str, Any], losses: tuple[str, ...]) -> None:
    body, named = encode(call, build_target(ADAPTIVE, max_output_tokens=100))
    rest = {name: value for name, value in body.items() if name not in ("model", "max_tokens", "messages")}
    assert rest == sent
    assert sorted(named) == sorted(("changed:max_tokens", *losses))


def test_names_of_participants_are_named_as_dropped() -> None:
    assert encode_messages(Message("user", (TextPart("a"),), name="bob"))[1] == ("dropped:messages.name",)
