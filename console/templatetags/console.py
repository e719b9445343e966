"""Filters that write numbers, money and times in the console's templates. Control plane."""

from __future__ import annotations

import json
from typing import Any

from django import template

from tokenhub.control import display

register = template.Library()

register.filter("usd", display.write_usd)
register.filter("short_id", display.write_short_id)
register.filter("usd_short", display.write_usd_short)
register.filter("number", display.write_count)
register.filter("ms", display.write_ms)
register.filter("moment", display.write_time_tag)
register.filter("age", display.write_age)


@register.filter
def outcome_badge(outcome: str) -> str:
    """An attempt's outcome as a badge."""
    return display.badge(outcome, display.OUTCOME_TONES.get(outcome, "plain"))


@register.filter
def as_json(value: Any) -> str:
    """A value as indented JSON; the template escapes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
