"""Two documents of policies, field by field. Control plane; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from routing.documents import show_document, store_document
from tokenhub.core.policies import PolicySpec

WHOLE = ("when.headers", "when.hours")
"""Fields that are compared as they are, though there are others in them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of two documents, as people are shown it: its path, both values, and whether they differ."""

    path: str
    before: Any
    after: Any

    @property
    def changed(self) -> bool:
        """Whether the two differ."""
        return bool(self.before != self.after)


NOTHING = store_document(PolicySpec(id="", name="", version=0))
"""What a policy without a version is compared with: everything by default."""


def compare_documents(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Difference]:
    """Every field of both, in the document's order; None is the document of defaults. Documents as they are stored."""
    first, second = (dict(_flatten(show_document(one or NOTHING))) for one in (before, after))
    paths = list(dict.fromkeys([*second, *first]))
    return [Difference(path, first.get(path), second.get(path)) for path in sorted(paths, key=_place)]


def list_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Difference]:
    """Only the fields that differ."""
    return [one for one in compare_documents(before, after) if one.changed]


def list_settings(document: Mapping[str, Any]) -> list[Difference]:
    """What a stored document says beyond the defaults."""
    return list_changes(NOTHING, document)


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and path not in WHOLE and (value or not path):
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else name)
    elif path != "schema" and (value != {} or path in WHOLE):
        yield path, value


_ORDER = [path for path, _ in _flatten(show_document(NOTHING))]


def _place(path: str) -> tuple[int, str]:
    """Where a field stands: as in the document of defaults, others behind the one whose part they are."""
    if path in _ORDER:
        return _ORDER.index(path), ""
    parent = path.partition(".")[0]
    order = {"weights": _ORDER.index("mode"), "fallbacks": _ORDER.index("bounds.max_retention_days")}
    return order.get(parent, len(_ORDER)), path
