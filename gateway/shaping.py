"""What becomes of an answer's text before the caller gets it: thoughts stripped, JSON found. Data plane; pure.

Thoughts here are those that a model writes into its text, `<think>…</think>` and the like, as servers without a reasoning parser
pass them on. Reasoning that a provider tells apart in members of its own stays: clients have to send it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

TAGS: Final[Mapping[str, str]] = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
"""What opens a block of thoughts and what closes it: DeepSeek, Qwen and most others; Seed-OSS; Magistral; Sky-T1."""

_SPACE: Final = " \t\r\n"
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([A-Za-z0-9_+-]*)[^\n`]*$", re.MULTILINE)
_JSON_NAMES: Final = frozenset({"json", "jsonc", "json5"})


class ThinkStripper:
    """Takes the blocks of thoughts from the beginning of one text that comes in pieces.

    At most a tag's length is held back. White space before a block passes, that behind one goes with it. A block that never
    closes is thoughts to the end. A tag further on in the text is text.
    """

    __slots__ = ("_close", "_held", "_passing", "_trimming")

    def __init__(self) -> None:
        self._held = ""
        self._close = ""
        self._passing = False
        self._trimming = False

    def feed(self, text: str) -> str:
        """What of the text so far can go out now."""
        if self._passing:
            return text
        out: list[str] = []
        self._held += text
        while self._held and not self._passing:
            if self._close:
                if not self._skip():
                    break
            elif not self._open(out):
                break
        return "".join(out)

    def finish(self) -> str:
        """What is still held when the text ends: the beginning of a tag that did not become one."""
        held, self._held = self._held, ""
        return "" if self._close else held

    def _skip(self) -> bool:
        """Inside of a block: drops what can't be its end. Whether it ended."""
        at = self._held.find(self._close)
        if at < 0:
            self._held = self._held[-(len(self._close) - 1) :]
            return False
        self._held = self._held[at + len(self._close) :]
        self._close = ""
        self._trimming = True
        return True

    def _open(self, out: list[str]) -> bool:
        """Before or between blocks: passes white space, and opens a block. False: more text is needed to tell."""
        rest = self._held.lstrip(_SPACE)
        if not self._trimming:
            out.append(self._held[: len(self._held) - len(rest)])
        self._held = rest
        for tag, close in TAGS.items():
            if rest.startswith(tag):
                self._held, self._close = rest[len(tag) :], close
                return True
        if any(tag.startswith(rest) for tag in TAGS):
            return False
        out.append(rest)
        self._held, self._passing = "", True
        return True


def strip_thoughts(text: str) -> str:
    """A whole text without the blocks of thoughts at its beginning."""
    stripper = ThinkStripper()
    return stripper.feed(text) + stripper.finish()


def find_json(text: str) -> str | None:
    """The JSON value in an answer: all of it, else the first fenced block that is JSON, else from its first bracket to its last.

    None where there is none. The text is returned as it was written.
    """
    for candidate in _list_candidates(text):
        if _is_json(candidate):
            return candidate
    return None


def _list_candidates(text: str) -> Iterator[str]:
    yield text.strip()
    named: list[str] = []
    unnamed: list[str] = []
    for name, block in _list_fenced(text):
        (named if name in _JSON_NAMES else unnamed).append(block)
    yield from named
    yield from unnamed
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    if starts:
        start = min(starts)
        end = text.rfind("}" if text[start] == "{" else "]")
        if end > start:
            yield text[start : end + 1]


def _list_fenced(text: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of Markdown by their language's name in lower case. One that never closes goes to the end."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]) and not fence[2]:
            yield opened[2].lower(), text[opened.end() : fence.start()].strip()
            opened = None
    if opened is not None:
        yield opened[2].lower(), text[opened.end() :].strip()


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


LIMITS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai.chat": ("max_completion_tokens", "max_tokens"),
    "openai.completions": ("max_tokens",),
    "anthropic.messages": ("max_tokens",),
}
"""The members that bound an answer's tokens, by operation; the first is set where a request has none."""


def clamp_limit(data: Mapping[str, Any], operation: str, most: int) -> dict[str, int]:
    """The members to set so that an answer has at most `most` tokens; empty where it has already."""
    names = LIMITS.get(operation, ())
    given = {name: data[name] for name in names if data.get(name) is not None}
    if not given:
        return {names[0]: most} if names else {}
    return {name: most for name, value in given.items() if isinstance(value, int | float) and value > most}
