"""Reads messages of OpenAI's chat format, with the extensions that its clients send. Data plane.

Extensions, taken as LiteLLM's, OpenRouter's and DeepSeek's clients send them:

- `cache_control` (`{"type": "ephemeral", "ttl": "5m" | "1h"}`) on content parts, tools and messages: a cache breakpoint.
- `thinking_blocks` on assistant messages: a list of `{"type": "thinking", "thinking", "signature"}` and `{"type":
  "redacted_thinking", "data"}`. Answers of a translated route carry them; sent back unchanged they keep a thinking model's
  turn valid. `reasoning_details` (OpenRouter) says the same in its own words; `reasoning_content` and `reasoning` carry text
  without a signature and count only where neither of the two is there.
- Content parts of Mistral (`document_url`, an `image_url` that is a string) and Perplexity (`file_url`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from gateway.wire._openai_fields import Fields, refused
from tokenhub.core.chat import (
    AudioPart,
    Cache,
    FilePart,
    ImagePart,
    Losses,
    Part,
    RefusalPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w-]+=[^;,]*)*)(;base64)?,", re.ASCII | re.IGNORECASE)

Content = TextPart | ImagePart | FilePart | AudioPart | RefusalPart | ThinkingPart


def read_cache(fields: Fields, losses: Losses) -> Cache:
    """The cache breakpoint of a part, tool or message."""
    control = fields.object("cache_control")
    if control is None:
        return ""
    if control.text("type") != "ephemeral":
        losses.dropped(control.path)
        return ""
    life = control.text("ttl") or "5m"
    if life not in ("5m", "1h"):
        losses.changed(control.at("ttl"))
    return "1h" if life == "1h" else "5m"


def read_content(fields: Fields, losses: Losses) -> tuple[Content, ...]:
    """A message's content: one text, or parts; empty where there is none. A message's own breakpoint goes on its last part."""
    content = fields.find("content")
    parts: tuple[Content, ...]
    if content is None:
        parts = ()
    elif isinstance(content, str):
        parts = (TextPart(content),)
    elif isinstance(content, list):
        parts = tuple(_read_part(part, losses) for part in fields.objects("content"))
    else:
        raise refused(fields.at("content"), "must be a string or an array of parts")
    cache = read_cache(fields, losses)
    if cache and parts and isinstance(parts[-1], TextPart | ImagePart | FilePart):
        return (*parts[:-1], replace(parts[-1], cache=cache))
    if cache:
        losses.dropped(fields.at("cache_control"))
    return parts


def _read_part(fields: Fields, losses: Losses) -> Content:
    part = _read_kind(fields)
    if isinstance(part, TextPart | ImagePart | FilePart) and (cache := read_cache(fields, losses)):
        part = replace(part, cache=cache)
    fields.name_unread(losses)
    return part


def _read_kind(fields: Fields) -> Content:
    match fields.need_text("type"):
        case "text" | "input_text" | "output_text":
            text = fields.find("text")
            if not isinstance(text, str):
                raise refused(fields.at("text"), "must be a string")
            return TextPart(text)
        case "image_url":
            return _read_image(fields)
        case "input_audio":
            audio = fields.need_object("input_audio")
            return AudioPart(audio.need_text("data"), audio.need_text("format"))
        case "file":
            return _read_file(fields.need_object("file"))
        case "document_url" | "file_url" as kind:
            return _read_document(*_read_url(fields, kind)[:2], "")
        case "refusal":
            return RefusalPart(fields.need_text("refusal"))
        case "thinking":
            return ThinkingPart(_read_thought(fields), fields.text("signature"))
        case kind:
            raise refused(fields.at("type"), f"content parts of the type {kind!r} can't be translated")


def _read_thought(fields: Fields) -> str:
    """A thinking part's text, which Mistral writes as an array of texts."""
    fields.find("closed")
    if isinstance(fields.find("thinking"), str):
        return fields.text("thinking")
    return "".join(piece.text("text") for piece in fields.objects("thinking"))


def _read_url(fields: Fields, name: str) -> tuple[str, str, str]:
    """URL, its path and the detail of a member that is a URL or an object with one."""
    if isinstance(fields.find(name), str):
        return fields.need_text(name), fields.at(name), ""
    member = fields.need_object(name)
    return member.need_text("url"), member.at("url"), member.text("detail")


