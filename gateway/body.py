"""A request's body: read under limits, parsed once with unique keys, and edited in place of being written anew. Data plane.

Nobody downstream may see another document than the one that was checked: duplicate keys are refused at every depth, since
two parsers that choose differently among them would let a caller name one model to us and another to the provider.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.json_places import Path, Piece, Span, find_members, find_places, splice
from gateway.large_json import LargeObject
from gateway.strict_json import loads
from tokenhub.core.errors import InvalidJSON, NotReady, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

Receive = Callable[[], Awaitable[dict[str, Any]]]

SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed in one go; larger ones in steps, so that the loop stays free."""

_DECIDING = frozenset(
    {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
)
"""Members that decide where a request goes and what it may cost."""

_TEXT_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*")')


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
            self._spans = find_members(self.raw)
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

    def find_places(self, paths: Iterable[Path]) -> dict[Path, Span]:
        """Where the values at these paths stand in the bytes."""
        return find_places(self.raw, paths, self._spans)

    def spliced(self, pieces: Sequence[Piece], data: dict[str, Any]) -> Body:
        """A body whose bytes differ by these pieces alone, each inside of one top-level value; `data` is what it then says."""
        spans = self._spans
        if spans is not None:
            spans = {
                name: (_shifted(start, pieces), _shifted(end, pieces)) for name, (start, end) in spans.items()
            }
        return Body(splice(self.raw, pieces), data, spans)

    def _splice(self, pieces: list[tuple[int, int, bytes]], added: list[bytes], *, kept: int) -> bytes:
        raw = memoryview(self.raw)  # A slice of the bytes themselves would be one more copy of them.
        out: list[bytes | memoryview] = []
        position = 0
        for start, end, replacement in sorted(pieces):
            out += (raw[position:start], replacement)
            position = end
        close = self.raw.rindex(b"}")
        out.append(raw[position:close])
        if added:
            out.append((b"," if kept else b"") + b",".join(added))
        out.append(raw[close:])
        return b"".join(out)


def _shifted(at: int, pieces: Iterable[Piece]) -> int:
    return at + sum(len(new) - (end - start) for start, end, new in pieces if end <= at)


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
            data = loads(bytes(raw))
            if isinstance(data, dict):
                _refuse_look_alikes(data)
                return Body(raw, data)
        elif (found := await LargeObject(raw).read()) is not None:
            _refuse_look_alikes(found[0])
            return Body(raw, *found)
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
