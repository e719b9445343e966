"""Plans: which targets a name gives, in which order, and what is said where none can serve."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routing.engine.plan import Features, make_plan
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tokenhub.core.errors import NothingEligible, PermissionDenied
from tokenhub.core.specs import AliasSpec

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
