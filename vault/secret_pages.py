"""Entering, replacing and deleting the sealed key of a credential, on the credential's own pages. Control plane; write-only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from signin.recent import recently_confirmed
from tokenhub.control import display
from tokenhub.control.admin import action
from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError
from vault import sealing
from vault.actions import NO_OVERLAP, update_credential
from vault.models import Credential, SealedSecret
from vault.page_forms import SealForm
from vault.page_frame import find_obstacle
from vault.reach import read_reach

OVERLAP_MINUTES = 10
typed = method_decorator([sensitive_post_parameters(), sensitive_variables()])


def list_sealed(row: Credential) -> list[SealedSecret]:
    """What is sealed for a credential, newest first, without the records."""
    return list(row.sealed_secrets.defer("record").order_by("-version", "origin"))


class SealedKeyPages:
    """The pages of a credential's sealed key; a part of its admin class."""

    @admin.display(description="Sealed keys")
    def sealed_text(self, row: Credential) -> SafeString | str:
        """Each with its address, its end and fingerprint, and until when it is good; and where there is none."""
        if row.pk is None or row.source != Credential.Source.VAULT:
            return display.NOTHING
        lines = [(self._describe(one),) for one in list_sealed(row)]
        missing = sorted(read_reach(row.provider_id)[row.pk].barred)
        lines += [(format_html("{} {}", display.badge("not entered", "bad"), origin),) for origin in missing]
        none = [(format_html("{} Use “Enter key” above.", display.badge("none yet", "warn")),)]
        return format_html(
            '<ul class="th-sealed">{}</ul>', format_html_join("", "<li>{}</li>", lines or none)
        )

    @staticmethod
    def _describe(one: SealedSecret) -> SafeString:
        shown = f"ends in …{one.last4}" if one.last4 else "too short to show its end"
        until = f"replaced, good until {display.write_time(one.good_until)}" if one.good_until else "in use"
        facts = f"version {one.version}, {shown}, fingerprint {one.fingerprint}, entered {display.write_time(one.created_at)}"
        tone = "plain" if one.good_until else "good"
        return format_html(
            '{} <span class="th-strong">{}</span><br><span class="th-help">{}</span>',
            display.badge(until, tone),
            one.origin,
            facts,
        )

    def has_seal_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Who may change the credential."""
        return request.user.has_perm("vault.change_credential")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offers to delete a key where one is sealed, and to note that one was replaced where it lies elsewhere."""
        offered = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        row = Credential.objects.filter(pk=object_id).first()
        is_sealed = row is not None and row.source == Credential.Source.VAULT
        pointless = {"renew"} if is_sealed else set()
        if row is None or not row.sealed_secrets.exists():
            pointless.add("forget_page")
        return [one for one in offered if one.action_name.removeprefix("vault_credential_") not in pointless]

    @action(description="Enter key", url_path="seal", icon="lock", permissions=["seal"])
    @recently_confirmed
    @typed
    def seal_page(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Takes a provider's key, bound to where the provider is now."""
        row = self.found(request, object_id)  # type: ignore[attr-defined]
        if (obstacle := find_obstacle(request, "open")) is not None:
            return obstacle
        sealed = list_sealed(row)
        form = SealForm(
            request.POST if request.method == "POST" else None,
            replaces=bool(sealed),
            initial={"overlap_minutes": OVERLAP_MINUTES},
        )
        if request.method == "POST" and form.is_valid():
            overlap = timedelta(minutes=form.cleaned_data.get("overlap_minutes") or 0)
            try:
                update_credential(
                    actor_of(request), row, secret=form.cleaned_data["secret"], overlap=overlap or NO_OVERLAP
                )
            except TokenhubError as refused:
                form.refuse(refused)
            else:
                messages.success(request, f"The key of {row.name} is sealed; workers use it within seconds.")
                return HttpResponseRedirect(self.url_for("change", row.pk))  # type: ignore[attr-defined]
        return self._seal_form(request, row, form, sealed)

    def _seal_form(
        self, request: HttpRequest, row: Credential, form: SealForm, sealed: list[SealedSecret]
    ) -> HttpResponse:
        try:
            origins, problem = sealing.list_origins(row.provider), ""
        except TokenhubError as refused:
            origins, problem = [], display.write_refusal(refused.message, refused.hint)
        provider: Any = row.provider
        answer: HttpResponse = self.page(  # type: ignore[attr-defined]
            request,
            "vault/seal.html",
            "Replace key" if sealed else "Enter key",
            subject=row,
            row=row,
            form=form,
            sealed=sealed,
            origins=origins,
            problem=problem,
            header=sealing.auth_header_of(provider),
            provider_url=reverse("admin:providers_provider_change", args=[provider.pk]),
            back_url=self.url_for("change", row.pk),  # type: ignore[attr-defined]
        )
        return answer

    @action(description="Delete key", url_path="delete-key", icon="lock_reset", permissions=["seal"])
    @recently_confirmed
    def forget_page(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Deletes what is sealed for the credential, which stays and waits for another key."""
        row = self.found(request, object_id)  # type: ignore[attr-defined]
        back = self.url_for("change", row.pk)  # type: ignore[attr-defined]
        sealed = list_sealed(row)
        if not sealed:
            messages.info(request, f"No key is sealed for {row.name}.")
            return HttpResponseRedirect(back)
        if (obstacle := find_obstacle(request, "open")) is not None:
            return obstacle
        if request.method == "POST":
            try:
                sealing.delete_secrets(actor_of(request), Credential.objects.filter(pk=row.pk))
            except TokenhubError as refused:
                self.say_refused(request, refused)  # type: ignore[attr-defined]
            else:
                messages.success(request, f"What was sealed for {row.name} is deleted.")
            return HttpResponseRedirect(back)
        number = display.write_number_of(len(sealed), "sealed key is", "sealed keys are")
        answer: HttpResponse = self.page(  # type: ignore[attr-defined]
            request,
            "console/confirm.html",
            "Delete key",
            question=f"Delete what is sealed for {row.name}?",
            consequences=[
                f"{number} deleted at once, at {', '.join(sorted({one.origin for one in sealed}))}.",
                describe_others(row),
                "It can’t be shown or brought back. The provider goes on taking it until you withdraw it there.",
            ],
            button="Delete it",
            danger=True,
            subject=row,
            back_url=back,
        )
        return answer


def describe_others(row: Credential) -> str:
    """What is left to a provider without this credential."""
    others = row.provider.credentials.filter(enabled=True).exclude(pk=row.pk).count()
    if not others:
        return f"Requests to {row.provider} fail within seconds: no enabled credential is left."
    left = display.write_number_of(others, "enabled credential is left", "enabled credentials are left")
    return f"Requests to {row.provider} stop using it within seconds; {left}."
