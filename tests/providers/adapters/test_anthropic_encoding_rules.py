"""Whatever the call, a body for Anthropic keeps the format's rules and survives reading and writing."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.anthropic_messages import AnthropicMessages
from providers.adapters.anthropic import Anthropic
from tests.providers.adapters.anthropic_cast import build_target
from tokenhub.core.chat import (
    ChatCall,
    FilePart,
    ImagePart,
    Message,
    Reasoning,
    RefusalPart,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from tokenhub.core.errors import InvalidRequest

WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
IDS = st.text(max_size=6)
USER_PARTS = st.one_of(
    st.builds(TextPart, TEXT, st.sampled_from(["", "5m", "1h"])),
    st.builds(ImagePart, data=st.just("aGk="), media_type=st.just("image/png")),
    st.builds(FilePart, text=TEXT.filter(bool), filename=TEXT),
    st.builds(
        ToolResultPart,
        IDS,
        st.lists(st.builds(TextPart, TEXT), max_size=2).map(tuple),
        st.booleans(),
    ),
)
ASSISTANT_PARTS = st.one_of(
    st.builds(TextPart, TEXT),
    st.builds(RefusalPart, TEXT),
    st.builds(ThinkingPart, TEXT, st.sampled_from(["", "sig"])),
    st.builds(ThinkingPart, redacted=st.just("b3A=")),
    st.builds(ToolCallPart, IDS, st.just("weather"), st.sampled_from(["", "{}", '{"a":1}', "{", "7"])),
)
MESSAGES = st.one_of(
    st.builds(
        Message, st.sampled_from(["system", "developer"]), st.lists(st.builds(TextPart, TEXT)).map(tuple)
    ),
    st.builds(Message, st.just("user"), st.lists(USER_PARTS, max_size=4).map(tuple)),
    st.builds(Message, st.just("assistant"), st.lists(ASSISTANT_PARTS, max_size=4).map(tuple)),
)
CALLS = st.builds(
    ChatCall,
    messages=st.lists(MESSAGES, max_size=6).map(tuple),
    tools=st.sampled_from([(), (WEATHER,), (Tool("bare"),)]),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")]),
    reasoning=st.one_of(
        st.none(),
        st.builds(
            Reasoning,
            st.sampled_from(["", "none", "minimal", "low", "max", "odd"]),
            st.one_of(st.none(), st.integers(0, 20_000)),
            st.booleans(),
        ),
    ),
    max_tokens=st.one_of(st.none(), st.integers(1, 20_000)),
    temperature=st.one_of(st.none(), st.floats(0, 2)),
    top_p=st.one_of(st.none(), st.floats(0, 1)),
    stop=st.lists(TEXT, max_size=3).map(tuple),
)


def is_said(message: Message) -> bool:
    """Whether a message says something that the format can hold."""
    held = (ToolCallPart, ToolResultPart, ImagePart, FilePart)
    texts = [part for part in message.parts if isinstance(part, TextPart | RefusalPart) and part.text.strip()]
    signed = [p for p in message.parts if isinstance(p, ThinkingPart) and (p.signature or p.redacted)]
    return bool(texts or signed or [part for part in message.parts if isinstance(part, held)])


@settings(max_examples=300, deadline=None)
@given(CALLS, st.sampled_from(["claude-sonnet-4-5", "claude-opus-4-6", "tiny"]))
def test_every_body_keeps_the_formats_rules(call: ChatCall, model: str) -> None:
    try:
        body = json.loads(Anthropic().encode_chat(call, build_target(model))[1])
    except InvalidRequest:
        assert not any(message.parts for message in call.messages if is_said(message))
        return
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user" if number % 2 == 0 else "assistant" for number in range(len(roles))]
    for message in body["messages"]:
        kinds = [block["type"] for block in message["content"]]
        assert kinds
        assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result")
        for block in message["content"]:
            assert block["type"] != "text" or block["text"].strip()
            for name in ("id", "tool_use_id"):
                assert name not in block or re.fullmatch(r"[a-zA-Z0-9_-]+", block[name])
            assert block["type"] != "tool_use" or isinstance(block["input"], dict)
            assert block["type"] != "thinking" or block["signature"]
    budget = body.get("thinking", {}).get("budget_tokens")
    assert budget is None or 1_024 <= budget < body["max_tokens"]
    assert "tool_choice" not in body or body["tools"]
    if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        assert body.get("temperature", 1) == 1
        assert body.get("tool_choice", {}).get("type") not in ("any", "tool")
    assert all(stop.strip() for stop in body.get("stop_sequences", ()))


@settings(max_examples=200, deadline=None)
@given(CALLS, st.sampled_from(["claude-sonnet-4-5", "claude-opus-4-6", "tiny"]))
def test_a_body_read_back_and_written_again_stays_the_same(call: ChatCall, model: str) -> None:
    target = build_target(model)
    try:
        written = Anthropic().encode_chat(call, target)[1]
    except InvalidRequest:
        return
    again = AnthropicMessages().read_call(json.loads(written))
    assert again.losses.names() == ()
    assert Anthropic().encode_chat(again, target)[1] == written
