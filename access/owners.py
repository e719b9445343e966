"""Whose admin tokens a person may make or end. Control plane."""

from __future__ import annotations

from typing import Any

from tokenhub.control.callers import Machine
from tokenhub.core.errors import PermissionDenied


def refuse_foreign_owner(asking: Any, owner: Any) -> None:
    """Raises PermissionDenied unless `asking` may make or end tokens of `owner` (None = a service).

    A token carries its owner's permissions, a service's token all of them. So only superusers, and services within
    their own scopes, deal with tokens other than their own.
    """
    if asking.is_superuser or isinstance(asking, Machine):
        return
    if owner is None or owner.pk != asking.pk:
        raise PermissionDenied(
            "Only superusers make or revoke tokens of services and of other users.",
            param="user",
            hint="Choose yourself as the user, or ask a superuser.",
        )
