"""Providers, their endpoints and credentials, and their models as admin pages. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from providers import actions
from providers.discovery import DISCOVERY_PERMISSIONS, apply_discovery
from providers.forms import ModelForm, PriceForm, ProviderForm
from providers.models import Endpoint, Model, Provider
from providers.probe import ask, check_connection
from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import Inline, ModelAdmin, action
from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError
from usage.actions import set_price
from usage.models import Price
from usage.rates import describe_rates, describe_rates_short, usd_amounts
from vault import actions as credential_actions
from vault.loss_pages import AsksBeforeLoss
from vault.models import Credential, SealedSecret


def _rows_of(model: Any) -> Subquery:
    """How many rows of `model` belong to a provider, as one subquery: joins would multiply each other."""
    rows = model.objects.filter(provider=OuterRef("pk")).order_by().values("provider")
    return Subquery(rows.annotate(rows=Count("pk")).values("rows"))


class EndpointInline(Inline):
    """Where the provider is reached."""

    model = Endpoint
    labels = {"url": "URL"}
    fields = ("url", "weight", "enabled", "draining")

    def do_create(self, actor: Actor, row: Endpoint) -> None:
        fields = {name: getattr(row, name) for name in actions.ENDPOINT_FIELDS}
        actions.create_endpoint(actor, provider=row.provider, **fields)

    def do_update(self, actor: Actor, row: Endpoint, changes: dict[str, Any]) -> None:
        actions.update_endpoint(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Endpoint) -> None:
        actions.delete_endpoint(actor, row)


class CredentialInline(Inline):
    """References to the provider's secrets."""

    model = Credential
    fields = ("name", "source", "reference", "weight", "enabled")

    def do_create(self, actor: Actor, row: Credential) -> None:
        fields = {name: getattr(row, name) for name in credential_actions.CREDENTIAL_FIELDS}
        credential_actions.create_credential(actor, provider=row.provider, **fields)

    def do_update(self, actor: Actor, row: Credential, changes: dict[str, Any]) -> None:
        credential_actions.update_credential(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Credential) -> None:
        credential_actions.delete_credential(actor, row)


