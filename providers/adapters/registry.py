"""Finds the adapters: every public module of this package with an Adapter subclass of its own. Data plane; no I/O.

A new vendor is a new file: nothing here or in a migration is edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from providers import adapters
from providers.adapters.base import Adapter
from tokenhub.core.errors import SettingInvalid

_NOT_ADAPTERS = frozenset({"base", "registry"})


@cache
def list_adapters() -> Mapping[str, Adapter]:
    """Every adapter by its kind. Raises SettingInvalid where two modules claim the same kind."""
    found: dict[str, Adapter] = {}
    for module_info in pkgutil.iter_modules(adapters.__path__):
        if module_info.name.startswith("_") or module_info.name in _NOT_ADAPTERS:
            continue
        module = importlib.import_module(f"{adapters.__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Adapter) and value.__module__ == module.__name__:
                if value.kind in found:
                    raise SettingInvalid(
                        f"two adapters are of the kind {value.kind!r}; the second is {module.__name__}"
                    )
                found[value.kind] = value()
    return MappingProxyType(found)


def get_adapter(kind: str) -> Adapter:
    """The adapter of that kind. Raises SettingInvalid naming the known kinds."""
    known = list_adapters()
    if kind not in known:
        raise SettingInvalid(f"unknown provider kind {kind!r}; known are {', '.join(sorted(known))}")
    return known[kind]
