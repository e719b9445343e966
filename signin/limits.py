"""Limits on failed sign-ins, counted by django-axes in the database, so that all workers know them. Control plane.

Three counts, each forgotten 15 minutes after its last failure; refused attempts are not counted and don't prolong it:

- one account from one address: 5. Someone else's guesses from elsewhere can't lock its owner out.
- one address, over all accounts: 25. Ends the trying of one password on many accounts.
- one account, from everywhere: 100. Ends a guess spread over many addresses. An address from which that account has
  signed in within 30 days stays exempt, so that nobody can be shut out of where he usually works.

An account that does not exist is counted like one that does. Wrong admin tokens have a count of their own: a
misconfigured job locks no person out. Addresses are the server's word: X-Forwarded-For counts from
TOKENHUB_TRUSTED_PROXIES only. An IPv6 client is its /64 network, which is what one customer gets.

The table is bounded by the work of a failure: each costs one password hash, a locked address adds none, and rows older
than the window go with the next attempt.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.signals import user_login_failed
from django.db.models import Max, Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone

WINDOW = timedelta(minutes=15)
PAIR_LIMIT = 5
ADDRESS_LIMIT = 25
ACCOUNT_LIMIT = 100
TOKEN_LIMIT = 25
KNOWN_FOR = timedelta(days=30)
ADMIN_TOKENS = "(admin tokens)"
"""Stands for an account where wrong tokens are counted; no username may have parentheses."""

API = "/admin/v1/"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lock:
    """A reached limit: which one, and the time at which its last failure is forgotten."""

    limit: str
    until: datetime

    def seconds(self, now: datetime) -> int:
        """How long it lasts from now, at least a second."""
        return max(1, math.ceil((self.until - now).total_seconds()))


def address_of_client(request: HttpRequest) -> str | None:
    """The peer's address as the server states it, an IPv6 one as its /64; None where it has none (a socket file)."""
    try:
        address = ip_address(str(request.META.get("REMOTE_ADDR") or ""))
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False).network_address)


def find_lock(account: str, address: str | None, now: datetime) -> Lock | None:
    """The limit that keeps this account at this address out, or None."""
    pair = Q(username=account, ip_address=address) if address else Q(username=account, ip_address=None)
    here = Q(ip_address=address) if address else Q(ip_address=None)
    sums: dict[str, Any] = {}
    for name, rows in (
        ("pair", pair),
        ("address", here & ~Q(username=ADMIN_TOKENS)),
        ("account", Q(username=account)),
    ):
        sums[name] = Sum("failures_since_start", filter=rows)
        sums[f"{name}_last"] = Max("attempt_time", filter=rows)
    recent = AccessAttempt.objects.filter(attempt_time__gt=now - WINDOW)
    found = recent.filter(here | Q(username=account)).aggregate(**sums)
    limits = {"pair": PAIR_LIMIT, "address": ADDRESS_LIMIT, "account": ACCOUNT_LIMIT}
    if account == ADMIN_TOKENS:
        limits = {"pair": TOKEN_LIMIT}
    for name, limit in limits.items():
        if (found[name] or 0) < limit or (name == "account" and _is_known(account, address, now)):
            continue
        return Lock(name, found[f"{name}_last"] + WINDOW)
    return None


def _is_known(account: str, address: str | None, now: datetime) -> bool:
    """Whether this account has signed in from this address of late."""
    if address is None:
        return False
    rows = AccessLog.objects.filter(username=account, ip_address=address, attempt_time__gt=now - KNOWN_FOR)
    return bool(rows.exists())


def note_failure(request: HttpRequest, account: str) -> None:
    """Counts a failure that Django's `authenticate` does not see: a wrong code, a wrong token."""
    user_login_failed.send(sender=__name__, credentials={"username": account}, request=request)


class SignInLimits(AxesDatabaseHandler):  # type: ignore[misc]
    """axes' handler with these limits in place of its single one, and with an end for what it keeps."""

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """At least AXES_FAILURE_LIMIT where a limit is reached, else 0: axes compares with that."""
        account = str((credentials or {}).get("username") or "")
        lock = find_lock(account, request.axes_ip_address, request.axes_attempt_time)
        return 0 if lock is None else PAIR_LIMIT

    def user_logged_in(self, sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
        """Forgets the pair's failures, and sign-ins that are too long ago to make an address known."""
        super().user_logged_in(sender, request, user, **kwargs)
        AccessLog.objects.filter(attempt_time__lte=request.axes_attempt_time - KNOWN_FOR).delete()


def locked_response(
    request: HttpRequest, response: HttpResponseBase | None, credentials: dict[str, Any] | None
) -> HttpResponseBase:
    """What axes answers in place of the form: how long, and whom to ask. The admin API has said it its own way."""
    if request.path.startswith(API) and response is not None:
        return response
    now = timezone.now()
    lock = find_lock(str((credentials or {}).get("username") or ""), address_of_client(request), now)
    return locked_page(request, lock.seconds(now) if lock else int(WINDOW.total_seconds()))


def locked_page(request: HttpRequest, seconds: int) -> HttpResponse:
    """The page for someone who has to wait: 429 with Retry-After. The same for accounts that don't exist."""
    minutes = math.ceil(seconds / 60)
    page = render(request, "signin/locked.html", {"minutes": minutes}, status=429)
    page.headers["Retry-After"] = str(seconds)
    page.headers["Cache-Control"] = "no-store"
    return page
