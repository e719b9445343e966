"""Routes a request that nobody sent: by the engine that routes those that are, on the configuration as it is now. Control plane.

Nothing is measured here: a target is taken to be healthy, and as slow as its model is declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.utils import timezone

from routing.engine.asking import NO_WISHES, Wishes, is_scored, make_ask
from routing.engine.conditions import Circumstances, choose_policy, list_holding
from routing.engine.decide import Ask, decide
from routing.engine.explain import explain
from routing.engine.health import TargetHealth
from routing.engine.plan import Features, make_plan
from routing.models import PolicyVersion
from snapshots.compile import build_policy, compile_snapshot
from tokenhub.core.errors import TokenhubError
from tokenhub.core.policies import PolicySpec
from tokenhub.core.specs import KeySpec, Snapshot

OPERATIONS = ("chat", "completions", "embeddings")
_MIDDLE = 0.5
"""What stands for chance, so that the same request comes to the same end."""


@dataclass(frozen=True, slots=True)
class MadeUpRequest:
    """A request to simulate. `key_id` "" is a key of that team and project that may use every model. `minute` counts from Monday
    0:00 UTC. Tokens, and what `Wishes` has."""

    model: str
    operation: str = "chat"
    key_id: str = ""
    team: str = ""
    project: str = ""
    needs: frozenset[str] = frozenset()
    input_tokens: int = 0
    max_output_tokens: int = 0
    tags: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    minute: int = 0
    policy: str = ""
    wishes: Wishes = NO_WISHES


def simulate(made_up: MadeUpRequest, draft: PolicyVersion | None = None) -> dict[str, Any]:
    """What would become of the request, with the draft in force if one is given. JSON values, as `routing.engine.explain`'s.

    `policies` are those whose conditions hold, the one that routes it first. `error` has the code and the message of a refusal.
    Raises InvalidRequest where the draft can't be read.
    """
    snapshot = compile_snapshot(timezone.now())
    if draft is not None:
        snapshot = _with_draft(snapshot, build_policy(draft))
    key = snapshot.key_by_id.get(made_up.key_id) or KeySpec(
        "", "made up", (), team=made_up.team, project=made_up.project
    )
    needs = frozenset({made_up.operation}) | made_up.needs
    at = Circumstances(
        key,
        made_up.model,
        made_up.operation,
        needs,
        made_up.input_tokens,
        made_up.tags,
        made_up.headers,
        made_up.minute,
    )
    held = [f"{policy.name}@{policy.version}" for policy in list_holding(snapshot.policies, at)]
    told: dict[str, Any] = {"policies": held, "asked": made_up.model, "error": None}
    try:
        policy = choose_policy(snapshot, at, made_up.policy)
        return told | _decide(snapshot, key, made_up, Features(made_up.model, needs), policy)
    except TokenhubError as error:
        left_out = list(error.details.get("candidates", ()))
        refusal = {"code": error.code, "message": error.message, "hint": error.hint}
        return told | {"error": refusal, "candidates": [], "left_out": left_out, "winner": None}


def _with_draft(snapshot: Snapshot, policy: PolicySpec) -> Snapshot:
    others = [one for one in snapshot.policies if one.id != policy.id]
    ordered = sorted([*others, policy], key=lambda one: (one.priority, int(one.id)))
    return replace(snapshot, policies=tuple(ordered))


def _decide(
    snapshot: Snapshot, key: KeySpec, made_up: MadeUpRequest, features: Features, policy: PolicySpec | None
) -> dict[str, Any]:
    plan = make_plan(snapshot, key, features, policy)
    if is_scored(policy, made_up.model, made_up.wishes):
        ask = make_ask(
            plan,
            made_up.wishes,
            input_tokens=made_up.input_tokens,
            max_output_tokens=made_up.max_output_tokens,
        )
    else:
        ask = Ask(input_tokens=made_up.input_tokens, max_output_tokens=made_up.max_output_tokens)
    health = [TargetHealth(candidate.model.expected_latency_ms) for candidate in plan.candidates]
    decision = decide(plan, ask, health, 0.0, lambda: _MIDDLE)
    candidates = decision.candidates
    winner = (
        {"provider": candidates[0].provider.name, "model": candidates[0].model.name} if candidates else None
    )
    fallbacks = {
        cause: [f"{one.provider.name}/{one.model.name}" for one in targets]
        for cause, targets in plan.fallbacks.items()
    }
    told = explain(decision) | {"winner": winner, "fallbacks": fallbacks}
    if winner is None:
        message = f"no target of {made_up.model!r} can serve this request"
        told["error"] = {"code": "nothing_eligible", "message": message, "hint": ""}
    return told
