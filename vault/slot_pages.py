"""The pages of the vault's slots: passwords, recovery keys, key files, variables and a KMS, each a way to unlock. Control plane."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils import timezone

from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError
from vault import vault_actions
from vault.configured_kms import get_kms
from vault.engine.slots import HEADLESS_KINDS, SlotKind
from vault.models import VaultSlot
from vault.page_forms import SLOT_FORMS, ChangePasswordForm, RenameForm, TryRecoveryForm
from vault.page_frame import MANAGE, page, say_refused, to_status, vault_page
from vault.pages import show_recovery_key
from vault.slot_secrets import Given

KINDS: dict[SlotKind, tuple[str, str]] = {
    SlotKind.PASSWORD: ("Password", "Somebody types it. Each person or shift can have one of their own."),
    SlotKind.RECOVERY: ("Recovery key", "Printed and put away, for when every password is forgotten."),
    SlotKind.KEY_FILE: (
        "Key file",
        "A mounted file unlocks the vault at each start, without anyone. Then it never locks by itself.",
    ),
    SlotKind.ENVIRONMENT: (
        "Environment variable",
        "A variable unlocks the vault at each start, without anyone. A key file is better: processes inherit variables.",
    ),
    SlotKind.KMS: (
        "Key management service",
        "The service that TOKENHUB_VAULT_KMS names unlocks the vault at each start, without anyone.",
    ),
}
"""What can be added, and what each is for; a KMS where one is set."""


def _list_kinds() -> dict[SlotKind, tuple[str, str]]:
    there = settings.TOKENHUB.vault_kms is not None
    return {kind: told for kind, told in KINDS.items() if there or kind is not SlotKind.KMS}


@vault_page(MANAGE)
def change_password(request: HttpRequest) -> HttpResponseBase:
    """Another password for the slot that the present one opens. Works while the vault is locked."""
    form = ChangePasswordForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        old = Given(password=data["old_password"], key=data["key"])
        try:
            slot = vault_actions.change_password(actor_of(request), old, data["new_password"])
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(request, f"{slot.label} has a new password; the old one opens nothing any more.")
            return to_status()
    return page(request, "vault/change_password.html", "Change a password", form=form)


@vault_page(MANAGE, needs="open")
def choose_kind(request: HttpRequest) -> HttpResponseBase:
    """Which kind of slot to add."""
    kinds = [
        {"kind": kind.value, "name": name, "about": about} for kind, (name, about) in _list_kinds().items()
    ]
    return page(request, "vault/choose_kind.html", "Add a slot", kinds=kinds)


@vault_page(MANAGE, needs="open")
def add_slot(request: HttpRequest, kind: str) -> HttpResponseBase:
    """A slot of that kind; a key that was made is in the answer, once."""
    chosen = next((one for one in _list_kinds() if one.value == kind), None)
    if chosen is None:
        raise Http404
    form: Any = SLOT_FORMS[chosen](request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            return _add(request, chosen, form.cleaned_data)
        except TokenhubError as refused:
            form.refuse(refused)
    name, about = KINDS[chosen]
    context = {"about": about, "headless": chosen in HEADLESS_KINDS, "kind": chosen.value, "name": name}
    return page(request, "vault/add_slot.html", f"Add: {name.lower()}", form=form, **context)


def _add(request: HttpRequest, kind: SlotKind, data: dict[str, Any]) -> HttpResponse:
    actor, label = actor_of(request), data["label"]
    if kind is SlotKind.RECOVERY:
        slot, text = vault_actions.add_recovery_slot(actor, label)
        return show_recovery_key(request, slot, text, made=f"{slot.label} is a way to unlock the vault now.")
    if kind is SlotKind.PASSWORD:
        slot = vault_actions.add_password_slot(actor, label, data["new_password"])
    elif kind is SlotKind.KMS:
        slot = vault_actions.add_kms_slot(actor, label, get_kms())
    elif data["key"]:
        slot = vault_actions.add_key_slot(actor, label, kind, data["key"])
    else:
        slot, text = vault_actions.add_generated_key_slot(actor, label, kind)
        return page(request, "vault/new_key.html", "New key", slot=slot, text=text, now=timezone.now())
    messages.success(request, f"{slot.label} is a way to unlock the vault now.")
    return to_status()


@vault_page(MANAGE)
def rename_slot(request: HttpRequest, slot_id: str) -> HttpResponseBase:
    """Another label."""
    slot = get_object_or_404(VaultSlot, pk=slot_id)
    form = RenameForm(request.POST if request.method == "POST" else None, initial={"label": slot.label})
    if request.method == "POST" and form.is_valid():
        try:
            vault_actions.rename_slot(actor_of(request), slot, form.cleaned_data["label"])
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(request, f"The slot is called {slot.label} now.")
            return to_status()
    return page(request, "vault/rename_slot.html", "Rename a slot", form=form, slot=slot)


@vault_page(MANAGE)
def remove_slot(request: HttpRequest, slot_id: str) -> HttpResponseBase:
    """Takes a way to unlock away, after it is said what is left."""
    slot = get_object_or_404(VaultSlot, pk=slot_id)
    left = list(VaultSlot.objects.exclude(pk=slot.pk).defer("document"))
    headless_only = (
        bool(left) and slot.kind not in HEADLESS_KINDS and all(one.kind in HEADLESS_KINDS for one in left)
    )
    meant = request.POST.get("leave_headless_only") == "yes"
    if request.method == "POST" and (meant or not headless_only):
        try:
            vault_actions.remove_slot(actor_of(request), slot, leave_headless_only=meant)
        except TokenhubError as refused:
            say_refused(request, refused)
        else:
            messages.success(request, f"{slot.label} opens nothing any more.")
        return to_status()
    if request.method == "POST":
        messages.error(request, "Nothing was removed: say that only slots without anyone may be left.")
    return page(
        request,
        "vault/remove_slot.html",
        "Remove a slot",
        slot=slot,
        left=left,
        headless_only=headless_only,
        last_headless=slot.kind in HEADLESS_KINDS and not any(one.kind in HEADLESS_KINDS for one in left),
        last_recovery=slot.kind == SlotKind.RECOVERY
        and not any(one.kind == SlotKind.RECOVERY for one in left),
    )


@vault_page(MANAGE)
def try_recovery(request: HttpRequest) -> HttpResponseBase:
    """Whether the print can be read: opens the recovery slot with it, and drops what it opened."""
    form = TryRecoveryForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            slot = vault_actions.try_recovery_key(actor_of(request), form.cleaned_data["recovery_key"])
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(request, f"{slot.label} opens the vault. Put it back where it is kept.")
            return to_status()
    return page(request, "vault/try_recovery.html", "Try the recovery key", form=form)
