"""System checks: that the adapters load, and that every stored provider has one. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections

from providers.adapters.registry import list_adapters
from providers.models import Provider
from tokenhub.core.errors import SettingInvalid


@register
def check_adapters(**kwargs: Any) -> list[CheckMessage]:
    """providers.E001: two adapters claim one kind."""
    try:
        list_adapters()
    except SettingInvalid as error:
        return [Error(error.message, hint="Give one of them another kind.", id="providers.E001")]
    return []


@register(Tags.database)
def check_stored_kinds(databases: list[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """providers.E002: a provider is of a kind that no adapter of this version speaks."""
    found: list[CheckMessage] = []
    for alias in databases or []:
        if Provider._meta.db_table not in connections[alias].introspection.table_names():
            continue
        strangers = Provider.objects.using(alias).exclude(kind__in=list_adapters()).order_by("name")
        found += [
            Error(
                f"Provider {name} is of the kind {kind!r}, which no adapter speaks.",
                hint=f"Install its adapter, or delete the provider. Known are {', '.join(sorted(list_adapters()))}.",
                id="providers.E002",
            )
            for name, kind in strangers.values_list("name", "kind")
        ]
    return found
