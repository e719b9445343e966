"""Writes of the door: letting someone in again, ending sessions, second factors. Audited. Control plane."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from axes.models import AccessAttempt
from django.db import transaction

from signin.models import SignIn
from tokenhub.control.actors import Actor
from vault.audit import record


def unlock(actor: Actor, attempts: Iterable[AccessAttempt]) -> int:
    """Forgets these failures, each audited; how many failures that were."""
    forgotten = 0
    with transaction.atomic():
        for row in attempts:
            forgotten += row.failures_since_start
            before = {
                "account": row.username,
                "address": row.ip_address,
                "failures": row.failures_since_start,
            }
            record(actor=actor, action="sign_in.unlock", target=row, before=before, after=None)
            row.delete()
    return forgotten


def end_sessions(user: Any, now: datetime) -> None:
    """Ends every session of this user that began before `now`. What makes it necessary is audited by the caller."""
    SignIn.objects.update_or_create(user=user, defaults={"sessions_from": now})
