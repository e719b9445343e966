"""The simulation's token counter: one token is four characters, rounded up. Data plane, pure.

The rule is that simple so that a test in any language can assert usage exactly, and so that counting a large
prompt costs nothing. Every number of the simulation (usage, `max_tokens`, `count_tokens`) comes from here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

CHARACTERS_PER_TOKEN = 4
MESSAGE_OVERHEAD_TOKENS = 4
REPLY_OVERHEAD_TOKENS = 3
IMAGE_TOKENS = 765
LOW_DETAIL_IMAGE_TOKENS = 85
ATTACHMENT_TOKENS = 1_600


def count_text(text: str) -> int:
    """Tokens of a text: its characters (code points) divided by four, rounded up."""
    return (len(text) + CHARACTERS_PER_TOKEN - 1) // CHARACTERS_PER_TOKEN


def count_json(value: object) -> int:
    """Tokens of a JSON value written without blanks."""
    return count_text(msgspec.json.encode(value).decode())


def clip(text: str, tokens: int) -> str:
    """The first `tokens` tokens of a text."""
    return text[: tokens * CHARACTERS_PER_TOKEN]


def pieces(text: str, tokens: int = 1) -> list[str]:
    """The text cut into pieces of `tokens` tokens; joined, they are the text again."""
    size = tokens * CHARACTERS_PER_TOKEN
    return [text[start : start + size] for start in range(0, len(text), size)]


def count_part(part: Mapping[str, Any]) -> int:
    """Tokens of one content part or block, of OpenAI's or Anthropic's shape; media count a flat price."""
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        return count_text(part["text"])
    if kind == "thinking":
        return count_text(part.get("thinking", ""))
    if kind == "image_url":
        image = part.get("image_url")
        low = isinstance(image, Mapping) and image.get("detail") == "low"
        return LOW_DETAIL_IMAGE_TOKENS if low else IMAGE_TOKENS
    if kind == "tool_use":
        return count_text(part["name"]) + count_json(part.get("input", {}))
    if kind == "tool_result":
        return count_content(part.get("content"))
    if kind in ("image", "document", "input_audio", "file"):
        return ATTACHMENT_TOKENS
    return count_json(part)


def count_content(content: object) -> int:
    """Tokens of a message's content: a string, a list of parts, or nothing."""
    if content is None:
        return 0
    if isinstance(content, str):
        return count_text(content)
    if isinstance(content, list):
        return sum(count_part(part) for part in content if isinstance(part, Mapping))
    return count_json(content)
