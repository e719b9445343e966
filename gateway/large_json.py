"""Reads a large JSON object in steps of bounded work, giving way to the event loop between them. Data plane.

One pass, over windows of the document's bytes; nothing is scanned or copied once per level of nesting. What a window holds
whole is read by the standard library's scanner in C. What it doesn't hold is walked in place: an object or a list member by
member, a string piece by piece. So no container's end has to be known before it is read, and beside the bytes and the
values only one window is held.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Any

from gateway.strict_json import (
    HALF_A_PAIR,
    byte_order_mark,
    check_surrogates,
    find_surrogate,
    key_twice,
    scan_value,
)
from tokenhub.core.errors import InvalidJSON

WINDOW = 64 * 1024
"""Bytes that are decoded and parsed at once."""

TURN = 512 * 1024
"""Work between two turns of the loop, in bytes of plain text (about 1 ms). A window's own work comes on top."""

_SIGN_COST = 64
"""What a comma, a colon or a bracket stands for besides its character, a value to make, in characters' worth of work."""

_FLAT_RUN = 16 * 1024
_DEPTH = 12
_MOST_VALUES = 250_000
_LEAST_VALUE_BYTES = 8
_SURE = 12
"""An error nearer to a window's end may come from the cut: escapes of a surrogate pair are this long, words shorter."""

_NUMBER = "0123456789+-.eE"
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_FLAT = re.compile(r'[^"\[\]{}]*')
_HALF = re.compile("[\ud800-\udfff]")
_FIRST_HALF = re.compile("[\ud800-\udbff]")
_NO_VALUE = "Expecting value"
_OBJECT, _LIST = 0, 1
_MARKS = (('":',), ('",', "},", "],", "[["))
"""What stands behind a value of each kind of container."""


class _Malformed(Exception):
    """No JSON: what is wrong, and at which byte."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


@dataclass(slots=True)
class _Container:
    """One that is being walked: its first byte, and how many of its kind's marks had been seen before."""

    kind: int
    start: int
    marks_before: int


