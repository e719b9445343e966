"""Documents of policies: what is read, what is refused and how that is told, and that they come back as they went."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routing.differences import NOTHING, compare_documents, list_changes
from routing.documents import normalise_document, parse_document, show_document, store_document
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import HoursSpec, PolicySpec, WeightsSpec

WHOLE: dict[str, Any] = {
    "schema": 1,
    "when": {
        "keys": ["key000000001"],
        "projects": ["alpha"],
        "teams": ["acme"],
        "tags": ["batch", "user=7"],
        "models": ["gpt-*", "auto", "*"],
        "operations": ["embeddings", "chat"],
        "needs": ["vision", "tools"],
        "min_input_tokens": 10,
        "max_input_tokens": 1000,
        "headers": {"X-App": "mobile*"},
        "hours": [
            {"weekdays": ["sun", "mon"], "start": "22:00", "end": "06:30"},
            {"weekdays": ["wed"], "start": "00:00", "end": "24:00"},
        ],
    },
    "targets": ["acme/large", "fast"],
    "mode": "cheap",
    "weights": {"cost": 1, "latency": 0, "failure": 0.5, "weight": 0},
    "strategy": "lowest_cost",
    "bounds": {"min_weight": 3, "max_cost_usd": "0.05", "max_latency_ms": 900, "regions": ["eu"], "max_retention_days": 0},
    "fallbacks": {"any": ["small"], "context": ["long"]},
    "hedge": {"enabled": True, "after_ms": 200, "max_share": 0.05},
    "affinity": {"by": "session", "seconds": 60},
    "attempts": 4,
    "directives": False,
    "guards": [
        {
            "name": "pii", "kind": "redact", "side": "both", "action": "mask", "patterns": ["email"],
            "own": {"ticket": "TCK-[0-9]+"}, "restore": True,
        },
        {
            "name": "review", "kind": "webhook", "side": "after", "url": "https://guard.example:8443/a?b=c",
            "secret": "TOKENHUB_GUARD_R", "timeout_ms": 500, "failure": "open",
        },
    ],
}  # fmt: skip


def test_a_whole_document_is_read_into_a_spec() -> None:
    spec = parse_document(WHOLE, id="7", name="night", version=3, priority=5)
    assert (spec.id, spec.name, spec.version, spec.priority) == ("7", "night", 3, 5)
    assert spec.when.hours == (HoursSpec(frozenset({0, 6}), 1320, 390), HoursSpec(frozenset({2}), 0, 1440))
    assert spec.when.headers == (("x-app", "mobile*"),)
    assert spec.bounds.max_cost_nanos == 50_000_000
    assert spec.weights == WeightsSpec(1.0, 0.0, 0.5, 0.0)
    assert spec.fallbacks == {"any": ("small",), "context": ("long",)}
    assert (spec.attempts, spec.directives, spec.hedge.enabled, spec.affinity.by) == (
        4,
        False,
        True,
        "session",
    )


def test_nothing_given_is_the_spec_s_defaults() -> None:
    assert parse_document({}) == PolicySpec(id="", name="", version=0)
    assert parse_document({"when": None, "weights": None, "hedge": None}) == parse_document({})


@pytest.mark.parametrize("document", [{}, WHOLE, {"bounds": {"max_cost_nanos": 1}}])
def test_what_is_stored_and_what_is_shown_are_read_into_the_same_spec(document: dict[str, Any]) -> None:
    spec = parse_document(document)
    stored = store_document(spec)
    assert stored == normalise_document(stored) == json.loads(json.dumps(stored))
    assert "max_cost_usd" not in stored["bounds"]
    shown = show_document(stored)
    assert "max_cost_nanos" not in shown["bounds"]
    assert parse_document(stored) == parse_document(shown) == spec


@pytest.mark.parametrize(
    ("usd", "nanos"),
    [("0.05", 50_000_000), (0.1, 100_000_000), (2, 2_000_000_000), ("0.000000001", 1), (0, 0)],
)
def test_money_is_usd_as_text_or_number_and_kept_in_nano_dollars(usd: Any, nanos: int) -> None:
    assert normalise_document({"bounds": {"max_cost_usd": usd}})["bounds"]["max_cost_nanos"] == nanos


def inside(path: str, value: Any) -> dict[str, Any]:
    """A document with one member."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value  # type: ignore[no-any-return]


