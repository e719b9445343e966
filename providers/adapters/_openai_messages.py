"""Writes messages in OpenAI's chat format. Data plane; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from providers.adapters._openai_profile import Profile
from tokenhub.core.chat import (
    AudioPart,
    FilePart,
    ImagePart,
    Losses,
    Message,
    Part,
    RefusalPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)


def encode_messages(messages: Sequence[Message], profile: Profile, losses: Losses) -> list[dict[str, Any]]:
    """The messages. Tool results become messages of their own, directly behind the calls that they answer.

    Tool messages hold text only: images and files of a result follow in a user message behind the last result of their run.
    """
    encoded: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        rest = [part for part in message.parts if not isinstance(part, ToolResultPart)]
        for result in results:
            encoded.append(_encode_result(result, profile, losses, waiting))
        if rest or not results:
            _flush(encoded, waiting)
            encoded.append(_encode_message(message, rest, profile, losses))
    _flush(encoded, waiting)
    return encoded


def _flush(encoded: list[dict[str, Any]], waiting: list[dict[str, Any]]) -> None:
    if waiting:
        encoded.append({"role": "user", "content": list(waiting)})
        waiting.clear()


def _encode_message(
    message: Message, parts: Iterable[Part], profile: Profile, losses: Losses
) -> dict[str, Any]:
    role = message.role
    if role == "developer" and not profile.developer_role:
        losses.changed("messages.role")
        role = "system"
    encoded: dict[str, Any] = {"role": role}
    if message.name:
        encoded["name"] = message.name
    if role == "assistant":
        _fill_assistant(encoded, parts, profile, losses)
    else:
        encoded["content"] = _join([item for part in parts for item in _encode_part(part, profile, losses)])
    return encoded


def _join(content: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Plain text where one plain text is all there is: older vendors take nothing else."""
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return str(content[0]["text"])
    return content or ""


def _fill_assistant(encoded: dict[str, Any], parts: Iterable[Part], profile: Profile, losses: Losses) -> None:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[ThinkingPart] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case TextPart():
                texts.append(part.text)
                if part.cache:
                    losses.dropped("cache_control")
            case RefusalPart():
                refusals.append(part.text)
            case ThinkingPart():
                thoughts.append(part)
            case ToolCallPart():
                calls.append(_encode_call(part, losses))
            case _:
                losses.dropped(f"messages.assistant.{_name(part)}")
    encoded["content"] = "".join(texts) if texts or not (calls or refusals) else None
    if refusals:
        encoded["refusal"] = "".join(refusals)
    if calls:
        encoded["tool_calls"] = calls
    if thoughts:
        _add_thinking(encoded, thoughts, profile, losses)


def _encode_call(part: ToolCallPart, losses: Losses) -> dict[str, Any]:
    if part.cache:
        losses.dropped("cache_control")
    function = {"name": part.name, "arguments": part.arguments or "{}"}
    return {"id": part.id, "type": "function", "function": function}


def _add_thinking(
    encoded: dict[str, Any], thoughts: Sequence[ThinkingPart], profile: Profile, losses: Losses
) -> None:
    text = "".join(part.text for part in thoughts)
    match profile.reasoning_field:
        case "thinking_blocks":
            encoded["reasoning_content"] = text
            encoded["thinking_blocks"] = [encode_thinking(part) for part in thoughts]
        case "":
            losses.dropped("messages.thinking")
        case field:
            encoded[field] = text
            if any(part.signature or part.redacted for part in thoughts):
                losses.dropped("messages.thinking.signature")


def encode_thinking(part: ThinkingPart) -> dict[str, str]:
    """One of `thinking_blocks`, the extension that carries signatures: LiteLLM's shape, which is Anthropic's block."""
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _encode_part(part: Part, profile: Profile, losses: Losses) -> Iterator[dict[str, Any]]:
    encoded: dict[str, Any] | None = None
    match part:
        case TextPart():
            encoded = {"type": "text", "text": part.text}
        case ImagePart():
            url = part.url or f"data:{part.media_type};base64,{part.data}"
            image = {"url": url, "detail": part.detail} if part.detail else {"url": url}
            encoded = {"type": "image_url", "image_url": image}
        case FilePart():
            encoded = _encode_file(part, losses)
        case AudioPart():
            encoded = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case _:
            losses.dropped(f"messages.user.{_name(part)}")
    if encoded is None:
        return
    if isinstance(part, TextPart | ImagePart | FilePart) and part.cache:
        profile.mark_cache(encoded, part.cache, losses)
    yield encoded


def _encode_file(part: FilePart, losses: Losses) -> dict[str, Any] | None:
    name = {"filename": part.filename} if part.filename else {}
    if part.file_id:
        return {"type": "file", "file": {"file_id": part.file_id, **name}}
    if part.data:
        data = f"data:{part.media_type};base64,{part.data}" if part.media_type else part.data
        return {"type": "file", "file": {"file_data": data, **name}}
    if part.text:
        losses.changed("messages.file")
        return {"type": "text", "text": part.text}
    losses.dropped("messages.file.url")
    return None


def _encode_result(
    result: ToolResultPart, profile: Profile, losses: Losses, waiting: list[dict[str, Any]]
) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in result.content:
        items = list(_encode_part(part, profile, losses))
        texts = [item for item in items if item["type"] == "text"]
        content += texts
        if len(texts) < len(items):
            losses.changed(f"messages.tool_result.{_name(part)}")
            waiting += [item for item in items if item["type"] != "text"]
    if result.is_error:
        losses.dropped("messages.tool_result.is_error")
    encoded: dict[str, Any] = {"role": "tool", "tool_call_id": result.call_id, "content": _join(content)}
    if result.cache:
        _mark_result(encoded, result, profile, losses)
    return encoded


def _mark_result(encoded: dict[str, Any], result: ToolResultPart, profile: Profile, losses: Losses) -> None:
    """A breakpoint behind a result stands on its last text."""
    if isinstance(encoded["content"], str):
        encoded["content"] = [{"type": "text", "text": encoded["content"]}]
    profile.mark_cache(encoded["content"][-1], result.cache, losses)
    encoded["content"] = _join(encoded["content"])


def _name(part: Part) -> str:
    return type(part).__name__.removesuffix("Part").lower()
