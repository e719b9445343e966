"""The roles that every installation has: named sets of permissions, given to users. Control plane.

A role that is missing is made. One that is there is its installation's: it is never changed but by `manage.py roles --apply`, which
only adds what this version gives and the role lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import Group, Permission
from django.db import transaction

from console.accounts import write_account
from tokenhub.control.actors import Actor

APPS = ("access", "auth", "providers", "routing", "snapshots", "usage", "vault")
CRUD = ("view", "add", "change", "delete")


def on(model: str, *verbs: str) -> frozenset[str]:
    """Permissions on a model by their full names."""
    app, name = model.split(".")
    return frozenset(f"{app}.{verb}_{name}" for verb in verbs)


def _on_each(models: Iterable[str], *verbs: str) -> frozenset[str]:
    return frozenset().union(*(on(model, *verbs) for model in models))


CATALOGUE = (
    "providers.provider",
    "providers.endpoint",
    "providers.model",
    "routing.alias",
    "routing.aliastarget",
    "routing.policy",
    "access.modelgroup",
)
TENANTS = ("access.team", "access.project", "access.apikey")
USAGE = ("usage.usagerecord", "usage.price")
RUNNING = ("snapshots.configrevision", "snapshots.workerstatus", "routing.decisionrecord")

VAULT_ACTIONS = frozenset({"vault.manage_vault", "vault.unlock_vault", "vault.view_vault"})
"""What is done with the vault itself. A permission that no model declares yet is given once one does."""

ROLES: dict[str, frozenset[str]] = {
    # Providers, models, aliases, policies, teams and keys; no secrets, no vault, no users, no tokens that may do everything.
    "operator": _on_each((*CATALOGUE, *TENANTS), *CRUD)
    | _on_each((*USAGE, *RUNNING, "vault.credential"), "view")
    | on("snapshots.configrevision", "add")
    | on("routing.policy", "publish", "approve"),
    # Credentials and the vault, and the trail of what is done with them; no routing, no keys of callers.
    "vault admin": on("vault.credential", *CRUD)
    | VAULT_ACTIONS
    | on("vault.auditentry", "view", "export")
    | _on_each(("providers.provider", "providers.endpoint"), "view"),
    # Keys for applications, and what can be called with them.
    "developer": on("access.apikey", "view", "add", "change")
    | _on_each(
        (
            "access.team",
            "access.project",
            "access.modelgroup",
            "providers.model",
            "routing.alias",
            "routing.policy",
        ),
        "view",
    ),
    # Prices and what was used; models and teams, which both are told by.
    "finance": _on_each(
        (*USAGE, "providers.provider", "providers.model", "access.team", "access.project"), "view"
    )
    | on("usage.price", "add"),
    # Looks at everything but credentials, the audit trail, admin tokens and users.
    "viewer": _on_each((*CATALOGUE, *TENANTS, *USAGE, *RUNNING), "view"),
}
"""What each role may do; `owner` has every permission there is. None of them hands out powers: that takes a superuser."""

OWNER = "owner"


@dataclass(frozen=True, slots=True)
class RoleDifference:
    """A role that lacks permissions which this version gives it; `missing` if the role itself is not there."""

    name: str
    lacks: tuple[str, ...]
    missing: bool


def list_differences() -> list[RoleDifference]:
    """Every role that is not there or lacks something, by name."""
    found = []
    for name, wanted in _wanted().items():
        group = Group.objects.filter(name=name).first()
        held = set() if group is None else set(_names(group.permissions.select_related("content_type")))
        if group is None or wanted.keys() - held:
            found.append(RoleDifference(name, tuple(sorted(wanted.keys() - held)), group is None))
    return found


def ensure_roles(actor: Actor, *, widen: bool = False) -> list[str]:
    """Makes the roles that are missing, and says what it did. Those that are there get what they lack only if `widen`."""
    wanted, lines = _wanted(), []
    with transaction.atomic():
        for difference in list_differences():
            if difference.missing or widen:
                _give(actor, difference, [wanted[difference.name][one] for one in difference.lacks])
                verb = "+ role" if difference.missing else "~ role"
                lines.append(f"{verb} {difference.name} with {len(difference.lacks)} permissions")
            else:
                lines.append(
                    f"note: role {difference.name} lacks {', '.join(difference.lacks)}; "
                    "`manage.py roles --apply` adds that"
                )
    return lines


def _give(actor: Actor, difference: RoleDifference, permissions: list[Permission]) -> None:
    group = Group(name=difference.name) if difference.missing else Group.objects.get(name=difference.name)

    def write() -> None:
        group.save()
        group.permissions.add(*permissions)

    write_account(actor, "create" if difference.missing else "update", group, write)


def _wanted() -> dict[str, dict[str, Permission]]:
    """Role by name, with its permissions by full name; what no model declares is left out."""
    rows = Permission.objects.filter(content_type__app_label__in=APPS).select_related("content_type")
    there = {f"{row.content_type.app_label}.{row.codename}": row for row in rows}
    roles = {OWNER: frozenset(there), **ROLES}
    return {role: {name: there[name] for name in names if name in there} for role, names in roles.items()}


def _names(permissions: Iterable[Permission]) -> Iterable[str]:
    return (f"{row.content_type.app_label}.{row.codename}" for row in permissions)
