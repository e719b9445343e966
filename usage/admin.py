"""The ledger and the price book as admin pages. Control plane; read-only but for setting a price, which is an action."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet, Sum
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RangeDateTimeFilter, TextFilter

from routing.decision_store import find_decision
from routing.decision_words import describe_decision
from tokenhub.control import display
from tokenhub.control.admin import ReadOnlyAdmin
from usage.models import Price, UsageRecord
from usage.rates import describe_rates

MAX_ATTEMPTS_SHOWN = 200


class ExactText(TextFilter):
    """Filters on the exact value of one column, so that the database may use an index."""

    column = ""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows whose column has this value."""
        value = (self.value() or "").strip()
        return queryset.filter(**{self.column: value}) if value else queryset


def exact(column: str, title: str) -> type[ExactText]:
    """An `ExactText` for one column."""
    members = {"column": column, "title": title, "parameter_name": column}
    return type(f"Exact{column.title().replace('_', '')}", (ExactText,), members)


def between(title: str) -> type[RangeDateTimeFilter]:
    """A filter on a range of times, with a title that says their zone."""

    class Between(RangeDateTimeFilter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.title = f"{title}, {settings.TIME_ZONE}"

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            """The rows between both times, in the zone that the title says; a day alone is meant from its first second to its last.

            Raises IncorrectLookupParameters for what is no time: an unfiltered list would pass for an answer.
            """
            for end, lookup, whole_day in (("from", "gte", "00:00:00"), ("to", "lte", "23:59:59.999999")):
                day, clock = (
                    self.used_parameters.get(f"{self.parameter_name}_{end}_{part}") for part in (0, 1)
                )
                if day:
                    moment = _read_moment(f"{day} {clock or whole_day}")
                    queryset = queryset.filter(**{f"{self.parameter_name}__{lookup}": moment})
            return queryset

    return Between


def _read_moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None:
        raise IncorrectLookupParameters(f"{text} is no time")
    return timezone.make_aware(moment)


def total_up(rows: QuerySet[UsageRecord]) -> dict[str, int]:
    """Totals over all of `rows` in one SQL query: attempts, requests, tokens by direction, nano-dollars, failures."""
    sums = rows.order_by().aggregate(
        unpriced=Count("pk", filter=Q(cost_nanos__isnull=True)),
        failed=Count("pk", filter=Q(outcome="failed")),
        attempts=Count("pk"),
        requests=Count("request_id", distinct=True),
        input_tokens=Sum("input"),
        cached_tokens=Sum("cache_read"),
        output_tokens=Sum("output"),
        reasoning_tokens=Sum("reasoning"),
        cost_nanos=Sum("cost_nanos"),
    )
    # a sum of nothing is NULL, and Postgres sums bigint as numeric
    return {name: int(value or 0) for name, value in sums.items()}


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """Attempts, newest first, with totals over the whole filtered set above them."""

    list_display = (
        "request_link",
        "started",
        "what",
        "who",
        "result",
        "tokens",
        "cost",
        "took",
    )
    list_display_links = None
    list_filter = (
        exact("provider", "provider"),
        exact("model", "model"),
        exact("key_id", "key ID"),
        exact("team", "team"),
        ("outcome", ChoicesDropdownFilter),
        ("started_at", between("start")),
    )
    show_full_result_count = False
    search_fields = ("=request_id", "=attempt_id")
    search_help_text = "A request's or an attempt's ID, exactly."
    empty_text = "The first request shows here within seconds of its end."
    has_trail = False
    list_before_template = "console/usage_totals.html"
    own_pages = (("request/<str:request_id>/", "request_page"),)

    @admin.display(description="Request")
    def request_link(self, row: UsageRecord) -> SafeString:
        url = self.url_for("request_page", row.request_id)
        return format_html(
            '<a class="th-link th-mono" href="{}">{}</a>', url, display.write_short_id(row.request_id)
        )

    @admin.display(description="Started", ordering="started_at")
    def started(self, row: UsageRecord) -> SafeString | str:
        return display.write_time_tag(row.started_at)

    @admin.display(description="Model, provider")
    def what(self, row: UsageRecord) -> SafeString | str:
        return display.two_lines(row.model or row.asked_model or display.NOTHING, row.provider)

    @admin.display(description="Team, key ID")
    def who(self, row: UsageRecord) -> SafeString | str:
        return display.two_lines(row.team or display.NOTHING, row.key_id)

    @admin.display(description="Outcome")
    def result(self, row: UsageRecord) -> SafeString | str:
        outcome = display.badge(row.outcome, display.OUTCOME_TONES.get(row.outcome, "plain"))
        return display.two_lines(outcome, row.error_class)

    @admin.display(description="In / out, tokens")
    def tokens(self, row: UsageRecord) -> str:
        sent = row.input + row.cache_read + row.cache_write_5m + row.cache_write_1h
        return f"{display.write_count(sent)} / {display.write_count(row.output + row.reasoning)}"

    @admin.display(description="Cost, USD")
    def cost(self, row: UsageRecord) -> str:
        return display.write_usd(row.cost_nanos)

    @admin.display(description="Took, first token after", ordering="duration_ms")
    def took(self, row: UsageRecord) -> SafeString | str:
        first = "" if row.first_token_ms is None else display.write_ms(row.first_token_ms)
        return display.two_lines(display.write_ms(row.duration_ms), first)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list; the totals are computed in SQL over what the filters leave, not over the page."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None)
        if context is not None and "cl" in context:
            context["totals"] = total_up(context["cl"].queryset)
        return response

    def request_page(self, request: HttpRequest, request_id: str) -> HttpResponse:
        """Every attempt of one request."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rows = UsageRecord.objects.filter(request_id=request_id).order_by("number", "pk")
        attempts = list(rows[:MAX_ATTEMPTS_SHOWN])
        if not attempts:
            raise Http404
        return self.page(
            request,
            "console/request.html",
            request_id,
            attempts=attempts,
            first=attempts[0],
            totals=total_up(rows),
            decision=self._find_decision(request, request_id),
            list_url=reverse("admin:usage_usagerecord_changelist"),
        )

    def _find_decision(self, request: HttpRequest, request_id: str) -> dict[str, Any] | None:
        """Why it went where it did, for those who may see it; None where that is not kept."""
        if not request.user.has_perm("routing.view_decisionrecord"):
            return None
        row = find_decision(request_id)
        return None if row is None else describe_decision(row.document)


@admin.register(Price)
class PriceAdmin(ReadOnlyAdmin):
    """Every version of every price. A new one is set on its model's page."""

    empty_text = (
        "A price is set on its model's page. Calls without one are counted as unpriced, never as free."
    )
    list_display = ("model", "effective", "rates_text", "source", "created_by", "note")
    list_filter = ("source",)
    list_select_related = ("model__provider",)
    search_fields = ("model__name", "model__provider__name")
    ordering = ("-effective_from", "-id")
    fields = ("model", "effective", "rates_text", "source", "note", "created", "created_by")

    @admin.display(description="In force from", ordering="effective_from")
    def effective(self, row: Price) -> SafeString | str:
        return display.write_time_tag(row.effective_from)

    @admin.display(description="Created")
    def created(self, row: Price) -> SafeString | str:
        return display.write_time_tag(row.created_at)

    @admin.display(description="Rates, USD")
    def rates_text(self, row: Price) -> str:
        return describe_rates(row.rates)
