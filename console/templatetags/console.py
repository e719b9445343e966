"""Filters that write numbers, money and times in the console's templates. Control plane."""

from __future__ import annotations

import json
from typing import Any

from django import template
from django.db.models import Model
from django.template import Context
from django.urls import reverse
from django.utils.text import capfirst

from console.theme import NAMES, TITLES
from tokenhub.control import display

register = template.Library()

register.filter("usd", display.write_usd)
register.filter("short_id", display.write_short_id)
register.filter("usd_short", display.write_usd_short)
register.filter("number", display.write_count)
register.filter("ms", display.write_ms)
register.filter("moment", display.write_time_tag)
register.filter("age", display.write_age)
register.filter("badge", display.badge)


@register.filter
def outcome_badge(outcome: str) -> str:
    """An attempt's outcome as a badge."""
    return display.badge(outcome, display.OUTCOME_TONES.get(outcome, "plain"))


@register.simple_tag(takes_context=True)
def page_path(context: Context) -> dict[str, Any]:
    """What a page is about (`title`), the pages above it (`parents`: `{title, url}`, outermost first), how to `add` one."""
    admin_class = context.get("model_admin")
    opts = context.get("opts") or getattr(admin_class, "opts", None)
    if opts is None:
        title = context.get("content_title") or context.get("title") or ""
        return {"title": title, "parents": context.get("parents") or [], "add": ""}
    add = f"Add {NAMES.get(opts.label_lower, opts.verbose_name)}"
    title, parents = _title_and_parents(context, opts, add)
    return {"title": title, "parents": parents, "add": add}


def _title_and_parents(context: Context, opts: Any, add: str) -> tuple[str, list[dict[str, str]]]:
    listed = TITLES.get(opts.label_lower) or capfirst(opts.verbose_name_plural)
    if context.get("cl") is not None:
        return listed, []
    parents = [{"title": listed, "url": reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist")}]
    if context.get("deletable_objects") is not None:
        return "Delete", parents
    if context.get("opts") is None or context.get("own_title"):
        return str(context.get("own_title") or context.get("title")), [
            *parents,
            *_page_of(context.get("subject")),
        ]
    row = next((one for one in map(context.get, ("original", "object")) if isinstance(one, Model)), None)
    return (add if row is None else str(row)), parents


def _page_of(row: Model | None) -> list[dict[str, str]]:
    if row is None:
        return []
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=(row.pk,))
    return [{"title": str(row), "url": url}]


@register.filter
def slot_kind(kind: str) -> str:
    """A kind of the vault's slots in words."""
    return {"kms": "KMS", "environment": "environment variable"}.get(kind, kind.replace("_", " "))


@register.filter
def as_json(value: Any) -> str:
    """A value as indented JSON; the template escapes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
