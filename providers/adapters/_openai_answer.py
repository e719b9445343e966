"""Reads whole OpenAI-style answers, and the pieces that a stream's deltas share with them. Data plane; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from providers.adapters._openai_failure import classify_error, is_error
from providers.adapters._openai_json import count_of, dict_of, encode_json, list_of, read_object, text_of
from providers.adapters._openai_usage import find_usage, read_usage
from providers.adapters.base import Operation
from tokenhub.core.chat import (
    AudioPart,
    ChatAnswer,
    Choice,
    FinishReason,
    ImagePart,
    Part,
    RefusalPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from tokenhub.core.usage import NOTHING_USED, Usage

FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "complete": "stop",
    "stop_sequence": "stop_sequence",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "context",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "error": "error",
    "abort": "error",
    "network_error": "error",
    "insufficient_system_resource": "error",
}
"""Finish reasons of OpenAI, Mistral, TGI, vLLM, DeepSeek and Z.ai; any other one is "other"."""


def read_body(body: bytes) -> dict[str, Any]:
    """The object of a good answer. Raises ValueError for an empty body, `null`, no object, or an error object."""
    if not body.strip():
        raise ValueError("the provider answered with an empty body")
    found = read_object(body)
    if found is None:
        raise ValueError("the provider's answer is not a JSON object")
    if is_error(found):
        raise ValueError(f"the provider answered with an error: {classify_error(found).message}")
    return found


class _Row(msgspec.Struct):
    finish_reason: str | None = None


class _Outline(msgspec.Struct):
    """What accounting needs of a native answer, as OpenAI writes it. The rest is passed over and never becomes objects."""

    choices: list[_Row] | None = None
    data: list[_Row] | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    object: str | None = None
    error: None = None
    x_groq: None = None


_decode_outline = msgspec.json.Decoder(_Outline).decode


def read_native(operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
    """Usage, finish reason and model of a whole answer. Raises ValueError if it is no answer of that operation."""
    try:
        outline = _decode_outline(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_any(operation, body)  # No answer, or a vendor's own shape of one.
    rows = outline.data if operation is Operation.OPENAI_EMBEDDINGS else outline.choices
    if rows is None or outline.object == "error":
        return _read_any(operation, body)
    usage = read_usage(outline.usage) if outline.usage is not None else None
    return usage, (rows[0].finish_reason or "") if rows else "", outline.model or ""


def _read_any(operation: Operation, body: bytes) -> tuple[Usage | None, str, str]:
    found = read_body(body)
    member = "data" if operation is Operation.OPENAI_EMBEDDINGS else "choices"
    rows = found.get(member)
    if not isinstance(rows, list):
        raise ValueError(f"the provider's answer has no {member}")
    finish = text_of(dict_of(rows[0]).get("finish_reason")) if rows else ""
    return find_usage(found), finish, text_of(found.get("model"))


def read_chat(body: bytes) -> ChatAnswer:
    """A whole chat answer. Raises ValueError if the body is none."""
    found = read_body(body)
    rows = found.get("choices")
    if not isinstance(rows, list) or not rows:
        raise ValueError("the provider's answer has no choices")
    return ChatAnswer(
        id=text_of(found.get("id")),
        model=text_of(found.get("model")),
        choices=tuple(_read_choice(dict_of(row)) for row in rows),
        usage=find_usage(found) or NOTHING_USED,
        created=count_of(found.get("created")) or 0,
    )


def _read_choice(row: Mapping[str, Any]) -> Choice:
    parts = tuple(_read_parts(dict_of(row.get("message"))))
    finish, stopped_by = read_finish(
        row,
        called=any(isinstance(part, ToolCallPart) for part in parts),
        refused=any(isinstance(part, RefusalPart) for part in parts),
    )
    return Choice(parts, finish, stopped_by)


def read_finish(row: Mapping[str, Any], *, called: bool, refused: bool) -> tuple[FinishReason, str]:
    """Why a choice ended, and the stop string that vLLM names in `stop_reason`.

    OpenAI says "stop" of a refusal and of a tool call that the caller forced; both are told as what they are.
    """
    reason = text_of(row.get("finish_reason")) or "stop"
    finish = FINISH.get(reason, "other")
    if finish == "stop":
        if called:
            return "tool_calls", ""
        if refused:
            return "refusal", ""
        if stopped_by := text_of(row.get("stop_reason")):
            return "stop_sequence", stopped_by
    return finish, ""


def _read_parts(message: Mapping[str, Any]) -> Iterator[Part]:
    yield from read_thinking(message)
    yield from _read_content(message.get("content"))
    if refusal := text_of(message.get("refusal")):
        yield RefusalPart(refusal)
    audio = dict_of(message.get("audio"))
    if data := text_of(audio.get("data")):
        yield AudioPart(data, text_of(audio.get("format")))
    for image in list_of(message.get("images")):
        if url := text_of(dict_of(dict_of(image).get("image_url")).get("url")):
            yield ImagePart(url=url)
    for number, call in enumerate(list_calls(message)):
        yield ToolCallPart(
            id=text_of(call.get("id")) or f"call_{number}",
            name=text_of(dict_of(call.get("function")).get("name")),
            arguments=read_arguments(dict_of(call.get("function"))) or "{}",
        )


def _read_content(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield TextPart(content)
    elif isinstance(content, list):
        for kind, text in read_pieces(content):
            yield ThinkingPart(text) if kind == "thinking" else TextPart(text)
    elif content is not None:
        # Cloudflare parses the JSON that a schema asked for.
        yield TextPart(encode_json(content).decode())


def read_pieces(content: list[Any]) -> Iterator[tuple[str, str]]:
    """(`thinking` or `text`, text) of a content list, as Mistral's reasoning models send it."""
    for piece in content:
        if isinstance(piece, str):
            yield "text", piece
        elif isinstance(piece, dict):
            if thinking := piece.get("thinking"):
                texts = [text for _, text in read_pieces(list_of(thinking))]
                yield "thinking", "".join(texts) or text_of(thinking)
            elif text := text_of(piece.get("text")):
                yield "text", text


