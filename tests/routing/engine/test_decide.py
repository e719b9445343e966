"""Properties of every decision, over made-up installations, keys, policies, health and requests."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.engine.decide import CONTEXT_MARGIN, Ask, Decision, decide
from routing.engine.explain import explain, list_refusals
from routing.engine.health import TargetHealth
from routing.engine.plan import OPTIONAL, Candidate, Features, Plan, make_plan
from routing.engine.resolve import AUTO
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.routing.engine.worlds import NOW, asks, healths, keys, snapshots
from tokenhub.core.errors import ModelNotFound, NothingEligible, PermissionDenied
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import MODES
from tokenhub.core.specs import AliasSpec, AliasTargetSpec, KeySpec, ModelSpec, Snapshot

EXAMPLES = settings(max_examples=400, deadline=None)
ASKED = ("a", "b", "p0/a", "x", "y", "auto", "*")
CHAT = frozenset({"chat"})


def may_use(
    snapshot: Snapshot, key: KeySpec, model: ModelSpec, asked: str, policy_names: tuple[str, ...]
) -> bool:
    """The rule once more, from the words of the documentation and not of the code."""
    allowed = key.allowed_models
    if allowed is None:
        return True
    provider = snapshot.provider_by_id[model.provider_id]
    if {model.name, f"{provider.name}/{model.name}"} & allowed:
        return True
    ways = policy_names or (asked,)
    leading = {alias.name for alias in snapshot.aliases if model.id in {t.model_id for t in alias.targets}}
    # The name that was asked also counts under a policy that replaces its targets, if it is one that leads there.
    return bool(leading & allowed & {*ways, asked})


def plan_of(snapshot: Snapshot, key: KeySpec, asked: str, needs: frozenset[str], which: int) -> Plan | None:
    policy = snapshot.policies[which % len(snapshot.policies)] if snapshot.policies and which else None
    try:
        return make_plan(snapshot, key, Features(asked, needs), policy)
    except (ModelNotFound, NothingEligible, PermissionDenied):
        return None


@EXAMPLES
@given(st.data(), snapshots(), keys(), st.sampled_from(ASKED), st.sampled_from([CHAT, CHAT | {"tools"}]))
def test_whatever_is_chosen_is_authorised_able_and_within_all_bounds(
    data: st.DataObject, snapshot: Snapshot, key: KeySpec, asked: str, needs: frozenset[str]
) -> None:
    plan = plan_of(snapshot, key, asked, needs, data.draw(st.integers(0, 2)))
    if plan is None:
        return
    ask = data.draw(asks())
    health = data.draw(healths(len(plan.candidates)))
    decision = decide(plan, ask, health, NOW, random.Random(1).random)
    policy = plan.policy
    names = policy.targets if policy is not None else ()
    chosen = [(one, names) for one in decision.candidates]
    for cause, fallback in plan.fallbacks.items():
        assert policy is not None
        chosen += [(one, policy.fallbacks[cause]) for one in fallback]
    for candidate, ways in chosen:
        model, provider = candidate.model, candidate.provider
        assert may_use(snapshot, key, model, asked, ways)
        assert model.enabled
        assert provider.enabled
        assert not provider.draining
        assert any(endpoint.weight and not endpoint.draining for endpoint in provider.endpoints)
        asked_for_by_name = policy is None and asked not in AUTO
        assert (needs - OPTIONAL if asked_for_by_name else needs) <= model.capabilities
        if policy is not None:
            assert model.weight >= policy.bounds.min_weight
            assert not policy.bounds.regions or provider.region in policy.bounds.regions
            most = policy.bounds.max_retention_days
            assert most < 0 or 0 <= provider.retention_days <= most
    for place in decision.order:
        model = plan.candidates[place].model
        assert model.weight >= ask.min_weight
        if model.context_tokens:
            assert ask.input_tokens * CONTEXT_MARGIN <= model.context_tokens
        if ask.max_cost_nanos:
            assert model.price is not None
            least = model.price.rate("input") or 0
            assert least * ask.input_tokens <= ask.max_cost_nanos * 10**6
        if ask.max_latency_ms:
            assert health[place].ttft * 1000 <= ask.max_latency_ms


@EXAMPLES
@given(st.data(), snapshots(), keys(), st.sampled_from(ASKED))
def test_every_candidate_is_in_the_order_or_refused_with_a_reason(
    data: st.DataObject, snapshot: Snapshot, key: KeySpec, asked: str
) -> None:
    plan = plan_of(snapshot, key, asked, CHAT, data.draw(st.integers(0, 2)))
    if plan is None:
        return
    health = data.draw(healths(len(plan.candidates)))
    decision = decide(plan, data.draw(asks()), health, NOW, random.Random(1).random)
    assert sorted([*decision.order, *decision.refused]) == list(range(len(plan.candidates)))
    told = explain(decision)
    assert len(told["candidates"]) == len(plan.candidates)
    assert all(one["order"] is not None or one["refused"]["reason"] for one in told["candidates"])
    assert all(refusal.reason and refusal.code for refusal in list_refusals(decision))


@EXAMPLES
@given(st.data(), snapshots(), keys(), st.sampled_from(ASKED))
def test_no_resting_target_comes_before_one_that_is_awake(
    data: st.DataObject, snapshot: Snapshot, key: KeySpec, asked: str
) -> None:
    plan = plan_of(snapshot, key, asked, CHAT, data.draw(st.integers(0, 2)))
    if plan is None:
        return
    health = data.draw(healths(len(plan.candidates)))
    decision = decide(plan, data.draw(asks()), health, NOW, random.Random(1).random)
    rests = [max(health[place].rest_until - NOW, 0.0) for place in decision.order]
    assert rests == sorted(rests)
    assert decision.resting == sum(rest > 0 for rest in rests)


@EXAMPLES
@given(st.data(), snapshots(), keys(), st.sampled_from(ASKED), st.integers())
def test_the_same_inputs_and_seed_give_the_same_decision(
    data: st.DataObject, snapshot: Snapshot, key: KeySpec, asked: str, seed: int
) -> None:
    plan = plan_of(snapshot, key, asked, CHAT, data.draw(st.integers(0, 2)))
    if plan is None:
        return
    health, ask = data.draw(healths(len(plan.candidates))), data.draw(asks())
    one, other = (decide(plan, ask, health, NOW, random.Random(seed).random) for _ in range(2))
    assert explain(one) == explain(other)


@EXAMPLES
@given(st.data(), snapshots(policies=False), st.sampled_from(ASKED))
def test_the_best_score_comes_first(data: st.DataObject, snapshot: Snapshot, asked: str) -> None:
    plan = plan_of(snapshot, KeySpec("k", "k", ()), asked, CHAT, 0)
    if plan is None:
        return
    ask = replace(data.draw(asks()), strategy="score", pinned="", hinted="")
    health = data.draw(healths(len(plan.candidates)))
    decision = decide(plan, ask, health, NOW, random.Random(1).random)
    if decision.scores is None:
        return
    awake = [place for place in decision.order if health[place].rest_until <= NOW]
    scores = [decision.scores[place] for place in awake]
    assert all(first <= second + 1e-8 for first, second in itertools.pairwise(scores))
    assert all(-1.0 - 1e-9 <= score <= 3.0 + 1e-9 for score in scores)


def four_models() -> Plan:
    """Cheap and weak, dear and strong, quick, and one that fails."""
    made = []
    for name, weight, rate in (("cheap", 2, 1), ("strong", 10, 100), ("quick", 5, 30), ("failing", 6, 10)):
        provider = a_provider(name, "openai", 1)
        price = PriceSpec("1", (("input", rate * 10**7), ("output", rate * 10**7)))
        made.append(Candidate(provider, a_model(provider, name, weight=weight, price=price)))
    return Plan(made, (), "test")


def their_health() -> list[TargetHealth]:
    made = []
    for ttft, failure in ((1.0, 0.0), (2.0, 0.0), (0.1, 0.0), (1.0, 0.9)):
        one = TargetHealth()
        one.ttft, one.failure = ttft, failure
        made.append(one)
    return made


def first_of(ask: Ask) -> str:
    return decide(four_models(), ask, their_health(), NOW, random.Random(1).random).candidates[0].model.name


@pytest.mark.parametrize(
    ("mode", "first"),
    [("cheap", "cheap"), ("high_confidence", "strong"), ("planning", "strong"), ("normal", "quick")],
)
def test_each_mode_prefers_what_its_weights_say(mode: str, first: str) -> None:
    assert first_of(Ask(1000, strategy="score", weights=MODES[mode])) == first  # type: ignore[index]


@pytest.mark.parametrize(("strategy", "first"), [("lowest_cost", "cheap"), ("lowest_latency", "quick")])
def test_single_figures_order_by_themselves(strategy: str, first: str) -> None:
    assert first_of(Ask(1000, strategy=strategy)) == first  # type: ignore[arg-type]


def test_a_target_that_lets_somebody_wait_is_slow_at_once() -> None:
    health = their_health()
    health[2].waiting_since = NOW - 30
    decision = decide(four_models(), Ask(10, strategy="lowest_latency"), health, NOW, random.random)
    assert decision.candidates[-1].model.name == "quick"


def test_turns_are_taken() -> None:
    plan, health = four_models(), their_health()
    firsts = [
        decide(plan, Ask(strategy="round_robin", turn=turn), health, NOW, random.random).order[0]
        for turn in range(8)
    ]
    assert firsts == [0, 1, 2, 3, 0, 1, 2, 3]


def test_equal_scores_go_to_the_least_busy_and_then_by_share() -> None:
    provider = a_provider("only", "openai", 1)
    plan = Plan(
        [Candidate(provider, a_model(provider, name), 0, share) for name, share in (("a", 3), ("b", 1))],
        (),
        "",
    )
    health = [TargetHealth(), TargetHealth()]
    draw = random.Random(3).random
    firsts = Counter(decide(plan, Ask(10, strategy="score"), health, NOW, draw).order[0] for _ in range(4000))
    assert 2850 < firsts[0] < 3150
    health[0].in_flight = 1
    assert {decide(plan, Ask(10, strategy="score"), health, NOW, draw).order[0] for _ in range(50)} == {1}


def test_whoever_is_sticky_draws_the_same_target_in_every_process_and_all_together_by_share() -> None:
    provider = a_provider("only", "openai", 1)
    plan = Plan(
        [Candidate(provider, a_model(provider, name), 0, share) for name, share in (("a", 9), ("b", 1))],
        (),
        "",
    )
    health = [TargetHealth(), TargetHealth()]

    def first(user: int) -> int:
        return decide(plan, Ask(sticky=f"user-{user}"), health, NOW, random.random).order[0]

    firsts = [first(user) for user in range(3000)]
    assert firsts == [first(user) for user in range(3000)]
    assert 2600 < firsts.count(0) < 2800


def test_a_target_without_a_price_is_not_the_cheapest_and_keeps_no_budget() -> None:
    plan = four_models()
    unpriced = replace(plan.candidates[0].model, price=None)
    plan = Plan([Candidate(plan.candidates[0].provider, unpriced), *plan.candidates[1:]], (), "")
    decision = decide(
        plan, Ask(1000, strategy="score", weights=MODES["cheap"]), their_health(), NOW, random.random
    )
    assert [one.model.name for one in decision.candidates] == ["failing", "quick", "strong", "cheap"]
    bounded = decide(plan, Ask(1000, max_cost_nanos=10**15), their_health(), NOW, random.random)
    assert [refusal.reason for refusal in list_refusals(bounded)] == [
        "it has no price, so that no budget can be kept"
    ]


def test_a_request_that_fits_no_context_names_needed_and_had() -> None:
    provider = a_provider("only", "openai", 1)
    plan = Plan([Candidate(provider, a_model(provider, "small", context_tokens=1000))], (), "")
    decision: Decision = decide(plan, Ask(1000, max_output_tokens=50), [TargetHealth()], NOW, random.random)
    assert decision.order == []
    assert [refusal.reason for refusal in list_refusals(decision)] == ["needs 1200 tokens, has 1000"]


@pytest.mark.parametrize("asked", sorted(AUTO))
def test_auto_offers_all_that_the_key_may_use_and_names_nothing_else(asked: str) -> None:
    provider = a_provider("only", "openai", 1)
    models = tuple(a_model(provider, name) for name in ("a", "b", "secret"))
    key, _ = a_key(allowed_models=frozenset({"a", "b"}))
    snapshot = a_snapshot(providers=(provider,), models=models, keys=(key,))
    plan = make_plan(snapshot, key, Features(asked, CHAT))
    assert {candidate.model.name for candidate in plan.candidates} == {"a", "b"}
    assert "secret" not in str(plan.refusals)


def test_targets_of_one_priority_share_by_weight_and_those_behind_come_after() -> None:
    provider = a_provider("only", "openai", 1)
    models = tuple(a_model(provider, name) for name in ("heavy", "light", "spare"))
    targets = (
        AliasTargetSpec(models[0].id, 0, 9),
        AliasTargetSpec(models[1].id, 0, 1),
        AliasTargetSpec(models[2].id, 1, 100),
    )
    key, _ = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=models, aliases=(AliasSpec("work", targets),), keys=(key,)
    )
    plan = make_plan(snapshot, key, Features("work", CHAT))
    health, draw = [TargetHealth() for _ in range(3)], random.Random(7).random
    first: Counter[str] = Counter()
    for _ in range(2000):
        ordered = [one.model.name for one in decide(plan, Ask(), health, NOW, draw).candidates]
        assert sorted(ordered[:2]) == ["heavy", "light"]
        assert ordered[2] == "spare"
        first[ordered[0]] += 1
    assert 1700 < first["heavy"] < 1900
