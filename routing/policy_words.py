"""Settings, changes and problems of policies in words, for the pages. Control plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from routing.differences import Difference
from routing.policy_forms import DraftForm, find_field
from routing.policy_labels import MODE_LABELS, STICKY_LABELS, STRATEGY_LABELS
from routing.reading import Problem

UNBOUNDED = {
    "when.min_input_tokens": 0,
    "when.max_input_tokens": 0,
    "bounds.min_weight": 0,
    "bounds.max_cost_usd": "0.00",
    "bounds.max_latency_ms": 0,
    "bounds.max_retention_days": -1,
}
"""What a bound is where there is none, by path."""


def label_of(path: str) -> str:
    """What people call a field of a document."""
    name = find_field(path)
    label = str(DraftForm.base_fields[name].label) if name else path
    if path.startswith("weights."):
        return f"Weight of {label.lower()}"
    return "Hedging" if path == "hedge.enabled" else label


def write_value(path: str, value: Any) -> str:
    """A value of a document for people."""
    labels = {"mode": MODE_LABELS, "strategy": STRATEGY_LABELS, "affinity.by": STICKY_LABELS}
    if path in UNBOUNDED and value == UNBOUNDED[path]:
        return "no bound"
    if value is None:
        return "the mode’s" if path.startswith("weights") else "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if path == "guards":
        return "\n".join(_write_guard(one) for one in value) or "–"
    if path == "when.hours":
        return "\n".join(f"{', '.join(one['weekdays'])} {one['start']}–{one['end']}" for one in value) or "–"
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {text}" for name, text in value.items()) or "–"
    if isinstance(value, list):
        return "\n".join(str(one) for one in value) or "–"
    return labels.get(path, {}).get(value, str(value))


def _write_guard(guard: Mapping[str, Any]) -> str:
    """A guard on one line."""
    said = {
        name: value
        for name, value in guard.items()
        if name not in ("name", "kind") and value not in ("", [], {})
    }
    return f"{guard['name']} ({guard['kind']}): " + "; ".join(
        f"{name.replace('_', ' ')} {_write_plain(value)}" for name, value in said.items()
    )


def _write_plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {text}" for name, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def write_changes(changes: list[Difference]) -> list[dict[str, str]]:
    """Differences as rows of a table."""
    return [
        {
            "label": label_of(one.path),
            "path": one.path,
            "before": write_value(one.path, one.before),
            "after": write_value(one.path, one.after),
        }
        for one in changes
    ]


def write_problems(problems: Iterable[Problem], *, mend: bool = True) -> list[dict[str, str]]:
    """Problems for people: the field's name, and the rest as a sentence; how to mend it unless that is not asked."""
    return [
        {
            "label": label_of(one.path),
            "text": f"{one.message}; {one.hint}" if one.hint and mend else one.message,
        }
        for one in problems
    ]
