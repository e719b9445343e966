"""How numbers, money and times are written for people: always with their unit or zone. Control plane."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tokenhub.core.money import usd_from_nanos

NOTHING = "–"
UNPRICED = "unpriced"
SHORT_ID = 12

TONES = {
    "good": "th-badge th-badge-good",
    "warn": "th-badge th-badge-warn",
    "bad": "th-badge th-badge-bad",
    "plain": "th-badge",
}


def write_short_id(identifier: str) -> str:
    """A request's or attempt's id by its end: ids of one process begin alike."""
    return identifier if len(identifier) <= SHORT_ID + 1 else f"…{identifier[-SHORT_ID:]}"


def write_usd(nanos: int | None) -> str:
    """`$0.0211` out of nano-dollars; `unpriced` where nobody entered a price. Every digit that is not zero is kept."""
    if nanos is None:
        return UNPRICED
    plain = usd_from_nanos(nanos)
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    whole, fraction = digits.split(".")
    return f"{sign}${int(whole):,}.{fraction}"


def write_usd_short(nanos: int | None) -> str:
    """`$12.34` or, below a dollar, four significant decimals: for headings, where the exact sum is a click away."""
    if nanos is None:
        return UNPRICED
    dollars = nanos / 1_000_000_000
    if nanos == 0 or dollars >= 1:
        return f"${dollars:,.2f}"
    return f"${dollars:.4f}" if dollars >= 0.0001 else "< $0.0001"


def write_refusal(message: str, hint: str | None = None) -> str:
    """A refusal and what to do about it, as sentences."""
    sentences = [text.strip().rstrip(".") for text in (message, hint or "") if text.strip()]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in sentences)


def write_number_of(number: int, one: str, many: str = "") -> str:
    """`1 project`, `2 projects`; `many` where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def two_lines(first: Any, second: Any) -> SafeString | str:
    """A cell with a second, quieter line, where there is one."""
    if not second:
        return first
    return format_html('{}<br><span class="th-help">{}</span>', first, second)


def write_count(number: int | None) -> str:
    """`12,345`."""
    return NOTHING if number is None else f"{number:,}"


def write_ms(milliseconds: int | None) -> str:
    """`850 ms`, `12.3 s`, `2 min 5 s`."""
    if milliseconds is None:
        return NOTHING
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"


def write_time(moment: datetime | None) -> str:
    """`2026-03-01 12:30:05 UTC`, in the current time zone."""
    return NOTHING if moment is None else timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


def write_age(moment: datetime | None, now: datetime) -> str:
    """`12 s ago`, `5 min ago`, `3 h ago`, `4 d ago`."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def write_time_tag(moment: datetime | None) -> SafeString | str:
    """The time as a `<time>` element, so that scripts and screen readers know its zone."""
    if moment is None:
        return NOTHING
    machine = moment.astimezone(UTC).isoformat()
    return format_html('<time class="th-nowrap" datetime="{}">{}</time>', machine, write_time(moment))


def badge(text: str, tone: str = "plain") -> SafeString:
    """A small label; `tone` is good, warn, bad or plain."""
    return format_html('<span class="{}">{}</span>', TONES[tone], text)


OUTCOME_TONES = {
    "completed": "good",
    "truncated": "warn",
    "cancelled": "warn",
    "failed": "bad",
    "unsettled": "bad",
}
"""The tone of each outcome of an attempt."""