@admin.register(Provider)
class ProviderAdmin(AsksBeforeLoss, ModelAdmin):
    """Providers with their endpoints and credentials in one form."""

    form = ProviderForm
    goes_with = (Price,)
    inlines = (EndpointInline, CredentialInline)
    list_display = ("name", "label", "kind", "state", "endpoint_count", "model_count", "credential_count")
    list_filter = ("kind", "enabled", "draining")
    search_fields = ("name", "label")
    sealed_by = "credential__provider"
    empty_text = "A provider serves models: a vendor, or a server of your own."
    labels = {
        "connect_timeout": "Connect timeout, seconds",
        "first_event_timeout": "First event timeout, seconds",
        "between_events_timeout": "Between events timeout, seconds",
        "total_timeout": "Total timeout, seconds",
        "heartbeat_seconds": "Heartbeat, seconds",
        "on_disconnect": "When the client goes away",
        "profile": "Profile, JSON",
        "headers": "Headers, JSON",
        "retention_days": "Retention, days",
    }
    actions_detail = ("models_page", "discover_page", "test_page")
    fieldsets = (
        (None, {"fields": (("name", "label"), "kind", ("enabled", "draining"), "notes")}),
        (
            "Timeouts",
            {
                "fields": (
                    ("connect_timeout", "first_event_timeout"),
                    ("between_events_timeout", "total_timeout"),
                    ("heartbeat_seconds", "on_disconnect"),
                )
            },
        ),
        ("What becomes of the data", {"fields": (("region", "retention_days"),)}),
        ("Wire format", {"fields": ("profile", "headers")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        counts = {"endpoint_rows": Endpoint, "model_rows": Model, "credential_rows": Credential}
        return (
            super()
            .get_queryset(request)
            .annotate(**{name: _rows_of(model) for name, model in counts.items()})
        )

    @admin.display(description="State")
    def state(self, row: Provider) -> SafeString:
        if not row.enabled:
            return display.badge("disabled", "bad")
        return display.badge("draining", "warn") if row.draining else display.badge("enabled", "good")

    @admin.display(description="Endpoints")
    def endpoint_count(self, row: Any) -> str:
        return display.write_count(row.endpoint_rows or 0)

    @admin.display(description="Models")
    def model_count(self, row: Any) -> SafeString:
        url = f"{_models_url(self)}?provider__id__exact={row.pk}"
        return format_html(
            '<a class="th-link" href="{}">{}</a>', url, display.write_count(row.model_rows or 0)
        )

    @admin.display(description="Credentials")
    def credential_count(self, row: Any) -> str:
        return display.write_count(row.credential_rows or 0)

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Provider:
        return actions.create_provider(actor, **data)

    def do_update(self, actor: Actor, row: Provider, changes: dict[str, Any]) -> None:
        actions.update_provider(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Provider) -> None:
        actions.delete_provider(actor, row)

    def consequences(self, row: Provider) -> list[str]:
        return describe_deletion(row)

    def blockers(self, row: Provider) -> list[str]:
        targets = row.models.filter(alias_targets__isnull=False)
        aliases = sorted(set(targets.values_list("alias_targets__alias__name", flat=True)))
        return _refused_by(aliases, "its models")

    @action(description="Models", url_path="models", icon="neurology", permissions=["view"])
    def models_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The list of this provider's models."""
        return HttpResponseRedirect(
            f"{_models_url(self)}?provider__id__exact={self.found(request, object_id).pk}"
        )

    @action(description="Test connection", url_path="test", icon="network_check", permissions=["change"])
    def test_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks the provider for its models, on POST, and says how that went."""
        provider = self.found(request, object_id)
        report = check_connection(provider) if request.method == "POST" else None
        return self.page(
            request,
            "console/connection.html",
            "Test connection",
            subject=provider,
            provider=provider,
            endpoints=provider.endpoints.all(),
            credentials=provider.credentials.all(),
            report=report,
            discover_url=self.url_for("discover_page", provider.pk),
            back_url=self.url_for("change", provider.pk),
        )

    @action(
        description="Discover models", url_path="discover", icon="travel_explore", permissions=["discover"]
    )
    def discover_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What the provider has against what is configured; on POST with `apply`, the chosen ones are taken over."""
        provider = self.found(request, object_id)
        diff, failure = None, None
        if request.method == "POST":
            try:
                diff = ask(provider)
                if "apply" in request.POST:
                    number = apply_discovery(actor_of(request), diff, request.POST.getlist("chosen"))
                    taken = display.write_number_of(number, "model", "models")
                    messages.success(
                        request, f"{taken} of {provider} {'was' if number == 1 else 'were'} taken over."
                    )
                    return HttpResponseRedirect(f"{_models_url(self)}?provider__id__exact={provider.pk}")
            except TokenhubError as refused:
                failure = refused
        return self.page(
            request,
            "console/discovery.html",
            "Discover models",
            subject=provider,
            provider=provider,
            diff=diff,
            failure=failure,
            back_url=self.url_for("change", provider.pk),
        )

    def has_discover_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As in the API."""
        return request.user.has_perms(DISCOVERY_PERMISSIONS)


def _models_url(site_admin: ModelAdmin) -> str:
    return site_admin.admin_site._registry[Model].url_for("changelist")  # type: ignore[attr-defined, no-any-return]


def describe_deletion(provider: Provider) -> list[str]:
    """What deleting a provider breaks, one sentence each."""
    models = list(provider.models.order_by("name").values_list("name", flat=True)[:101])
    sentences = []
    if models:
        more = " and more" if len(models) > 100 else ""
        number = display.write_number_of(len(models[:100]), "model")
        sentences.append(f"Callers lose {number}{more}: {', '.join(models[:100])}.")
    credentials = provider.credentials.count()
    if credentials:
        sentences.append(
            f"Credential references that go with it: {credentials}. The secrets behind them stay where they are."
        )
    sealed = (
        SealedSecret.objects.filter(credential__provider=provider)
        .order_by()
        .values("credential")
        .distinct()
        .count()
    )
    if sealed:
        keys = display.write_number_of(sealed, "key that is", "keys that are")
        sentences.append(f"{keys} sealed in the vault for it would be deleted, and can't be brought back.")
    return sentences


def _refused_by(aliases: list[str], used: str) -> list[str]:
    return [f"Deletion is refused while these aliases use {used}: {', '.join(aliases)}."] if aliases else []


@admin.register(Model)
class ModelPages(ModelAdmin):
    """Models with the price in force. A new price is a new version: entered on its own page, never edited."""

    form = ModelForm
    goes_with = (Price,)
    empty_text = "Add one by hand, or let a provider's page discover what it offers."
    labels = {
        "weight": "Weight (capability)",
        "expected_latency_ms": "Expected latency, ms",
        "context_tokens": "Context, tokens",
        "max_output_tokens": "Longest answer, tokens",
    }
    list_display = (
        "name",
        "provider_name",
        "upstream_name",
        "short_price",
        "context",
        "weight",
        "priority",
        "enabled",
    )
    list_filter = ("provider", "enabled")
    list_select_related = ("provider",)
    search_fields = ("name", "upstream_name", "provider__name")
    actions_detail = ("price_page",)
    readonly_fields = ("price",)
    fieldsets = (
        (None, {"fields": ("provider", ("name", "upstream_name"), "enabled", "price")}),
        ("Choosing among models", {"fields": (("weight", "priority"), "expected_latency_ms")}),
        ("What it can do", {"fields": (("context_tokens", "max_output_tokens"), "capabilities")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        newest = Price.objects.filter(model=OuterRef("pk"), effective_from__lte=Now())
        rates = newest.order_by("-effective_from", "-pk").values("rates")[:1]
        return super().get_queryset(request).annotate(current_rates=Subquery(rates))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "provider") if obj is not None else self.readonly_fields

    @admin.display(description="Provider", ordering="provider__name")
    def provider_name(self, row: Model) -> str:
        return row.provider.name

    @admin.display(description="Price in force")
    def price(self, row: Any) -> str:
        return describe_rates(getattr(row, "current_rates", None))

    @admin.display(description="Context, tokens", ordering="context_tokens")
    def context(self, row: Model) -> str:
        return display.write_count(row.context_tokens or None)

    @admin.display(description="Input / output, USD per million tokens")
    def short_price(self, row: Any) -> str:
        return describe_rates_short(row.current_rates)

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Model:
        return actions.create_model(actor, **data)

    def do_update(self, actor: Actor, row: Model, changes: dict[str, Any]) -> None:
        actions.update_model(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Model) -> None:
        actions.delete_model(actor, row)

    def consequences(self, row: Model) -> list[str]:
        return [
            f"Callers that ask {row.provider.name} for {row.name} get 404 afterwards. Its prices go with it."
        ]

    def blockers(self, row: Model) -> list[str]:
        return _refused_by(sorted(row.alias_targets.values_list("alias__name", flat=True)), "it")

    def has_price_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Prices have permissions of their own: who may change a model need not be who sets its price. The page shows both."""
        return request.user.has_perms(("usage.view_price", "usage.add_price"))

    @action(description="Set price", url_path="price", icon="sell", permissions=["price"])
    def price_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The model's prices so far, and the form for the next."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        model = self.found(request, object_id)
        prices = list(Price.objects.filter(model=model)[:50])
        form = PriceForm(
            request.POST if request.method == "POST" else None,
            initial=usd_amounts(prices[0].rates if prices else {}),
        )
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                set_price(
                    actor=actor_of(request),
                    model=model,
                    rates=data["rates"],
                    effective_from=data["effective_from"],
                    note=data["note"],
                )
            except TokenhubError as refused:
                form.add_error(None, display.write_refusal(refused.message, refused.hint))
            else:
                messages.success(request, f"{model.name} has a new price: {describe_rates(data['rates'])}.")
                return HttpResponseRedirect(self.url_for("change", model.pk))
        return self.page(
            request,
            "console/price.html",
            "Set price",
            subject=model,
            model=model,
            form=form,
            prices=[(price, describe_rates(price.rates)) for price in prices],
            back_url=self.url_for("change", model.pk),
        )
