"""Credentials and the audit trail as admin pages. Control plane; a key is entered to be sealed, and never shown."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin, ReadOnlyAdmin, action
from tokenhub.control.callers import actor_of
from usage.admin import between, exact
from vault import actions
from vault.export import export
from vault.loss_pages import AsksBeforeLoss
from vault.models import AuditEntry, Credential
from vault.opened import opened_vault
from vault.secret_pages import SealedKeyPages, describe_others
from vault.trail import find_head, verify

VERIFY_SECONDS = 3.0
"""How long a page verifies before it asks whether to go on."""


@admin.register(Credential)
class CredentialAdmin(AsksBeforeLoss, SealedKeyPages, ModelAdmin):
    """Where secrets are found: a reference, or sealed in the vault by pages of their own (`vault.secret_pages`)."""

    empty_text = (
        "A credential says where a provider's key is found: in a variable, a file, or sealed in the vault."
    )
    list_display = ("name", "provider_name", "source", "reference", "weight", "version", "enabled")
    list_filter = ("source", "enabled", "provider")
    list_select_related = ("provider",)
    search_fields = ("name", "provider__name", "reference")
    readonly_fields = ("version", "sealed_text")
    fields = ("provider", "name", "source", "reference", "weight", "enabled", "version")
    actions_detail = ("seal_page", "forget_page", "renew")
    sealed_by = "credential"

    def provider_id_of(self, row: Credential) -> int | None:
        return None if row.pk is None else row.provider_id

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        sealed = obj is not None and obj.source == Credential.Source.VAULT
        return (*self.fields, "sealed_text") if sealed else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "provider") if obj is not None else self.readonly_fields

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """A credential that is to be sealed leads on to where its key is entered."""
        if obj.source == Credential.Source.VAULT and self.has_seal_permission(request):
            messages.success(request, f"{obj.name} is added. Enter its key now.")
            return HttpResponseRedirect(self.url_for("seal_page", obj.pk))
        return super().response_add(request, obj, post_url_continue)

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
        stays = (
            "What is sealed for it is deleted, and can't be brought back."
            if row.source == Credential.Source.VAULT
            else "The secret itself stays where it is."
        )
        return [f"{describe_others(row)} {stays}"]

    def blockers(self, row: Credential) -> list[str]:
        locked = opened_vault.find() is None and row.sealed_secrets.exists()
        return ["Deletion is refused while the vault is locked: unlock it first."] if locked else []

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

    list_display = ("number", "when", "who", "action", "what")
    list_display_links = ("number",)
    list_filter = (
        exact("action", "action"),
        exact("actor", "actor"),
        ("actor_kind", ChoicesDropdownFilter),
        exact("address", "address"),
        exact("object_type", "object type"),
        exact("object_id", "object ID"),
        ("at", between("time")),
    )
    search_fields = ("object_label", "actor")
    search_help_text = "A part of an object's or an actor's name."
    show_full_result_count = False
    empty_text = "Every change of the configuration is written down here."
    has_trail = False
    change_form_template = "console/audit_entry.html"
    list_before_template = "console/audit_state.html"
    own_pages = (
        ("verify/", "verify_page"),
        ("export/csv/", "export_csv"),
        ("export/jsonl/", "export_jsonl"),
    )

    @admin.display(description="Entry", ordering="seq")
    def number(self, row: AuditEntry) -> str:
        return display.write_count(row.seq)

    @admin.display(description="When", ordering="seq")
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

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, with the end of the trail and the ways to check it and to take it out."""
        context = {
            "head": find_head(),
            "verify_url": self.url_for("verify_page"),
            "may_export": self.has_export_permission(request),
            "export_urls": [
                {"name": name, "url": f"{self.url_for(page)}?{request.GET.urlencode()}"}
                for name, page in (("CSV", "export_csv"), ("JSON lines", "export_jsonl"))
            ],
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Who may see the trail and carry it away."""
        return self.has_view_permission(request) and request.user.has_perm("vault.export_auditentry")

    def verify_page(self, request: HttpRequest) -> HttpResponse:
        """Asks; on POST walks along the chain from entry `from` for a few seconds, and says what it found."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        outcome = None
        if request.method == "POST":
            start = request.POST.get("from", "1")
            outcome = verify(
                start=int(start) if start.isdecimal() and len(start) < 19 else 1, seconds=VERIFY_SECONDS
            )
        return self.page(
            request,
            "console/audit_verify.html",
            "Verify",
            outcome=outcome,
            head=find_head(),
            next=None if outcome is None else outcome.last + 1,
            back_url=self.url_for("changelist"),
        )

    def export_csv(self, request: HttpRequest) -> HttpResponseBase:
        """The filtered list as CSV, oldest first."""
        return self._export(request, "csv")

    def export_jsonl(self, request: HttpRequest) -> HttpResponseBase:
        """The filtered list as JSON lines, oldest first."""
        return self._export(request, "jsonl")

    def _export(self, request: HttpRequest, form: str) -> HttpResponseBase:
        if not self.has_export_permission(request):
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(self.url_for("changelist"))
        return export(request, rows, form)

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
