"""Credential references and the audit trail as admin pages. Control plane; no secret is ever shown or entered here."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin, ReadOnlyAdmin, action
from tokenhub.control.callers import actor_of
from usage.admin import between, exact
from vault import actions
from vault.models import AuditEntry, Credential


@admin.register(Credential)
class CredentialAdmin(ModelAdmin):
    """Where secrets are found. Entering a secret itself is refused by its form."""

    empty_text = (
        "A credential says where a provider's secret is found; the secret itself is never entered here."
    )
    list_display = ("name", "provider_name", "source", "reference", "weight", "version", "enabled")
    list_filter = ("source", "enabled", "provider")
    list_select_related = ("provider",)
    search_fields = ("name", "provider__name", "reference")
    readonly_fields = ("version",)
    fields = ("provider", "name", "source", "reference", "weight", "enabled", "version")
    actions_detail = ("renew",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "provider") if obj is not None else self.readonly_fields

    @admin.display(description="Provider", ordering="provider__name")
    def provider_name(self, row: Credential) -> str:
        return row.provider.name

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Credential:
        return actions.create_credential(actor, **data)

    def do_update(self, actor: Actor, row: Credential, changes: dict[str, Any]) -> None:
        actions.update_credential(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Credential) -> None:
        actions.delete_credential(actor, row)

    def consequences(self, row: Credential) -> list[str]:
        others = row.provider.credentials.filter(enabled=True).exclude(pk=row.pk).count()
        left = (
            display.write_number_of(others, "enabled credential is left", "enabled credentials are left")
            if others
            else "no enabled credential is left"
        )
        return [
            f"Requests to {row.provider} stop using it within seconds; {left}. The secret itself stays where it is."
        ]

    @action(description="Secret was replaced", icon="autorenew", permissions=["change"])
    def renew(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Counts the version up, after a question: the health of the credential starts afresh."""
        row = self.found(request, object_id)
        if request.method == "POST":
            actions.renew_credential(actor_of(request), row)
            messages.success(request, f"{row.name} is now version {row.version}.")
            return HttpResponseRedirect(self.url_for("change", row.pk))
        return self.page(
            request,
            "console/confirm.html",
            "Secret was replaced",
            subject=row,
            question="Was the secret behind this reference replaced?",
            consequences=[f"{row.name} becomes version {row.version + 1}, and its health starts afresh."],
            button="Yes, it was replaced",
            back_url=self.url_for("change", row.pk),
        )


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who changed what, when, from where; with what was before and after."""

    list_display = ("when", "who", "action", "what")
    list_display_links = ("when",)
    list_filter = (
        exact("action", "action"),
        exact("actor", "actor"),
        ("actor_kind", ChoicesDropdownFilter),
        exact("object_type", "object type"),
        exact("object_id", "object ID"),
        ("at", between("time")),
    )
    search_fields = ("object_label", "actor")
    empty_text = "Every change of the configuration is written down here."
    has_trail = False
    change_form_template = "console/audit_entry.html"

    @admin.display(description="When", ordering="id")
    def when(self, row: AuditEntry) -> SafeString | str:
        return display.write_time_tag(row.at)

    @admin.display(description="Who, from where", ordering="actor")
    def who(self, row: AuditEntry) -> SafeString | str:
        return display.two_lines(
            row.actor, " from ".join(part for part in (row.get_actor_kind_display(), row.address) if part)
        )

    @admin.display(description="Object", ordering="object_label")
    def what(self, row: AuditEntry) -> SafeString | str:
        return display.two_lines(row.object_label, f"{row.object_type} {row.object_id}")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Adds the difference, field by field."""
        row = kwargs.get("obj") or (args[3] if len(args) > 3 else None)
        if row is not None:
            context.update(entry=row, differences=list_differences(row), object_url=find_page(row))
        return super().render_change_form(request, context, *args, **kwargs)


def find_page(entry: AuditEntry) -> str:
    """The URL of the page of what was changed; "" where there is none (any more)."""
    try:
        model = apps.get_model(entry.object_type)
        if not model.objects.filter(pk=entry.object_id).exists():
            return ""
        return reverse(
            f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=(entry.object_id,)
        )
    except (LookupError, ValueError, NoReverseMatch):
        return ""


def list_differences(entry: AuditEntry) -> list[dict[str, Any]]:
    """`{name, before, after, changed}` for every field of either side, changed ones first."""
    before, after = entry.before or {}, entry.after or {}
    rows = [
        {
            "name": name,
            "before": before.get(name),
            "after": after.get(name),
            "had": name in before,
            "has": name in after,
            "changed": before.get(name) != after.get(name) or (name in before) != (name in after),
        }
        for name in sorted({*before, *after})
    ]
    return sorted(rows, key=lambda row: not row["changed"])
