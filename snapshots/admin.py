"""Published revisions and what each worker runs, as admin pages. Control plane; read-only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from snapshots.models import ConfigRevision, PublishState, WorkerStatus
from tokenhub.control import display
from tokenhub.control.admin import ReadOnlyAdmin

SILENT_AFTER = timedelta(seconds=30)
"""A worker not heard of for so long is shown as silent."""


@admin.register(ConfigRevision)
class ConfigRevisionAdmin(ReadOnlyAdmin):
    """Every published configuration, newest first. A failing publication is said above the list, in red."""

    list_display = ("revision", "created", "actor", "note", "short_sum")
    search_fields = ("=revision", "actor", "note")
    empty_text = "The first change publishes revision 1."
    has_trail = False
    fields = ("revision", "created", "actor", "note", "payload_sum", "content_sum")
    list_before_template = "console/publish_state.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigRevision]:
        return super().get_queryset(request).defer("payload")

    @admin.display(description="Published", ordering="created_at")
    def created(self, row: ConfigRevision) -> SafeString | str:
        return display.write_time_tag(row.created_at)

    @admin.display(description="SHA-256 of the payload")
    def payload_sum(self, row: ConfigRevision) -> str:
        return row.sha256

    @admin.display(description="SHA-256 of the content, without revision and time")
    def content_sum(self, row: ConfigRevision) -> str:
        return row.content_sha256

    @admin.display(description="Content, SHA-256")
    def short_sum(self, row: ConfigRevision) -> str:
        return row.content_sha256[:12]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        state = PublishState.objects.filter(pk=PublishState.ID).first()
        return super().changelist_view(request, {**(extra_context or {}), "publish_state": state})


@admin.register(WorkerStatus)
class WorkerStatusAdmin(ReadOnlyAdmin):
    """Which worker runs which revision, when it was last heard of, and what it complains about."""

    empty_text = "A worker reports within seconds of its start."
    has_trail = False
    list_display = ("instance", "host", "process", "revision", "seen", "state", "error")
    fields = ("instance", "host", "process", "revision", "seen", "state", "error")
    search_fields = ("instance", "host")

    @admin.display(description="Process ID")
    def process(self, row: WorkerStatus) -> int:
        return row.pid

    @admin.display(description="Last heard of", ordering="seen_at")
    def seen(self, row: WorkerStatus) -> str:
        return f"{display.write_time(row.seen_at)} ({display.write_age(row.seen_at, timezone.now())})"

    @admin.display(description="State")
    def state(self, row: WorkerStatus) -> SafeString:
        return display.badge(*worker_state(row, timezone.now()))


def worker_state(row: WorkerStatus, now: Any) -> tuple[str, str]:
    """The worker's state and the tone of its badge."""
    if row.error:
        return "failing", "bad"
    if now - row.seen_at > SILENT_AFTER:
        return "silent", "warn"
    return ("running", "good") if row.revision else ("no revision yet", "warn")
