"""Reads the content blocks of a Messages request as parts of a ChatCall. Data plane; pure, no I/O.

What an assistant message holds beyond text, thinking and tool calls was made by Anthropic's own tools: it is
dropped and named. A user's block that can't be held is refused instead, since dropping it would answer
another question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.wire._anthropic_members import (
    find_object,
    list_objects,
    refuse,
    strip_indices,
    take_cache,
    take_flag,
    take_object,
    take_text,
)
from tokenhub.core.chat import (
    FilePart,
    ImagePart,
    Losses,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)

_ResultPart = TextPart | ImagePart | FilePart

_TOOL_NOTES = frozenset({"tool_reference", "tool_addition", "tool_removal", "container_upload"})
"""Blocks that steer Anthropic's own tools and say nothing to a model without them."""


def read_content(holder: Mapping[str, Any], path: str, role: str, losses: Losses) -> tuple[Part, ...]:
    """The parts of a message: its content is a string or an array of blocks. Raises InvalidRequest with the
    path."""
    content = holder.get("content")
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list | tuple):
        raise refuse(f"{path}.content", "a string or an array of content blocks is required")
    return tuple(_read_blocks(holder, path, role, losses))


def read_texts(holder: Mapping[str, Any], name: str, losses: Losses) -> tuple[TextPart, ...]:
    """A `system` member: a string or an array of text blocks."""
    value = holder.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (TextPart(value),)
    parts = []
    for where, block in list_objects(holder, name, ""):
        if take_text(block, "type", where) != "text":
            raise refuse(f"{where}.type", 'must be "text"')
        parts.append(_read_text(block, where, losses))
    return tuple(parts)


def _read_blocks(holder: Mapping[str, Any], path: str, role: str, losses: Losses) -> Iterator[Part]:
    for where, block in list_objects(holder, "content", path):
        kind = take_text(block, "type", where)
        part: Part | None = _read_shared(kind, block, where, losses)
        if part is None and role == "assistant":
            part = _read_assistant(kind, block, where, losses)
        elif part is None and kind == "tool_result" and role == "user":
            part = _read_result(block, where, losses)
        if part is not None:
            yield part
        elif role == "assistant" or kind in _TOOL_NOTES:
            losses.dropped(strip_indices(f"{where}.{kind}"))
        else:
            raise refuse(f"{where}.type", f"{kind!r} is not a block that a {role} message can hold here")


def _read_shared(kind: str, block: Mapping[str, Any], where: str, losses: Losses) -> _ResultPart | None:
    """A part that stands in any message and in tool results; None where `block` is none of these."""
    if kind == "text":
        return _read_text(block, where, losses)
    if kind == "image":
        return _read_image(block, where)
    if kind == "document":
        return _read_document(block, where, losses)
    if kind == "search_result":
        return _read_search_result(block, where, losses)
    return None


def _read_assistant(kind: str, block: Mapping[str, Any], where: str, losses: Losses) -> Part | None:
    if kind == "tool_use":
        caller = find_object(block, "caller", where)
        if caller is not None and caller.get("type") != "direct":
            losses.dropped(strip_indices(f"{where}.caller"))
        return ToolCallPart(
            id=take_text(block, "id", where),
            name=take_text(block, "name", where),
            arguments=write_json(take_object(block, "input", where), f"{where}.input"),
            cache=take_cache(block, where),
        )
    if kind == "thinking":
        text = take_text(block, "thinking", where)
        return ThinkingPart(text, take_text(block, "signature", where, default=""))
    if kind == "redacted_thinking":
        return ThinkingPart(redacted=take_text(block, "data", where))
    if kind == "compaction" and isinstance(block.get("content"), str):
        # The summary stands for everything before it; as plain text it still does.
        losses.changed(strip_indices(f"{where}.type"))
        return TextPart(block["content"], take_cache(block, where))
    return None


def write_json(value: Any, path: str) -> str:
    """JSON text of a parsed value. Raises InvalidRequest where it holds half a surrogate pair."""
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, TypeError) as error:
        raise refuse(path, "must be plain JSON with whole characters") from error


