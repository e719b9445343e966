"""Failed sign-ins as an admin page, where owners let people in again. Control plane."""

from __future__ import annotations

from typing import Any

from axes.models import AccessAttempt
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from signin import actions
from signin.limits import ACCOUNT_LIMIT, ADDRESS_LIMIT, ADMIN_TOKENS, PAIR_LIMIT, TOKEN_LIMIT, WINDOW
from tokenhub.control import display
from tokenhub.control.admin import ReadOnlyAdmin
from tokenhub.control.callers import actor_of


def _sum(rows: QuerySet[AccessAttempt], *same: str) -> Subquery:
    """The failures of all rows that are the same in these columns, within the list's one query."""
    alike = rows.filter(**{name: OuterRef(name) for name in same}).order_by().values(*same)
    return Subquery(alike.annotate(total=Sum("failures_since_start")).values("total"))


@admin.register(AccessAttempt)
class FailedSignInPages(ReadOnlyAdmin):
    """Failures that count at the moment: a row is one account at one address with one browser."""

    list_display = ("account", "address", "failures", "last", "state")
    list_display_links = None
    search_fields = ("=username", "=ip_address")
    ordering = ("-attempt_time",)
    fields = ("account", "address", "failures", "last", "state")
    readonly_fields = fields
    actions = ("let_in",)
    empty_text = "Nobody has failed to sign in within the last 15 minutes."
    has_trail = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessAttempt]:
        """Those within the window; older ones go with the next attempt."""
        since = timezone.now() - WINDOW
        counted = AccessAttempt.objects.filter(attempt_time__gt=since)
        people = counted.exclude(username=ADMIN_TOKENS)
        sums = {
            "pair_failures": _sum(counted, "username", "ip_address"),
            "address_failures": _sum(people, "ip_address"),
            "account_failures": _sum(people, "username"),
        }
        rows: QuerySet[AccessAttempt] = super().get_queryset(request)
        return rows.filter(attempt_time__gt=since).defer("get_data", "post_data").annotate(**sums)

    @admin.display(description="Account", ordering="username")
    def account(self, row: AccessAttempt) -> str:
        return row.username or "none given"

    @admin.display(description="Address or /64 network", ordering="ip_address")
    def address(self, row: AccessAttempt) -> str:
        return row.ip_address or "none"

    @admin.display(description="Failures", ordering="failures_since_start")
    def failures(self, row: AccessAttempt) -> str:
        return display.write_count(row.failures_since_start)

    @admin.display(description="Last failure", ordering="attempt_time")
    def last(self, row: AccessAttempt) -> SafeString | str:
        return display.write_time_tag(row.attempt_time)

    @admin.display(description="State")
    def state(self, row: Any) -> SafeString:
        tokens = row.username == ADMIN_TOKENS
        limits = (
            ("locked: here", row.pair_failures, TOKEN_LIMIT if tokens else PAIR_LIMIT),
            ("locked: all accounts here", 0 if tokens else row.address_failures, ADDRESS_LIMIT),
            ("locked: from new addresses", row.account_failures, ACCOUNT_LIMIT),
        )
        for text, failures, limit in limits:
            if (failures or 0) >= limit:
                return display.badge(text, "bad")
        return display.badge("may try", "good")

    def has_let_in_permission(self, request: HttpRequest) -> bool:
        """Superusers: who could let himself in again would have no limit."""
        return bool(request.user.is_superuser)

    @admin.action(description="Let in again", permissions=["let_in"])
    def let_in(self, request: HttpRequest, queryset: Any) -> None:
        """Forgets the chosen failures."""
        forgotten = actions.unlock(actor_of(request), queryset)
        messages.success(
            request, f"{display.write_number_of(forgotten, 'failure')} forgotten: they may sign in again."
        )
