"""Who has to have a second factor (TOKENHUB_REQUIRE_MFA), and what those who lack it can still do. Control plane."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse
from django.utils.deprecation import MiddlewareMixin

from signin.backends import find_sign_in
from signin.limits import API
from tokenhub.control.bearers import names_bearer
from tokenhub.control.problems import MEDIA_TYPE, problem


def must_have(user: Any) -> bool:
    """Whether this installation asks this person for a second factor."""
    rule = settings.TOKENHUB.require_mfa
    return bool(user.is_superuser) if rule == "superusers" else rule == "staff" and bool(user.is_staff)


class SecondFactorRequirement(MiddlewareMixin):
    """Leads people who must enrol to where they do, whatever they ask for; bearers of tokens are no people."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        """None where the request may go on."""
        user: Any = request.user
        if settings.TOKENHUB.require_mfa == "off" or not user.is_authenticated or not must_have(user):
            return None
        door = find_sign_in(user)
        if door is not None and door.is_enrolled:
            return None
        if request.path.startswith(API):
            if names_bearer(request.headers.get("Authorization", "")):
                return None
            detail = "Your account needs a second factor first: set it up on the admin site."
            body = problem(403, "permission_denied", detail)
            return JsonResponse(body, status=403, content_type=MEDIA_TYPE)
        where = reverse("signin:enrol")
        open_paths = {where, *(reverse(name) for name in ("signin:confirm", "admin:logout", "admin:jsi18n"))}
        return None if request.path in open_paths else HttpResponseRedirect(where)