def _read_text(block: Mapping[str, Any], where: str, losses: Losses) -> TextPart:
    if block.get("citations"):
        losses.dropped(strip_indices(f"{where}.citations"))
    return TextPart(take_text(block, "text", where), take_cache(block, where))


def _read_image(block: Mapping[str, Any], where: str) -> ImagePart | FilePart:
    source = take_object(block, "source", where)
    path, cache = f"{where}.source", take_cache(block, where)
    kind = take_text(source, "type", path)
    if kind == "base64":
        media_type = take_text(source, "media_type", path)
        return ImagePart(data=take_text(source, "data", path), media_type=media_type, cache=cache)
    if kind == "url":
        return ImagePart(url=take_text(source, "url", path), cache=cache)
    if kind == "file":
        return FilePart(file_id=take_text(source, "file_id", path), media_type="image/*", cache=cache)
    raise refuse(f"{path}.type", 'must be "base64", "url" or "file"')


def _read_document(block: Mapping[str, Any], where: str, losses: Losses) -> FilePart:
    for name in ("citations", "context"):
        if block.get(name):
            losses.dropped(strip_indices(f"{where}.{name}"))
    source = take_object(block, "source", where)
    path, cache = f"{where}.source", take_cache(block, where)
    title = take_text(block, "title", where, default="")
    kind = take_text(source, "type", path)
    if kind == "base64":
        media_type = take_text(source, "media_type", path)
        data = take_text(source, "data", path)
        return FilePart(data=data, media_type=media_type, filename=title, cache=cache)
    if kind == "text":
        text = take_text(source, "data", path)
        return FilePart(text=text, media_type="text/plain", filename=title, cache=cache)
    if kind == "url":
        return FilePart(url=take_text(source, "url", path), filename=title, cache=cache)
    if kind == "file":
        return FilePart(file_id=take_text(source, "file_id", path), filename=title, cache=cache)
    if kind == "content":
        losses.changed(strip_indices(f"{path}.content"))
        text = _join_texts(source, path, losses)
        return FilePart(text=text, media_type="text/plain", filename=title, cache=cache)
    raise refuse(f"{path}.type", 'must be "base64", "text", "url", "file" or "content"')


def _read_search_result(block: Mapping[str, Any], where: str, losses: Losses) -> TextPart:
    """A search result that the caller brings: its title, source and text as plain text."""
    losses.changed(strip_indices(f"{where}.type"))
    head = f"{take_text(block, 'title', where)}\n{take_text(block, 'source', where)}"
    return TextPart(f"{head}\n\n{_join_texts(block, where, losses)}", take_cache(block, where))


def _join_texts(holder: Mapping[str, Any], path: str, losses: Losses) -> str:
    content = holder.get("content")
    if isinstance(content, str):
        return content
    texts = []
    for where, block in list_objects(holder, "content", path):
        if take_text(block, "type", where) == "text":
            texts.append(take_text(block, "text", where))
        else:
            losses.dropped(strip_indices(where))
    return "\n".join(texts)


def _read_result(block: Mapping[str, Any], where: str, losses: Losses) -> ToolResultPart:
    content = block.get("content")
    parts: list[_ResultPart] = []
    if isinstance(content, str):
        parts.append(TextPart(content))
    else:
        for path, item in list_objects(block, "content", where):
            kind = take_text(item, "type", path)
            part = _read_shared(kind, item, path, losses)
            if part is not None:
                parts.append(part)
            elif kind in _TOOL_NOTES:
                losses.dropped(strip_indices(f"{path}.{kind}"))
            else:
                raise refuse(f"{path}.type", f"{kind!r} is not a block that a tool result can hold here")
    return ToolResultPart(
        call_id=take_text(block, "tool_use_id", where),
        content=tuple(parts),
        is_error=take_flag(block, "is_error", where),
        cache=take_cache(block, where),
    )
