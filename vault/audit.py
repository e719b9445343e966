"""The audit trail: every write of the configuration, recorded in the transaction that makes it. Control plane.

Actions of every app write through `add`, `alter`, `remove` or the context manager `change`. They raise errors of
`tokenhub.core.errors`: PermissionDenied (a read-only actor), InvalidRequest (`details["fields"]` has the messages by field,
`param` the first field), Conflict (the name is taken, or something else still uses the object).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import ProtectedError, RestrictedError

from tokenhub.control.actors import Actor
from tokenhub.control.changes import announce
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.models import AuditEntry
from vault.trail import append, hold_trail

Description = dict[str, Any]

_TAKEN = frozenset({"unique", "unique_together"})
_PLAIN = (str, int, float, bool, list, dict, type(None))


def describe(instance: models.Model) -> Description:
    """The row as JSON values by field. What the model names in `audit_secret` is shown as a fingerprint.

    A model may leave fields out (`audit_ignored`) and add what belongs to it (`audit_related()`).
    """
    secret = getattr(instance, "audit_secret", ())
    ignored = getattr(instance, "audit_ignored", ())
    described: Description = {}
    for field in instance._meta.concrete_fields:
        if field.name in ignored:
            continue
        value = getattr(instance, field.attname)
        described[field.name] = _fingerprint(value) if field.name in secret else _plain(value)
    related = getattr(instance, "audit_related", None)
    if related is not None and instance.pk is not None:
        described.update(related())
    return described


def record(
    *, actor: Actor, action: str, target: models.Model, before: Description | None, after: Description | None
) -> AuditEntry:
    """Appends one entry, in the transaction that is open. `action` is `object.verb`, e.g. `provider.update`."""
    return append(
        actor=actor,
        action=action,
        object_type=target._meta.label_lower,
        object_id=_identity(target, before, after),
        object_label=str(target),
        before=before,
        after=after,
    )


@contextmanager
def change(actor: Actor, action: str, instance: models.Model, *, area: str = "") -> Iterator[None]:
    """A transaction around a change of `instance`: locks its row, and records before and after if they differ.

    A new instance has no before, a deleted one no after. `area` is announced if something changed ("" = the app's label).
    """
    actor.require("write")
    with translated(instance), transaction.atomic():
        hold_trail()
        before = _read(instance, lock=True)
        yield
        after = _read(instance)
        if before != after:
            record(actor=actor, action=action, target=instance, before=before, after=after)
            announce(area or instance._meta.app_label, actor=actor)


def add[Row: models.Model](actor: Actor, instance: Row, *, check: Callable[[Row], None] | None = None) -> Row:
    """Validates and saves a new row, as `<model>.create`. `check` holds the rules that look at other rows."""
    with change(actor, f"{instance._meta.model_name}.create", instance):
        instance.full_clean()
        if check is not None:
            check(instance)
        instance.save(force_insert=True)
    return instance


def alter[Row: models.Model](
    actor: Actor,
    instance: Row,
    changes: Mapping[str, Any],
    *,
    allowed: Sequence[str],
    check: Callable[[Row], None] | None = None,
) -> Row:
    """Sets fields of a stored row, read afresh under a lock, validates and saves, as `<model>.update`.

    `instance` takes the new values over. Raises InvalidRequest for a field that is not in `allowed`.
    """
    check_fields(type(instance), changes, allowed)
    with change(actor, f"{instance._meta.model_name}.update", instance):
        instance.refresh_from_db()
        for name, value in changes.items():
            setattr(instance, name, value)
        instance.full_clean()
        if check is not None:
            check(instance)
        instance.save(force_update=True)
    return instance


def check_fields(model: type[models.Model], given: Iterable[str], allowed: Sequence[str]) -> None:
    """Raises InvalidRequest naming the first given field that can't be set."""
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise InvalidRequest(
            f"{model._meta.verbose_name} has no field {unknown[0]!r} to set",
            param=unknown[0],
            hint=f"known are {', '.join(allowed)}",
        )


def remove(actor: Actor, instance: models.Model) -> None:
    """Deletes a row, as `<model>.delete`. Raises Conflict naming what still uses it."""
    with change(actor, f"{instance._meta.model_name}.delete", instance):
        copy = type(instance)._base_manager.get(pk=instance.pk)
        copy.delete()


@contextmanager
def translated(instance: models.Model) -> Iterator[None]:
    """Turns Django's validation and integrity errors into InvalidRequest and Conflict, which name object and field."""
    name = str(instance._meta.verbose_name)
    try:
        yield
    except ValidationError as error:
        raise _refusal(name, error) from error
    except (ProtectedError, RestrictedError) as error:
        users = error.protected_objects if isinstance(error, ProtectedError) else error.restricted_objects
        raise _still_used(name, instance, users) from error
    except IntegrityError as error:
        raise Conflict(f"{name}: another change came first; load it again and repeat yours") from error


def _refusal(name: str, error: ValidationError) -> InvalidRequest | Conflict:
    problems = error.error_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.error_list}
    fields = {field: [text for item in items for text in item.messages] for field, items in problems.items()}
    codes = {item.code for items in problems.values() for item in items}
    shown = "; ".join(
        " ".join(texts) if field == NON_FIELD_ERRORS else f"{field}: {' '.join(texts)}"
        for field, texts in fields.items()
    )
    first = next((field for field in fields if field != NON_FIELD_ERRORS), None)
    kind = Conflict if codes and codes <= _TAKEN else InvalidRequest
    return kind(f"{name}: {shown}", param=first, details={"fields": fields})


def _still_used(name: str, instance: models.Model, users: set[Any]) -> Conflict:
    names = sorted({f"{user._meta.verbose_name} {user}" for user in users})
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return Conflict(
        f"{name} {instance} is still used by {', '.join(names[:5])}{more}",
        hint="change or delete those first, or disable it instead",
    )


def _read(instance: models.Model, *, lock: bool = False) -> Description | None:
    if instance.pk is None or (lock and instance._state.adding):
        return None
    rows = type(instance)._base_manager.filter(pk=instance.pk)
    stored = (rows.select_for_update() if lock else rows).first()
    return None if stored is None else describe(stored)


def _identity(target: models.Model, before: Description | None, after: Description | None) -> str:
    key = target._meta.pk.name
    return str((after or before or {}).get(key, target.pk))[:64]


def _fingerprint(value: Any) -> str | None:
    if value in (None, ""):
        return None
    return "fingerprint:" + hashlib.sha256(str(value).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    return value if isinstance(value, _PLAIN) else cast(Any, str(value))
