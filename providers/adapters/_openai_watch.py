"""Reads along with native OpenAI-style streams: the signals of every event, at the price of a comparison for plain text.

Data plane; no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.adapters._openai_answer import list_calls, read_arguments, read_pieces, read_reasoning
from providers.adapters._openai_failure import classify_error, is_error
from providers.adapters._openai_json import dict_of, list_of, read_json, read_object, text_of
from providers.adapters._openai_usage import find_usage
from providers.adapters.base import Signal, StreamWatch

DONE = b"[DONE]"
_RICH_MEMBERS = ("thinking_blocks", "reasoning_details", "images")
_PLAIN_BODY = re.compile(rb'[^"\\\x00-\x1f]*(?:\\["\\/bfnrt][^"\\\x00-\x1f]*)*').match
_PADDING = re.compile(rb'(.*?"(?:obfuscation|p)":")[^"]*(".*)', re.DOTALL)


def measure_choice(choice: Mapping[str, Any]) -> tuple[bool, int]:
    """Whether a chunk's choice carries content, and the characters of its generated text."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        # Perplexity repeats the whole message beside its delta; a vendor without deltas sends only messages.
        delta = dict_of(choice.get("message"))
    content = delta.get("content")
    if isinstance(content, str) and len(delta) == (2 if "role" in delta else 1) and "text" not in choice:
        return bool(content), len(content)
    count = len(text_of(choice.get("text"))) + len(text_of(delta.get("refusal"))) + len(read_reasoning(delta))
    if isinstance(content, str):
        count += len(content)
    elif isinstance(content, list):
        count += sum(len(text) for _, text in read_pieces(content))
    calls = list_calls(delta)
    for call in calls:
        function = dict_of(call.get("function"))
        count += len(text_of(function.get("name"))) + len(read_arguments(function))
    audio = dict_of(delta.get("audio"))
    rich = bool(audio.get("data") or audio.get("transcript")) or any(map(delta.get, _RICH_MEMBERS))
    return bool(count or calls or rich), count


_SIGNALS = tuple(map(Signal, range(64)))
_CONTENT_ALONE = Signal.CONTENT
_CONTENT, _USAGE, _USAGE_ONLY, _FINISH, _ERROR = (
    int(signal) for signal in (Signal.CONTENT, Signal.USAGE, Signal.USAGE_ONLY, Signal.FINISH, Signal.ERROR)
)


def combine_signals(
    chunk: Mapping[str, Any], *, content: bool, finished: bool, usage: bool, error: bool
) -> Signal:
    """The signals of a chunk. Added as integers: flag arithmetic costs as much as parsing."""
    bits = (content and _CONTENT) | (finished and _FINISH) | (usage and _USAGE) | (error and _ERROR)
    if usage and not error and chunk.get("choices") == []:
        bits |= _USAGE_ONLY
    return _SIGNALS[bits]


class OpenAIWatch(StreamWatch):
    """The watch of chat and completions streams.

    Most events repeat the one before them in everything but the text. So a text event that was parsed becomes a template:
    the bytes before its text and after it (with the vendor's random padding left out). A later event with the same bytes
    around the body of one JSON string has the same structure, hence the same meaning, and needs no parsing. Every other
    event is parsed whole.
    """

    def __init__(self) -> None:
        self._head = b""
        self._near = self._far = b""

    def see(self, name: str, data: bytes) -> Signal:
        """What this event means. Usage is the last one told; the failure is the first."""
        head = self._head
        if head and not name and data.startswith(head):
            start = len(head)
            body = _PLAIN_BODY(data, start)
            end = body.end() if body is not None else start
            if end > start and self._has_tail(data, end):
                text = data[start:end]
                count = len(text) if text.isascii() and b"\\" not in text else _count_characters(text)
                if count:
                    self.output_characters += count
                    return _CONTENT_ALONE
        return self._parse(name, data)

    def _has_tail(self, data: bytes, end: int) -> bool:
        near, far = self._near, self._far
        if not far:
            return data[end:] == near
        if not (data.startswith(near, end) and data.endswith(far)):
            return False
        padding = data[end + len(near) : -len(far)]
        return padding.isalnum() or not padding

    def _parse(self, name: str, data: bytes) -> Signal:
        chunk = read_object(data)
        if chunk is None:
            return Signal.END if data.strip() == DONE else Signal.MALFORMED
        signal = self._read(name, chunk)
        if signal is _CONTENT_ALONE:
            self._learn(chunk, data)
        return signal

    def _read(self, name: str, chunk: dict[str, Any]) -> Signal:
        error = name == "error" or is_error(chunk)
        if error:
            self.failure = self.failure or classify_error(chunk)
        if not self.model:
            self.model = text_of(chunk.get("model"))
        content = finished = False
        for choice in map(dict_of, list_of(chunk.get("choices"))):
            carries, count = measure_choice(choice)
            if carries:
                content = True
                self.output_characters += count
            if finish := choice.get("finish_reason"):
                finished = True
                self.finish_reason = self.finish_reason or text_of(finish)
        usage = find_usage(chunk)
        if usage is not None:
            self.usage = usage
        return combine_signals(
            chunk, content=content, finished=finished, usage=usage is not None, error=error
        )

    def _learn(self, chunk: dict[str, Any], data: bytes) -> None:
        """Makes a template of an event whose only signal is CONTENT, if its text can be told apart for certain."""
        key, text = _find_text(chunk)
        if not text or b"\\" in data:
            return
        # Without escapes a key's bytes occur where the key stands and nowhere else; twice is one too many to tell.
        name, value = b'"%b":' % key.encode(), b'"%b"' % text.encode()
        if data.count(name[:-1]) != 1:
            return
        start = data.find(name) + len(name)
        start += data[start : start + 1] == b" "
        if start < len(name) or not data.startswith(value, start):
            return
        tail = data[start + len(value) - 1 :]
        padded = _PADDING.fullmatch(tail)
        self._near, self._far = (padded[1], padded[2]) if padded else (tail, b"")
        self._head = data[: start + 1]


def _count_characters(body: bytes) -> int:
    """Characters of the body of a JSON string with simple escapes only; 0 where it is no UTF-8."""
    try:
        return len(body.decode()) if b"\\" not in body else len(read_json(b'"%b"' % body))
    except ValueError:
        return 0


def _find_text(chunk: dict[str, Any]) -> tuple[str, str]:
    """Key and value of the one text of a chunk with one choice and nothing else in it; ("", "") where there is more."""
    choices = list_of(chunk.get("choices"))
    choice = dict_of(choices[0]) if len(choices) == 1 else {}
    delta = dict_of(choice.get("delta"))
    members = [(key, text_of(delta.get(key))) for key in ("content", "reasoning_content", "reasoning")]
    texts = [(key, text) for key, text in (*members, ("text", text_of(choice.get("text")))) if text]
    if len(texts) != 1 or not texts[0][1].isprintable():
        return "", ""
    return texts[0] if measure_choice(choice) == (True, len(texts[0][1])) else ("", "")