def read_thinking(message: Mapping[str, Any]) -> Iterator[ThinkingPart]:
    """A message's reasoning: `thinking_blocks` (LiteLLM's and ours), else `reasoning_details` (OpenRouter), else plain text."""
    parts = tuple(_read_blocks(message)) or tuple(_read_details(message))
    text = read_reasoning(message)
    if text and not any(part.text for part in parts):
        yield ThinkingPart(text)
    yield from parts


def read_reasoning(message: Mapping[str, Any]) -> str:
    """Reasoning as plain text: DeepSeek, Moonshot, xAI and Z.ai; Groq, Cerebras, vLLM and OpenRouter."""
    return text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))


def _read_blocks(message: Mapping[str, Any]) -> Iterator[ThinkingPart]:
    for block in map(dict_of, list_of(message.get("thinking_blocks"))):
        if data := text_of(block.get("data")):
            yield ThinkingPart(redacted=data)
        elif block.get("thinking") or block.get("signature"):
            yield ThinkingPart(text_of(block.get("thinking")), text_of(block.get("signature")))


def _read_details(message: Mapping[str, Any]) -> Iterator[ThinkingPart]:
    for detail in map(dict_of, list_of(message.get("reasoning_details"))):
        text = text_of(detail.get("text")) or text_of(detail.get("summary"))
        if data := text_of(detail.get("data")):
            yield ThinkingPart(redacted=data)
        elif text or detail.get("signature"):
            yield ThinkingPart(text, text_of(detail.get("signature")))


def list_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message's or delta's tool calls; an old `function_call` counts as one."""
    calls = [call for call in list_of(message.get("tool_calls")) if isinstance(call, dict)]
    legacy = message.get("function_call")
    if not calls and isinstance(legacy, dict):
        return [{"id": "", "index": 0, "function": legacy}]
    return calls


def read_arguments(function: Mapping[str, Any]) -> str:
    """A call's arguments as JSON text; some vendors send the parsed object."""
    arguments = function.get("arguments")
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return encode_json(arguments).decode()
