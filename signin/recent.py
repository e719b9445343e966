"""Recent authentication: what is grave asks for password and second factor again if that is over 5 minutes ago. Control plane.

@recently_confirmed
def unlock(request): ...

The admin API asks the same of sessions: `permission_classes = (..., RecentSession)`, and `grave_actions` names what is grave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from signin.sessions import CONFIRMED
from tokenhub.core.errors import PermissionDenied

RECENT = timedelta(minutes=5)


def is_recent(session: Mapping[str, Any], now: datetime) -> bool:
    """Whether the person has proved who it is within the last 5 minutes; a proof from the future counts for nothing."""
    proved = datetime.fromtimestamp(float(session.get(CONFIRMED) or 0), UTC)
    return timedelta(0) <= now - proved < RECENT


def ask_again(request: HttpRequest) -> HttpResponseBase | None:
    """The way to the page that asks for password and second factor, or None where that was recent."""
    if is_recent(request.session, timezone.now()):
        return None
    if request.method not in ("GET", "HEAD"):
        messages.warning(request, "Nothing was changed. Confirm that it is you, then send the form again.")
    return HttpResponseRedirect(f"{reverse('signin:confirm')}?{urlencode({'next': request.get_full_path()})}")


def recently_confirmed[**Rest, Answer](view: Callable[Rest, Answer]) -> Callable[Rest, Any]:
    """A view, or a method that takes the request first, behind recent authentication."""

    @wraps(view)
    def guarded(*args: Rest.args, **kwargs: Rest.kwargs) -> Any:
        request = next(one for one in args if isinstance(one, HttpRequest))
        return ask_again(request) or view(*args, **kwargs)

    return guarded


class ConfirmFirst(PermissionDenied):
    """A session asks the API for something grave, and the last proof of who it is is too long ago."""

    code = "confirmation_needed"

    def __init__(self) -> None:
        super().__init__(
            "confirm that it is you first",
            hint=f"open {reverse('signin:confirm')} in this session, then repeat",
        )


def require_recent(request: Request) -> None:
    """Raises ConfirmFirst for a session without recent proof. A token has none to give: its scopes and its end bound it."""
    if request.auth is None and not is_recent(request.session, timezone.now()):
        raise ConfirmFirst


class RecentSession(BasePermission):
    """For views of the admin API: what `grave_actions` names asks of a session what the same page asks."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """True, or it raises ConfirmFirst."""
        if request.method not in SAFE_METHODS and getattr(view, "action", None) in view.grave_actions:
            require_recent(request)
        return True
