"""Reads what Anthropic's Messages API answers: usage, stop reasons, whole messages. Data plane; pure, no I/O.

Usage (platform.claude.com, "Messages" and "Prompt caching"): `input_tokens` excludes what a cache gave or
took; `output_tokens` includes thinking; figures of a stream's `message_delta` are totals that replace the
ones of `message_start`. The tokens of a `compaction` entry in `iterations` are billed but not in the totals,
so they are added; an `advisor_message` ran on another model at another price, so it stays in `raw` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from tokenhub.core.chat import (
    ChatAnswer,
    Choice,
    FinishReason,
    Losses,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from tokenhub.core.usage import NOTHING_USED, Usage

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
    "pause_turn": "pause",
    "compaction": "pause",
    "model_context_window_exceeded": "context",
}

_KIND: Final = re.compile(r"[A-Za-z0-9_]{1,64}")

INPUT_ONLY: Final = "input_only"
"""`Usage.method` of a stream that was cut before its `message_delta`: the output side is missing, not
zero."""


def name_content(kind: str) -> str:
    """How losses name a block of that type; they go into a response header, so a strange type is
    `unknown`."""
    return f"content.{kind}" if _KIND.fullmatch(kind) else "content.unknown"


def read_finish(stop_reason: str | None) -> FinishReason:
    """The finish reason of a `stop_reason`; a new or missing one is `other`."""
    return FINISH_REASONS.get(stop_reason or "", "other")


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Disjoint buckets of a `usage` object (of a stream: of the merged one). Missing and null figures are
    0."""
    buckets = _count_buckets(raw)
    iterations = raw.get("iterations")
    for entry in iterations if isinstance(iterations, list) else ():
        if isinstance(entry, Mapping) and entry.get("type") == "compaction":
            buckets = tuple(map(sum, zip(buckets, _count_buckets(entry), strict=True)))
    server = raw.get("server_tool_use")
    searches = _count(server, "web_search_requests") if isinstance(server, Mapping) else 0
    fresh, cache_read, five_minutes, one_hour, output, reasoning = buckets
    return Usage(
        input=fresh,
        cache_read=cache_read,
        cache_write_5m=five_minutes,
        cache_write_1h=one_hour,
        output=output,
        reasoning=reasoning,
        searches=searches,
        raw=raw,
    )


def read_input_usage(raw: Mapping[str, Any]) -> Usage:
    """The input side of a `message_start`; its output figure is a placeholder and is left out, marked by
    INPUT_ONLY."""
    known = read_usage({**raw, "output_tokens": 0})
    return replace(known, method=INPUT_ONLY, raw=raw)


def merge_usage(start: Mapping[str, Any], totals: Mapping[str, Any]) -> dict[str, Any]:
    """The usage object of a stream: a later figure replaces an earlier one unless it is null."""
    return {**start, **{name: value for name, value in totals.items() if value is not None}}


def _count(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _count_buckets(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Input, cache read, cache writes of five minutes and an hour, output, reasoning: the first fields of
    Usage."""
    details = raw.get("output_tokens_details")
    output = _count(raw, "output_tokens")
    reasoning = min(output, _count(details, "thinking_tokens")) if isinstance(details, Mapping) else 0
    return (
        _count(raw, "input_tokens"),
        _count(raw, "cache_read_input_tokens"),
        *_split_writes(raw),
        output - reasoning,
        reasoning,
    )


def _split_writes(raw: Mapping[str, Any]) -> tuple[int, int]:
    """Cache writes by life. A stream tells the split only at its start, so its later total rules: what the
    split doesn't explain goes to the only life that was used, else to five minutes."""
    split = raw.get("cache_creation")
    if not isinstance(split, Mapping):
        return _count(raw, "cache_creation_input_tokens"), 0
    five_minutes = _count(split, "ephemeral_5m_input_tokens")
    one_hour = _count(split, "ephemeral_1h_input_tokens")
    if not isinstance(raw.get("cache_creation_input_tokens"), int):
        return five_minutes, one_hour
    total = _count(raw, "cache_creation_input_tokens")
    one_hour = total if one_hour and not five_minutes else min(one_hour, total)
    return total - one_hour, one_hour


class _Block(msgspec.Struct):
    """One content block; a tool's input stays the text that the model wrote, so no number changes its
    form."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    citations: list[msgspec.Raw] | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    usage: dict[str, Any] | None = None
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Outline(msgspec.Struct):
    """What accounting needs of a whole answer; its content is checked to be there, not read."""

    content: list[msgspec.Raw]
    usage: dict[str, Any] | None = None
    model: str | None = None
    stop_reason: str | None = None


class _Count(msgspec.Struct):
    input_tokens: int


_message_decoder = msgspec.json.Decoder(_Message)
_outline_decoder = msgspec.json.Decoder(_Outline)
_count_decoder = msgspec.json.Decoder(_Count)


def decode_message(body: bytes) -> ChatAnswer:
    """A whole message as a ChatAnswer; blocks that it can't hold are named in its losses. Raises
    ValueError."""
    message = _message_decoder.decode(body)
    losses = Losses()
    choice = Choice(
        parts=tuple(_read_parts(message.content, losses)),
        finish=read_finish(message.stop_reason),
        stop_sequence=message.stop_sequence or "",
    )
    return ChatAnswer(
        id=message.id or "",
        model=message.model or "",
        choices=(choice,),
        usage=read_usage(message.usage) if message.usage is not None else NOTHING_USED,
        losses=losses,
    )


def read_outline(body: bytes) -> tuple[Usage | None, str, str]:
    """Usage, `stop_reason` and model of a whole message. Raises ValueError if it is none."""
    outline = _outline_decoder.decode(body)
    usage = read_usage(outline.usage) if outline.usage is not None else None
    return usage, outline.stop_reason or "", outline.model or ""


def read_count(body: bytes) -> int:
    """The tokens that `count_tokens` answers. Raises ValueError if it is no such answer."""
    return _count_decoder.decode(body).input_tokens


def _read_parts(blocks: Iterable[_Block], losses: Losses) -> Iterable[Part]:
    for block in blocks:
        if block.type == "text":
            if block.citations:
                losses.dropped("content.citations")
            yield TextPart(block.text or "")
        elif block.type == "tool_use":
            arguments = "" if block.input is msgspec.UNSET else bytes(block.input).decode()
            yield ToolCallPart(block.id or "", block.name or "", arguments)
        elif block.type == "thinking":
            yield ThinkingPart(block.thinking or "", block.signature or "")
        elif block.type == "redacted_thinking":
            yield ThinkingPart(redacted=block.data or "")
        else:
            losses.dropped(name_content(block.type))
