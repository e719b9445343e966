"""What may serve a kind of request of a key: the candidates with their fixed figures, and a reason for each refusal. Pure.

A plan is made of snapshot, key, policy and the request's kind alone, and is kept for as long as the snapshot: `decide` then
needs no more than to run along its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from routing.engine.resolve import AUTO, Resolved, grants, resolve, resolve_names
from tokenhub.core.errors import NothingEligible, PermissionDenied
from tokenhub.core.policies import BoundsSpec, Cause, PolicySpec
from tokenhub.core.specs import KeySpec, ModelSpec, ProviderSpec, Snapshot

UNBOUNDED = 1 << 60
"""Stands for the context of a model whose limit nobody knows, and for the cost of one without a price."""

OPTIONAL = frozenset({"tools", "vision", "json_schema"})
"""Capabilities that sort out candidates as long as one of them has them."""

_NO_BOUNDS = BoundsSpec()


@dataclass(frozen=True, slots=True)
class Features:
    """The kind of a request, as far as routing is concerned: the name asked, and the capabilities that it needs."""

    asked: str
    needs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One target, authorised and able, in the plan's order. Those of one `rank` share the load by `weight`."""

    provider: ProviderSpec
    model: ModelSpec
    rank: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A target that was left out, and why. `code` is the rule's name."""

    provider: str
    model: str
    reason: str
    code: str = ""


class Plan:
    """Candidates in the order of their ranks, the targets left out, the rule that gave them, and their figures in columns.

    Rates are nano-dollars per million tokens, UNBOUNDED where there is no price; contexts are tokens, UNBOUNDED where unknown.
    """

    __slots__ = (
        "candidates",
        "contexts",
        "fallbacks",
        "input_rates",
        "output_limits",
        "output_rates",
        "policy",
        "ranked",
        "reason",
        "refusals",
        "smallest_context",
        "smallest_weight",
        "weights",
        "worst_input_rates",
    )

    def __init__(
        self,
        candidates: Sequence[Candidate],
        refusals: Sequence[Refusal],
        reason: str,
        policy: PolicySpec | None = None,
        fallbacks: Mapping[Cause, tuple[Candidate, ...]] | None = None,
    ) -> None:
        self.candidates = tuple(candidates)
        self.refusals = tuple(refusals)
        self.reason = reason
        self.policy = policy
        self.fallbacks: Mapping[Cause, tuple[Candidate, ...]] = fallbacks or {}
        models = [candidate.model for candidate in candidates]
        rates = [_rates_of(model) for model in models]
        self.input_rates = [rate[0] for rate in rates]
        self.worst_input_rates = [rate[1] for rate in rates]
        self.output_rates = [rate[2] for rate in rates]
        self.contexts = [model.context_tokens or UNBOUNDED for model in models]
        self.output_limits = [model.max_output_tokens for model in models]
        self.weights = [model.weight / 10 for model in models]
        self.smallest_context = min(self.contexts, default=UNBOUNDED)
        self.smallest_weight = min((model.weight for model in models), default=0)
        ranks = [candidate.rank for candidate in candidates]
        self.ranked = len(set(ranks)) == len(ranks)
        """Whether no two candidates have the same rank, so that their order needs no draw."""


def make_plan(snapshot: Snapshot, key: KeySpec, features: Features, policy: PolicySpec | None = None) -> Plan:
    """The plan of a kind of request, under the policy that was chosen for it.

    Raises ModelNotFound (with near names), PermissionDenied (no target is the key's), or NothingEligible (with the reason
    for each target).
    """
    targets, reason = resolve(snapshot, key, features.asked)
    through = features.asked
    if policy is not None:
        reason = f"policy={policy.name}@{policy.version}"
        if policy.targets:
            targets, through = resolve_names(snapshot, policy.targets), ""
    bounds = _NO_BOUNDS if policy is None else policy.bounds
    candidates, refusals, denied = _sift(snapshot, key, targets, features, bounds, through)
    if not candidates and policy is None and features.asked not in AUTO:
        # Asked for by its name, and none of those behind it is known to do all of that: nobody is second-guessed whose
        # operator ticked too few capabilities. The provider itself says what it can't do.
        kind = Features(features.asked, features.needs - OPTIONAL)
        candidates, refusals, denied = _sift(snapshot, key, targets, kind, bounds, through)
    if features.asked in AUTO and denied:
        # Of all models there are, those of others are nobody's business.
        refusals = [refusal for refusal in refusals if refusal.code != "key"]
    if not candidates:
        _refuse(features.asked, refusals, all_denied=0 < denied == len(targets))
    fallbacks: dict[Cause, tuple[Candidate, ...]] = {}
    for cause, names in (policy.fallbacks if policy is not None else {}).items():
        resolved = resolve_names(snapshot, names)
        able, out, _ = _sift(snapshot, key, resolved, features, bounds, "")
        fallbacks[cause] = tuple(able)
        refusals += out
    return Plan(sorted(candidates, key=lambda one: one.rank), refusals, reason, policy, fallbacks)


