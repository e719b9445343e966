"""`POST /v1/messages/count_tokens`: Anthropic's token counting, and an estimate where a provider can't count.
Data plane.

The estimate is a heuristic, not a tokenizer: it errs upwards, since its callers use it to decide when to
shorten a history.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from gateway.wire._anthropic_failures import write_error, write_error_event, write_failure
from gateway.wire._anthropic_write import encode_json
from gateway.wire.anthropic_messages import check_outline
from gateway.wire.base import WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.errors import TokenhubError

CHARACTERS_PER_TOKEN: Final = 3.5
"""ASCII text and code."""

WIDE_TOKENS_PER_CHARACTER: Final = 1.2
"""Chinese, Japanese and Korean characters and emoji; other non-ASCII letters count half a token."""

IMAGE_TOKENS: Final = 1_600
"""An image of the largest size that the API does not shrink (platform.claude.com, "Vision": width x height /
750)."""

BASE64_CHARACTERS_PER_TOKEN: Final = 40
"""Documents: 100 KB of PDF are taken for about 3,300 tokens. The page count would be better, and is not read
here."""

MESSAGE_TOKENS: Final = 8
TOOL_TOKENS: Final = 20
TOOLS_TOKENS: Final = 550
BUILT_IN_TOOL_TOKENS: Final = 1_500
"""The frame of a message and of a tool, the system prompt that comes with any tools, and a tool that
Anthropic defines."""

MAX_DEPTH: Final = 64
"""Deeper values are not counted: a request's parser bounds its depth below that."""

_ASCII: Final = re.compile(r"[\x00-\x7f]+")
_WIDE: Final = re.compile("[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00010000-\U0010ffff]")
_PIECE: Final = 16 * 1024
_UNCOUNTED: Final = frozenset({"cache_control", "type", "signature", "id", "tool_use_id", "media_type"})


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Input tokens of a count (or Messages) body, estimated: characters by class, images and documents by
    constants."""
    messages = body.get("messages")
    tools = body.get("tools")
    total = _weigh(body.get("system"), 0)
    if isinstance(messages, list | tuple):
        total += sum(MESSAGE_TOKENS + _weigh(message, 0) for message in messages)
    if isinstance(tools, list | tuple) and tools:
        total += TOOLS_TOKENS + sum(map(_weigh_tool, tools))
    return max(1, math.ceil(total))


def _weigh(value: Any, depth: int) -> float:
    if isinstance(value, str):
        return _weigh_text(value)
    if depth > MAX_DEPTH:
        return 0.0
    if isinstance(value, list | tuple):
        return sum(_weigh(item, depth + 1) for item in value)
    if not isinstance(value, Mapping):
        return 0.5 if value is not None else 0.0
    kind = value.get("type")
    if kind == "image":
        return float(IMAGE_TOKENS)
    if kind == "base64" and isinstance(value.get("data"), str):
        return len(value["data"]) / BASE64_CHARACTERS_PER_TOKEN
    if kind == "tool_use":
        return TOOL_TOKENS + _weigh(value.get("name"), depth + 1) + _weigh_json(value.get("input"))
    return sum(_weigh(item, depth + 1) for name, item in value.items() if name not in _UNCOUNTED)


def _weigh_tool(tool: Any) -> float:
    if isinstance(tool, Mapping) and tool.get("type") not in (None, "custom"):
        return float(BUILT_IN_TOOL_TOKENS)
    return TOOL_TOKENS + _weigh_json(tool)


def _weigh_json(value: Any) -> float:
    """JSON that a model reads as such: a tool's schema, a call's input."""
    return _weigh_text(encode_json(value).decode())


def _weigh_text(text: str) -> float:
    if len(text) > _PIECE:
        # A regular expression keeps the interpreter's lock, so that no other request goes on.
        return sum(_weigh_text(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))
    if text.isascii():
        return len(text) / CHARACTERS_PER_TOKEN
    ascii_count = sum(len(run) for run in _ASCII.findall(text))
    wide_count = len(_WIDE.findall(text))
    other_count = len(text) - ascii_count - wide_count
    return ascii_count / CHARACTERS_PER_TOKEN + wide_count * WIDE_TOKENS_PER_CHARACTER + other_count * 0.5


class AnthropicCountTokens(WireFormat):
    """Anthropic's token counting. It does not translate: a target without it is answered with
    `estimate_tokens`."""

    operation: ClassVar[Operation] = Operation.ANTHROPIC_COUNT_TOKENS
    scope: ClassVar[str] = "count_tokens"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model` and `messages`. Raises InvalidRequest with the path."""
        check_outline(body)

    def write_count(self, tokens: int) -> bytes:
        """The answer for an estimated count."""
        return encode_json({"input_tokens": tokens})

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """An error of ours."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """The `error` event; counts don't stream, so only a relay that is wrong asks for it."""
        return write_error_event(error, request_id)
