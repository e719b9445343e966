"""Reads how long a refused credential has to wait from a provider's headers. Data plane; pure, every vendor's spelling.

Spellings seen: `retry-after` in seconds (RFC 9110 10.2.3) or as an HTTP date, `retry-after-ms` (Azure), `x-ratelimit-reset-*`
as durations (`1m26.4s`: OpenAI, Groq), plain seconds (Mistral, Together) or an epoch (OpenRouter, milliseconds), and
`anthropic-ratelimit-*-reset` as RFC 3339 times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_SECONDS = 7 * 86_400.0
"""Longer waits are held for nonsense, as the negative and not-a-number ones are."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11


def read_retry_after(headers: Mapping[bytes, bytes], now: float | None = None) -> float | None:
    """Seconds to wait, None where no header tells. Header names are in lower case.

    `now` is Unix seconds; without it, times of day are read relative to the response's own `date` header, since an adapter has
    no clock. `retry-after-ms` and `retry-after` win; else the reset of a limit that is exhausted (the longest one), else the
    nearest reset. Anthropic sends `retry-after` with good answers too: ask only for refused ones.
    """
    text = {_decode(name): _decode(value) for name, value in headers.items()}
    at = now if now is not None else _read_time(text.get("date", ""))
    milliseconds = _bound(_read_number(text.get("retry-after-ms", "")), 0.001)
    told = _read_wait(text.get("retry-after", ""), at)
    if milliseconds is not None or told is not None:
        # Azure sends `retry-after: 1` with `retry-after-ms: 0`: the longer one can't be too early.
        return max(wait for wait in (milliseconds, told) if wait is not None)
    return _read_resets(text, at)


_REMAINING = (
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-remaining",
    b"anthropic-ratelimit-requests-remaining",
    b"anthropic-ratelimit-tokens-remaining",
    b"anthropic-ratelimit-input-tokens-remaining",
    b"anthropic-ratelimit-output-tokens-remaining",
)
"""What is left of each limit, in the spellings of OpenAI and most others, and of Anthropic."""


def read_exhausted(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds until a limit is open again of which a good answer says that nothing is left; None where something is left.

    Header names are in lower case. Most answers cost a few look-ups.
    """
    for name in _REMAINING:
        if headers.get(name) == b"0":
            break
    else:
        return None
    text = {_decode(name): _decode(value) for name, value in headers.items()}
    at = _read_time(text.get("date", ""))
    waits = [
        wait
        for reset, remaining in _list_limits(text)
        if remaining == "0" and (wait := _read_wait(reset, at)) is not None
    ]
    return max(waits, default=None) or None


def read_duration(value: str) -> float | None:
    """Seconds of a duration like `6s`, `120ms`, `1m26.4s` or `23h55m16.126s`; None where it is no such thing."""
    match = _DURATION.fullmatch(value.strip().lower())
    if match is None or not match[0]:
        return None
    return sum(float(count) * unit for count, unit in zip(match.groups(), _UNITS, strict=True) if count)


def _decode(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


def _read_number(value: str) -> float | None:
    # float() would take "nan", "1_0" and other digits; headers hold plain decimals.
    return float(value) if re.fullmatch(r"-?\d{1,20}(?:\.\d{1,20})?", value, re.ASCII) else None


def _bound(seconds: float | None, unit: float = 1.0) -> float | None:
    if seconds is None or not math.isfinite(seconds) or not 0.0 <= seconds * unit <= MAX_WAIT_SECONDS:
        return None
    return seconds * unit


def _read_wait(value: str, at: float | None) -> float | None:
    """One header's wait: seconds, a duration, an epoch in seconds or milliseconds, an HTTP date or an RFC 3339 time."""
    number = _read_number(value)
    if number is None:
        if (duration := read_duration(value)) is not None:
            return _bound(duration)
        moment = _read_time(value)
    elif number >= _EPOCH_MILLISECONDS:
        moment = number / 1000.0
    elif number >= _EPOCH_SECONDS:
        moment = number
    else:
        return _bound(number)
    if moment is None or at is None:
        return None
    return _bound(max(0.0, moment - at))


def _read_time(value: str) -> float | None:
    """Unix seconds of an HTTP date or an RFC 3339 time."""
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value.upper()) if value[0].isdigit() else parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _read_resets(text: Mapping[str, str], at: float | None) -> float | None:
    exhausted: list[float] = []
    others: list[float] = []
    for value, remaining in _list_limits(text):
        wait = _read_wait(value, at)
        left = _read_number(remaining)
        if wait is not None and wait > 0.0:
            (exhausted if left is not None and left <= 0 else others).append(wait)
    if exhausted:
        return max(exhausted)
    return min(others, default=None)


def _list_limits(text: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(reset, remaining) of every limit; a limit without `remaining` has "" for it."""
    for name, value in text.items():
        if name in ("x-ratelimit-reset", "ratelimit-reset", "ratelimitbysize-reset"):
            yield value, text.get(name.replace("reset", "remaining"), "")
        elif name.startswith("x-ratelimit-reset-"):
            yield value, text.get(name.replace("-reset-", "-remaining-", 1), "")
        elif name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
            yield value, text.get(name.removesuffix("reset") + "remaining", "")
