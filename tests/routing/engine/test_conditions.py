"""Which policy a request is routed by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from routing.engine.conditions import Circumstances, choose_policy, holds, list_holding
from tests.builders import a_snapshot
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import ConditionSpec, HoursSpec, PolicySpec
from tokenhub.core.specs import KeySpec

KEY = KeySpec("key-1", "k", (), team="search", project="shop")
AT = Circumstances(
    KEY,
    "gpt-4o",
    "chat",
    frozenset({"chat", "tools"}),
    input_tokens=500,
    tags=frozenset({"batch", "env=prod"}),
    headers={"x-tier": "gold-2"},
    minute=2 * 1440 + 600,  # Wednesday, 10:00
)
WEEK = frozenset(range(7))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"keys": frozenset({"key-1", "key-2"})}, True),
        ({"keys": frozenset({"key-2"})}, False),
        ({"projects": frozenset({"shop"})}, True),
        ({"projects": frozenset({"other"})}, False),
        ({"teams": frozenset({"search"})}, True),
        ({"teams": frozenset({""})}, False),
        ({"tags": frozenset({"batch"})}, True),
        ({"tags": frozenset({"env=prod", "none"})}, True),
        ({"tags": frozenset({"env"})}, False),
        ({"models": frozenset({"gpt-4o"})}, True),
        ({"models": frozenset({"gpt-*"})}, True),
        ({"models": frozenset({"gpt"})}, False),
        ({"models": frozenset({"claude-*"})}, False),
        ({"operations": frozenset({"chat"})}, True),
        ({"operations": frozenset({"embeddings"})}, False),
        ({"needs": frozenset({"tools"})}, True),
        ({"needs": frozenset({"vision"})}, False),
        ({"min_input_tokens": 500}, True),
        ({"min_input_tokens": 501}, False),
        ({"max_input_tokens": 500}, True),
        ({"max_input_tokens": 499}, False),
        ({"headers": (("x-tier", "gold-2"),)}, True),
        ({"headers": (("x-tier", "gold*"),)}, True),
        ({"headers": (("x-tier", "gold"),)}, False),
        ({"headers": (("x-other", "*"),)}, False),
        ({"hours": (HoursSpec(frozenset({2}), 600, 601),)}, True),
        ({"hours": (HoursSpec(frozenset({2}), 0, 600),)}, False),
        ({"hours": (HoursSpec(frozenset({3}), 0, 1440),)}, False),
        ({"hours": (HoursSpec(frozenset({3}), 0, 1440), HoursSpec(WEEK, 0, 1440))}, True),
        ({"teams": frozenset({"search"}), "needs": frozenset({"vision"})}, False),
    ],
)
def test_a_condition_holds_where_all_that_it_names_is_so(given: dict[str, Any], expected: bool) -> None:
    assert holds(ConditionSpec(**given), AT) is expected


def test_a_span_past_midnight_belongs_to_the_day_on_which_it_began() -> None:
    night = ConditionSpec(hours=(HoursSpec(frozenset({6}), 22 * 60, 6 * 60),))
    for day, hour, expected in ((6, 23, True), (0, 5, True), (0, 6, False), (0, 23, False), (6, 5, False)):
        assert holds(night, replace(AT, minute=day * 1440 + hour * 60)) is expected


def test_the_first_that_holds_is_taken_unless_one_is_named() -> None:
    never = PolicySpec("1", "never", 1, when=ConditionSpec(teams=frozenset({"nobody"})))
    first, second = PolicySpec("2", "first", 1), PolicySpec("3", "second", 4)
    snapshot = replace(a_snapshot(), policies=(never, first, second))
    assert choose_policy(snapshot, AT) == first
    assert choose_policy(snapshot, AT, "second") == second
    assert choose_policy(snapshot, AT, "never") == never
    assert list_holding(snapshot.policies, AT) == [first, second]
    assert choose_policy(a_snapshot(), AT) is None
    with pytest.raises(InvalidRequest, match="no policy in force is named 'gone'"):
        choose_policy(snapshot, AT, "gone")
