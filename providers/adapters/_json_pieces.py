"""Writes a translated request as JSON, a large one in many short calls. Data plane; pure, no I/O.

A thread does it beside the event loop, and a call in C keeps the interpreter's lock from its begin to its end: with one call
for 20 MB every other request waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import batched
from typing import Any

from providers.adapters._openai_json import encode_json

PIECE = 64 * 1024
"""Characters of a text that one call writes."""

RUN = 64
"""Values of a list that one call writes, if none of them holds a text that is longer."""


def encode_request(body: Mapping[str, Any]) -> bytes:
    """The body as compact UTF-8 JSON, `messages` being what may be large. Raises UnicodeEncodeError for half a surrogate pair."""
    if is_large(body["messages"]):
        return b"".join(encode_in_pieces(body))
    return encode_json(body)


def is_large(value: Any) -> bool:
    """Whether one call would take long for it: a long list, or a long text at any depth."""
    kind = type(value)
    if kind is str:
        return len(value) > PIECE
    if kind is dict:
        for inner in value.values():
            if is_large(inner):
                return True
    elif kind is list:
        if len(value) > RUN:
            return True
        for inner in value:
            if is_large(inner):
                return True
    return False


def encode_in_pieces(value: Any) -> Iterator[bytes]:
    """The JSON of a value; joined, the same bytes as of one call."""
    kind = type(value)
    if kind is str and len(value) > PIECE:
        yield b'"'
        for start in range(0, len(value), PIECE):
            yield encode_json(value[start : start + PIECE])[1:-1]
        yield b'"'
    elif kind is dict and is_large(value):
        mark = b"{"
        for name, inner in value.items():
            yield mark + encode_json(name) + b":"
            yield from encode_in_pieces(inner)
            mark = b","
        yield b"}"
    elif kind is list and is_large(value):
        mark = b"["
        for run in batched(value, RUN):
            if any(map(is_large, run)):
                for inner in run:
                    yield mark
                    yield from encode_in_pieces(inner)
                    mark = b","
            else:
                yield mark + encode_json(run)[1:-1]
                mark = b","
        yield b"]"
    else:
        yield encode_json(value)
