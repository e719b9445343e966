"""How long a session lasts, and what it has to have: 30 minutes idle, 12 hours at most, second factor. Control plane.

Kept in the session itself, at the server. Idle time is written at most once a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth import SESSION_KEY, logout
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin

from signin.backends import find_sign_in
from signin.models import SignIn

IDLE = timedelta(minutes=30)
ABSOLUTE = timedelta(hours=12)
WRITE_EVERY = timedelta(minutes=1)

STARTED = "signin_started"
SEEN = "signin_seen"
CONFIRMED = "signin_confirmed"
"""When the person last proved who it is: at signing in, or again since."""
SECOND_FACTOR = "signin_second_factor"
WATCHING = "X-Tokenhub-Watching"
"""The header of requests that a page makes by itself: they are no use of the session, or an open page would never end it."""

ENDED = {
    "idle": "You were signed out after 30 minutes without use.",
    "absolute": "You were signed out: a session lasts 12 hours at most.",
    "ended": "You were signed out: this session was ended.",
    "unproven": "You were signed out: this account has a second factor now.",
}


def stamp(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """Marks a session at signing in. Connected to Django's `user_logged_in`."""
    now = timezone.now().timestamp()
    request.session.update({STARTED: now, SEEN: now, CONFIRMED: now})


def why_ended(session: Mapping[str, Any], door: SignIn | None, now: datetime) -> str:
    """Why a signed-in session is over (a key of ENDED), or "". One without stamps is over."""
    started, seen = _time(session.get(STARTED)), _time(session.get(SEEN))
    if now - started >= ABSOLUTE:
        return "absolute"
    if now - seen >= IDLE:
        return "idle"
    if door is None:
        return ""
    if door.sessions_from is not None and started < door.sessions_from:
        return "ended"
    return "unproven" if door.is_enrolled and not session.get(SECOND_FACTOR) else ""


def _time(value: Any) -> datetime:
    return datetime.fromtimestamp(float(value or 0), UTC)


class SessionLimits(MiddlewareMixin):
    """Ends sessions that are over, at the server, and says why on the next page."""

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        """Leaves the request anonymous where its session is over. Requests without a session cost nothing."""
        if SESSION_KEY not in request.session:
            return None
        now = timezone.now()
        user: Any = request.user
        if not user.is_authenticated:
            # Disabled, deleted, or with another password: the session would come back to life with the account.
            logout(request)
            return None
        reason = why_ended(request.session, find_sign_in(user), now)
        if reason:
            logout(request)
            if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
                messages.info(request, ENDED[reason])
        elif WATCHING not in request.headers and now - _time(request.session[SEEN]) >= WRITE_EVERY:
            request.session[SEEN] = now.timestamp()
        return None
