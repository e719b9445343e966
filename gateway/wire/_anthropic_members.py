"""Takes typed members out of a parsed Messages body, or says by exact path what is wrong. Data plane; pure,
no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenhub.core.chat import Cache
from tokenhub.core.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9_.]{1,96}")
_INDEX = re.compile(r"\[\d+\]")


def refuse(path: str, wanted: str) -> InvalidRequest:
    """The error for a member that is not what the format wants."""
    return InvalidRequest(f"{path}: {wanted}", param=path)


def join(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path else name


def strip_indices(path: str) -> str:
    """The path as losses name it: without indices, so that a long conversation has no more than a short one.

    Losses go into a response header, so a name that no header should carry is called `unknown`.
    """
    plain = _INDEX.sub("", path)
    return plain if _NAME.fullmatch(plain) else "unknown"


def take_text(holder: Mapping[str, Any], name: str, path: str, *, default: str | None = None) -> str:
    """A string member. Without a default it is required; null counts as missing."""
    value = holder.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise refuse(join(path, name), "a string is required")
    return value


def take_flag(holder: Mapping[str, Any], name: str, path: str) -> bool:
    """A boolean member, False where it is missing or null."""
    value = holder.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise refuse(join(path, name), "true or false is required")
    return value


def find_integer(holder: Mapping[str, Any], name: str, path: str, least: int) -> int | None:
    """An integer member of at least `least`, None where it is missing or null."""
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refuse(join(path, name), f"an integer of at least {least} is required")
    return value


def find_number(holder: Mapping[str, Any], name: str, path: str, least: float, most: float) -> float | None:
    """A number member within bounds, None where it is missing or null."""
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise refuse(join(path, name), f"a number from {least:g} to {most:g} is required")
    return float(value)


def find_object(holder: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any] | None:
    """An object member, None where it is missing or null."""
    value = holder.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise refuse(join(path, name), "an object is required")
    return value


def take_object(holder: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    """A required object member."""
    value = find_object(holder, name, path)
    if value is None:
        raise refuse(join(path, name), "an object is required")
    return value


def list_objects(holder: Mapping[str, Any], name: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path and the value of each object in an array member; nothing where it is missing or null."""
    where = join(path, name)
    value = holder.get(name)
    if value is None:
        return
    if not isinstance(value, list | tuple):
        raise refuse(where, "an array is required")
    for number, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise refuse(f"{where}[{number}]", "an object is required")
        yield f"{where}[{number}]", item


def list_texts(holder: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    """An array of strings; empty where it is missing or null."""
    where = join(path, name)
    value = holder.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise refuse(where, "an array of strings is required")
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise refuse(f"{where}[{number}]", "a string is required")
    return tuple(value)


def take_cache(holder: Mapping[str, Any], path: str) -> Cache:
    """The life of the cache breakpoint behind a block; the format's default life is five minutes."""
    control = find_object(holder, "cache_control", path)
    if control is None:
        return ""
    where = join(path, "cache_control")
    if control.get("type") != "ephemeral":
        raise refuse(f"{where}.type", 'must be "ephemeral"')
    life = control.get("ttl")
    if life is None or life == "5m":
        return "5m"
    if life == "1h":
        return "1h"
    raise refuse(f"{where}.ttl", 'must be "5m" or "1h"')
