"""Writes of users and roles, audited like every other change; passwords appear as "changed" only. Control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import transaction
from django.utils import timezone

from signin.actions import end_sessions
from tokenhub.control.actors import Actor
from vault.audit import record
from vault.trail import hold_trail

Account = User | Group


def describe_account(account: Account) -> dict[str, Any]:
    """What the audit trail keeps of a user or a role. A user's password is a mark that changes with it."""
    if isinstance(account, Group):
        return {"name": account.name, "permissions": sorted(_names(account.permissions))}
    return {
        "username": account.username,
        "email": account.email,
        "is_active": account.is_active,
        "is_staff": account.is_staff,
        "is_superuser": account.is_superuser,
        "roles": sorted(account.groups.values_list("name", flat=True)),
        "permissions": sorted(_names(account.user_permissions)),
    }


def _names(permissions: Any) -> list[str]:
    rows = permissions.values_list("content_type__app_label", "codename")
    return [f"{app}.{codename}" for app, codename in rows]


def write_account(actor: Actor, verb: str, account: Account, write: Callable[[], None]) -> None:
    """Runs `write`, which saves or deletes the account, and records what differs, in one transaction."""
    with transaction.atomic():
        hold_trail()
        before = describe_account(type(account).objects.get(pk=account.pk)) if account.pk else None
        key = account.pk
        write()
        after = None if verb == "delete" else describe_account(type(account).objects.get(pk=account.pk))
        if before != after or verb == "set_password":
            if account.pk is None:
                account.pk = key
            if before and after and before.get("is_active") and not after.get("is_active"):
                end_sessions(account, timezone.now())
            kind = "user" if isinstance(account, User) else "role"
            record(actor=actor, action=f"{kind}.{verb}", target=account, before=before, after=after)
