"""Writes a ChatCall's messages as Anthropic's `system` and `messages`. Data plane; pure, no I/O.

Rules of the format (platform.claude.com, "Messages"): the first message is a user's; messages of the same
role that follow each other are one; tool results stand first in the user message behind their calls; empty
texts are refused; ids match `^[a-zA-Z0-9_-]+$`; the last assistant text must not end in whitespace.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tokenhub.core.chat import (
    AudioPart,
    Cache,
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
from tokenhub.core.errors import InvalidRequest

Block = dict[str, Any]
"""One content block as it goes on the wire."""

CONTINUE: Final = "."
"""The user text put in front of a conversation that an assistant message opens; the format wants a user's
first."""

_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_DATA_URL: Final = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode_conversation(messages: Iterable[Message], losses: Losses) -> tuple[list[Block], list[Block]]:
    """The `system` blocks and the `messages`. Raises InvalidRequest for what the format can't hold at all.

    System text behind the first turn is hoisted into `system` and named as changed: as a user's text it would
    lose its authority, and not every model takes system messages in between. Losses carry no indices, so that
    their number is bounded.
    """
    system: list[Block] = []
    joined: list[_Turn] = []
    for number, message in enumerate(messages):
        if message.name:
            losses.dropped("messages.name")
        if message.role in ("system", "developer"):
            if joined:
                losses.changed("messages.role")
            system.extend(_encode_system(message, losses))
            continue
        role = "assistant" if message.role == "assistant" else "user"
        _append_turn(joined, role, _encode_parts(message.parts, role, f"messages[{number}]", losses))
    turns = [turn.finish() for turn in joined]
    if not turns and system:
        # A call of system text alone is legal elsewhere; here somebody has to ask.
        losses.changed("messages.role")
        turns.append({"role": "user", "content": [system.pop()]})
    if turns and turns[0]["role"] == "assistant":
        losses.changed("messages")
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": CONTINUE}]})
    _trim_prefill(turns, losses)
    return system, turns


def encode_cache(cache: Cache) -> Block:
    """The `cache_control` of a block, or nothing."""
    return {"cache_control": {"type": "ephemeral", "ttl": cache}} if cache else {}


def map_call_id(call_id: str) -> str:
    """The id itself where the format takes it, else a valid one that is the same for the call and its
    result."""
    if _ID.fullmatch(call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{re.sub(r'[^a-zA-Z0-9_-]', '_', call_id)[:40]}_{digest}"


def name_part(part: Part) -> str:
    """A part's kind as losses name it: `thinking`, `tool_result`, …"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(part).__name__.removesuffix("Part")).lower()


def encode_arguments(arguments: str) -> tuple[msgspec.Raw | Block, bool]:
    """A tool call's arguments as an object, digits untouched, and whether they were one.

    A text that is no JSON object is kept as `{"_raw": text}`: the model that reads its own call back sees
    what it wrote.
    """
    if not arguments.strip():
        return {}, True
    try:
        data = arguments.encode()
        _object_decoder.decode(data)
    except ValueError:
        return {"_raw": arguments}, False
    return msgspec.Raw(data), True


def _encode_system(message: Message, losses: Losses) -> Iterable[Block]:
    for part in message.parts:
        if not isinstance(part, TextPart) or part.text.isspace():
            losses.dropped(f"messages.system.{name_part(part)}")
        elif part.text:
            yield {"type": "text", "text": part.text, **encode_cache(part.cache)}


@dataclass(slots=True)
class _Turn:
    """One turn under construction. Tool results go to its front, so they are kept apart until it is complete."""

    role: str
    results: list[Block] = field(default_factory=list)
    others: list[Block] = field(default_factory=list)

    def finish(self) -> Block:
        return {"role": self.role, "content": self.results + self.others}


def _append_turn(turns: list[_Turn], role: str, blocks: Iterable[Block]) -> None:
    """Adds blocks to the last turn of the same role, or as a new one. Linear however many messages join one turn."""
    for block in blocks:
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role))
        turn = turns[-1]
        (turn.results if block["type"] == "tool_result" else turn.others).append(block)


