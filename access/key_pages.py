"""API keys and admin tokens as admin pages. Control plane; a secret is shown once, by what minted it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.debug import sensitive_variables

from access import actions
from access.forms import AdminTokenForm, ApiKeyForm, RotateForm
from access.models import GROUP_PREFIX, AdminToken, ApiKey, ApiKeySecret
from access.owners import refuse_foreign_owner
from providers.models import Model
from signin.recent import ask_again
from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin, action
from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError
from tokenhub.core.specs import SCOPES

MODELS_SHOWN = 3
BOTH_GOOD = "Both secrets are good until the overlap ends; then the old one is refused."
OVERLAPPING = "It has two live secrets already, and is refused a third: end the overlap first."


def live_secrets(key: ApiKey, now: Any) -> list[ApiKeySecret]:
    """The key's live secrets, newest first, out of the rows that are loaded already."""
    rows = [one for one in key.secrets.all() if one.revoked_at is None]
    return [one for one in rows if one.expires_at is None or one.expires_at > now]


def _until(secret: ApiKeySecret) -> str:
    return f"until {display.write_time(secret.expires_at)}" if secret.expires_at else ""


def key_state(key: ApiKey | AdminToken, now: Any) -> tuple[str, str]:
    """A key's or token's state and the tone of its badge."""
    if key.revoked_at is not None:
        return "revoked", "bad"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired", "bad"
    return ("live", "good") if key.is_live(now) else ("disabled", "warn")


