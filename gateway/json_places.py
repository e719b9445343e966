"""Where values stand in the bytes of a checked JSON document, so that they can be edited in place. Data plane; pure.

Whoever asks has parsed the document already: it is valid, its keys are unique, and the paths exist in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

Path = tuple[str | int, ...]
"""Names of members and numbers of items, from the outermost on."""

Span = tuple[int, int]
Piece = tuple[int, int, bytes]
"""From which byte to which, and what stands there instead."""

_MEMBER_GAP = re.compile(rb'\s*[{,]\s*"(?:[^"\\]|\\.)*"\s*:\s*')
_ITEM_GAP = re.compile(rb"\s*[\[,]\s*")
_SPACE = re.compile(rb"[ \t\n\r]*")
_CHARACTER = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{4}|\\.|[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*"
)
"""One character of a string as it may be written: an escaped pair, an escape, or its UTF-8 bytes."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])


def find_members(raw: bytes | bytearray, start: int = 0, end: int | None = None) -> dict[str, Span]:
    """Where each value of an object stands: the parsed members, gone through in step with the text."""
    spans: dict[str, Span] = {}
    position = start
    for name, value in _members.decode(memoryview(raw)[start:end]).items():
        spans[name] = span = _next(raw, _MEMBER_GAP, position, value)
        position = span[1]
    return spans


def find_items(raw: bytes | bytearray, start: int = 0, end: int | None = None) -> list[Span]:
    """Where each value of an array stands."""
    spans: list[Span] = []
    position = start
    for value in _items.decode(memoryview(raw)[start:end]):
        spans.append(span := _next(raw, _ITEM_GAP, position, value))
        position = span[1]
    return spans


def _next(raw: bytes | bytearray, gap: re.Pattern[bytes], position: int, value: msgspec.Raw) -> Span:
    match = gap.match(raw, position)
    assert match is not None
    return match.end(), match.end() + len(memoryview(value))


def find_places(
    raw: bytes | bytearray, paths: Iterable[Path], known: Mapping[str, Span] | None = None
) -> dict[Path, Span]:
    """The span of the value at each path. `known` are top-level spans that need not be looked for again."""
    tree: dict[Any, Any] = {}
    for path in paths:
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    found: dict[Path, Span] = {}
    start = _SPACE.match(raw).end()  # type: ignore[union-attr]  # it always matches
    _walk(raw, (start, len(raw)), tree, (), found, known)
    return found


def _walk(
    raw: bytes | bytearray,
    span: Span,
    tree: Mapping[str | int, Any],
    path: Path,
    found: dict[Path, Span],
    known: Mapping[str, Span] | None,
) -> None:
    if not tree:
        found[path] = span
        return
    if known is None:
        within = find_items if isinstance(next(iter(tree)), int) else find_members
        spans: Any = within(raw, *span)
    else:
        spans = known
    for step, below in tree.items():
        _walk(raw, spans[step], below, (*path, step), found, None)


def find_characters(raw: bytes | bytearray, text_start: int, *counts: int) -> list[int]:
    """The bytes at which characters of a string stand, given the byte of its opening quote and counts in rising order.

    A count is of Unicode characters from the string's beginning. Goes through them one by one: meant for the first few.
    """
    position, at = text_start + 1, 0
    found: list[int] = []
    for count in counts:
        while at < count:
            match = _CHARACTER.match(raw, position)
            assert match is not None
            position = match.end()
            at += 1
        found.append(position)
    return found


def splice(raw: bytes | bytearray, pieces: Iterable[Piece]) -> bytes:
    """The bytes with each piece in its place; every other byte stays."""
    view = memoryview(raw)  # A slice of the bytes themselves would be one more copy of them.
    out: list[bytes | memoryview] = []
    position = 0
    for start, end, replacement in sorted(pieces):
        out += (view[position:start], replacement)
        position = end
    out.append(view[position:])
    return b"".join(out)


def write_path(path: Path) -> str:
    """The path as errors name it: `messages[0].content[1].text`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
