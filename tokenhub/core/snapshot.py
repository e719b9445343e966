"""A snapshot as bytes and back: JSON with a digest, checked for consistency before it can come into force."""

from __future__ import annotations

import base64
import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokenhub.core.errors import SnapshotInvalid
from tokenhub.core.specs import Snapshot

FORMAT = "tokenhub-snapshot-1"


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot as canonical JSON in an envelope with its format and the SHA-256 of its content."""
    body = json.dumps(_plain(snapshot), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"format":"{FORMAT}","sha256":"{digest}","snapshot":{body}}}'.encode()


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot of such bytes. Raises SnapshotInvalid: altered, of another format, or not holding together."""
    try:
        envelope = json.loads(data)
        if envelope["format"] != FORMAT:
            raise SnapshotInvalid(f"snapshot format {envelope['format']!r} is not {FORMAT!r}")
        body = json.dumps(envelope["snapshot"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
            raise SnapshotInvalid("the snapshot's digest does not match its content")
        snapshot: Snapshot = _build(Snapshot, envelope["snapshot"], "snapshot")
    except SnapshotInvalid:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SnapshotInvalid(f"the snapshot can't be decoded: {type(error).__name__}: {error}") from error
    check_snapshot(snapshot)
    return snapshot


def check_snapshot(snapshot: Snapshot) -> None:
    """Raises SnapshotInvalid where references dangle or names clash."""
    for kind, names in (
        ("provider", [provider.id for provider in snapshot.providers]),
        ("provider name", [provider.name for provider in snapshot.providers]),
        ("model", [model.id for model in snapshot.models]),
        ("alias", [alias.name for alias in snapshot.aliases]),
        ("key", [key.id for key in snapshot.keys]),
        ("policy", [policy.name for policy in snapshot.policies]),
    ):
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if twice:
            raise SnapshotInvalid(f"{kind} {min(twice)!r} stands in the snapshot twice")
    for model in snapshot.models:
        if model.provider_id not in snapshot.provider_by_id:
            raise SnapshotInvalid(f"model {model.name!r} refers to an unknown provider {model.provider_id!r}")
    for alias in snapshot.aliases:
        for target in alias.targets:
            if target.model_id not in snapshot.model_by_id:
                raise SnapshotInvalid(f"alias {alias.name!r} refers to an unknown model {target.model_id!r}")


@cache
def _stored_fields(cls: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(cls)
    return tuple((field, hints[field.name]) for field in fields(cls) if field.init)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field, _ in _stored_fields(type(value))}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value


def _build(hint: Any, value: Any, path: str) -> Any:
    """Builds a value of the annotated type; an unknown field is an error, a missing one takes its default."""
    if is_dataclass(hint):
        return _build_dataclass(hint, value, path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _build_union(arguments, value, path)
    if origin is tuple:
        return _build_tuple(arguments, value, path)
    if origin is frozenset:
        return frozenset(_build(arguments[0], item, path) for item in _expect(value, list, path))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            key: _build(arguments[1], item, f"{path}.{key}")
            for key, item in _expect(value, dict, path).items()
        }
    if origin is Literal:
        if value not in arguments:
            raise SnapshotInvalid(f"{path}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if hint is bytes:
        return base64.b64decode(_expect(value, str, path), validate=True)
    if hint is float:
        return float(_expect(value, (int, float), path))
    return _expect(value, hint, path)


def _expect(value: Any, kinds: Any, path: str) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds in (int, (int, float))):
        raise SnapshotInvalid(f"{path}: expected {kinds}, got {type(value).__name__}")
    return value


def _build_dataclass(cls: Any, value: Any, path: str) -> Any:
    _expect(value, dict, path)
    known = _stored_fields(cls)
    unknown = set(value) - {field.name for field, _ in known}
    if unknown:
        raise SnapshotInvalid(f"{path}: unknown field {min(unknown)!r}")
    arguments = {}
    for field, hint in known:
        if field.name in value:
            arguments[field.name] = _build(hint, value[field.name], f"{path}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise SnapshotInvalid(f"{path}: {field.name!r} is missing")
    return cls(**arguments)


def _build_union(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [choice for choice in arguments if choice is not type(None)]
    if len(choices) == 1:
        return _build(choices[0], value, path)
    return _expect(value, tuple(choices), path)


def _build_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    _expect(value, list, path)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_build(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise SnapshotInvalid(f"{path}: expected {len(arguments)} items, got {len(value)}")
    return tuple(_build(hint, item, path) for hint, item in zip(arguments, value, strict=True))
