"""Conversations of very many messages: the work grows with their number, not with its square."""

from __future__ import annotations

import msgspec
import pytest

from providers.adapters.base import Target
from providers.adapters.registry import get_adapter
from tests.builders import a_model, a_provider
from tokenhub.core.chat import ChatCall, Message, Part, TextPart, ToolCallPart, ToolResultPart

MANY = 60_001
"""At a squared cost this many would take the better part of an hour."""


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("shape", ["one role", "both roles", "tool calls"])
def test_every_message_arrives_however_many(kind: str, shape: str) -> None:
    provider = a_provider("only", kind, 1)
    target = Target(provider, a_model(provider, "work"), provider.endpoints[0], "")
    call = ChatCall(tuple(conversation(shape)), max_tokens=5)
    _, body, _ = get_adapter(kind).encode_chat(call, target)
    text = msgspec.json.encode(msgspec.json.decode(body)["messages"]).decode()
    assert text.count("word-") == MANY
    assert text.index("word-0 ") < text.index(f"word-{MANY - 1} ")


def conversation(shape: str) -> list[Message]:
    """Messages that hold `word-0` to `word-60000` once each."""
    if shape == "tool calls":
        calls: list[Part] = [ToolCallPart(f"call_{number}", "tool", "{}") for number in range(MANY)]
        results: list[Part] = [
            ToolResultPart(f"call_{number}", (TextPart(f"word-{number} "),)) for number in range(MANY)
        ]
        ask = Message("user", (TextPart("go"),))
        return [ask, Message("assistant", tuple(calls)), *(Message("user", (result,)) for result in results)]
    both = shape == "both roles"
    return [
        Message("assistant" if both and number % 2 else "user", (TextPart(f"word-{number} "),))
        for number in range(MANY)
    ]