def _sift(
    snapshot: Snapshot,
    key: KeySpec,
    targets: Sequence[Resolved],
    features: Features,
    bounds: BoundsSpec,
    through: str,
) -> tuple[list[Candidate], list[Refusal], int]:
    """The targets that can serve, those that can't, and how many of these are not the key's."""
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    denied = 0
    for one in targets:
        model, provider = one.model, snapshot.provider_by_id[one.model.provider_id]
        if not grants(snapshot, key.allowed_models, through or one.through, model):
            denied += 1
            refusals.append(Refusal(provider.name, model.name, "not among this key's models", "key"))
            continue
        code, reason = _find_refusal(provider, model, features, bounds)
        if code:
            refusals.append(Refusal(provider.name, model.name, reason, code))
        else:
            candidates.append(Candidate(provider, model, one.rank, one.weight))
    return candidates, refusals, denied


def _find_refusal(
    provider: ProviderSpec, model: ModelSpec, features: Features, bounds: BoundsSpec
) -> tuple[str, str]:
    """The rule that leaves a target out for every request of this kind, and its sentence; ("", "") for none."""
    if not provider.enabled:
        return "provider", "its provider is disabled"
    if provider.draining:
        return "provider", "its provider is being drained"
    if not model.enabled:
        return "model", "it is disabled"
    for endpoint in provider.endpoints:
        if endpoint.weight > 0 and not endpoint.draining:
            break
    else:
        return "endpoint", "its provider has no endpoint in service"
    missing = features.needs - model.capabilities
    if missing:
        return "capability", f"it lacks {', '.join(sorted(missing))}"
    if model.weight < bounds.min_weight:
        return "min_weight", f"its weight {model.weight} is below {bounds.min_weight}"
    if bounds.regions and provider.region not in bounds.regions:
        where = f"its region is {provider.region}" if provider.region else "nobody said in which region it is"
        return "region", f"{where}, not {' or '.join(sorted(bounds.regions))}"
    if bounds.max_retention_days >= 0 and not 0 <= provider.retention_days <= bounds.max_retention_days:
        kept = (
            f"its provider keeps data {provider.retention_days} days"
            if provider.retention_days >= 0
            else "nobody said how long its provider keeps data"
        )
        return "retention", f"{kept}, more than {bounds.max_retention_days} are not allowed"
    return "", ""


def _rates_of(model: ModelSpec) -> tuple[int, int, int]:
    """Of input, of input at worst (when all of it is written to a cache), and of output."""
    price = model.price
    if price is None:
        return UNBOUNDED, UNBOUNDED, UNBOUNDED
    plain, output = price.rate("input"), price.rate("output")
    if plain is None or output is None:
        plain = UNBOUNDED if plain is None else plain
        # An embedding has no output, and so no price for it.
        output = 0 if output is None and "embeddings" in model.capabilities else (output or 0)
    worst = max([plain, *(price.rate(name) or 0 for name in ("cache_write_5m", "cache_write_1h"))])
    return plain, worst, max(output, price.rate("reasoning") or 0)


def _refuse(asked: str, refusals: Sequence[Refusal], *, all_denied: bool) -> None:
    if all_denied:
        raise PermissionDenied(
            f"this API key may not use the model {asked!r}",
            param="model",
            hint="ask an operator to add it to the key",
        )
    raise nothing_eligible(asked, refusals)


def nothing_eligible(asked: str, refusals: Sequence[Refusal]) -> NothingEligible:
    """The error that says of each target why it can't serve."""
    told = [{"provider": r.provider, "model": r.model, "reason": r.reason, "rule": r.code} for r in refusals]
    reasons = "; ".join(f"{r.provider}/{r.model}: {r.reason}" for r in refusals) or "none is in service"
    return NothingEligible(
        f"no target of {asked!r} can serve this request: {reasons}",
        param="model",
        details={"candidates": told},
    )
