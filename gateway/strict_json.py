"""JSON as the gateway takes it: unique keys, finite numbers, whole surrogate pairs, no byte order mark. Data plane.

`loads` reads a small document in one go; `gateway.large_json` reads a large one with the same scanner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.scanner import make_scanner
from typing import Any, NoReturn

import msgspec

from tokenhub.core.errors import InvalidJSON

_KEY_TOLD = 200
_checker = msgspec.json.Decoder()

find_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search
"""The first escape that is half of a surrogate pair."""


def loads(raw: bytes) -> Any:
    """The value of a document. Raises InvalidJSON, JSONDecodeError, UnicodeDecodeError, RecursionError, ValueError."""
    text = raw.decode()
    if text.startswith("\ufeff"):
        raise byte_order_mark()
    value = _decoder.decode(text)
    if b"\\u" in raw and find_surrogate(raw) is not None:
        check_surrogates(raw)
    return value


def byte_order_mark() -> InvalidJSON:
    """The refusal of a document that starts with one."""
    return InvalidJSON("the body starts with a byte order mark", hint="send UTF-8 without one")


def key_twice(name: str) -> InvalidJSON:
    """The refusal of an object with two members of one name."""
    told = name[:_KEY_TOLD]
    return InvalidJSON(f"the key {told!r} stands twice in one object", param=told)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise key_twice(name)
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

scan_value: Callable[[str, int], tuple[Any, int]] = make_scanner(_decoder)  # type: ignore[arg-type]  # typeshed has it take itself
"""The value that begins at a position of a text, and where it ends. Raises as `loads`, or StopIteration(position)."""

HALF_A_PAIR = "a text holds half a surrogate pair, which is no Unicode text"


def check_surrogates(document: bytes | str) -> None:
    """Raises ValueError for half a surrogate pair in JSON: the standard library lets it through, no provider takes one."""
    try:
        _checker.decode(document)
    except msgspec.DecodeError as error:
        raise ValueError(HALF_A_PAIR) from error
