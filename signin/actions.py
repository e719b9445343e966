"""Writes of the door: letting someone in again, ending sessions, second factors. Audited. Control plane."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from signin import totp
from signin.models import RecoveryCode, SignIn
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.audit import record

CODE_LIMIT = 10
CODE_WINDOW = timedelta(hours=1)
log = logging.getLogger(__name__)


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


@sensitive_variables()
def enrol(actor: Actor, user: Any, secret: bytes, code: str, now: datetime) -> list[str]:
    """Gives a user a second factor, once a code of it is right; the recovery codes, which nothing can show again.

    Ends the user's other sessions. Raises InvalidRequest for a wrong code, Conflict where there is one already.
    """
    step = totp.find_step(secret, code, now, 0)
    if step is None:
        raise InvalidRequest("that code does not fit; wait for the next one, and check the device's clock")
    with transaction.atomic():
        door, _ = SignIn.objects.select_for_update().get_or_create(user=user)
        if door.is_enrolled:
            raise Conflict("this account has a second factor already", hint="remove it first")
        door.sealed_secret = totp.seal(secret, user.pk, settings.SECRET_KEY)
        door.enrolled_at = door.sessions_from = now
        door.last_step = step
        door.wrong_codes = 0
        door.save()
        codes = _replace_recovery_codes(door)
        _record(actor, "enrol", user, {"second_factor": False}, {"second_factor": True})
    return codes


@sensitive_variables()
def renew_recovery_codes(actor: Actor, user: Any) -> list[str]:
    """New recovery codes in place of all old ones. Raises Conflict where there is no second factor."""
    with transaction.atomic():
        door = SignIn.objects.select_for_update().filter(user=user).first()
        if door is None or not door.is_enrolled:
            raise Conflict("this account has no second factor")
        left = door.recovery_codes.count()
        codes = _replace_recovery_codes(door)
        _record(actor, "recovery_codes", user, {"recovery_codes": left}, {"recovery_codes": len(codes)})
    return codes


def remove_second_factor(actor: Actor, user: Any, now: datetime) -> None:
    """Takes a user's second factor and recovery codes away and ends the user's sessions: it may be a thief's."""
    with transaction.atomic():
        door = SignIn.objects.select_for_update().filter(user=user).first()
        if door is None or not door.is_enrolled:
            raise Conflict("this account has no second factor")
        door.recovery_codes.all().delete()
        door.sealed_secret = ""
        door.enrolled_at = None
        door.sessions_from = now
        door.save()
        _record(actor, "remove", user, {"second_factor": True}, {"second_factor": False})


def find_code_lock(door: SignIn, now: datetime) -> datetime | None:
    """Until when no code is taken, after CODE_LIMIT wrong ones within CODE_WINDOW. Only who has the password gets here."""
    if door.wrong_since is None or door.wrong_codes < CODE_LIMIT:
        return None
    until = door.wrong_since + CODE_WINDOW
    return until if now < until else None


@sensitive_variables()
def spend_code(actor: Actor, user: Any, code: str, now: datetime) -> bool:
    """Whether a code of the authenticator or a recovery code is right. It is used up by that; a wrong one is counted."""
    plain = "".join(code.split())
    with transaction.atomic():
        door = SignIn.objects.select_for_update().filter(user=user).first()
        if door is None or not door.is_enrolled or find_code_lock(door, now) is not None:
            return False
        is_step = plain.isascii() and plain.isdigit()
        right = _spend_step(door, plain, now) if is_step else _spend_recovery_code(actor, door, plain)
        if right:
            door.wrong_codes, door.wrong_since = 0, None
        elif door.wrong_since is None or now - door.wrong_since >= CODE_WINDOW:
            door.wrong_codes, door.wrong_since = 1, now
        else:
            door.wrong_codes += 1
        door.save()
    return right


def _spend_step(door: SignIn, code: str, now: datetime) -> bool:
    try:
        secret = totp.open_sealed(door.sealed_secret, door.user_id, settings.SECRET_KEY)
    except totp.SecretUnreadable:
        log.error("the second factor of user %s does not open: was the signing key changed?", door.user_id)
        return False
    step = totp.find_step(secret, code, now, door.last_step)
    if step is None:
        return False
    door.last_step = step
    return True


def _spend_recovery_code(actor: Actor, door: SignIn, code: str) -> bool:
    left = door.recovery_codes.count()
    used, _ = door.recovery_codes.filter(digest=totp.digest_recovery_code(code)).delete()
    if used:
        _record(
            actor,
            "recovery_code_used",
            door.user,
            {"recovery_codes": left},
            {"recovery_codes": left - used},
        )
    return bool(used)


def _replace_recovery_codes(door: SignIn) -> list[str]:
    codes = totp.make_recovery_codes()
    door.recovery_codes.all().delete()
    RecoveryCode.objects.bulk_create(
        RecoveryCode(sign_in=door, digest=totp.digest_recovery_code(code)) for code in codes
    )
    return codes


def _record(actor: Actor, verb: str, user: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    record(actor=actor, action=f"second_factor.{verb}", target=user, before=before, after=after)
