"""Reads and writes the JSON of OpenAI-style providers: tolerant on the way in, exact on the way out. Data plane; no I/O."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_TOO_MANY = 10**15
_decode = msgspec.json.Decoder().decode
encode_json = msgspec.json.Encoder().encode
"""A value as compact UTF-8 JSON."""


def read_json(data: bytes) -> Any:
    """The value of a provider's JSON. Raises ValueError.

    Servers with byte-level vocabularies (llama.cpp) cut characters apart: bytes that are no UTF-8, lone surrogates and raw
    control characters are read as U+FFFD or as they are, since the rest of the answer is good.
    """
    try:
        return _decode(data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_leniently(data)


def read_object(data: bytes) -> dict[str, Any] | None:
    """The object of a provider's JSON; None where the bytes hold no JSON object."""
    try:
        value = read_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _read_leniently(data: bytes) -> Any:
    try:
        value = json.loads(data.decode("utf-8", "replace"), strict=False, parse_constant=_refuse_constant)
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def dict_of(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The value if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """The value if it is text, else ""."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    """The value as a count >= 0; None where it is none. Whole floats count: some vendors write `12.0`."""
    if type(value) is int and 0 <= value < _TOO_MANY:
        return value
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return max(0, int(value)) if value == value and abs(value) < _TOO_MANY else None
