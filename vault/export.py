"""The audit trail as CSV and as JSON lines, entry by entry. Control plane."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone

from tokenhub.control.streaming import stream_file
from vault.models import AuditEntry
from vault.trail import read_out, show

COLUMNS = (
    "seq",
    "at",
    "actor",
    "actor_kind",
    "address",
    "action",
    "object_type",
    "object_id",
    "object_label",
    "before",
    "after",
    "prev_hash",
    "hash",
)
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
"""The media type by format."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class _Line:
    """Gives back what the CSV writer writes."""

    def write(self, text: str) -> str:
        return text


def neutralise(text: str) -> str:
    """`text` as a spreadsheet takes it for text: what could begin a formula gets an apostrophe in front.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def export(request: HttpRequest, entries: QuerySet[AuditEntry], form: str) -> StreamingHttpResponse:
    """A download of `entries` in `csv` or `jsonl`, oldest first."""
    name = f"audit-{timezone.now():%Y%m%dT%H%M%SZ}.{form}"
    lines = write_lines(form, read_out(entries))
    return stream_file(request, lines, name=name, media_type=MEDIA_TYPES[form])


def write_lines(form: str, entries: Iterable[AuditEntry]) -> Iterator[str]:
    """The lines of a file in `csv` (with a heading) or `jsonl`."""
    return _write_csv(entries) if form == "csv" else _write_jsonl(entries)


def _write_jsonl(entries: Iterable[AuditEntry]) -> Iterator[str]:
    for entry in entries:
        yield json.dumps(show(entry), ensure_ascii=False) + "\n"


def _write_csv(entries: Iterable[AuditEntry]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(COLUMNS)
    for entry in entries:
        shown = show(entry)
        yield writer.writerow([_cell(shown[name]) for name in COLUMNS])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return neutralise(str(value))
