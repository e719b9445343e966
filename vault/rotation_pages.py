"""The pages of the two rotations: a new data key with its progress, and a new root key. Control plane."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError
from vault import rotations
from vault.configured_kms import get_kms
from vault.models import VaultSlot
from vault.page_forms import RotateRootForm
from vault.page_frame import MANAGE, VIEW, page, say_refused, to_status, vault_page
from vault.slot_secrets import as_slot_secrets
from vault.vault_state import VaultState, find_root_made, read_state


def _read(request: HttpRequest) -> VaultState:
    state = read_state(timezone.now())
    assert state is not None, "the frame has looked"
    return state


@vault_page(MANAGE, needs="open")
def rotate_data_key(request: HttpRequest) -> HttpResponseBase:
    """Makes a new data key on POST; otherwise shows how far the secrets are, which follow by themselves."""
    if request.method == "POST":
        try:
            version = rotations.rotate_data_key(actor_of(request))
        except TokenhubError as refused:
            say_refused(request, refused)
        else:
            messages.success(
                request, f"Data key {version} seals from now on. The secrets are moved to it by themselves."
            )
        return HttpResponseRedirect(reverse("vault:rotate_data_key"))
    state = _read(request)
    return page(
        request, "vault/rotate_data_key.html", "Rotate the data key", state=state, progress=state.progress
    )


@vault_page(VIEW, sudo=False)
def show_progress(request: HttpRequest) -> HttpResponseBase:
    """The rotation's numbers, fetched every few seconds; told to load afresh when it is finished."""
    state = _read(request)
    if request.GET.get("key") != f"{state.progress.active_key}-{state.progress.finished}":
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
    return TemplateResponse(request, "vault/progress.html", {"state": state, "progress": state.progress})


@vault_page(MANAGE, needs="open")
def rotate_root(request: HttpRequest) -> HttpResponseBase:
    """A new root key for the slots whose secrets are typed; the others have to be named as dropped."""
    slots = list(VaultSlot.objects.all())
    form = RotateRootForm(request.POST if request.method == "POST" else None, slots=slots)
    if request.method == "POST" and form.is_valid():
        try:
            with as_slot_secrets(form.given, get_kms) as secrets:
                version = rotations.rotate_root(actor_of(request), secrets, dropping=form.dropping)
        except TokenhubError as refused:
            form.refuse(refused)
        else:
            messages.success(
                request, f"Root key {version} is in force. What a copied slot opened opens nothing now."
            )
            return to_status()
    made = find_root_made(_read(request).vault)
    return page(request, "vault/rotate_root.html", "Rotate the root key", form=form, made=made)
