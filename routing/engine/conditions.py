"""Which policy a request is routed by: the one it names, else the first whose conditions hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import ConditionSpec, HoursSpec, PolicySpec
from tokenhub.core.specs import KeySpec, Snapshot

MINUTES_OF_DAY = 1440


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What conditions ask of a request. `headers` have lower-case names; `minute` counts a week's from Monday 0:00 UTC."""

    key: KeySpec
    asked: str
    operation: str
    needs: frozenset[str] = frozenset()
    input_tokens: int = 0
    tags: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    minute: int = 0


def choose_policy(snapshot: Snapshot, at: Circumstances, named: str = "") -> PolicySpec | None:
    """The policy; None where none applies. Raises InvalidRequest (`param` policy) for a name that no policy has."""
    if named:
        policy = snapshot.policy_by_name.get(named)
        if policy is None:
            raise InvalidRequest(
                f"no policy in force is named {named[:100]!r}",
                param="policy",
                hint="leave it out, or ask an operator which there are",
            )
        return policy
    for policy in snapshot.policies:
        if holds(policy.when, at):
            return policy
    return None


def holds(when: ConditionSpec, at: Circumstances) -> bool:
    """Whether all that a condition names is so."""
    key = at.key
    return (
        (not when.keys or key.id in when.keys)
        and (not when.projects or key.project in when.projects)
        and (not when.teams or key.team in when.teams)
        and (not when.models or _matches_any(when.models, at.asked))
        and (not when.operations or at.operation in when.operations)
        and when.needs <= at.needs
        and when.min_input_tokens <= at.input_tokens
        and (not when.max_input_tokens or at.input_tokens <= when.max_input_tokens)
        and (not when.tags or not when.tags.isdisjoint(at.tags))
        and all(_matches(value, at.headers.get(name, "")) for name, value in when.headers)
        and (not when.hours or any(_is_within(hours, at.minute) for hours in when.hours))
    )


def _matches_any(patterns: frozenset[str], text: str) -> bool:
    return text in patterns or any(pattern[-1:] == "*" and _matches(pattern, text) for pattern in patterns)


def _matches(pattern: str, text: str) -> bool:
    """A star at the end stands for any rest; a text that is not there matches nothing, not even a star alone."""
    if pattern.endswith("*"):
        return bool(text) and text.startswith(pattern[:-1])
    return text == pattern


def _is_within(hours: HoursSpec, minute: int) -> bool:
    day, of_day = divmod(minute, MINUTES_OF_DAY)
    if hours.start < hours.end:
        return day in hours.weekdays and hours.start <= of_day < hours.end
    # Past midnight: the span belongs to the day on which it began.
    return (day in hours.weekdays and of_day >= hours.start) or (
        (day - 1) % 7 in hours.weekdays and of_day < hours.end
    )


def list_holding(policies: Sequence[PolicySpec], at: Circumstances) -> list[PolicySpec]:
    """Every policy whose conditions hold, the one in force first: for people who wonder why theirs is not taken."""
    return [policy for policy in policies if holds(policy.when, at)]
