"""Routing policies as the data plane knows them: which requests they are for, and how those are routed. Both planes; values.

A policy's version never changes: a snapshot holds the published ones, and a decision names policy and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

Mode = Literal["cheap", "normal", "high_confidence", "planning", "adversarial"]
Strategy = Literal[
    "score", "weighted", "priority", "round_robin", "least_busy", "lowest_latency", "lowest_cost"
]
StickyBy = Literal["request", "conversation", "session", "user", "key"]
Cause = Literal["any", "context", "content_policy", "rate_limit"]

GuardKind = Literal["redact", "webhook"]
GuardSide = Literal["before", "after", "both"]
GuardAction = Literal["mask", "block", "flag"]
GuardFailure = Literal["closed", "open"]

MAX_TARGETS: Final = 100
MAX_FALLBACKS: Final = 20
MAX_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """How much each figure counts in a score, all in [0, 1] and lower being better; `weight` (capability) is subtracted."""

    cost: float
    latency: float
    failure: float
    weight: float


MODES: Final[Mapping[Mode, WeightsSpec]] = MappingProxyType(
    {
        "cheap": WeightsSpec(0.70, 0.10, 0.10, 0.10),
        "normal": WeightsSpec(0.25, 0.25, 0.25, 0.25),
        "high_confidence": WeightsSpec(0.05, 0.10, 0.15, 0.70),
        "planning": WeightsSpec(0.10, 0.10, 0.20, 0.60),
        "adversarial": WeightsSpec(0.10, 0.10, 0.20, 0.60),
    }
)


@dataclass(frozen=True, slots=True)
class HoursSpec:
    """A span of a week in UTC: weekdays (0 = Monday) and minutes of the day, the end left out. It may go past midnight."""

    weekdays: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ConditionSpec:
    """What a request must be. All that is given must hold, of a set any one; nothing given holds for every request.

    `keys` are ids, `projects` and `teams` names. `tags` are `name` or `name=value` of the header `x-tokenhub-tags`.
    `models` are names that are asked for; a star at the end stands for any rest. `operations` are chat, completions and
    embeddings; `needs` capabilities, all of which the request needs. Tokens are the estimate of the input,
    `max_input_tokens` 0 = no bound. `headers` are (name in lower case, value), with the same star.
    """

    keys: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    min_input_tokens: int = 0
    max_input_tokens: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    hours: tuple[HoursSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class BoundsSpec:
    """What every candidate must keep: capability, worst-case cost (nano-dollars) and expected latency (ms); 0 = no bound.

    `regions` empty: any region; else the provider's region must be one of them, and an unknown one is not. `max_retention_days`
    −1: whatever the provider keeps; else it keeps the data no longer, and an unknown retention is too long.
    """

    min_weight: int = 0
    max_cost_nanos: int = 0
    max_latency_ms: int = 0
    regions: frozenset[str] = frozenset()
    max_retention_days: int = -1


@dataclass(frozen=True, slots=True)
class HedgeSpec:
    """When a second attempt starts beside a slow first one: after `after_ms`, 0 = the target's own 95th percentile.

    `max_share` bounds how many of the policy's requests may be hedged. `enabled` False: none.
    """

    enabled: bool = False
    after_ms: int = 0
    max_share: float = 0.1


@dataclass(frozen=True, slots=True)
class AffinitySpec:
    """What keeps requests at one target, so that its prompt cache is used, and for how many seconds since the last one."""

    by: StickyBy = "conversation"
    seconds: int = 300


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """What looks at the texts of requests and answers. `side` says at which of them.

    A `redact` guard finds `patterns` (names of `routing.engine.detection`) and `own` ones (label, RE2 expression), and masks them,
    blocks, or just says so (`flag`). With `restore` the answer has the originals again where the model repeats what was masked.
    A `webhook` is asked at `url`, signed with the variable that `secret` names ("" = unsigned), for `timeout_ms` at most;
    `failure` says whether a request goes on where it can't be asked.
    """

    name: str
    kind: GuardKind = "redact"
    side: GuardSide = "both"
    action: GuardAction = "mask"
    patterns: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    restore: bool = False
    url: str = ""
    secret: str = ""
    timeout_ms: int = 2000
    failure: GuardFailure = "closed"


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """One published version of a policy.

    Policies are asked in the order of `priority` (lowest first), and the first whose `when` holds is taken, unless a request
    names one. `targets` are names of models, `provider/model`s and aliases; none: what the request asks for, and every model of
    the key's for `auto`. `weights` None: the mode's. `fallbacks` are such names too, tried after the candidates, by the cause
    of the failure. `attempts` 0: the house's default. `directives` False: directives in messages are text like any other. `guards`
    look at texts: those that redact first, then webhooks, each in their order.
    """

    id: str
    name: str
    version: int
    priority: int = 100
    when: ConditionSpec = ConditionSpec()
    targets: tuple[str, ...] = ()
    mode: Mode = "normal"
    weights: WeightsSpec | None = None
    strategy: Strategy = "score"
    bounds: BoundsSpec = BoundsSpec()
    fallbacks: Mapping[Cause, tuple[str, ...]] = field(default_factory=dict)
    hedge: HedgeSpec = HedgeSpec()
    affinity: AffinitySpec = AffinitySpec()
    attempts: int = 0
    directives: bool = True
    guards: tuple[GuardSpec, ...] = ()