def _read_image(fields: Fields) -> ImagePart:
    url, path, detail = _read_url(fields, "image_url")
    if url[:5].lower() != "data:":
        return ImagePart(url=url, detail=detail)
    media_type, data = split_data_uri(url, path)
    return ImagePart(data=data, media_type=media_type or "image/png", detail=detail)


def split_data_uri(uri: str, path: str) -> tuple[str, str]:
    """Media type ("" = not told) and base64 data of a data URI (RFC 2397). Raises InvalidRequest for any other encoding."""
    match = _DATA_URI.match(uri)
    if match is None or not match[3]:
        raise refused(path, "a data URI must be of the form data:<media type>;base64,<data>")
    if match.end() == len(uri):
        raise refused(path, "the data URI is empty")
    return (match[1] or "").lower(), uri[match.end() :]


def _read_file(fields: Fields) -> FilePart:
    name = fields.text("filename")
    if file_id := fields.text("file_id"):
        return FilePart(file_id=file_id, filename=name)
    return _read_document(fields.need_text("file_data"), fields.at("file_data"), name)


def _read_document(source: str, path: str, name: str) -> FilePart:
    """A document by URL, as a data URI, or as bare base64 (Perplexity, older OpenAI clients)."""
    if source.startswith(("https://", "http://")):
        return FilePart(url=source, filename=name)
    if source[:5].lower() == "data:":
        media_type, data = split_data_uri(source, path)
        return FilePart(data=data, media_type=media_type, filename=name)
    return FilePart(data=source, filename=name)


def read_thinking(fields: Fields, losses: Losses) -> Iterator[ThinkingPart]:
    """An assistant message's reasoning; see the module's docstring for its members."""
    plain = fields.text("reasoning_content") or fields.text("reasoning")
    blocks = [*_read_blocks(fields, losses)]
    details = [*_read_details(fields, losses)]
    if blocks or details:
        yield from blocks or details
    elif plain:
        yield ThinkingPart(plain)


def _read_blocks(fields: Fields, losses: Losses) -> Iterator[ThinkingPart]:
    for block in fields.objects("thinking_blocks"):
        match block.need_text("type"):
            case "thinking":
                yield ThinkingPart(block.text("thinking"), block.text("signature"))
            case "redacted_thinking":
                yield ThinkingPart(redacted=block.need_text("data"))
            case kind:
                raise refused(block.at("type"), f"must be thinking or redacted_thinking, not {kind!r}")
        read_cache(block, losses)
        block.name_unread(losses)


def _read_details(fields: Fields, losses: Losses) -> Iterator[ThinkingPart]:
    for detail in fields.objects("reasoning_details"):
        match detail.need_text("type"):
            case "reasoning.text":
                yield ThinkingPart(detail.text("text"), detail.text("signature"))
            case "reasoning.encrypted":
                yield ThinkingPart(redacted=detail.need_text("data"))
            case "reasoning.summary":
                yield ThinkingPart(detail.text("summary"))
            case _:
                losses.dropped(detail.path)


def read_calls(fields: Fields, losses: Losses) -> Iterator[ToolCallPart]:
    """An assistant message's tool calls. Calls of custom tools, whose input is no JSON, are refused."""
    for call in fields.objects("tool_calls"):
        kind = call.text("type") or "function"
        if kind != "function":
            raise refused(call.at("type"), f"tool calls of the type {kind!r} can't be translated")
        call.find("index")
        function = call.need_object("function")
        yield ToolCallPart(call.need_text("id"), function.need_text("name"), function.text("arguments"))
        call.name_unread(losses)


def narrow(
    parts: tuple[Content, ...], fields: Fields, kinds: tuple[type, ...], role: str
) -> tuple[Part, ...]:
    """The parts, if the role may have them. Raises InvalidRequest with the path of the first that it may not."""
    for number, part in enumerate(parts):
        if not isinstance(part, kinds):
            raise refused(f"{fields.at('content')}[{number}].type", f"{role} messages can't hold such a part")
    return parts
