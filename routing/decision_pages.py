"""Kept decisions as admin pages: the list, and one with its candidates. Control plane; read-only."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from routing.decision_store import find_decision
from routing.decision_words import describe_decision
from routing.models import DecisionRecord
from tokenhub.control import display
from tokenhub.control.admin import ReadOnlyAdmin


@admin.register(DecisionRecord)
class DecisionRecordAdmin(ReadOnlyAdmin):
    """Why requests went where they did, newest first."""

    list_display = ("request_link", "when", "asked", "went_to", "policy", "attempts", "result")
    list_display_links = None
    list_filter = ("status",)
    show_full_result_count = False
    search_fields = ("=request_id", "=key_id", "=project", "=policy", "=asked")
    search_help_text = (
        "A request's or a key's ID, a project, a policy such as night@3, or what was asked for, exactly."
    )
    empty_text = "Decisions are kept within seconds of a request's end; above a rate, of some requests only."
    has_trail = False
    own_pages = (("request/<str:request_id>/", "request_page"),)

    @admin.display(description="Request")
    def request_link(self, row: DecisionRecord) -> SafeString:
        url = self.url_for("request_page", row.request_id)
        return format_html(
            '<a class="th-link th-mono" href="{}">{}</a>', url, display.write_short_id(row.request_id)
        )

    @admin.display(description="When", ordering="at")
    def when(self, row: DecisionRecord) -> SafeString | str:
        return display.write_time_tag(row.at)

    @admin.display(description="Went to")
    def went_to(self, row: DecisionRecord) -> SafeString | str:
        return display.two_lines(row.model or display.NOTHING, row.provider)

    @admin.display(description="Status", ordering="status")
    def result(self, row: DecisionRecord) -> SafeString:
        return display.badge(str(row.status), "good" if row.status < 400 else "bad")

    def request_page(self, request: HttpRequest, request_id: str) -> HttpResponse:
        """One decision."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = find_decision(request_id)
        if row is None:
            raise Http404
        may_see_usage = request.user.has_perm("usage.view_usagerecord")
        attempts_url = reverse("admin:usage_usagerecord_request_page", args=(request_id,))
        return self.page(
            request,
            "console/decision_page.html",
            request_id,
            row=row,
            decision=describe_decision(row.document),
            list_url=reverse("admin:routing_decisionrecord_changelist"),
            attempts_url=attempts_url if may_see_usage and row.attempts else "",
        )