REFUSED: tuple[tuple[str, Any, str, str], ...] = (
    ("schema", 2, "schema", "give 1"),
    ("schema", True, "schema", "give 1"),
    ("tragets", [], "tragets", "did you mean targets?"),
    ("when.model", [], "when.model", "did you mean models?"),
    ("when", [], "when", "give one with some of"),
    ("mode", "chaep", "mode", "did you mean cheap?"),
    ("mode", None, "mode", "there are"),
    ("strategy", "fastest", "strategy", ""),
    ("fallbacks", {"timeout": []}, "fallbacks.timeout", ""),
    ("fallbacks", {"any": ["a b"]}, "fallbacks.any[0]", ""),
    ("fallbacks", {"any": [f"m{n}" for n in range(21)]}, "fallbacks.any", "at most 20"),
    ("targets", "small", "targets", "give a list"),
    ("targets", ["a", "a"], "targets[1]", "name it once"),
    ("targets", [1], "targets[0]", ""),
    ("targets", [f"m{n}" for n in range(101)], "targets", "at most 100"),
    ("weights", {"cost": 1.5}, "weights.cost", "within these bounds"),
    ("weights", {"cost": -0.1}, "weights.cost", "within these bounds"),
    ("weights", {"cost": float("nan")}, "weights.cost", "within these bounds"),
    ("weights", {"cost": True}, "weights.cost", "within these bounds"),
    ("weights", {"cost": 0}, "weights", "more than 0"),
    ("weights", {"price": 1}, "weights.price", ""),
    ("bounds.min_weight", 11, "bounds.min_weight", "within these bounds"),
    ("bounds.min_weight", 1.0, "bounds.min_weight", "within these bounds"),
    ("bounds.max_cost_usd", "-1", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "NaN", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "1e999999999", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "0.0000000001", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "1000001", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "0." + "0" * 39 + "1", "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", 10**5000, "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", True, "bounds.max_cost_usd", "0.05"),
    ("bounds.max_cost_usd", "much", "bounds.max_cost_usd", "0.05"),
    ("bounds", {"max_cost_usd": 1, "max_cost_nanos": 1}, "bounds.max_cost_usd", "one of the two"),
    ("bounds.max_latency_ms", 3_600_001, "bounds.max_latency_ms", "milliseconds"),
    ("bounds.regions", ["Europe"], "bounds.regions[0]", ""),
    ("bounds.max_retention_days", -2, "bounds.max_retention_days", "-1 for no bound"),
    ("hedge.enabled", "yes", "hedge.enabled", "one of the two"),
    ("hedge.max_share", 2, "hedge.max_share", "within these bounds"),
    ("affinity.by", "team", "affinity.by", "there are"),
    ("affinity.seconds", 604_801, "affinity.seconds", "seconds"),
    ("attempts", 21, "attempts", "attempts"),
    ("directives", 1, "directives", "one of the two"),
    ("guards", {}, "guards", "give a list"),
    ("guards", [{"name": "a", "patterns": ["email"]}] * 2, "guards[1].name", "a name of its own"),
    ("guards", [{"name": "A b", "patterns": ["email"]}], "guards[0].name", "small letters"),
    ("guards", [{"name": "a"}], "guards[0].patterns", "name some of"),
    ("guards", [{"name": "a", "patterns": ["emial"]}], "guards[0].patterns[0]", "did you mean email?"),
    ("guards", [{"name": "a", "patterns": ["email"], "action": "hide"}], "guards[0].action", "there are"),
    ("guards", [{"name": "a", "patterns": ["email"], "side": "after", "restore": True}], "guards[0].restore", "mask before"),
    ("guards", [{"name": "a", "patterns": ["email"], "url": "https://x"}], "guards[0].url", "leave it out"),
    ("guards", [{"name": "a", "own": {"x": "("}}], "guards[0].own.x", "RE2"),
    ("guards", [{"name": "a", "own": {"x": "a*"}}], "guards[0].own.x", "matches something"),
    ("guards", [{"name": "a", "own": {"email": "a"}}], "guards[0].own.email", "small letters"),
    ("guards", [{"name": "a", "own": {"x": 1}}], "guards[0].own.x", "RE2"),
    ("guards", [{"name": "a", "kind": "webhook"}], "guards[0].url", "https://"),
    ("guards", [{"name": "a", "kind": "webhook", "url": "https://u:p@x/"}], "guards[0].url", "https://"),
    ("guards", [{"name": "a", "kind": "webhook", "url": "file:///etc"}], "guards[0].url", "https://"),
    ("guards", [{"name": "a", "kind": "webhook", "url": "https://x", "secret": "sk-1"}], "guards[0].secret", "TOKENHUB_GUARD_"),
    ("guards", [{"name": "a", "kind": "webhook", "url": "https://x", "timeout_ms": 1}], "guards[0].timeout_ms", "milliseconds"),
    ("guards", [{"name": "a", "kind": "webhook", "url": "https://x", "patterns": []}], "guards[0].patterns", "leave it out"),
    ("when.keys", ["short"], "when.keys[0]", ""),
    ("when.teams", ["A Team"], "when.teams[0]", ""),
    ("when.models", ["a*b"], "when.models[0]", ""),
    ("when.tags", ["a,b"], "when.tags[0]", ""),
    ("when.operations", ["images"], "when.operations[0]", "there are"),
    ("when.needs", ["speed"], "when.needs[0]", ""),
    ("when.min_input_tokens", -1, "when.min_input_tokens", "tokens"),
    ("when.max_input_tokens", 10**9 + 1, "when.max_input_tokens", "tokens"),
    ("when.headers", {"Authorization": "Bearer x"}, "when.headers.Authorization", "by its ID"),
    ("when.headers", {"a b": "x"}, "when.headers.a b", "letters"),
    ("when.headers", {"x-a": 1}, "when.headers.x-a", ""),
    ("when.headers", {"x-a": "1", "X-A": "2"}, "when.headers.X-A", "name it once"),
    ("when.hours", [{"weekdays": ["mon"], "start": "08:00", "end": "08:00"}], "when.hours[0].end", "a later end"),
    ("when.hours", [{"weekdays": [], "start": "08:00", "end": "09:00"}], "when.hours[0].weekdays", "name some"),
    ("when.hours", [{"weekdays": ["mon"], "start": "24:00", "end": "09:00"}], "when.hours[0].start", "day after"),
    ("when.hours", [{"weekdays": ["mon"], "start": "8:00", "end": "09:00"}], "when.hours[0].start", "HH:MM"),
    ("when.hours", [{"weekdays": ["mon"], "end": "09:00"}], "when.hours[0].start", "HH:MM"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "param", "hint"),
    REFUSED,
    ids=[f"{row[2]}-{number}" for number, row in enumerate(REFUSED)],
)
def test_what_is_wrong_is_refused_by_its_path_with_the_value_and_a_mend(
    path: str, value: Any, param: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_document(inside(path, value))
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")
    assert hint in (refused.value.hint or "")
    assert refused.value.hint
    assert set(refused.value.details["fields"]) == {param}


@pytest.mark.parametrize("document", [None, [], "x", 7])
def test_what_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequest, match="is no object"):
        parse_document(document)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_document({"mode": "x", "targets": [1], "bounds": {"min_weight": 99}})
    assert set(refused.value.details["fields"]) == {"mode", "targets[0]", "bounds.min_weight"}


def test_a_long_value_is_repeated_shortly() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_document({"mode": "x" * 10_000})
    assert len(refused.value.message) < 300


def test_documents_are_compared_field_by_field() -> None:
    before = normalise_document({"targets": ["a"], "bounds": {"max_cost_usd": "0.05"}})
    after = normalise_document({"targets": ["b"], "fallbacks": {"any": ["a"]}, "weights": {"cost": 1}})
    changes = {one.path: (one.before, one.after) for one in list_changes(before, after)}
    assert changes == {
        "targets": (["a"], ["b"]),
        "weights.cost": (None, 1.0),
        "weights.latency": (None, 0.0),
        "weights.failure": (None, 0.0),
        "weights.weight": (None, 0.0),
        "bounds.max_cost_usd": ("0.05", "0.00"),
        "fallbacks.any": (None, ["a"]),
    }
    assert list_changes(None, NOTHING) == []
    paths = [one.path for one in compare_documents(before, after)]
    assert paths.index("targets") < paths.index("bounds.min_weight") < paths.index("attempts")
