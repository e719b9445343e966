"""Sign-ins, sign-outs, failed sign-ins and refusals of the admin site in the audit trail. Control plane.

What anyone can cause without signing in is bounded: so many entries a minute and an hour, from one address and in all. The rest is
counted, by the process that saw it, and told in its next entry. What was typed as a name is kept only if someone has that name:
people type their password there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from tokenhub.control.actors import Actor
from tokenhub.control.callers import actor_of, address_of
from vault.models import AuditEntry
from vault.trail import append, hold_trail

SIGN_IN = "session.sign_in"
SIGN_OUT = "session.sign_out"
FAILED = "session.sign_in_failed"
REFUSED = "page.refused"

_NAME_CHARACTERS = 150
_SHOWN_ADDRESSES = 20
_COUNTED_ADDRESSES = 1_000
_RECHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Window:
    """At most so many entries in this many seconds."""

    seconds: int
    per_address: int
    in_all: int


WINDOWS = (Window(60, 10, 30), Window(3_600, 60, 300))


class Quota:
    """Bounds the entries of one action. Whether there is room is read from the trail, so that all processes share it."""

    def __init__(
        self,
        action: str,
        windows: tuple[Window, ...] = WINDOWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.action = action
        self._windows = windows
        self._clock = clock
        self._lock = threading.Lock()
        self._full_until: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def append(self, actor: Actor, after: dict[str, Any], **named: str) -> AuditEntry | None:
        """Appends an entry, with what was left out before it; or counts it, and returns None."""
        address = actor.address
        if self._is_full(address):
            self._count(address)
            return None
        with transaction.atomic():
            hold_trail()
            full = self._find_full(address)
            if full is None:
                left_out = self._take_left_out()
                described = {**after, "not_written": left_out} if left_out else after
                return append(actor=actor, action=self.action, after=described, **named)
        with self._lock:
            if len(self._full_until) >= _COUNTED_ADDRESSES:
                self._full_until.clear()
            self._full_until[full] = self._clock() + _RECHECK_SECONDS
        self._count(address)
        return None

    def _is_full(self, address: str) -> bool:
        now = self._clock()
        with self._lock:
            return any(self._full_until.get(name, 0.0) > now for name in (address, "*"))

    def _find_full(self, address: str) -> str | None:
        """`*` if there are too many in all, the address if there are too many of it, else None."""
        now = timezone.now()
        for window in self._windows:
            since = now - timedelta(seconds=window.seconds)
            recent = AuditEntry.objects.filter(at__gte=since, action=self.action).order_by()
            addresses = list(recent.values_list("address", flat=True)[: window.in_all])
            if len(addresses) >= window.in_all:
                return "*"
            if addresses.count(address) >= window.per_address:
                return address
        return None

    def _count(self, address: str) -> None:
        with self._lock:
            known = address in self._left_out or len(self._left_out) < _COUNTED_ADDRESSES
            self._left_out[address if known else "others"] += 1

    def _take_left_out(self) -> dict[str, int]:
        """What was left out, by address: the most frequent ones, and the sum of the others."""
        with self._lock:
            counted, self._left_out = self._left_out, Counter()
        shown = dict(counted.most_common(_SHOWN_ADDRESSES))
        others = counted.total() - sum(shown.values())
        return {**shown, "others": others + shown.get("others", 0)} if others else shown


FAILURES = Quota(FAILED)
REFUSALS = Quota(REFUSED)


def connect() -> None:
    """Hears Django's own signals; connecting twice counts once."""
    user_logged_in.connect(_signed_in, dispatch_uid="console.sessions")
    user_logged_out.connect(_signed_out, dispatch_uid="console.sessions")
    user_login_failed.connect(_failed, dispatch_uid="console.sessions")


def mask(name: str) -> str:
    """`a…`: as much of an unknown name as is kept."""
    first = name[:1]
    return f"{first if first.isalnum() else ''}…"


def _signed_in(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    _append_session(SIGN_IN, request, user)


def _signed_out(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    if user is not None:
        _append_session(SIGN_OUT, request, user)


def _append_session(action: str, request: HttpRequest, user: Any) -> None:
    append(
        actor=Actor.from_user(user, address_of(request)),
        action=action,
        object_type=user._meta.label_lower,
        object_id=str(user.pk),
        object_label=user.get_username(),
    )


def _failed(
    sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    record_failure(
        FAILURES, str(credentials.get(User.USERNAME_FIELD) or ""), address_of(request) if request else ""
    )


def record_failure(quota: Quota, name: str, address: str) -> None:
    """Records that someone could not sign in as `name`."""
    known = None
    if 0 < len(name) <= _NAME_CHARACTERS and "\0" not in name:
        known = User.objects.filter(username=name).first()
    shown = mask(name) if known is None else known.get_username()
    quota.append(
        Actor.anonymous(shown, address),
        {"known": known is not None},
        object_type=User._meta.label_lower,
        object_id="" if known is None else str(known.pk),
        object_label=shown,
    )


class RefusalMiddleware:
    """Records what signed-in people and tokens were refused under /admin/. Serves sync and async stacks."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._answer_later(request)
        response = self.get_response(request)
        if response.status_code == 403:
            _record_refusal(request)
        return response

    async def _answer_later(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await self.get_response(request)
        if response.status_code == 403:
            await sync_to_async(_record_refusal)(request)
        return response


def _record_refusal(request: HttpRequest) -> None:
    match = request.resolver_match
    if match is None or not request.path.startswith("/admin/") or not request.user.is_authenticated:
        return
    REFUSALS.append(
        actor_of(request),
        {"method": str(request.method)},
        object_type="admin.page",
        object_id=match.view_name,
        object_label=request.path,
    )
