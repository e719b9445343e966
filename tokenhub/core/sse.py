"""Server-sent events, read incrementally from bytes split anywhere. Both directions' one parser; no I/O.

Follows the WHATWG HTML standard's event stream format: lines end in LF, CR or CRLF; a blank line dispatches; comments start
with a colon; several `data` lines join with LF; one BOM at the very start is ignored.
"""

from __future__ import annotations

import re

from tokenhub.core.errors import TokenhubError
from tokenhub.core.records import record

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event held in memory. Image output comes in single events of several megabytes."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(TokenhubError):
    """One event of a stream is over the limit."""

    code = "event_too_large"
    status = 502


@record(frozen=True, slots=True)
class Event:
    """One block up to and including its blank line. `raw` is its exact bytes; `data` None: comments only."""

    raw: bytes
    name: str
    data: bytes | None


class EventReader:
    """Cuts a byte stream into events. The concatenation of every `raw` and `tail` is the input, byte for byte."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = b""
        self._scanned = 0
        self._started = False
        self._limit = max_event_bytes

    @property
    def tail(self) -> bytes:
        """Bytes after the last complete event."""
        return self._buffer

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises EventTooLarge."""
        # Providers flush event by event, so mostly a chunk is one event and nothing is left over.
        if (
            not self._buffer
            and chunk.endswith(b"\n\n")
            and chunk.find(b"\n\n") == len(chunk) - 2
            and b"\r" not in chunk
        ):
            return [self._event(chunk)]
        buffer = self._buffer + chunk if self._buffer else chunk
        events: list[Event] = []
        start, search = 0, max(0, self._scanned - 3)
        while (end := _find_boundary(buffer, search)) >= 0:
            events.append(self._event(buffer[start:end]))
            start = search = end
        self._buffer = buffer[start:] if start else buffer
        self._scanned = len(self._buffer)
        if self._scanned > self._limit:
            raise EventTooLarge(f"an event of the stream is over {self._limit} bytes")
        return events

    def finish(self) -> list[Event]:
        """The last event, if the stream ended with a blank line of a lone CR that could have been half a CRLF."""
        buffer, self._buffer, self._scanned = self._buffer, b"", 0
        if buffer.endswith((b"\r\r", b"\n\r", b"\r\n\r")):
            return [self._event(buffer)]
        self._buffer, self._scanned = buffer, len(buffer)
        return []

    def _event(self, raw: bytes) -> Event:
        body = raw
        if not self._started:
            self._started = True
            body = body.removeprefix(b"\xef\xbb\xbf")
        return parse_event(raw, body)


def _find_boundary(buffer: bytes, start: int) -> int:
    """The offset just behind the next blank line, or -1. A CR at the very end may still become a CRLF: it waits."""
    if b"\r" not in buffer:
        at = buffer.find(b"\n\n", start)
        return at + 2 if at >= 0 else -1
    position = start
    while True:
        match = _LINE_END.search(buffer, position)
        if match is None or match.end() == len(buffer):
            return -1
        following = _LINE_END.match(buffer, match.end())
        if following is None:
            position = match.end()
            continue
        if following[0] == b"\r" and following.end() == len(buffer):
            return -1
        return following.end()


def parse_event(raw: bytes, body: bytes | None = None) -> Event:
    """The event of one block of lines. `body` is the block without a leading BOM."""
    text = raw if body is None else body
    # The shapes that nearly every provider sends, without splitting lines.
    if b"\r" not in text:
        lines = text.count(b"\n")
        if lines == 2 and text.startswith(b"data: "):
            return Event(raw, "", text[6:-2])
        if (
            lines == 3
            and text.startswith(b"event: ")
            and text.startswith(b"data: ", at := text.find(b"\n") + 1)
        ):
            return Event(raw, text[7 : at - 1].decode("utf-8", "replace"), text[at + 6 : -2])
    name, data = "", []
    for line in _LINE_END.split(text):
        if line.startswith(b":") or not line:
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return Event(raw, name, b"\n".join(data) if data else None)


def format_event(data: bytes, name: str = "") -> bytes:
    """One event as bytes; `data` must hold no line ends (JSON never does)."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data
