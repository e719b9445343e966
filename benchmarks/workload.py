"""What is asked in each scenario, and what the canned upstream answers. Benchmarks."""

from __future__ import annotations

import json
from typing import Any, Literal

Kind = Literal["text", "prompt", "tools", "stream", "held", "image"]
"""text: 300 bytes; prompt: 10,000 tokens; tools: eight declared, one called; stream: 100 events at 10 ms; held: a stream that
lasts a minute; image: 20 MB in base64.
"""

STREAM_EVENTS = 100
STREAM_GAP_MS = 10.0
HELD_GAP_MS = 1000.0
HELD_TOKENS = 60
IMAGE_BYTES = 20_000_000

_USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 20,
    "total_tokens": 60,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_TEXT = "Hello world, bonjour le monde, hola mundo. The weather is fine."
_ARGUMENTS = {"city": "Lisbon", "unit": "celsius", "days": 3}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def openai_answer(*, tools: bool) -> bytes:
    """A chat completion: text, or one tool call."""
    message: dict[str, Any] = {"role": "assistant", "content": _TEXT, "refusal": None}
    if tools:
        call = {"name": "tool_0", "arguments": json.dumps(_ARGUMENTS)}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if tools else "stop",
    }
    return _dump(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o",
            "choices": [choice],
            "usage": _USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_1",
        }
    )


def anthropic_answer(*, tools: bool) -> bytes:
    """A message: text, or one tool use."""
    content: dict[str, Any] = {"type": "text", "text": _TEXT}
    if tools:
        content = {"type": "tool_use", "id": "toolu_1", "name": "tool_0", "input": _ARGUMENTS}
    return _dump(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [content],
            "stop_reason": "tool_use" if tools else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 40, "output_tokens": 20, "service_tier": "standard"},
        }
    )


def _tool(number: int) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "The city whose weather is wanted, by its English name."},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["city"],
        "additionalProperties": False,
    }
    about = "Looks up the weather forecast of a city for the days to come."
    return {
        "type": "function",
        "function": {"name": f"tool_{number}", "description": about, "parameters": schema},
    }


def request_body(kind: Kind, model: str) -> bytes:
    """The body of a chat completion of this kind."""
    question: Any = "Say hello to the world in three languages please. How is the weather?"
    body: dict[str, Any] = {"model": model}
    if kind == "prompt":
        # Ten words of English are about ten tokens.
        question = "the river bends to the west and then it rests " * 1000
    elif kind == "image":
        picture = "data:image/png;base64," + "iVBORw0KGgoAAAAN" * (IMAGE_BYTES // 16)
        question = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
    body["messages"] = [
        {"role": "system", "content": "You are a helpful assistant that answers briefly."},
        {"role": "user", "content": question},
    ]
    body |= {"max_tokens": 200, "temperature": 0.5, "user": "0123456789abcdef"}
    if kind == "tools":
        body |= {"tools": [_tool(number) for number in range(8)], "tool_choice": "auto"}
    if kind in ("stream", "held"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return _dump(body)