def _trim_prefill(turns: list[Block], losses: Losses) -> None:
    """The start of an answer that the caller wrote (a last assistant message) must not end in whitespace."""
    if not turns or turns[-1]["role"] != "assistant":
        return
    last = turns[-1]["content"][-1]
    if last["type"] == "text" and last["text"] != last["text"].rstrip():
        last["text"] = last["text"].rstrip()
        losses.changed("messages.assistant.text")


def _encode_parts(parts: Iterable[Part], role: str, path: str, losses: Losses) -> Iterable[Block]:
    for number, part in enumerate(parts):
        where = f"{path}.content[{number}]"
        block = _encode_assistant(part, losses) if role == "assistant" else None
        if block is None:
            block = _encode_part(part, role, where, losses)
        if block is not None:
            yield block


def _encode_assistant(part: Part, losses: Losses) -> Block | None:
    """A block that only assistant messages hold."""
    if isinstance(part, ToolCallPart):
        arguments, good = encode_arguments(part.arguments)
        if not good:
            losses.changed("messages.tool_call.arguments")
        if (call_id := map_call_id(part.id)) != part.id:
            losses.changed("messages.tool_call.id")
        call = {"type": "tool_use", "id": call_id, "name": part.name, "input": arguments}
        return call | encode_cache(part.cache)
    if isinstance(part, ThinkingPart):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.redacted}
        if part.signature:
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return None


def _encode_part(part: Part, role: str, where: str, losses: Losses) -> Block | None:
    if isinstance(part, TextPart | RefusalPart):
        if part.text and not part.text.isspace():  # A `strip` would copy megabytes.
            cache = part.cache if isinstance(part, TextPart) else ""
            return {"type": "text", "text": part.text, **encode_cache(cache)}
        if part.text:
            losses.dropped(f"messages.{role}.text")
        return None
    if isinstance(part, AudioPart):
        raise InvalidRequest("this model's provider takes no audio", param=where)
    if isinstance(part, FilePart):
        return _encode_file(part, where)
    if isinstance(part, ImagePart) and role == "user":
        return _encode_image(part, losses)
    if isinstance(part, ToolResultPart) and role == "user":
        return _encode_result(part, where, losses)
    # Thinking without a signature is not this provider's, which refuses it; the rest stands in the wrong
    # role.
    losses.dropped(f"messages.{role}.{name_part(part)}")
    return None


def _encode_image(part: ImagePart, losses: Losses) -> Block:
    if part.detail not in ("", "auto"):
        losses.dropped("messages.image.detail")
    match = _DATA_URL.fullmatch(part.url)
    media_type, data = (match[1], match[2]) if match else (part.media_type, part.data)
    source = (
        {"type": "base64", "media_type": media_type or "image/png", "data": data}
        if data
        else {"type": "url", "url": part.url}
    )
    return {"type": "image", "source": source, **encode_cache(part.cache)}


def _encode_file(part: FilePart, where: str) -> Block:
    kind = "image" if part.media_type.startswith("image/") else "document"
    block: Block = {"type": kind, "source": _encode_source(part, where)}
    if part.filename and kind == "document":
        block["title"] = part.filename
    return block | encode_cache(part.cache)


def _encode_source(part: FilePart, where: str) -> Block:
    if part.text:
        return {"type": "text", "media_type": "text/plain", "data": part.text}
    if part.url:
        return {"type": "url", "url": part.url}
    if part.file_id:
        if part.file_id.startswith("file_"):
            return {"type": "file", "file_id": part.file_id}
        raise InvalidRequest("this file id is another provider's; send the file's data instead", param=where)
    if part.media_type == "application/pdf" or part.media_type.startswith("image/"):
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decode_text(part.data, where)}
    raise InvalidRequest(f"this model's provider takes no files of type {part.media_type!r}", param=where)


def _decode_text(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidRequest("the file is not base64 of UTF-8 text", param=where) from error


def _encode_result(part: ToolResultPart, where: str, losses: Losses) -> Block:
    if (call_id := map_call_id(part.call_id)) != part.call_id:
        losses.changed("messages.tool_result.id")
    block: Block = {"type": "tool_result", "tool_use_id": call_id}
    content = list(_encode_parts(part.content, "user", where, losses))
    if content:
        block["content"] = content
    if part.is_error:
        block["is_error"] = True
    return block | encode_cache(part.cache)