class LargeObject:
    """One document of bytes. `position` is how far it has been read; `window` and `turn` are in bytes, for tests smaller."""

    def __init__(self, raw: bytes | bytearray, *, window: int = WINDOW, turn: int = TURN) -> None:
        self._view = memoryview(raw)
        self._window = window + _SURE
        self._turn = turn
        self._work = 0
        self._open: list[_Container] = []
        self._marks = [0, 0]
        self._spans: dict[str, tuple[int, int]] = {}
        self._fill(0)

    @property
    def position(self) -> int:
        """The byte up to which the document has been read."""
        return self._at()

    async def read(self) -> tuple[dict[str, Any], dict[str, tuple[int, int]]] | None:
        """The members, and the span of bytes of each one's value; None where the document is no object.

        Raises InvalidJSON, RecursionError, ValueError.
        """
        try:
            first = await self._peek()
            if first == "\ufeff":
                raise byte_order_mark()
            if first != "{":
                return None
            members = await self._read_object(0)
            if await self._peek():
                raise self._malformed("Extra data", self._pos)
            return members, self._spans
        except _Malformed as error:
            line, column = await self._find_place(error.at)
            raise InvalidJSON(
                f"the body is not valid JSON: {error.message} (line {line}, column {column})"
            ) from error

    # The window: `_text` holds the bytes from `_base` on, read up to `_pos`.

    def _fill(self, start: int) -> None:
        self._base = self._mark_byte = start
        self._pos = self._mark = self._told = 0
        piece = self._view[start : start + self._window]
        self._last = start + len(piece) == len(self._view)
        text = self._decode(piece, start, self._last)[0]
        self._paired = "\\" in text and "\\u" in text and find_surrogate(piece) is not None
        if not self._last:
            # A number that the window cuts would be read as another one.
            text = text.rstrip(_NUMBER)
            if not text:
                raise _Malformed("Number too long", start)
        self._text = text

    def _decode(self, piece: memoryview, start: int, last: bool) -> tuple[str, int]:
        try:
            return codecs.utf_8_decode(piece, "strict", last)
        except UnicodeDecodeError as error:
            raise InvalidJSON(f"the body is not valid UTF-8 (byte {start + error.start})") from error

    def _at(self) -> int:
        """The byte at which `_pos` stands."""
        if self._text.isascii():
            return self._base + self._pos
        self._mark_byte += len(self._text[self._mark : self._pos].encode())
        self._mark = self._pos
        return self._mark_byte

    async def _refill(self) -> None:
        """A window that begins at the position."""
        self._tally()
        self._fill(self._at())
        await self._give_way()

    async def _give_way(self) -> None:
        if self._work >= self._turn:
            self._work = 0
            await asyncio.sleep(0)

    def _malformed(self, message: str, position: int) -> _Malformed:
        self._pos, self._mark, self._mark_byte = position, 0, self._base
        return _Malformed(message, self._at())

    async def _peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self._pos = _SPACE.match(self._text, self._pos).end()  # type: ignore[union-attr]  # it always matches
            if self._pos < len(self._text):
                return self._text[self._pos]
            if self._last:
                return ""
            await self._refill()

    # Values.

    async def _read_value(self, depth: int) -> Any:
        """The value that begins at the position."""
        while True:
            start = self._pos
            try:
                value, self._pos = scan_value(self._text, start)
            except StopIteration as stop:
                message, position = _NO_VALUE, stop.value
            except json.JSONDecodeError as error:
                message, position = error.msg, error.pos
            else:
                if self._paired:
                    check_surrogates(self._text[start : self._pos])
                return value
            self._work += len(self._text) - start
            cut = message.startswith("Unterminated") or position >= len(self._text) - _SURE
            if self._last or not cut:
                raise self._malformed(message, position)
            if not start:
                return await self._read_long(depth, message, position)
            await self._refill()

    def _read_long(self, depth: int, message: str, position: int) -> Awaitable[Any]:
        """A value that a whole window doesn't hold."""
        first = self._text[0]
        if first not in '"[{':
            raise self._malformed(message, position)
        if depth > _DEPTH:
            raise InvalidJSON(f"the body is nested too deeply (large values at most {_DEPTH} levels)")
        if first == '"':
            return self._read_string()
        return self._read_list(depth) if first == "[" else self._read_object(depth)

    async def _read_object(self, depth: int) -> dict[str, Any]:
        self._begin(_OBJECT)
        members: dict[str, Any] = {}
        first = await self._peek()
        while first != "}" or members:
            if first != '"':
                raise self._malformed("Expecting property name enclosed in double quotes", self._pos)
            name = await self._read_value(depth)
            if name in members:
                raise key_twice(name)
            if await self._peek() != ":":
                raise self._malformed("Expecting ':' delimiter", self._pos)
            self._pos += 1
            await self._peek()
            start = self._at()
            members[name] = await self._read_value(depth + 1)
            if not depth:
                self._spans[name] = (start, self._at())
            mark = await self._peek()
            if mark == "}":
                break
            if mark != ",":
                raise self._malformed("Expecting ',' delimiter", self._pos)
            self._pos += 1
            first = await self._peek()
        self._end()
        return members

    async def _read_list(self, depth: int) -> list[Any]:
        self._begin(_LIST)
        values: list[Any] = []
        if await self._peek() != "]":
            while True:
                if not self._take_items(values):
                    if self._pos and not self._last:
                        await self._refill()
                    await self._peek()
                    values.append(await self._read_value(depth + 1))
                await self._give_way()
                mark = await self._peek()
                if mark == "]":
                    break
                if mark != ",":
                    raise self._malformed("Expecting ',' delimiter", self._pos)
                self._pos += 1
                await self._peek()
        self._end()
        return values

    def _take_items(self, values: list[Any]) -> bool:
        """Takes the items from here on that the window holds whole; whether it then stands behind one."""
        text, position = self._text, self._pos
        try:
            while True:
                if text[position : position + 1] not in '"[{' and self._take_flat(values):
                    return True
                value, end = scan_value(text, position)
                if self._paired:
                    check_surrogates(text[position:end])
                values.append(value)
                comma = _COMMA.match(text, end)
                if comma is None:
                    self._pos = end
                    return True
                self._pos = position = comma.end()
        except (StopIteration, json.JSONDecodeError):
            self._work += len(text) - position
            return False

    def _take_flat(self, values: list[Any]) -> bool:
        """Takes a run of numbers and words but for its last one: tokens come in millions, and one by one would cost tenfold."""
        text, start = self._text, self._pos
        run = _FLAT.match(text, start)
        cut = text.rfind(",", start, min(run.end(), start + _FLAT_RUN) if run else start)
        if cut <= start:
            return False
        try:
            values += scan_value(f"[{text[start:cut]}]", 0)[0]
        except StopIteration as stop:
            raise self._malformed(_NO_VALUE, start + stop.value - 1) from None
        except json.JSONDecodeError as error:
            raise self._malformed(error.msg, start + error.pos - 1) from None
        self._pos = cut
        self._tally()
        return True

    async def _read_string(self) -> str:
        """A string piece by piece. As long as its characters stand in the bytes as they are, they are decoded at the end alone."""
        begin = position = self._base + 1
        parts: list[str] = []
        plain, ended = True, False
        self._text = ""
        while not ended:
            piece = self._view[position : position + self._window]
            last = position + len(piece) == len(self._view)
            text, used = self._decode(piece, position, last)
            try:
                part, taken, ended = _take_part(text, last)
            except json.JSONDecodeError as error:
                # A backslash at the document's end takes the quote that was put in.
                at = begin - 1 if error.pos < 0 else position + len(text[: error.pos].encode())
                raise _Malformed(error.msg, at) from None
            if last and not ended:
                raise _Malformed("Unterminated string starting at", begin - 1)
            used = taken if text.isascii() else used - len(text[taken:].encode())
            if plain and len(part) != used:
                plain = False
                parts.append(str(self._view[begin:position], "ascii"))
            if not plain:
                parts.append(part)
            self._base = position = position + used
            self._work += used
            await self._give_way()
        whole = str(self._view[begin:position], "ascii") if plain else "".join(parts)
        self._fill(position + 1)
        return whole

    # What a container holds, and where an error stands.

    def _begin(self, kind: int) -> None:
        self._open.append(_Container(kind, self._at(), self._marks[kind]))
        self._pos += 1

    def _end(self) -> None:
        self._open.pop()
        self._pos += 1

    def _tally(self) -> None:
        """Counts what was read of the window. Refuses megabytes of tiny values, which would take many times their bytes.

        Inside a text a quote has a backslash before it, so that the marks hardly ever stand in prose.
        """
        text, start, end = self._text, self._told, self._pos
        self._told = end
        signs = sum(text.count(sign, start, end) for sign in ",:[")
        self._work += end - start + _SIGN_COST * signs
        if signs * _LEAST_VALUE_BYTES <= end - start:
            return
        for kind, marks in enumerate(_MARKS):
            self._marks[kind] += sum(text.count(mark, start, end) for mark in marks)
        here = self._at()
        for container in self._open:
            count = self._marks[container.kind] - container.marks_before
            if count > _MOST_VALUES and count * _LEAST_VALUE_BYTES > here - container.start:
                raise InvalidJSON(
                    f"the body holds over {_MOST_VALUES} values of less than {_LEAST_VALUE_BYTES} bytes on average"
                )

    async def _find_place(self, at: int) -> tuple[int, int]:
        """Line and column of a byte, from 1."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        line = column = 1
        for start in range(0, at, self._window):
            text = decoder.decode(bytes(self._view[start : min(at, start + self._window)]))
            breaks = text.count("\n")
            line += breaks
            column = len(text) - text.rindex("\n") if breaks else column + len(text)
            self._work += len(text)
            await self._give_way()
        return line, column


def _take_part(text: str, last: bool) -> tuple[str, int, bool]:
    """A string's next part, how many characters of the text it took, and whether the closing quote follows them."""
    body = text if last else text[: _find_cut(text)]
    part, end = scanstring(body + '"', 0, True)
    ended = end <= len(body)
    taken = end - 1 if ended else len(body)
    if "\\u" in body:
        if not ended and part[-1:] and _FIRST_HALF.match(part[-1]):
            part, taken = part[:-1], taken - 6  # Its other half comes with the next part.
        if _HALF.search(part) is not None:
            raise ValueError(HALF_A_PAIR)
    return part, taken, ended


def _find_cut(text: str) -> int:
    """Where a piece of a string may end so that no escape is cut."""
    slash = text.rfind("\\", max(0, len(text) - 5))
    if slash < 0 or text[slash + 1 : slash + 2] not in ("", "u"):
        return len(text)
    row = slash + 1 - len(text[: slash + 1].rstrip("\\"))
    return slash if row % 2 else len(text)
