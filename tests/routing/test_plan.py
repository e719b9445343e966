"""Plans: which targets a name gives, in which order, and what is said where none can serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.engine.endpoints import CROWDED, FEW, choose_endpoint
from routing.engine.plan import Features, make_plan
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tokenhub.core.errors import NothingEligible, PermissionDenied
from tokenhub.core.specs import AliasSpec, EndpointSpec

CHAT = frozenset({"chat"})


def test_an_alias_s_targets_come_in_its_order_and_those_out_of_service_are_named() -> None:
    first, second = (
        a_provider("first", "openai", 1),
        replace(a_provider("second", "openai", 2), draining=True),
    )
    models = (a_model(second, "b"), a_model(first, "a"))
    key, _ = a_key()
    snapshot = a_snapshot(
        providers=(first, second), models=models, aliases=(an_alias("work", *models),), keys=(key,)
    )
    plan = make_plan(snapshot, key, Features("work", CHAT))
    assert [candidate.model.name for candidate in plan.candidates] == ["a"]
    assert [(refusal.model, refusal.reason) for refusal in plan.refusals] == [
        ("b", "its provider is being drained")
    ]


def test_an_alias_whose_targets_are_all_out_of_service_is_no_matter_of_permission() -> None:
    key, _ = a_key()
    snapshot = a_snapshot(aliases=(AliasSpec("work", ()),), keys=(key,))
    with pytest.raises(NothingEligible, match="none is in service"):
        make_plan(snapshot, key, Features("work", CHAT))


def test_a_key_without_any_of_the_targets_is_refused() -> None:
    provider = a_provider("only", "openai", 1)
    key, _ = a_key(allowed_models=frozenset({"other"}))
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    with pytest.raises(PermissionDenied):
        make_plan(snapshot, key, Features("work", CHAT))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 50), st.booleans()), max_size=8),
    st.floats(0, 1, exclude_max=True),
)
def test_the_chosen_endpoint_is_usable_and_has_the_least_load_for_its_weight(
    drawn: list[tuple[int, bool, int, bool]], tie: float
) -> None:
    endpoints = [
        EndpointSpec(str(number), "http", "127.0.0.1", 1, weight=weight, draining=draining)
        for number, (weight, draining, _, _) in enumerate(drawn)
    ]
    loads = {endpoint.id: drawn[int(endpoint.id)][2] for endpoint in endpoints}
    usable = {endpoint.id: drawn[int(endpoint.id)][3] for endpoint in endpoints}
    open_ones = [e for e in endpoints if e.weight and not e.draining and usable[e.id]]
    chosen = choose_endpoint(endpoints, lambda e: loads[e.id], lambda e: usable[e.id], tie)
    if not open_ones:
        assert chosen is None
    else:
        assert chosen in open_ones
        least = min((loads[e.id] + 1) / e.weight for e in open_ones)
        assert (loads[chosen.id] + 1) / chosen.weight == least


def three_equal() -> list[EndpointSpec]:
    return [EndpointSpec(str(number), "http", "127.0.0.1", 1) for number in range(3)]


def test_a_conversation_keeps_its_endpoint_and_all_together_spread() -> None:
    def choose(name: str) -> str:
        chosen = choose_endpoint(three_equal(), lambda _: 0, lambda _: True, 0.5, name)
        assert chosen is not None
        return chosen.id

    first = [choose(f"conversation {number}") for number in range(900)]
    assert first == [choose(f"conversation {number}") for number in range(900)]
    assert all(250 < first.count(name) < 350 for name in "012")


@given(st.lists(st.integers(0, 40), min_size=3, max_size=3), st.text(min_size=1, max_size=5))
def test_no_conversation_crowds_an_endpoint(in_flight: list[int], name: str) -> None:
    chosen = choose_endpoint(three_equal(), lambda one: in_flight[int(one.id)], lambda _: True, 0.5, name)
    assert chosen is not None
    assert in_flight[int(chosen.id)] < CROWDED * (sum(in_flight) + 1) / 3 + 1 + FEW


def test_a_conversation_whose_endpoint_rests_goes_to_one_other_and_the_rest_stay() -> None:
    def choose(name: str, resting: str = "") -> str:
        chosen = choose_endpoint(three_equal(), lambda _: 0, lambda one: one.id != resting, 0.5, name)
        assert chosen is not None
        return chosen.id

    for number in range(200):
        before, after = choose(str(number)), choose(str(number), resting="1")
        assert after == before or before == "1"
