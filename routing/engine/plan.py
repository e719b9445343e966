"""From the name that a caller asked to the ordered targets that may serve it, with a reason for each refusal. Pure.

This is the seam of routing: policies, scores and learning change the order here, and nothing else in the house.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tokenhub.core.errors import ModelNotFound, NothingEligible, PermissionDenied
from tokenhub.core.specs import EndpointSpec, KeySpec, ModelSpec, ProviderSpec, Snapshot

_NEAR_POOL = 2000
_NEAR_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Features:
    """What of a request matters to routing: the name asked, the capabilities it needs, and its input in tokens (an estimate)."""

    asked: str
    needs: frozenset[str]
    input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One target, authorised and able, in the plan's order. Those of one `rank` share the load by `weight`."""

    provider: ProviderSpec
    model: ModelSpec
    rank: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A target that was left out, and why."""

    provider: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets in the order in which they are tried, the ones left out, and the rule that made the order."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    reason: str


def list_visible_names(snapshot: Snapshot, key: KeySpec) -> list[str]:
    """Every name this key may ask for: models' own names and aliases, sorted."""
    allowed = key.allowed_models
    names = {
        model.name for model in snapshot.models if model.enabled and _grants(snapshot, allowed, "", model)
    }
    names.update(
        alias.name
        for alias in snapshot.aliases
        if any(
            _grants(snapshot, allowed, alias.name, snapshot.model_by_id[t.model_id]) for t in alias.targets
        )
    )
    return sorted(names)


def make_plan(snapshot: Snapshot, key: KeySpec, features: Features) -> Plan:
    """The plan of one request.

    Raises ModelNotFound (with near names), PermissionDenied (no target is the key's), or NothingEligible (with the reason
    for each target).
    """
    targets, reason = _resolve(snapshot, key, features.asked)
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    denied = 0
    for model, rank, weight in targets:
        provider = snapshot.provider_by_id[model.provider_id]
        if not _grants(snapshot, key.allowed_models, features.asked, model):
            denied += 1
            refusals.append(Refusal(provider.name, model.name, "not among this key's models"))
            continue
        refused = _find_refusal(provider, model, features)
        if refused:
            refusals.append(Refusal(provider.name, model.name, refused))
        else:
            candidates.append(Candidate(provider, model, rank, weight))
    if not candidates:
        _refuse(features.asked, refusals, all_denied=0 < denied == len(targets))
    return Plan(tuple(candidates), tuple(refusals), reason)


def _resolve(
    snapshot: Snapshot, key: KeySpec, asked: str
) -> tuple[Sequence[tuple[ModelSpec, int, int]], str]:
    """The targets of a name as (model, rank, weight), and the rule that gave them. A model's own providers keep their order."""
    alias = snapshot.alias_by_name.get(asked)
    if alias is not None:
        ordered = sorted(alias.targets, key=lambda target: target.priority)
        return [(snapshot.model_by_id[t.model_id], t.priority, t.weight) for t in ordered], f"alias={asked}"
    models = snapshot.models_by_name.get(asked)
    if not models:
        near = _near_names(asked, list_visible_names(snapshot, key))
        hint = f"did you mean {', '.join(near)}?" if near else "GET /v1/models lists what this key may use"
        raise ModelNotFound(
            f"no model or alias is named {asked[:_NEAR_NAME_LENGTH]!r}",
            param="model",
            hint=hint,
            details={"near": near},
        )
    return [(model, rank, 1) for rank, model in enumerate(models)], "model"


def _near_names(asked: str, names: Sequence[str]) -> list[str]:
    if len(asked) > _NEAR_NAME_LENGTH:
        return []
    return difflib.get_close_matches(asked, names[:_NEAR_POOL], n=3, cutoff=0.5)


def _grants(snapshot: Snapshot, allowed: Collection[str] | None, asked: str, model: ModelSpec) -> bool:
    """Whether the key may reach this very target. A listed alias grants its targets through that alias only."""
    if allowed is None or model.name in allowed:
        return True
    if asked in snapshot.alias_by_name and asked in allowed:
        return True
    provider = snapshot.provider_by_id[model.provider_id]
    return f"{provider.name}/{model.name}" in allowed


def _find_refusal(provider: ProviderSpec, model: ModelSpec, features: Features) -> str:
    if not provider.enabled:
        return "its provider is disabled"
    if provider.draining:
        return "its provider is being drained"
    if not model.enabled:
        return "it is disabled"
    for endpoint in provider.endpoints:
        if endpoint.weight > 0 and not endpoint.draining:
            break
    else:
        return "its provider has no endpoint in service"
    missing = features.needs - model.capabilities
    if missing:
        return f"it lacks {', '.join(sorted(missing))}"
    return ""


def _refuse(asked: str, refusals: Sequence[Refusal], *, all_denied: bool) -> None:
    if all_denied:
        raise PermissionDenied(
            f"this API key may not use the model {asked!r}",
            param="model",
            hint="ask an operator to add it to the key",
        )
    told = [{"provider": r.provider, "model": r.model, "reason": r.reason} for r in refusals]
    reasons = "; ".join(f"{r.provider}/{r.model}: {r.reason}" for r in refusals) or "none is in service"
    raise NothingEligible(
        f"no target of {asked!r} can serve this request: {reasons}",
        param="model",
        details={"candidates": told},
    )


def draw_order(candidates: Sequence[Candidate], draw: Callable[[], float]) -> Sequence[Candidate]:
    """The candidates by rank; within a rank drawn one after the other, each with its weight's chance to be next.

    `draw` gives numbers in [0, 1). Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
    """
    if len({candidate.rank for candidate in candidates}) == len(candidates):
        return candidates
    keys = [(c.rank, -((1.0 - draw()) ** (1.0 / max(c.weight, 1)))) for c in candidates]
    return [candidates[at] for at in sorted(range(len(candidates)), key=keys.__getitem__)]


def choose_endpoint(
    endpoints: Sequence[EndpointSpec],
    in_flight: Callable[[EndpointSpec], int],
    usable: Callable[[EndpointSpec], bool],
    tie: float,
) -> EndpointSpec | None:
    """The usable endpoint with the least in flight for its weight; None if none is usable.

    `tie` in [0, 1) breaks ties, so that equal endpoints share the load.
    """
    open_ones = [
        endpoint
        for endpoint in endpoints
        if endpoint.weight > 0 and not endpoint.draining and usable(endpoint)
    ]
    if len(open_ones) <= 1:
        return open_ones[0] if open_ones else None
    loads = [(in_flight(endpoint) + 1) / endpoint.weight for endpoint in open_ones]
    least = min(loads)
    lightest = [endpoint for endpoint, load in zip(open_ones, loads, strict=True) if load == least]
    return lightest[int(tie * len(lightest))]
