"""A request's body: read under limits, parsed once with unique keys, and edited in place of being written anew. Data plane.

Nobody downstream may see another document than the one that was checked: duplicate keys are refused at every depth, since
two parsers that choose differently among them would let a caller name one model to us and another to the provider.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import msgspec

from tokenhub.core.errors import InvalidJSON, NotReady, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

Receive = Callable[[], Awaitable[dict[str, Any]]]

SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed in one go; larger ones piece by piece, so that the loop stays free."""

_YIELD_BYTES = 512 * 1024
_VALUE_COST = 256
"""What a value costs besides its bytes, in bytes' worth of parsing."""

_FLAT_BYTES = 16 * 1024
_DEPTH = 12
_MOST_VALUES = 250_000
_LEAST_VALUE_BYTES = 8
_DECIDING = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
)
"""Members that decide where a request goes and what it may cost."""

_GAP = re.compile(rb'[\s]*[{,][\s]*("(?:[^"\\]|\\.)*")[\s]*:[\s]*')
_TEXT_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*")')
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)
_checker = msgspec.json.Decoder()
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class ClientGone(Exception):
    """The caller closed the connection before its request was complete."""


class Body:
    """A parsed JSON object: its bytes, its members, and where each top-level value stands in the bytes."""

    __slots__ = ("_spans", "data", "raw")

    def __init__(
        self, raw: bytes | bytearray, data: dict[str, Any], spans: dict[str, tuple[int, int]] | None = None
    ) -> None:
        self.raw = raw
        self.data = data
        self._spans = spans

    def edited(self, edits: Mapping[str, Any]) -> bytes:
        """The bytes with these top-level members set (None: removed). Every other byte stays as the caller sent it."""
        data = self.data
        changes = {
            name: value
            for name, value in edits.items()
            if (name in data if value is None else name not in data or data[name] != value)
        }
        if not changes:
            return bytes(self.raw)
        if self._spans is None and len(changes) == 1:
            ((name, value),) = changes.items()
            span = _find_text_span(self.raw, name, data.get(name))
            if span is not None and value is not None:
                return b"".join((self.raw[: span[0]], msgspec.json.encode(value), self.raw[span[1] :]))
        if self._spans is None:
            self._spans = _find_spans(self.raw)
        spans = self._spans
        removed = {name for name, value in changes.items() if value is None}
        pieces = _removals(self.raw, spans, removed) if removed else []
        added: list[bytes] = []
        for name, value in changes.items():
            if name not in spans:
                added.append(msgspec.json.encode(name) + b":" + msgspec.json.encode(value))
            elif value is not None:
                pieces.append((*spans[name], msgspec.json.encode(value)))
        return self._splice(pieces, added, kept=len(spans) - len(removed))

    def _splice(self, pieces: list[tuple[int, int, bytes]], added: list[bytes], *, kept: int) -> bytes:
        out: list[bytes | bytearray] = []
        position = 0
        for start, end, replacement in sorted(pieces):
            out += (self.raw[position:start], replacement)
            position = end
        close = self.raw.rindex(b"}")
        out.append(self.raw[position:close])
        if added:
            out.append((b"," if kept else b"") + b",".join(added))
        out.append(self.raw[close:])
        return b"".join(out)


def _removals(
    raw: bytes | bytearray, spans: Mapping[str, tuple[int, int]], names: set[str]
) -> list[tuple[int, int, bytes]]:
    """What to cut for these members: each with the comma before it, but the leading ones with the comma behind them."""
    ordered = list(spans.items())
    leading = next((at for at, (name, _) in enumerate(ordered) if name not in names), len(ordered))
    cuts = []
    if leading:
        begin, end = raw.index(b"{") + 1, ordered[leading - 1][1][1]
        cuts.append((begin, end if leading == len(ordered) else raw.index(b",", end) + 1, b""))
    for (_, before), (name, span) in itertools.pairwise(ordered[leading:]):
        if name in names:
            cuts.append((before[1], span[1], b""))
    return cuts


class BodyBudget:
    """The memory that request bodies of one worker may take together, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, size: int) -> None:
        """Books bytes that have arrived. Raises NotReady where they would be too many."""
        if self._taken + size > self._limit:
            raise NotReady("too many large requests are under way", code="overloaded", retry_after=1)
        self._taken += size

    def give(self, size: int) -> None:
        """Takes a booking back."""
        self._taken -= size


class Booking:
    """What one request has taken of the budget; given back as a whole."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size = 0

    def take(self, size: int) -> None:
        """Books bytes that have arrived. Raises NotReady."""
        self._budget.take(size)
        self._size += size

    def release(self) -> None:
        """Gives all of it back. Idempotent."""
        self._budget.give(self._size)
        self._size = 0


