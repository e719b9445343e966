"""The journal's lines: encoding, checksums and reading. Pure; the data plane writes them, the drain reads them.

A line is `K1 crc payload\\n`: K is I (intent), F (final), E (end of a segment) or N (nothing, a probe); 1 is the version;
crc is CRC-32 of `K1 ` and payload in eight hexadecimal digits; payload is JSON, in which no raw newline occurs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import msgspec

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.usage import decode_usage

MAX_LINE_BYTES = 1 << 20
"""No record is longer. A longer run without a newline is damage."""

MAX_PAYLOAD_BYTES = 64 << 10
"""Above this a record loses its vendor's usage object (a note of the size stays) and its texts are cut."""

MAX_DEPTH = 32
"""Nesting of a vendor's usage object; deeper levels become text."""


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """The owner writes no more into this file."""


@dataclass(frozen=True, slots=True)
class DamagedLine:
    """A line that is no record of ours. `line` is its bytes without the newline; `reason` is for people."""

    line: bytes
    reason: str


Record = AttemptIntent | AttemptFinal | SegmentEnd | DamagedLine


def _encode_unknown(value: Any) -> Any:
    """A mapping of another type as an object, anything else as text: accounting never fails on a vendor's field."""
    return dict(value) if isinstance(value, Mapping) else str(value)


_encode = msgspec.json.Encoder(enc_hook=_encode_unknown).encode
_TAGS = {kind: b"%b1 " % kind for kind in (b"I", b"F", b"E", b"N")}
_SEEDS = {kind: crc32(tag) for kind, tag in _TAGS.items()}
_INTENT_SEED, _FINAL_SEED = _SEEDS[b"I"], _SEEDS[b"F"]
_INTENT_FIELDS = frozenset(field.name for field in fields(AttemptIntent))
_FINAL_FIELDS = frozenset(field.name for field in fields(AttemptFinal))
_HEAD_BYTES = 12
_BLOCK_BYTES = 128 << 10
"""What is read at once, unless a line is longer: splitting it holds the interpreter's lock."""


def encode_intent(intent: AttemptIntent) -> bytes:
    """The intent's line. Never fails: what cannot be written as it is, is written cleaned or cut."""
    payload = _encode_record(intent)
    return b"I1 %08x %b\n" % (crc32(payload, _INTENT_SEED), payload)


def encode_final(final: AttemptFinal) -> bytes:
    """The final's line. Never fails: what cannot be written as it is, is written cleaned or cut."""
    payload = _encode_record(final)
    return b"F1 %08x %b\n" % (crc32(payload, _FINAL_SEED), payload)


def encode_mark(kind: bytes) -> bytes:
    """A line without content: b"E" ends a segment, b"N" probes whether the disk takes writes."""
    return b"%b%08x {}\n" % (_TAGS[kind], crc32(b"{}", _SEEDS[kind]))


def _encode_record(record: AttemptIntent | AttemptFinal) -> bytes:
    try:
        payload = _encode(record)
    except (ValueError, TypeError, RecursionError):
        payload = _encode(clean_value(_as_dict(record)))
    if len(payload) > MAX_PAYLOAD_BYTES:
        payload = _encode(_cut(_as_dict(record), len(payload)))
    return payload


def _as_dict(record: AttemptIntent | AttemptFinal) -> dict[str, Any]:
    """The record as plain values; slots have no `__dict__`, and `asdict` would deep-copy a vendor's object."""
    data = {field.name: getattr(record, field.name) for field in fields(record)}
    if isinstance(record, AttemptFinal):
        data["usage"] = {field.name: getattr(record.usage, field.name) for field in fields(record.usage)}
    return data


def _cut(data: dict[str, Any], size: int) -> Any:
    """The record without its vendor's object and with short texts; every figure of ours stays."""
    if "usage" in data:
        data["usage"]["raw"] = {"tokenhub_dropped_bytes": size}
    short = {name: value[:1000] if isinstance(value, str) else value for name, value in data.items()}
    return clean_value(short)


def clean_text(text: str) -> str:
    """The text without NUL and lone surrogates, which UTF-8 or Postgres would refuse: each becomes U+FFFD."""
    text = text.replace("\x00", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_value(value: Any, depth: int = 0) -> Any:
    """Any value as plain JSON that every database takes: clean text, finite numbers, integers of 64 bits, bounded depth."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else _big_number(value)
    if isinstance(value, float):
        return value if value - value == 0 else clean_text(str(value))
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {clean_text(str(key)): clean_value(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean_value(item, depth + 1) for item in value]
    return clean_text(_as_text(value))


def _big_number(value: int) -> str:
    """In hexadecimal: decimal text of a giant integer takes quadratic time, and Python refuses it past 4,300 digits."""
    return hex(value)


def _as_text(value: Any) -> str:
    try:
        return str(value)[:1000]
    except (RecursionError, ValueError):
        return f"<{type(value).__name__}>"


def decode_line(line: bytes) -> Record | None:
    """One line without its newline: a record, DamagedLine, or None for a probe. Never raises on what a disk may hold."""
    kind, payload = line[:1], line[_HEAD_BYTES:]
    if line[:3] != _TAGS.get(kind) or line[11:12] != b" ":
        return DamagedLine(line, "no known kind and version")
    if b"%08x" % crc32(payload, _SEEDS[kind]) != line[3:11]:
        return DamagedLine(line, "checksum differs")
    if kind == b"N":
        return None
    if kind == b"E":
        return SegmentEnd()
    try:
        data = msgspec.json.decode(payload)
        return _decode_intent(data) if kind == b"I" else _decode_final(data)
    except (ValueError, TypeError, RecursionError) as error:
        return DamagedLine(line, f"not a record: {error}"[:200])


def _decode_intent(data: dict[str, Any]) -> AttemptIntent:
    _check_fields(data, _INTENT_FIELDS)
    return msgspec.convert(data, AttemptIntent)


def _decode_final(data: dict[str, Any]) -> AttemptFinal:
    _check_fields(data, _FINAL_FIELDS)
    usage = decode_usage(data.get("usage") or {})
    return msgspec.convert(data | {"usage": msgspec.to_builtins(usage)}, AttemptFinal)


def _check_fields(data: dict[str, Any], known: frozenset[str]) -> None:
    """A field from a newer version is not dropped: the line is set aside for the version that knows it."""
    unknown = set(data) - known
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")


def read_records(path: Path, offset: int) -> Iterator[tuple[int, Record]]:
    """The complete records of a file from `offset` on, each with the offset after it; ends at the last newline.

    The file may grow meanwhile: an unfinished last line is left for the next call. Raises OSError.
    """
    with open(path, "rb") as stream:
        for after, line in read_lines(stream, offset):
            record = line if isinstance(line, DamagedLine) else decode_line(line)
            if record is not None:
                yield after, record


def read_lines(stream: BinaryIO, offset: int) -> Iterator[tuple[int, bytes | DamagedLine]]:
    """The complete lines of an open file from `offset` on, each with the offset after it; DamagedLine for one too long."""
    block_bytes = _BLOCK_BYTES
    while True:
        block = os.pread(stream.fileno(), block_bytes, offset)
        end = block.rfind(b"\n") + 1
        if end:
            block_bytes = _BLOCK_BYTES
            for line in block[:end].split(b"\n")[:-1]:
                offset += len(line) + 1
                yield offset, line
        elif len(block) < block_bytes:
            return
        elif block_bytes < MAX_LINE_BYTES:
            block_bytes = MAX_LINE_BYTES
        else:
            offset += len(block)
            yield offset, DamagedLine(block, "no newline within the longest line")
