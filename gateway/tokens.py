"""Estimates a prompt's tokens where nobody has counted them yet: by its characters, tools and media. Data plane.

The constants were fitted to recorded traffic of which the providers told the counts (docs/operations.md, "Token estimation"); what
a model's own tokenizer makes of it is learned from its answers (`routing.engine.health`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.exchange import Exchange
from providers.adapters.base import Operation

CHARACTERS_PER_TOKEN: Final = 4.6
TOKENS_PER_FURTHER_BYTE: Final = 0.3
"""A character outside ASCII has two to four bytes in UTF-8, and the more tokens the more bytes it has."""

FILE_TOKENS: Final = 1_600
BASE64_CHARACTERS_PER_TOKEN: Final = 40
"""Documents: 100 KB of PDF are taken for about 3,300 tokens. The page count would be better, and is not read here."""

MAX_DEPTH: Final = 64
"""Deeper values are not counted: a request's parser bounds its depth below that."""

_PATIENCE_SECONDS: Final = 0.2
_ROUGH_BYTES_PER_TOKEN: Final = 4
_UNCOUNTED: Final = frozenset(
    {"cache_control", "id", "media_type", "role", "signature", "tool_call_id", "tool_use_id", "type"}
)
_FILES: Final = frozenset({"file", "input_audio", "video_url"})
_PARTS: Final = ("system", "prompt", "suffix", "input")


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a format's prompts have besides their texts, in tokens: of any request, a message, any tools, and an image; and how
    many a token of text becomes within a tool's definition and within an output's schema."""

    request: float
    message: float
    tools: float
    image: float
    definition: float
    schema: float
    built_in_tool: float


_OPENAI: Final = _Frame(4.0, 4.0, 12.0, 765.0, 0.75, 0.75, 2_000.0)
_ANTHROPIC: Final = _Frame(5.0, 6.0, 480.0, 1_600.0, 1.95, 3.0, 2_000.0)
"""An image counts as the largest one that the vendor does not shrink: a prompt must fit."""

_LOW_DETAIL: Final = 85.0
_OF_ANTHROPIC: Final = frozenset({Operation.ANTHROPIC_MESSAGES, Operation.ANTHROPIC_COUNT_TOKENS})


def estimate_input_tokens(exchange: Exchange) -> int:
    """The estimate of a request's prompt, made once; of a large one before it is routed, in a thread (`gateway.pipeline`)."""
    if not exchange.estimated:
        exchange.estimated = estimate_tokens(exchange.wire.bare.operation, exchange.body.data)
    return exchange.estimated


async def estimate_aside(exchange: Exchange) -> None:
    """The estimate of a large request, in a thread; where none is free soon, its bytes tell roughly."""
    counting = asyncio.to_thread(estimate_tokens, exchange.wire.bare.operation, exchange.body.data)
    try:
        exchange.estimated = await asyncio.wait_for(counting, _PATIENCE_SECONDS)
    except TimeoutError:
        exchange.estimated = len(exchange.body.raw) // _ROUGH_BYTES_PER_TOKEN


def estimate_tokens(operation: Operation, body: Mapping[str, Any]) -> int:
    """Input tokens of a body, at least 1."""
    frame = _ANTHROPIC if operation in _OF_ANTHROPIC else _OPENAI
    total = frame.request
    for name in _PARTS:
        if name in body:
            total += _weigh(body[name], frame, 0)
    messages = body.get("messages")
    if isinstance(messages, list | tuple):
        for message in messages:
            total += frame.message + _weigh(message, frame, 0)
    tools = body.get("tools")
    if isinstance(tools, list | tuple) and tools:
        total += frame.tools
        for tool in tools:
            total += _weigh_tool(tool, frame)
    for name in ("response_format", "output_format", "output_config"):
        if body.get(name):
            total += frame.schema * _weigh_json(body[name], 0)
    return int(total) + 1


def _weigh_text(text: str) -> float:
    further = 0 if text.isascii() else len(text.encode("utf-8", "surrogatepass")) - len(text)
    return len(text) / CHARACTERS_PER_TOKEN + further * TOKENS_PER_FURTHER_BYTE


def _weigh(value: Any, frame: _Frame, depth: int) -> float:
    kind = type(value)
    if kind is str:
        return _weigh_text(value)
    if depth > MAX_DEPTH:
        return 0.0
    if kind is list:
        total = 0.0
        for item in value:
            total += _weigh(item, frame, depth + 1)
        return total
    if kind is not dict:
        return 0.5 if value is not None else 0.0
    part = value.get("type")
    if part in ("image", "image_url", "input_image"):
        image = value.get("image_url")
        return _LOW_DETAIL if isinstance(image, dict) and image.get("detail") == "low" else frame.image
    if part == "base64" and isinstance(value.get("data"), str):
        return len(value["data"]) / BASE64_CHARACTERS_PER_TOKEN
    if part in _FILES or (part == "url" and "url" in value):
        return float(FILE_TOKENS)
    total = 0.0
    for name, item in value.items():
        if name in _UNCOUNTED:
            continue
        total += _weigh_json(item, depth + 1) if name == "input" else _weigh(item, frame, depth + 1)
    return total


def _weigh_tool(tool: Any, frame: _Frame) -> float:
    if isinstance(tool, dict) and tool.get("type") not in (None, "custom", "function"):
        return frame.built_in_tool
    return frame.definition * _weigh_json(tool, 0)


def _weigh_json(value: Any, depth: int) -> float:
    """JSON that a model reads as such: its names and marks count, too."""
    kind = type(value)
    if kind is str:
        return _weigh_text(value) + 2 / CHARACTERS_PER_TOKEN
    if depth > MAX_DEPTH:
        return 0.0
    total = 2 / CHARACTERS_PER_TOKEN
    if kind is dict:
        for name, item in value.items():
            total += _weigh_text(name) + 4 / CHARACTERS_PER_TOKEN + _weigh_json(item, depth + 1)
    elif kind is list:
        for item in value:
            total += 1 / CHARACTERS_PER_TOKEN + _weigh_json(item, depth + 1)
    else:
        total = 4 / CHARACTERS_PER_TOKEN
    return total
