"""Changes of providers, endpoints and models: validated, audited, announced. Control plane."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.db import transaction

from providers.models import Endpoint, Model, Provider
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict
from vault.audit import add, alter, check_fields, remove
from vault.models import Credential
from vault.sealing import delete_secrets

PROVIDER_FIELDS = (
    "name",
    "label",
    "kind",
    "profile",
    "headers",
    "connect_timeout",
    "first_event_timeout",
    "between_events_timeout",
    "total_timeout",
    "on_disconnect",
    "heartbeat_seconds",
    "enabled",
    "draining",
    "region",
    "retention_days",
    "notes",
)
ENDPOINT_FIELDS = ("url", "weight", "draining", "enabled")
MODEL_FIELDS = (
    "name",
    "upstream_name",
    "weight",
    "context_tokens",
    "max_output_tokens",
    "capabilities",
    "expected_latency_ms",
    "priority",
    "enabled",
)

NameGuard = Callable[[Collection[str]], str | None]
"""Says what holds one of these names already (e.g. "alias fast"), or None."""

_name_guards: list[NameGuard] = []


def guard_names(guard: NameGuard) -> None:
    """Lets another app keep its names from becoming models' names."""
    if guard not in _name_guards:
        _name_guards.append(guard)


def create_provider(actor: Actor, **fields: Any) -> Provider:
    """A provider without endpoints. `fields`: PROVIDER_FIELDS; `name` and `kind` are needed."""
    check_fields(Provider, fields, PROVIDER_FIELDS)
    return add(actor, Provider(**fields))


def update_provider(actor: Actor, provider: Provider, **changes: Any) -> Provider:
    """Changes PROVIDER_FIELDS. A new name must not make `name/model` an alias's name."""

    def check(row: Provider) -> None:
        _refuse_held([f"{row.name}/{name}" for name in row.models.values_list("name", flat=True)])

    return alter(
        actor, provider, changes, allowed=PROVIDER_FIELDS, check=check if "name" in changes else None
    )


def delete_provider(actor: Actor, provider: Provider) -> None:
    """Deletes it with its endpoints, models and credentials. Raises Conflict while an alias uses one of its models.

    Raises VaultLocked where a key is sealed for it and the vault is locked.
    """
    with transaction.atomic():
        delete_secrets(actor, Credential.objects.filter(provider=provider))
        remove(actor, provider)


def create_endpoint(actor: Actor, *, provider: Provider, **fields: Any) -> Endpoint:
    """An endpoint of a provider. `fields`: ENDPOINT_FIELDS; `url` is needed and is normalised."""
    check_fields(Endpoint, fields, ENDPOINT_FIELDS)
    return add(actor, Endpoint(provider=provider, **fields))


def update_endpoint(actor: Actor, endpoint: Endpoint, **changes: Any) -> Endpoint:
    """Changes ENDPOINT_FIELDS."""
    return alter(actor, endpoint, changes, allowed=ENDPOINT_FIELDS)


def delete_endpoint(actor: Actor, endpoint: Endpoint) -> None:
    """Deletes the endpoint."""
    remove(actor, endpoint)


def create_model(actor: Actor, *, provider: Provider, **fields: Any) -> Model:
    """A model at a provider. `fields`: MODEL_FIELDS; `name` is needed, `upstream_name` is the name unless given."""
    check_fields(Model, fields, MODEL_FIELDS)
    fields.setdefault("upstream_name", fields.get("name", ""))
    return add(actor, Model(provider=provider, **fields), check=_check_model_name)


def update_model(actor: Actor, model: Model, **changes: Any) -> Model:
    """Changes MODEL_FIELDS."""
    return alter(
        actor, model, changes, allowed=MODEL_FIELDS, check=_check_model_name if "name" in changes else None
    )


def delete_model(actor: Actor, model: Model) -> None:
    """Deletes the model. Raises Conflict while an alias uses it."""
    remove(actor, model)


def _check_model_name(row: Model) -> None:
    _refuse_held([row.name, f"{row.provider.name}/{row.name}"])


def _refuse_held(names: Collection[str]) -> None:
    for guard in _name_guards:
        holder = guard(names)
        if holder is not None:
            raise Conflict(
                f"the name is taken by {holder}",
                param="name",
                hint="choose another name, or rename or delete that first",
            )
