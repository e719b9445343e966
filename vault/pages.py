"""The vault's pages: state, initialising, unlocking, locking, settings, and its rows' soundness. Control plane.

What is typed runs outside of any transaction, so that a try in vain stays counted (`vault.tries`).
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from tokenhub.control import display
from tokenhub.control.callers import actor_of, next_url
from tokenhub.core.errors import TokenhubError
from vault import vault_actions, vault_manifest
from vault.engine.slots import SlotKind
from vault.engine.strength import MIN_BITS, estimate_password
from vault.models import Vault, VaultManifest, VaultSlot
from vault.page_forms import InitialiseForm, KeptForm, LockForm, SettingsForm, UnlockForm
from vault.page_frame import MANAGE, UNLOCK, VIEW, ask, page, say_refused, to_status, vault_page
from vault.reminders import list_reminders
from vault.tries import get_vault
from vault.vault_state import describe_settings, find_root_made, find_stopping, list_findings, read_state


@vault_page(VIEW, sudo=False, needs="nothing")
def show_status(request: HttpRequest) -> HttpResponseBase:
    """Whether there is a vault, whether it is open and where, and what needs attention."""
    state = read_state(timezone.now())
    if state is None:
        return page(request, "vault/none.html", "Vault", may_manage=request.user.has_perm(MANAGE))
    return page(
        request,
        "vault/status.html",
        "Vault",
        **_live_context(state),
        settings=describe_settings(state.vault),
        root_made=find_root_made(state.vault),
        reminders=list_reminders(state),
        findings=list_findings(state.manifest),
        may_unlock=request.user.has_perm(UNLOCK),
        may_manage=request.user.has_perm(MANAGE),
        cluster=bool(settings.TOKENHUB.cluster_secret),
    )


@vault_page(VIEW, sudo=False, needs="nothing")
def show_live(request: HttpRequest) -> HttpResponseBase:
    """The numbers of the status page, fetched every few seconds; told to load afresh where more than numbers changed."""
    state = read_state(timezone.now())
    if state is None or request.GET.get("key") != state.key:
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
    return TemplateResponse(request, "vault/live.html", {**_live_context(state), "polled": True})


def _live_context(state: Any) -> dict[str, Any]:
    return {"state": state, "now": state.now, "progress": state.progress}


@vault_page(MANAGE, needs="nothing")
def initialise(request: HttpRequest) -> HttpResponseBase:
    """The first password; the answer shows the recovery key, once."""
    if Vault.objects.exists():
        messages.info(request, "There is a vault already.")
        return to_status()
    form = InitialiseForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            text = vault_actions.initialise(actor_of(request), form.cleaned_data["new_password"])
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            slot = VaultSlot.objects.get(kind=SlotKind.RECOVERY)
            return show_recovery_key(request, slot, text, made="The vault is made and unlocked.")
    return page(request, "vault/initialise.html", "Initialise the vault", form=form)


@vault_page(MANAGE, sudo=False, needs="nothing")
def show_strength(request: HttpRequest) -> HttpResponseBase:
    """How strong what is being typed is, as a meter; nothing keeps it."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    text = request.POST.get("new_password", "")
    estimate = estimate_password(text) if text else None
    most = 2 * MIN_BITS
    context = {
        "estimate": estimate,
        "value": min(most, estimate.bits) if estimate else 0,
        "most": most,
        "floor": MIN_BITS,
    }
    return TemplateResponse(request, "vault/strength.html", context)


def show_recovery_key(request: HttpRequest, slot: VaultSlot, text: str, *, made: str) -> HttpResponse:
    """The page that shows a recovery key once. Nothing keeps it: not the session, no cache, no URL."""
    return page(
        request,
        "vault/recovery_key.html",
        "Recovery key",
        slot=slot,
        made=made,
        groups=text.split("-"),
        text=text,
        vault=get_vault(),
        now=timezone.now(),
        form=KeptForm(initial={"slot": slot.slot_id}),
    )


@vault_page(MANAGE, sudo=False)
def confirm_kept(request: HttpRequest) -> HttpResponseBase:
    """Somebody says that the recovery key was kept, which the audit trail keeps."""
    form = KeptForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        slot = get_object_or_404(VaultSlot, pk=form.cleaned_data["slot"], kind=SlotKind.RECOVERY)
        vault_actions.note_kept(actor_of(request), slot)
        messages.success(
            request, "Keep the recovery key apart from the password. Try it once while both are at hand."
        )
    elif request.method == "POST":
        messages.warning(
            request, "Nobody confirmed that the recovery key was kept. If it is lost, make another one."
        )
    return to_status()


@vault_page(UNLOCK)
def unlock(request: HttpRequest) -> HttpResponseBase:
    """A password, a recovery key or a key; whatever opens no slot gets one and the same refusal."""
    form = UnlockForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            vault_actions.unlock(actor_of(request), form.given)
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(request, "The vault is unlocked. The other workers follow within seconds.")
            return HttpResponseRedirect(next_url(request, reverse("vault:status")))
    vault = get_vault()
    return page(request, "vault/unlock.html", "Unlock the vault", form=form, vault=vault)


@vault_page(UNLOCK, sudo=False)
def lock(request: HttpRequest) -> HttpResponseBase:
    """Says what stops, and locks. Without asking who it is again: locking is what one does in a hurry."""
    form = LockForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        vault_actions.lock(actor_of(request), form.cleaned_data["reason"])
        messages.success(request, "The vault is locked. Workers drop their keys within seconds.")
        return to_status()
    return page(request, "vault/lock.html", "Lock the vault", form=form, stopping=find_stopping())


@vault_page(MANAGE)
def change_settings(request: HttpRequest) -> HttpResponseBase:
    """When the vault locks itself."""
    form = SettingsForm(request.POST if request.method == "POST" else None, instance=get_vault())
    if request.method == "POST" and form.is_valid():
        try:
            vault_actions.update_settings(actor_of(request), **form.cleaned_data)
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(request, "The vault locks itself as you said.")
            return to_status()
    headless = vault_actions.has_headless_slot()
    return page(request, "vault/settings.html", "When it locks itself", form=form, headless=headless)


@vault_page(MANAGE, sudo=False, needs="open")
def check(request: HttpRequest) -> HttpResponseBase:
    """Compares the sealed secrets with what was signed, now."""
    if request.method == "POST":
        try:
            found = vault_manifest.check_manifest()
        except TokenhubError as refused:
            say_refused(request, refused)
        else:
            number = display.write_number_of(len(found), "sealed secret differs", "sealed secrets differ")
            if found:
                messages.error(request, f"{number} from what was signed.")
            else:
                messages.success(request, "Every sealed secret is as it was signed.")
        return to_status()
    text = "Every worker does so once an hour by itself. It reads all sealed secrets and opens none."
    return ask(request, "Check now", "Compare the sealed secrets with the signed manifest?", [text])


@vault_page(MANAGE, needs="open")
def accept_rows(request: HttpRequest) -> HttpResponseBase:
    """Signs the rows that are there, after a look at the differences."""
    manifest = VaultManifest.objects.filter(pk=VaultManifest.ID).first()
    if request.method == "POST":
        try:
            vault_manifest.accept_rows(actor_of(request))
        except TokenhubError as refused:
            say_refused(request, refused)
        else:
            messages.success(request, "The sealed secrets are signed as they are now.")
        return to_status()
    findings = list_findings(manifest)
    return page(
        request, "vault/accept_rows.html", "Accept what is there", findings=findings, manifest=manifest
    )
