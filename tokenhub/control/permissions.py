"""Who may use the admin API: staff, with the same Django permissions that the admin pages ask for. Control plane."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

BY_METHOD = {
    "GET": "view",
    "HEAD": "view",
    "OPTIONS": "view",
    "POST": "add",
    "PUT": "change",
    "PATCH": "change",
}


class StaffWithPermission(BasePermission):
    """Staff, and the model's permission for the method, or those in the view's `permissions_by_action`.

    `permissions_by_action` maps a view's action to full names (`app.codename`), all of which are needed.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not _is_staff(request) or not _has_scope(request):
            return False
        return bool(request.user.has_perms(self.needed(request, view)))

    def needed(self, request: Request, view: Any) -> tuple[str, ...]:
        """Full names of the permissions that this request needs."""
        named = getattr(view, "permissions_by_action", {})
        action = getattr(view, "action", None)
        if action in named:
            return tuple(named[action])
        queryset = getattr(view, "queryset", None)
        if queryset is None:
            return ()
        meta = queryset.model._meta
        verb = BY_METHOD.get(request.method or "GET", "delete")
        return (f"{meta.app_label}.{verb}_{meta.model_name}",)


class Staff(BasePermission):
    """Any active staff member."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return _is_staff(request) and _has_scope(request)


def _is_staff(request: Request) -> bool:
    user = request.user
    return bool(user.is_authenticated and user.is_active and user.is_staff)


def _has_scope(request: Request) -> bool:
    """Whether a token's scopes allow the method; a session has no scopes to bound it."""
    scopes = getattr(request.auth, "scopes", None)
    return scopes is None or ("read" if request.method in SAFE_METHODS else "write") in scopes
