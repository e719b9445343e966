"""When a second attempt starts beside a slow first one, and how often that may happen. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from routing.engine.breaker import RetryBudget
from routing.engine.health import TargetHealth
from tokenhub.core.policies import HedgeSpec, PolicySpec

USUAL_SHARE = 0.95
"""The share of attempts that have begun to answer when a second one is worth its price."""

_RESERVE = 2.0
_MOST = 20.0


def find_delay(spec: HedgeSpec, health: TargetHealth, *, streamed: bool) -> float | None:
    """Seconds to wait for the first content before a second attempt starts; None: it never does.

    Without a time of its own a policy's is the target's 95th percentile, once that is known. Of a whole answer nobody sees the
    first token, so that it has no such percentile: it is hedged by a given time only.
    """
    if not spec.enabled:
        return None
    if spec.after_ms:
        return spec.after_ms / 1000
    return health.quantile(USUAL_SHARE) if streamed else None


class HedgeBudgets:
    """Bounds each policy's second attempts to its share of requests. What policies no longer in force have saved is dropped."""

    def __init__(self) -> None:
        self._by_policy: dict[tuple[str, int], RetryBudget] = {}

    def request(self, policy: PolicySpec) -> None:
        """A request came in under a policy that hedges."""
        name = (policy.id, policy.version)
        budget = self._by_policy.get(name)
        if budget is None:
            budget = RetryBudget(share=policy.hedge.max_share, reserve=_RESERVE, most=_MOST)
            self._by_policy[name] = budget
        budget.request()

    def take(self, policy: PolicySpec) -> bool:
        """Takes one second attempt, if the policy's share has one left."""
        budget = self._by_policy.get((policy.id, policy.version))
        return budget is not None and budget.take()

    def keep_only(self, policies: Mapping[str, PolicySpec]) -> None:
        """Forgets the policies that are not among these."""
        kept = {(policy.id, policy.version) for policy in policies.values()}
        for name in [name for name in self._by_policy if name not in kept]:
            del self._by_policy[name]