async def read_body(
    receive: Receive,
    headers: Mapping[bytes, bytes],
    *,
    limit: int,
    timeout: float,  # noqa: ASYNC109 - the deadline is the caller's setting
    booking: Booking,
) -> bytes | bytearray:
    """The whole body, booked as it arrives: what a caller only announces costs nothing.

    Raises PayloadTooLarge, UnsupportedMediaType, RequestTimeout, NotReady, or ClientGone.
    """
    if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
        raise UnsupportedMediaType(
            "compressed request bodies are not taken",
            param="content-encoding",
            hint="send the JSON uncompressed",
        )
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(timeout):
            return await _read_chunks(receive, limit, booking)
    except TimeoutError as error:
        raise RequestTimeout(f"the request body did not arrive within {timeout:g} s") from error


async def _read_chunks(receive: Receive, limit: int, booking: Booking) -> bytes | bytearray:
    whole = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        if len(whole) + len(chunk) > limit:
            raise _too_large(limit)
        booking.take(len(chunk))
        if not whole and not message.get("more_body"):
            return chunk
        whole += chunk
        if not message.get("more_body"):
            return whole


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the request body is over the limit of {limit} bytes",
        details={"limit_bytes": limit},
        hint="send less, or ask the operator to raise TOKENHUB_MAX_BODY_BYTES",
    )


