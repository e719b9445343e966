"""Asks before a form is saved that makes providers' keys unusable, or deletes them. For admin classes. Control plane.

The change is made, looked at and rolled back; whoever confirms sends the same form again. So nothing is told by guesswork.
What deletes a sealed key asks for recent authentication besides, whichever page it is done on.
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from signin.recent import ConfirmFirst, ask_again, is_recent
from tokenhub.core.errors import Conflict
from vault.models import SealedSecret
from vault.reach import Loss, Reach, find_losses, read_reach

CONFIRMED = "_keys_lost"
EDIT_AGAIN = "_edit_again"


class KeysLost(Conflict):
    """A form would make keys unusable, and nobody has said that this is meant."""

    code = "keys_would_be_lost"

    def __init__(self, losses: list[Loss]) -> None:
        super().__init__("this makes keys unusable", hint="confirm it, or change the form")
        self.losses = losses


class EditAgain(Conflict):
    """Somebody went back from the question to the form."""

    def __init__(self) -> None:
        super().__init__("nothing is saved yet", hint="change what you like, and save again")


class AsksBeforeLoss:
    """For a ModelAdmin, before it in the order of bases. `provider_id_of` says which provider a row belongs to."""

    sealed_by = ""
    """How sealed secrets are found by rows of this class, as a lookup: they are deleted with the rows."""

    def provider_id_of(self, row: Any) -> int | None:
        """The provider that the row is, or belongs to; None for a new one."""
        return None if row.pk is None else int(row.pk)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Looks at the keys before anything is written."""
        provider_id = self.provider_id_of(obj) if change else None
        request.reach_before = {} if provider_id is None else read_reach(provider_id)  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)  # type: ignore[misc]

    def save_related(self, request: HttpRequest, form: Any, formsets: list[Any], change: bool) -> None:
        """Looks again when all is written. Raises KeysLost or ConfirmFirst, which takes it back."""
        super().save_related(request, form, formsets, change)  # type: ignore[misc]
        before: Reach = request.reach_before  # type: ignore[attr-defined]
        provider_id = self.provider_id_of(form.instance) if before else None
        losses = [] if provider_id is None else find_losses(before, read_reach(provider_id))
        if any(loss.deleted for loss in losses) and not is_recent(request.session, timezone.now()):
            raise ConfirmFirst
        if losses and request.POST.get(CONFIRMED) != _digest(losses):
            raise KeysLost(losses)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The form; in place of its answer the question, where keys would be lost."""
        if EDIT_AGAIN in request.POST:
            # An invalid form is shown with all that was typed, and saves nothing.
            request.refused = EditAgain()  # type: ignore[attr-defined]
        answer: HttpResponse = super().changeform_view(request, object_id, form_url, extra_context)  # type: ignore[misc]
        refused = getattr(request, "refused", None)
        return self._ask(request, object_id, refused.losses) if isinstance(refused, KeysLost) else answer

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Asks for recent authentication first, where a sealed key would go too."""
        row = self.get_object(request, object_id)  # type: ignore[attr-defined]
        sealed = row is not None and self._has_sealed(pk=row.pk)
        if sealed and (again := ask_again(request)) is not None:
            return again  # type: ignore[return-value]
        answer: HttpResponse = super().delete_view(request, object_id, extra_context)  # type: ignore[misc]
        return answer

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """The same for many rows. Raises ConfirmFirst."""
        if self._has_sealed(pk__in=queryset.values("pk")) and not is_recent(request.session, timezone.now()):
            raise ConfirmFirst
        super().delete_queryset(request, queryset)  # type: ignore[misc]

    def _has_sealed(self, **lookup: Any) -> bool:
        found = {f"{self.sealed_by}__{name}": value for name, value in lookup.items()}
        return SealedSecret.objects.filter(**found).exists()

    def _ask(self, request: HttpRequest, object_id: str | None, losses: list[Loss]) -> HttpResponse:
        named = request.user.has_perm("vault.view_credential")
        sentences = list(dict.fromkeys(loss.tell(named=named) for loss in losses))
        left_out = (CONFIRMED, EDIT_AGAIN, "csrfmiddlewaretoken")
        kept = [(name, one) for name, many in request.POST.lists() if name not in left_out for one in many]
        found = self.found(request, object_id or "")  # type: ignore[attr-defined]
        answer: HttpResponse = self.page(  # type: ignore[attr-defined]
            request,
            "vault/keys_lost.html",
            "Keys become unusable",
            subject=found,
            sentences=sentences,
            fields=kept,
            confirmed=(CONFIRMED, _digest(losses)),
            edit_again=EDIT_AGAIN,
        )
        return answer


def _digest(losses: list[Loss]) -> str:
    """Names exactly these losses: what was confirmed is not something else that came meanwhile."""
    text = "\n".join(f"{loss.credential_id} {loss.tell()}" for loss in losses)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
