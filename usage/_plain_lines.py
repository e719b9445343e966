"""Journal lines that need no cleaning, straight to their halves of a ledger row. Control plane; no database access.

Nearly every line is plain: a whole record of this version, its texts no longer than their columns, and nothing in it that
UTF-8 or a database would refuse. Whatever is not, however slightly, is left to `decode_line` and `usage.rows`, which give
the same for a plain line at four times the price.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, get_type_hints
from zlib import crc32

import msgspec
from msgspec import Meta, Raw

from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.usage import BUCKETS, COUNTED, Usage
from usage._journal_format import MAX_DEPTH
from usage.rows import FROM_FINAL, FROM_INTENT, LENGTHS, format_moment, format_rates

Half = tuple[Any, ...]
"""Of an intent the values of INTENT_COLUMNS, of a final its attempt's id and those of FINAL_COLUMNS."""

_KINDS_OF_PRICES = 1024
_INTENT, _FINAL = b"I1 ", b"F1 "
_INTENT_SEED, _FINAL_SEED = crc32(_INTENT), crc32(_FINAL)
_HEAD_BYTES = 12
_NO_RAW = Raw(b"null")
_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER = b"0" * 19
_EXPONENT, _STRANGE_EXPONENTS = b"0e", (b"0e0", b"0e+", b"0e-000")
"""With all digits alike: a number that may not fit into 64 bits, and one that may be no finite float or, on Postgres, become
an integer. A price in dollars has its `e-05` often enough.
"""


def _make_type(record: type, lengths: dict[str, int], types: dict[str, tuple[Any, Any]]) -> type:
    """A record's fields as a strict type: `types` has those whose type or default differ, `lengths` the longest texts."""
    hints = get_type_hints(record)
    made: list[Any] = []
    for field in fields(record):  # type: ignore[arg-type]
        kind, default = types.get(field.name, (hints[field.name], field.default))
        if kind is str:
            shortest = int(field.name == "attempt_id")
            kind = Annotated[str, Meta(min_length=shortest, max_length=lengths[field.name])]
        made.append((field.name, kind) if default is MISSING else (field.name, kind, default))
    return msgspec.defstruct(f"Plain{record.__name__}", made, forbid_unknown_fields=True, gc=False)


_PlainUsage = _make_type(Usage, {"method": LENGTHS["usage_method"]}, {"raw": (Raw, _NO_RAW)})
_PlainIntent = _make_type(AttemptIntent, LENGTHS, {"price_rates": (Raw, _NO_RAW)})
_PlainFinal = _make_type(
    AttemptFinal, LENGTHS, {"usage": (_PlainUsage, msgspec.field(default_factory=_PlainUsage))}
)
_decode_intent = msgspec.json.Decoder(_PlainIntent).decode
_decode_final = msgspec.json.Decoder(_PlainFinal).decode
_decode_rates = msgspec.json.Decoder(tuple[tuple[str, int], ...] | None).decode
_intent_values = attrgetter(*FROM_INTENT)
_final_values = attrgetter("attempt_id", *FROM_FINAL)
_usage_values = attrgetter(*BUCKETS, *COUNTED, "source", "method")


def find_intent_half(line: bytes) -> Half | None:
    """The row's first half, None if the line is no plain intent."""
    if line[:3] != _INTENT:
        return None
    payload = line[_HEAD_BYTES:]
    # JSON has NUL and half a surrogate as `\uXXXX` only.
    if b"%08x " % crc32(payload, _INTENT_SEED) != line[3:_HEAD_BYTES] or b"\\u" in payload:
        return None
    try:
        intent = _decode_intent(payload)
        moment = format_moment(intent.started_at)
        return (*_intent_values(intent), moment, _convert_rates(bytes(intent.price_rates)))
    except ValueError:  # msgspec's errors and that of bytes which are no text are among them
        return None


def find_final_half(line: bytes) -> Half | None:
    """The row's second half, after the attempt's id; None if the line is no plain final."""
    if line[:3] != _FINAL:
        return None
    payload = line[_HEAD_BYTES:]
    if b"%08x " % crc32(payload, _FINAL_SEED) != line[3:_HEAD_BYTES] or b"\\u" in payload:
        return None
    try:
        final = _decode_final(payload)
        usage, first = final.usage, final.first_token_ms
        first_or_none = first if first >= 0 else None
        moment, raw = format_moment(final.ended_at), _convert_raw(bytes(usage.raw))
        return (*_final_values(final), *_usage_values(usage), moment, first_or_none, raw)
    except ValueError:
        return None


@lru_cache(_KINDS_OF_PRICES)
def _convert_rates(rates: bytes) -> str | None:
    """Attempts share their prices: each is converted once."""
    return format_rates(_decode_rates(rates))


def _convert_raw(raw: bytes) -> str | None:
    """The vendor's object as the line has it. Raises ValueError unless it is one that `clean_value` would leave alone."""
    if raw == b"null":
        return None
    # Nesting is no deeper than there are brackets.
    if raw[:1] != b"{" or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        raise ValueError("not plain")
    alike = raw.translate(_DIGITS_ALIKE)
    if _LONG_NUMBER in alike or (_EXPONENT in alike and any(part in alike for part in _STRANGE_EXPONENTS)):
        raise ValueError("not plain")
    return raw.decode()
