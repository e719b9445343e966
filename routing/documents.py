"""A policy's document: JSON as people and the database have it, read into a PolicySpec and written back. Control plane; pure.

    {"schema": 1, "when": {...}, "targets": [...], "mode": "normal", "weights": null, "strategy": "score", "bounds": {...},
     "fallbacks": {"any": [...]}, "hedge": {...}, "affinity": {...}, "attempts": 0, "directives": true,
     "guards": [...]}

Every member may be missing and then takes the default of its spec. Hours are `{"weekdays": ["mon"], "start": "08:00", "end":
"18:00"}` in UTC. The bound on cost is `max_cost_usd` (USD, a decimal string or a number) or `max_cost_nanos` (nano-dollars):
what is stored has the latter, what people are shown the former. Whether names exist is asked by `routing.problems`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from routing.guard_documents import read_guards, write_guards
from routing.reading import Problem, Reader, refuse
from tokenhub.core.money import usd_from_nanos
from tokenhub.core.policies import (
    MAX_ATTEMPTS,
    MAX_FALLBACKS,
    MAX_TARGETS,
    MODES,
    AffinitySpec,
    BoundsSpec,
    Cause,
    ConditionSpec,
    HedgeSpec,
    HoursSpec,
    PolicySpec,
    StickyBy,
    Strategy,
    WeightsSpec,
)
from tokenhub.core.specs import CAPABILITIES

SCHEMA: Final = 1
"""The version of the shape above. A document of another one is not read."""

Document = dict[str, Any]

OPERATIONS: Final = ("chat", "completions", "embeddings")
"""What a request may ask for, by the capability that serves it."""

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
STICKY: Final[tuple[StickyBy, ...]] = get_args(StickyBy)

DAY_MINUTES: Final = 24 * 60
MAX_NAMES: Final = 200
MAX_TOKENS: Final = 1_000_000_000
MAX_COST_NANOS: Final = 1_000_000 * 1_000_000_000
MAX_MILLISECONDS: Final = 3_600_000
MAX_AFFINITY_SECONDS: Final = 7 * 86_400
MAX_RETENTION_DAYS: Final = 36_500

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,299}", re.ASCII)
PATTERN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,298})?\*?", re.ASCII)
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
KEY_ID = re.compile(r"[A-Za-z0-9]{12}", re.ASCII)
TAG = re.compile(r"[A-Za-z0-9._:-]{1,100}(?:=[\x21-\x2b\x2d-\x7e]{0,200})?", re.ASCII)
HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
VALUE = re.compile(r"[\x20-\x7e]{0,500}")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00)", re.ASCII)

SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"}
)
"""Their values are secrets, and a document is shown to everyone who may see policies."""

MEMBERS: Final = (
    "schema", "when", "targets", "mode", "weights", "strategy", "bounds", "fallbacks", "hedge", "affinity", "attempts",
    "directives", "guards",
)  # fmt: skip


def parse_document(
    document: Any, *, id: str = "", name: str = "", version: int = 0, priority: int = 100
) -> PolicySpec:
    """The document as a spec. Raises InvalidRequest naming every wrong field with value, bound and mend."""
    spec, problems = read_document(document, id=id, name=name, version=version, priority=priority)
    refuse(problems)
    return spec


def read_document(
    document: Any, *, id: str = "", name: str = "", version: int = 0, priority: int = 100
) -> tuple[PolicySpec, list[Problem]]:
    """As `parse_document`; what is wrong takes its default in the spec and is told in the list."""
    top = Reader(document, "", MEMBERS)
    if top.get("schema", SCHEMA) != SCHEMA or isinstance(top.get("schema", SCHEMA), bool):
        top.wrong(
            "schema",
            f"{top.show('schema')} is no version of this document's shape that is known",
            f"give {SCHEMA}",
        )
    spec = PolicySpec(
        id=id,
        name=name,
        version=version,
        priority=priority,
        when=_read_conditions(top),
        targets=tuple(
            top.names("targets", NAME, "a name of a model, a provider/model or an alias", MAX_TARGETS)
        ),
        mode=top.choice("mode", tuple(MODES), "normal"),
        weights=_read_weights(top),
        strategy=top.choice("strategy", STRATEGIES, "score"),
        bounds=_read_bounds(top),
        fallbacks=_read_fallbacks(top),
        hedge=_read_hedge(top),
        affinity=_read_affinity(top),
        attempts=top.whole("attempts", 0, 0, MAX_ATTEMPTS, "attempts, 0 for the house's default"),
        directives=top.truth("directives", True),
        guards=read_guards(top),
    )
    return spec, top.problems


def store_document(spec: PolicySpec) -> Document:
    """The spec as the database keeps it: whole, in one form, money in nano-dollars."""
    return {
        "schema": SCHEMA,
        "when": _write_conditions(spec.when),
        "targets": list(spec.targets),
        "mode": spec.mode,
        "weights": None if spec.weights is None else _write_weights(spec.weights),
        "strategy": spec.strategy,
        "bounds": {
            "min_weight": spec.bounds.min_weight,
            "max_cost_nanos": spec.bounds.max_cost_nanos,
            "max_latency_ms": spec.bounds.max_latency_ms,
            "regions": sorted(spec.bounds.regions),
            "max_retention_days": spec.bounds.max_retention_days,
        },
        "fallbacks": {cause: list(spec.fallbacks[cause]) for cause in CAUSES if spec.fallbacks.get(cause)},
        "hedge": {
            "enabled": spec.hedge.enabled,
            "after_ms": spec.hedge.after_ms,
            "max_share": spec.hedge.max_share,
        },
        "affinity": {"by": spec.affinity.by, "seconds": spec.affinity.seconds},
        "attempts": spec.attempts,
        "directives": spec.directives,
        "guards": write_guards(spec.guards),
    }


def show_document(stored: Mapping[str, Any]) -> Document:
    """A stored document as people are shown it: money in USD. What `parse_document` reads into the same spec."""
    shown = dict(stored)
    if isinstance(bounds := shown.get("bounds"), Mapping):
        # In place of the one the other, so that the order stays.
        shown["bounds"] = {
            ("max_cost_usd" if name == "max_cost_nanos" else name): (
                usd_from_nanos(value) if name == "max_cost_nanos" else value
            )
            for name, value in bounds.items()
        }
    return shown


def normalise_document(document: Any) -> Document:
    """A document of anybody's as it is stored. Raises InvalidRequest."""
    return store_document(parse_document(document))