async def parse_body(raw: bytes | bytearray) -> Body:
    """The body as a JSON object. Raises InvalidJSON saying what is wrong and where."""
    try:
        if len(raw) <= SMALL:
            data = _loads(bytes(raw))
            if isinstance(data, dict):
                _refuse_look_alikes(data)
                return Body(raw, data)
        elif raw.lstrip(b" \t\r\n")[:1] == b"{":
            return await _Pieces().parse_body(raw)
    except RecursionError as error:
        raise InvalidJSON("the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"the body is not valid UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InvalidJSON(
            f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except ValueError as error:
        raise InvalidJSON(f"the body is not valid JSON: {error}") from error
    raise InvalidJSON("the body must be a JSON object")


def _refuse_look_alikes(data: Mapping[str, Any]) -> None:
    """Servers that fold case would read `Model` as `model`, and so another model than the one that was checked."""
    for name in data:
        if not (name.isascii() and name.islower()):
            folded = name.casefold()
            if folded != name and (folded in data or folded in _DECIDING):
                raise InvalidJSON(
                    f"the key {name!r} differs from {folded!r} by its letters' case only", param=name
                )


class _Walk:
    """Goes through an object's text in step with its parsed members, so that each value's place is known.

    A value that the parser took from a later duplicate breaks the step: complete JSON strings, objects and arrays are
    never prefixes of one another, and behind a number or a word a comma or a brace must stand.
    """

    def __init__(self, raw: bytes | bytearray) -> None:
        self._raw = raw
        self._position = 0
        self.spans: dict[str, tuple[int, int]] = {}

    def pass_member(self, name: str, value: bytes) -> None:
        """Goes over one member. Raises InvalidJSON where another one stands."""
        gap = _GAP.match(self._raw, self._position)
        if gap is None or _string.decode(gap[1]) != name or not self._raw.startswith(value, gap.end()):
            self._refuse()
        self._position = gap.end() + len(value)
        self.spans[name] = (gap.end(), self._position)

    def finish(self) -> None:
        """Checks that nothing but the closing brace is left. Raises InvalidJSON."""
        rest = self._raw[self._position :].translate(None, b" \t\r\n")
        if rest != (b"}" if self.spans else b"{}"):
            self._refuse()

    def _refuse(self) -> NoReturn:
        gap = _GAP.match(self._raw, self._position)
        name = _string.decode(gap[1]) if gap is not None else ""
        if name in self.spans:
            raise InvalidJSON(f"the key {name!r} stands twice in one object", param=name)
        raise InvalidJSON("a key stands twice in one object")


def _find_text_span(raw: bytes | bytearray, name: str, value: Any) -> tuple[int, int] | None:
    """Where the text value of a top-level member stands, if that is certain without a walk through the document.

    Mostly only `model` is set, and its bytes with their quotes occur once. The member is there, so that place is it: only
    an escaped letter could write the name in another way, and inside a string a backslash would stand before a quote.
    """
    quoted = b'"%b"' % name.encode()
    if not isinstance(value, str) or b"\\u00" in raw or raw.count(quoted) != 1:
        return None
    match = _TEXT_VALUE.match(raw, raw.index(quoted) + len(quoted))
    return match.span(1) if match is not None else None


def _find_spans(raw: bytes | bytearray) -> dict[str, tuple[int, int]]:
    walk = _Walk(raw)
    for name, value in _members.decode(raw).items():
        walk.pass_member(name, bytes(value))
    return walk.spans


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidJSON(f"the key {name!r} stands twice in one object", param=name)
            seen.add(name)
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJSON(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InvalidJSON(f"the number {text[:40]} is too large")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def _loads(raw: bytes) -> Any:
    text = raw.decode()
    if text.startswith("\ufeff"):
        raise InvalidJSON("the body starts with a byte order mark", hint="send UTF-8 without one")
    if b"\\u" in raw and _SURROGATE.search(raw) is not None:
        _checker.decode(raw)  # the standard library lets half a surrogate pair through; no provider takes one
    return _decoder.decode(text)


class _Pieces:
    """Parses a large document in steps of bounded work, giving way to the loop between them."""

    def __init__(self) -> None:
        self._done = 0

    async def _worked(self, size: int) -> None:
        self._done += size
        if self._done >= _YIELD_BYTES:
            self._done = 0
            await asyncio.sleep(0)

    async def parse_body(self, raw: bytes | bytearray) -> Body:
        data, spans = await self._parse_object(raw, 0)
        _refuse_look_alikes(data)
        return Body(raw, data, spans)

    async def _parse(self, piece: bytes | msgspec.Raw, depth: int) -> Any:
        view = memoryview(piece)
        await self._worked(len(view) + _VALUE_COST)
        if len(view) <= SMALL:
            return _loads(bytes(view))
        if depth > _DEPTH:
            # A level may hold a copy of what is below it.
            raise InvalidJSON(f"the body is nested too deeply (large values at most {_DEPTH} levels)")
        first = view[:1].tobytes()
        if first == b'"':
            return _string.decode(piece)
        if first == b"[":
            return await self._parse_list(piece, depth)
        if first == b"{":
            return (await self._parse_object(bytes(view), depth))[0]
        return _loads(bytes(view))

    async def _parse_list(self, piece: bytes | msgspec.Raw, depth: int) -> list[Any]:
        if _is_flat(bytes(piece)):
            return await self._parse_flat(bytes(piece))
        return [await self._parse(item, depth + 1) for item in _items.decode(piece)]

    async def _parse_flat(self, piece: bytes) -> list[Any]:
        """A long list of numbers, such as tokens: cut at commas, since its values taken singly would be millions."""
        values: list[Any] = []
        start, end = 1, len(piece) - 1
        while start < end:
            cut = piece.find(b",", start + _FLAT_BYTES, end)
            cut = end if cut < 0 else cut
            values += _loads(b"[%b]" % piece[start:cut])
            await asyncio.sleep(0)
            start = cut + 1
        return values

    async def _parse_object(
        self, raw: bytes | bytearray, depth: int
    ) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
        _refuse_dense(raw, (b'":',))
        data: dict[str, Any] = {}
        walk = _Walk(raw)
        members = _members.decode(raw)
        for name, value in members.items():
            piece = bytes(value)
            await self._worked(len(piece))
            walk.pass_member(name, piece)
            data[name] = await self._parse(piece, depth + 1)
        walk.finish()
        return data, walk.spans


def _is_flat(piece: bytes) -> bool:
    """Whether a list holds numbers and words only. Raises InvalidJSON for megabytes of other tiny values."""
    if b'"' not in piece and b"{" not in piece and piece.find(b"[", 1) < 0:
        return True
    _refuse_dense(piece, (b'",', b"},", b"],"))
    return False


def _refuse_dense(piece: bytes | bytearray, marks: tuple[bytes, ...]) -> None:
    """Refuses megabytes of tiny values: they would be split in one go, with every other request waiting.

    Inside a text a quote has a backslash before it, so that the marks hardly ever stand in prose.
    """
    count = sum(piece.count(mark) for mark in marks)
    if count > _MOST_VALUES and count * _LEAST_VALUE_BYTES > len(piece):
        raise InvalidJSON(
            f"the body holds over {_MOST_VALUES} values of less than {_LEAST_VALUE_BYTES} bytes on average"
        )