class ShownOnce(ModelAdmin):
    """A model whose creation mints a secret: the answer to the form is the page that shows it."""

    @admin.display(description="Scopes")
    def scope_names(self, row: ApiKey | AdminToken) -> str:
        return ", ".join(row.scopes) or "none"

    @admin.display(description="State")
    def state(self, row: ApiKey | AdminToken) -> SafeString:
        return display.badge(*key_state(row, timezone.now()))

    @admin.display(description="Expires", ordering="expires_at")
    def ends(self, row: ApiKey | AdminToken) -> SafeString | str:
        return display.write_time_tag(row.expires_at) if row.expires_at else "never"

    @admin.display(description="Created")
    def created(self, row: ApiKey | AdminToken) -> str:
        return display.write_time(row.created_at)

    def mint(self, request: HttpRequest, data: dict[str, Any]) -> tuple[Any, str]:
        """Calls the action that makes a row out of the form's cleaned data; the row and its secret."""
        raise PermissionDenied

    @sensitive_variables("secret")
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Creating also mints the secret, which goes to the answer only."""
        if change:
            super().save_model(request, obj, form, change)
            return
        row, secret = self.mint(request, dict(form.cleaned_data))
        obj.__dict__.update(row.__dict__)
        request.minted = secret  # type: ignore[attr-defined]

    @sensitive_variables("secret")
    def secret_page(
        self, request: HttpRequest, row: Any, secret: str, *, rotated: bool = False
    ) -> HttpResponse:
        """The page that shows a secret once. Nothing keeps it: not the session, no cache, no URL."""
        response = self.page(
            request,
            "console/secret.html",
            "New secret" if rotated else "Created",
            row=row,
            secret=secret,
            subject=row,
            is_api_key=isinstance(row, ApiKey),
            model=self.example_model(row),
            base_url=request.build_absolute_uri("/v1"),
            admin_url=request.build_absolute_uri("/admin/v1"),
            rotated=rotated,
            back_url=self.url_for("change", row.pk),
        )
        add_never_cache_headers(response)
        return response

    def example_model(self, row: Any) -> str:
        """A name for the ready-made snippets that works with this key; "" if there is none yet."""
        return ""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Creating has one button: what follows is the page with the secret, whichever is pressed."""
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}
        context = {**(one_button if object_id is None else {}), **(extra_context or {})}
        return super().changeform_view(request, object_id, form_url, context)

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Shows the secret in place of going back to the list."""
        return self.secret_page(request, obj, request.minted)  # type: ignore[attr-defined]


@admin.register(ApiKey)
class ApiKeyAdmin(ShownOnce):
    """Keys for /v1. Of a secret only the last four characters are known here."""

    form = ApiKeyForm
    labels = {"expires_at": "Expires"}
    empty_text = "Clients need a key for /v1. Its secret is shown once, with ready-made snippets."
    list_display = (
        "named",
        "state",
        "secrets_text",
        "owner",
        "scope_names",
        "models_text",
        "ends",
    )
    list_filter = ("enabled", "team")
    list_select_related = ("team", "project__team")
    search_fields = ("name", "=key_id", "note")
    actions_detail = ("rotate", "end_overlap", "revoke")
    readonly_fields = ("id_text", "state", "secrets_text", "created", "created_by")
    fieldsets = (
        (None, {"fields": ("name", ("team", "project"), "enabled", "expires_at", "note")}),
        ("What it may do", {"fields": ("scopes", "allowed_models")}),
    )
    known = (("Key", {"fields": (("id_text", "state"), "secrets_text", ("created", "created_by"))}),)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.known, *self.fieldsets) if obj is not None else self.fieldsets

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        secrets = Prefetch("secrets", queryset=ApiKeySecret.objects.defer("digest").order_by("-id"))
        return super().get_queryset(request).prefetch_related(secrets)

    @admin.display(description="Name and ID", ordering="name")
    def named(self, row: ApiKey) -> SafeString | str:
        return display.two_lines(row.name, format_html('<span class="th-mono">{}</span>', row.key_id))

    @admin.display(description="Key ID")
    def id_text(self, row: ApiKey) -> str:
        return row.key_id

    @admin.display(description="Team, project", ordering="team__name")
    def owner(self, row: ApiKey) -> SafeString | str:
        if row.team is None:
            return display.NOTHING
        return display.two_lines(row.team.name, row.project.name if row.project else "")

    @admin.display(description="Live secrets")
    def secrets_text(self, row: ApiKey) -> SafeString:
        shown = [
            (display.two_lines(f"…{one.last4}", _until(one)),) for one in live_secrets(row, timezone.now())
        ]
        return format_html_join(mark_safe("<br>"), '<span class="th-nowrap">{}</span>', shown or [("none",)])

    @admin.display(description="Models")
    def models_text(self, row: ApiKey) -> str:
        if row.allowed_models is None:
            return "every model"
        first, rest = row.allowed_models[:MODELS_SHOWN], len(row.allowed_models[MODELS_SHOWN:])
        return (", ".join(first) or "none") + (f" and {rest} more" if rest else "")

    @admin.display(description="Scopes")
    def scope_names(self, row: ApiKey | AdminToken) -> str:
        return "all" if set(SCOPES) <= set(row.scopes) else super().scope_names(row)

    def mint(self, request: HttpRequest, data: dict[str, Any]) -> tuple[ApiKey, str]:
        return actions.create_api_key(actor_of(request), **data)

    def do_update(self, actor: Actor, row: ApiKey, changes: dict[str, Any]) -> None:
        actions.update_api_key(actor, row, **changes)

    def do_delete(self, actor: Actor, row: ApiKey) -> None:
        actions.delete_api_key(actor, row)

    def example_model(self, row: ApiKey) -> str:
        usable = Model.objects.filter(enabled=True, provider__enabled=True).order_by("pk")
        if row.allowed_models is not None:
            first: str = row.allowed_models[0] if row.allowed_models else ""
            if not first.startswith(GROUP_PREFIX):
                return first
            usable = usable.filter(groups__name=first.removeprefix(GROUP_PREFIX))
        return usable.values_list("name", flat=True).first() or ""

    def consequences(self, row: ApiKey) -> list[str]:
        return ["Its usage stays in the ledger, under its ID."]

    def blockers(self, row: ApiKey) -> list[str]:
        if key_state(row, timezone.now())[0] in ("revoked", "expired"):
            return []
        return ["Deletion is refused while the key is neither revoked nor expired. Revoke it first."]

    @action(description="Rotate", icon="autorenew", permissions=["change"])
    @sensitive_variables("secret")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Makes a second secret; the first stays good for the overlap that is chosen."""
        row = self.found(request, object_id)
        form = RotateForm(request.POST if request.method == "POST" else None)
        overlapping = len(live_secrets(row, timezone.now())) > 1
        if request.method == "POST" and form.is_valid():
            overlap = timedelta(seconds=form.cleaned_data["overlap_seconds"])
            try:
                secret = actions.rotate_api_key(actor_of(request), row, overlap=overlap)
            except TokenhubError as refused:
                form.add_error(None, display.write_refusal(refused.message, refused.hint))
            else:
                return self.secret_page(request, row, secret, rotated=True)
        return self.page(
            request,
            "console/confirm.html",
            "Rotate",
            question=f"Make a new secret for {row.name}?",
            consequences=[] if form.errors else [OVERLAPPING if overlapping else BOTH_GOOD],
            form=form,
            button="Rotate",
            danger=overlapping,
            subject=row,
            back_url=self.url_for("change", row.pk),
        )

    @action(description="End overlap", url_path="end-overlap", icon="timer_off", permissions=["change"])
    def end_overlap(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ends the older secret of a rotated key at once."""
        row = self.found(request, object_id)
        old = [f"…{one.last4}" for one in live_secrets(row, timezone.now())[1:]]
        if not old:
            messages.info(request, f"{row.name} has one live secret: there is no overlap to end.")
            return HttpResponseRedirect(self.url_for("change", row.pk))

        def write() -> str:
            actions.end_overlap(actor_of(request), row)
            return f"{row.name}: {', '.join(old)} ended."

        breaks = [f"Clients that still send the secret {', '.join(old)} are refused within seconds."]
        return self.confirmed(
            request,
            row,
            title="End overlap",
            question=f"End the overlap of {row.name}?",
            button="End it",
            breaks=breaks,
            write=write,
        )

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revokes the key for good."""
        row = self.found(request, object_id)

        def write() -> str:
            actions.revoke_api_key(actor_of(request), row)
            return f"{row.name} is revoked."

        breaks = ["Every client with this key is refused within seconds.", "This can't be undone."]
        return self.confirmed(
            request,
            row,
            title="Revoke",
            question=f"Revoke {row.name}?",
            button="Revoke it",
            breaks=breaks,
            write=write,
        )


@admin.register(AdminToken)
class AdminTokenAdmin(ShownOnce):
    """Tokens for the admin API: a user's, with that user's permissions, or a service's."""

    form = AdminTokenForm
    labels = {"expires_at": "Expires"}
    empty_text = "Scripts need a token for /admin/v1. Its secret is shown once."
    list_display = (
        "named",
        "state",
        "secret_end",
        "owner_text",
        "scope_names",
        "ends",
        "created_by",
    )
    list_select_related = ("user",)
    search_fields = ("name", "=key_id", "service", "user__username")
    actions_detail = ("revoke",)
    fields = ("name", "user", "service", "scopes", "expires_at")
    shown = (
        "name",
        "id_text",
        "secret_end",
        "owner_text",
        "scope_names",
        "state",
        "ends",
        "created",
        "created_by",
    )

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """A new token outlives the session that makes it: who makes one confirms first that it is he."""
        again = ask_again(request) if object_id is None and self.has_add_permission(request) else None
        return again or super().changeform_view(request, object_id, form_url, extra_context)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A token is never changed: it is revoked, and another one made."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Revoked ones stay, so that the audit trail's names mean something."""
        return False

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Revoking needs the model's change permission."""
        return request.user.has_perm("access.change_admintoken")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.shown if obj is not None else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.shown if obj is not None else ()

    @admin.display(description="Name and ID", ordering="name")
    def named(self, row: AdminToken) -> SafeString | str:
        return display.two_lines(row.name, format_html('<span class="th-mono">{}</span>', row.key_id))

    @admin.display(description="Token ID")
    def id_text(self, row: AdminToken) -> str:
        return row.key_id

    @admin.display(description="Secret")
    def secret_end(self, row: AdminToken) -> str:
        return f"…{row.last4}"

    @admin.display(description="Owner")
    def owner_text(self, row: AdminToken) -> str:
        return f"{row.owner} ({'user' if row.user_id else 'service'})"

    def mint(self, request: HttpRequest, data: dict[str, Any]) -> tuple[AdminToken, str]:
        refuse_foreign_owner(request.user, data["user"])
        return actions.create_admin_token(actor_of(request), **data)

    @action(description="Revoke", icon="block", permissions=["revoke"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revokes the token for good."""
        row = self.found(request, object_id)
        try:
            refuse_foreign_owner(request.user, row.user)
        except TokenhubError as refused:
            raise PermissionDenied(refused.message) from refused

        def write() -> str:
            actions.revoke_admin_token(actor_of(request), row)
            return f"{row.name} is revoked."

        breaks = ["Every tool with this token gets 401 at once.", "This can't be undone."]
        return self.confirmed(
            request,
            row,
            title="Revoke",
            question=f"Revoke {row.name}?",
            button="Revoke it",
            breaks=breaks,
            write=write,
        )