def write_clock(minutes: int) -> str:
    """Minutes of a day as `08:30`; the end of the day is `24:00`."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _read_conditions(top: Reader) -> ConditionSpec:
    when = top.inner(
        "when",
        (
            "keys", "projects", "teams", "tags", "models", "operations", "needs", "min_input_tokens", "max_input_tokens",
            "headers", "hours",
        ),
    )  # fmt: skip
    return ConditionSpec(
        keys=frozenset(when.names("keys", KEY_ID, "a key's ID of 12 letters and digits", MAX_NAMES)),
        projects=frozenset(when.names("projects", SLUG, "a project's short name", MAX_NAMES)),
        teams=frozenset(when.names("teams", SLUG, "a team's short name", MAX_NAMES)),
        tags=frozenset(when.names("tags", TAG, "a tag: name or name=value", MAX_NAMES)),
        models=frozenset(
            when.names(
                "models", PATTERN, "a name that is asked for, with at most one * at its end", MAX_NAMES
            )
        ),
        operations=frozenset(when.members("operations", OPERATIONS)),
        needs=frozenset(when.members("needs", CAPABILITIES)),
        min_input_tokens=when.whole("min_input_tokens", 0, 0, MAX_TOKENS, "tokens"),
        max_input_tokens=when.whole("max_input_tokens", 0, 0, MAX_TOKENS, "tokens, 0 for no bound"),
        headers=_read_headers(when),
        hours=tuple(_read_hours(one) for one in when.inners("hours", ("weekdays", "start", "end"), 50)),
    )


def _read_headers(when: Reader) -> tuple[tuple[str, str], ...]:
    headers = {}
    for name, value in when.mapping("headers", 32).items():
        lower = name.lower()
        place = f"headers.{name}"
        if HEADER.fullmatch(lower) is None:
            when.wrong(place, f"{name!r} is no header's name", "use letters, digits and dashes")
        elif lower in SECRET_HEADERS:
            when.wrong(
                place, f"{name!r} carries a secret", "ask for another header, or for the key by its ID"
            )
        elif lower in headers:
            when.wrong(place, f"{name!r} stands there twice", "name it once, in lower case")
        elif not isinstance(value, str) or VALUE.fullmatch(value) is None or "*" in value[:-1]:
            when.wrong(
                place,
                "the value is no text of at most 500 printable characters with at most one * at its end",
                "give the value that the header must have",
            )
        else:
            headers[lower] = value
    return tuple(sorted(headers.items()))


def _read_hours(span: Reader) -> HoursSpec:
    days = span.members("weekdays", WEEKDAYS)
    if not days:
        span.wrong(
            "weekdays", "no weekday is named, so the span is never", f"name some of {', '.join(WEEKDAYS)}"
        )
    start, end = _read_clock(span, "start"), _read_clock(span, "end")
    if start == DAY_MINUTES:
        span.wrong("start", "'24:00' is the end of a day, not a beginning", "give 00:00 of the day after")
    elif start == end and start is not None:
        span.wrong(
            "end",
            f"a span from {write_clock(start)} to {write_clock(start)} has no length",
            "give a later end; 00:00 to 24:00 is the whole day",
        )
    return HoursSpec(frozenset(WEEKDAYS.index(day) for day in days), start or 0, end or 0)


def _read_clock(span: Reader, name: str) -> int | None:
    text = span.get(name, None)
    found = CLOCK.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        span.wrong(
            name, f"{span.show(name)} is no time of a day", "write it as HH:MM in UTC, from 00:00 to 24:00"
        )
        return None
    hours, minutes = (part for part in found.groups() if part is not None)
    return int(hours) * 60 + int(minutes)


def _read_weights(top: Reader) -> WeightsSpec | None:
    if top.get("weights", None) is None:
        return None
    names = ("cost", "latency", "failure", "weight")
    known = len(top.problems)
    own = top.inner("weights", names)
    found = {name: own.share(name, 0.0) for name in names}
    if not any(found.values()) and len(top.problems) == known:
        top.wrong(
            "weights",
            "all of them are zero, so no target is better than another",
            "give one of them more than 0",
        )
    return WeightsSpec(**found)


def _read_bounds(top: Reader) -> BoundsSpec:
    bounds = top.inner(
        "bounds",
        ("min_weight", "max_cost_usd", "max_cost_nanos", "max_latency_ms", "regions", "max_retention_days"),
    )
    if bounds.has("max_cost_usd") and bounds.has("max_cost_nanos"):
        bounds.wrong("max_cost_usd", "stands beside max_cost_nanos", "give one of the two")
    if bounds.has("max_cost_usd"):
        cost = bounds.usd("max_cost_usd", MAX_COST_NANOS)
    else:
        cost = bounds.whole("max_cost_nanos", 0, 0, MAX_COST_NANOS, "nano-dollars, 0 for no bound")
    return BoundsSpec(
        min_weight=bounds.whole("min_weight", 0, 0, 10, "a capability, 0 for no bound"),
        max_cost_nanos=cost,
        max_latency_ms=bounds.whole("max_latency_ms", 0, 0, MAX_MILLISECONDS, "milliseconds, 0 for no bound"),
        regions=frozenset(bounds.names("regions", SLUG, "a region's short name", MAX_NAMES)),
        max_retention_days=bounds.whole(
            "max_retention_days", -1, -1, MAX_RETENTION_DAYS, "days, -1 for no bound, 0 for nothing kept"
        ),
    )


def _read_fallbacks(top: Reader) -> dict[Cause, tuple[str, ...]]:
    fallbacks = top.inner("fallbacks", CAUSES, what="cause")
    kind = "a name of a model, a provider/model or an alias"
    found = {cause: tuple(fallbacks.names(cause, NAME, kind, MAX_FALLBACKS)) for cause in CAUSES}
    return {cause: names for cause, names in found.items() if names}


def _read_hedge(top: Reader) -> HedgeSpec:
    hedge = top.inner("hedge", ("enabled", "after_ms", "max_share"))
    default = HedgeSpec()
    return HedgeSpec(
        enabled=hedge.truth("enabled", default.enabled),
        after_ms=hedge.whole(
            "after_ms", 0, 0, MAX_MILLISECONDS, "milliseconds, 0 for the target's own 95th percentile"
        ),
        max_share=hedge.share("max_share", default.max_share),
    )


def _read_affinity(top: Reader) -> AffinitySpec:
    affinity = top.inner("affinity", ("by", "seconds"))
    default = AffinitySpec()
    return AffinitySpec(
        by=affinity.choice("by", STICKY, default.by),
        seconds=affinity.whole("seconds", default.seconds, 0, MAX_AFFINITY_SECONDS, "seconds"),
    )


def _write_conditions(when: ConditionSpec) -> Document:
    return {
        "keys": sorted(when.keys),
        "projects": sorted(when.projects),
        "teams": sorted(when.teams),
        "tags": sorted(when.tags),
        "models": sorted(when.models),
        "operations": sorted(when.operations, key=OPERATIONS.index),
        "needs": sorted(when.needs, key=CAPABILITIES.index),
        "min_input_tokens": when.min_input_tokens,
        "max_input_tokens": when.max_input_tokens,
        "headers": dict(when.headers),
        "hours": [
            {
                "weekdays": [WEEKDAYS[day] for day in sorted(span.weekdays)],
                "start": write_clock(span.start),
                "end": write_clock(span.end),
            }
            for span in when.hours
        ],
    }


def _write_weights(weights: WeightsSpec) -> Document:
    return {
        "cost": weights.cost,
        "latency": weights.latency,
        "failure": weights.failure,
        "weight": weights.weight,
    }
