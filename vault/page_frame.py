"""The frame of the vault's pages: who may, who has to prove again that it is he, and what is said where there is no vault.

Control plane. Every page is sent with `no-store`, as all of the admin site, and hides what was typed from error reports.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from signin.recent import ask_again
from tokenhub.control.display import write_refusal
from tokenhub.core.errors import TokenhubError
from vault.models import Vault
from vault.opened import opened_vault

VIEW = "vault.view_vault"
UNLOCK = "vault.unlock_vault"
MANAGE = "vault.manage_vault"
Needs = Literal["nothing", "vault", "open"]
View = Callable[..., HttpResponseBase]


def vault_page(permission: str, *, sudo: bool = True, needs: Needs = "vault") -> Callable[[View], View]:
    """Around a view: `permission`, recent authentication where `sudo`, and a vault, or an open one, where it `needs` that."""

    def decorate(view: View) -> View:
        @wraps(view)
        @sensitive_variables()
        @sensitive_post_parameters()
        @require_http_methods(["GET", "HEAD", "POST"])
        def answer(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            if not request.user.has_perm(permission):
                raise PermissionDenied
            again = ask_again(request) if sudo else None
            return again or find_obstacle(request, needs) or view(request, **kwargs)

        return answer

    return decorate


def find_obstacle(request: HttpRequest, needs: Needs) -> HttpResponse | None:
    """The answer where there is no vault, or it is locked here; None where the page can go on."""
    if needs == "nothing":
        return None
    vault = Vault.objects.filter(pk=Vault.ID).only("lock_epoch").first()
    if vault is None:
        messages.info(request, "There is no vault yet. Initialise it first.")
        return to_status()
    if needs == "open" and opened_vault.epoch != vault.lock_epoch:
        unlock = f"{reverse('vault:unlock')}?{urlencode({'next': request.get_full_path()})}"
        may = request.user.has_perm(UNLOCK)
        return page(request, "vault/locked.html", "The vault is locked", unlock_url=unlock, may_unlock=may)
    return None


def to_status() -> HttpResponseRedirect:
    """Back to the vault's first page."""
    return HttpResponseRedirect(reverse("vault:status"))


def page(request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
    """A page of the vault inside the console's frame."""
    request.current_app = admin.site.name  # type: ignore[attr-defined]
    above = [] if template == "vault/status.html" else [{"title": "Vault", "url": reverse("vault:status")}]
    frame = {**admin.site.each_context(request), "title": title, "parents": above}
    return TemplateResponse(request, template, {**frame, "back_url": reverse("vault:status"), **context})


def ask(
    request: HttpRequest,
    title: str,
    question: str,
    consequences: list[str],
    *,
    danger: bool = False,
    **more: Any,
) -> HttpResponse:
    """The page that asks before something is done, saying what follows."""
    context = {"question": question, "consequences": consequences, "button": title, "danger": danger, **more}
    return page(request, "console/confirm.html", title, **context)


def say_refused(request: HttpRequest, refused: TokenhubError) -> None:
    """A refusal of an action that has no form to say it on."""
    messages.error(request, write_refusal(refused.message, refused.hint))
