"""What of a request matters to routing: what it needs of a model, how long it is, and what belongs together. Data plane; pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from providers.adapters.base import Operation

NEEDS: Mapping[Operation, frozenset[str]] = {
    Operation.OPENAI_CHAT: frozenset({"chat"}),
    Operation.OPENAI_COMPLETIONS: frozenset({"completions"}),
    Operation.OPENAI_EMBEDDINGS: frozenset({"embeddings"}),
    Operation.ANTHROPIC_MESSAGES: frozenset({"chat"}),
    Operation.ANTHROPIC_COUNT_TOKENS: frozenset({"chat"}),
    Operation.TOKENHUB_CHAT: frozenset({"chat"}),
}
"""What a model must be able to do to serve each operation."""

KINDS: Mapping[Operation, str] = {operation: next(iter(needs)) for operation, needs in NEEDS.items()}
"""What policies call each operation: chat, completions or embeddings."""

_IMAGES = frozenset({"image_url", "image"})
_MINUTES_OF_WEEK = 7 * 1440
_PER_REQUEST = "x-anthropic-billing-header"
_MONDAY = 4 * 1440
"""The Unix epoch was a Thursday."""


@lru_cache(256)
def _with(operation: Operation, tools: bool, vision: bool, schema: bool) -> frozenset[str]:
    more = {
        name for name, needed in (("tools", tools), ("vision", vision), ("json_schema", schema)) if needed
    }
    return NEEDS[operation] | more


def list_needs(operation: Operation, body: Mapping[str, Any]) -> frozenset[str]:
    """The operation's needs, and those of what is in the body: tools, images, a schema to be kept."""
    tools = bool(body.get("tools"))
    wanted = body.get("response_format") or body.get("output_config") or body.get("output_format")
    schema = isinstance(wanted, dict) and "schema" in str(wanted.get("type") or wanted.get("format") or "")
    return _with(operation, tools, _has_images(body.get("messages")), schema)


def _has_images(messages: Any) -> bool:
    if type(messages) is not list:
        return False
    for message in messages:
        content = message.get("content") if type(message) is dict else None
        if type(content) is list:
            for part in content:
                if type(part) is dict and part.get("type") in _IMAGES:
                    return True
    return False


def read_output_limit(body: Mapping[str, Any]) -> int:
    """The most output tokens that were asked for; 0 = it does not say."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def name_conversation(body: Mapping[str, Any]) -> str:
    """What the turns of one conversation have in common: its system prompt, and its messages up to the first of the user.

    Clients write the same text as a string or as parts, and move their marks for the cache from turn to turn: neither makes it
    another conversation. "" where there are no messages.
    """
    messages = body.get("messages")
    if type(messages) is not list or not messages:
        return ""
    start = [_list_contents(body.get("system"))]
    for message in messages[:8]:
        if type(message) is not dict:
            continue
        start.append(_list_contents(message.get("content")))
        if message.get("role") == "user":
            break
    return msgspec.json.encode(start)[:65536].decode("utf-8", "replace")


def _list_contents(content: Any) -> list[Any]:
    """The texts and other parts of a content, without what is no part of what it says."""
    if type(content) is not list:
        return [content]
    contents: list[Any] = []
    for part in content:
        if type(part) is not dict:
            contents.append(part)
        elif part.get("type") == "text":
            text = part.get("text")
            # Claude Code's first block counts its requests.
            if not (type(text) is str and text.startswith(_PER_REQUEST)):
                contents.append(text)
        else:
            contents.append({name: value for name, value in part.items() if name != "cache_control"})
    return contents


def list_tags(headers: Mapping[bytes, bytes]) -> frozenset[str]:
    """The tags of `x-tokenhub-tags`, separated by commas."""
    told = headers.get(b"x-tokenhub-tags")
    if not told:
        return frozenset()
    return frozenset(tag for part in told.decode("latin-1").split(",") if (tag := part.strip()))


def minute_of_week(unix: float = 0.0) -> int:
    """Minutes since Monday, 0:00 UTC."""
    return (int((unix or time.time()) // 60) - _MONDAY) % _MINUTES_OF_WEEK
