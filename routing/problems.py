"""What keeps a policy from working: names that nobody has, and bounds and conditions that contradict each other. Control plane.

Asked before a draft is published, and of what is in force whenever a policy is shown: what it refers to may have gone since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from routing.catalogue import Catalogue, Served, read_catalogue
from routing.documents import read_document
from routing.models import Policy, PolicyVersion
from routing.reading import Problem, refuse, suggest
from tokenhub.core.policies import ConditionSpec, PolicySpec


def find_policy_problems(policy: Policy, catalogue: Catalogue | None = None) -> list[Problem]:
    """What is wrong with the version in force; it stays in force all the same. None published: nothing is wrong.

    Give the `catalogue` where several policies are asked. Reads `policy.versions`, prefetched if they are.
    """
    published = find_published(policy)
    if published is None:
        return []
    return find_version_problems(published, catalogue or read_catalogue())


def find_published(policy: Policy) -> PolicyVersion | None:
    """The version in force."""
    return next((row for row in policy.versions.all() if row.state == PolicyVersion.State.PUBLISHED), None)


def find_open(policy: Policy) -> PolicyVersion | None:
    """The draft, or the version that waits for approval."""
    open_states = (PolicyVersion.State.DRAFT, PolicyVersion.State.WAITING)
    return next((row for row in policy.versions.all() if row.state in open_states), None)


def find_version_problems(version: PolicyVersion, catalogue: Catalogue) -> list[Problem]:
    """What is wrong with the document of a version, in itself and with the names in it."""
    spec, problems = read_document(version.document)
    return problems or find_problems(spec, catalogue)


def refuse_problems(spec: PolicySpec, catalogue: Catalogue) -> None:
    """Raises InvalidRequest for what keeps a document from being published."""
    refuse(find_problems(spec, catalogue))


def find_problems(spec: PolicySpec, catalogue: Catalogue) -> list[Problem]:
    """Problems of a document that reads well, in the order of its fields; those that are not grave do not keep it back."""
    return [
        *_find_in_conditions(spec.when, catalogue),
        *_find_in_targets(spec, catalogue),
        *_find_in_bounds(spec, catalogue),
        *_find_in_fallbacks(spec, catalogue),
        *_find_in_attempts(spec),
    ]


def _find_in_conditions(when: ConditionSpec, catalogue: Catalogue) -> Iterator[Problem]:
    yield from _find_unknown("when.keys", "API key", when.keys, catalogue.key_ids)
    yield from _find_unknown("when.projects", "project", when.projects, catalogue.teams_by_project)
    yield from _find_unknown("when.teams", "team", when.teams, catalogue.teams)
    known = [catalogue.teams_by_project[name] for name in when.projects if name in catalogue.teams_by_project]
    if when.teams and known and not any(teams & when.teams for teams in known):
        yield Problem(
            "when.projects",
            f"none of {_list(when.projects)} belongs to {_list(when.teams)}, so no request is of both",
            "name projects of these teams, or leave one of the two conditions out",
        )
    if when.max_input_tokens and when.min_input_tokens > when.max_input_tokens:
        yield Problem(
            "when.min_input_tokens",
            f"{when.min_input_tokens} is more than max_input_tokens, {when.max_input_tokens}: no request has both",
            f"give at most {when.max_input_tokens}, or raise max_input_tokens",
        )


def _find_in_targets(spec: PolicySpec, catalogue: Catalogue) -> Iterator[Problem]:
    yield from _find_unknown(
        "targets", "model, provider/model or alias", spec.targets, catalogue.served_by_name
    )
    yield from _find_idle("targets", spec.targets, catalogue)
    known = [name for name in spec.targets if name in catalogue.served_by_name]
    if known and not any(one.enabled for one in catalogue.resolve(known)):
        yield Problem(
            "targets",
            f"no model behind {_list(known, sort=False)} is enabled, so nothing can be routed",
            "enable one of them, or name another target",
        )


def _find_in_bounds(spec: PolicySpec, catalogue: Catalogue) -> Iterator[Problem]:
    """Bounds and needs that no enabled candidate keeps: each by itself, then all of them together."""
    candidates = (
        [one for one in catalogue.resolve(spec.targets) if one.enabled]
        if spec.targets
        else _list_asked(spec, catalogue)
    )
    if not candidates:
        return
    rules = list(_list_rules(spec, candidates))
    broken = [problem for problem, keeps in rules if not any(keeps(one) for one in candidates)]
    yield from broken
    if rules and not broken and not any(all(keeps(one) for _, keeps in rules) for one in candidates):
        yield Problem(
            "bounds",
            f"no target keeps all of {_list([problem.path for problem, _ in rules], sort=False)} together",
            "loosen one of them, or name a target that does",
        )


def _list_asked(spec: PolicySpec, catalogue: Catalogue) -> list[Served]:
    """What may be asked for where a policy names no targets."""
    exact = bool(spec.when.models) and not any(name.endswith("*") for name in spec.when.models)
    found = catalogue.resolve(spec.when.models) if exact else catalogue.served
    return [one for one in found if one.enabled]


def _list_rules(
    spec: PolicySpec, candidates: Sequence[Served]
) -> Iterator[tuple[Problem, Callable[[Served], bool]]]:
    """What a candidate must keep, each with the problem that it is if none does."""
    bounds = spec.bounds
    if bounds.min_weight:
        most = max(one.weight for one in candidates)
        yield (
            Problem(
                "bounds.min_weight",
                f"{bounds.min_weight} is more than every target's weight, of which the highest is {most}",
                f"give at most {most}, or name a more capable target",
            ),
            lambda one: one.weight >= bounds.min_weight,
        )
    if bounds.regions:
        regions = sorted({one.region for one in candidates if one.region})
        yield (
            Problem(
                "bounds.regions",
                f"no target is in {_list(bounds.regions)}",
                f"the targets are in {', '.join(regions)}"
                if regions
                else "say at the providers in which region they compute",
            ),
            lambda one: one.region in bounds.regions,
        )
    if bounds.max_retention_days >= 0:
        yield (
            Problem(
                "bounds.max_retention_days",
                f"no target is known to keep data for at most {bounds.max_retention_days} days",
                "say at the providers how long they keep it, or raise the bound",
            ),
            lambda one: 0 <= one.retention_days <= bounds.max_retention_days,
        )
    yield from _list_demands(spec.when)


def _list_demands(when: ConditionSpec) -> Iterator[tuple[Problem, Callable[[Served], bool]]]:
    """As `_list_rules`, of what the requests themselves demand."""
    for need in sorted(when.needs):
        yield (
            Problem(
                "when.needs",
                f"no target has {need!r}, so none can serve what this policy is for",
                "name a target that has it, or leave the need out",
            ),
            lambda one, need=need: need in one.capabilities,  # type: ignore[misc]
        )
    if when.operations:
        yield (
            Problem(
                "when.operations",
                f"no target serves {_list(when.operations)}",
                "name a target that does, or leave the operation out",
            ),
            lambda one: bool(one.capabilities & when.operations),
        )
    if when.min_input_tokens:
        yield (
            Problem(
                "when.min_input_tokens",
                f"{when.min_input_tokens} tokens are more than the context of every target",
                "lower it, or name a target with a longer context",
            ),
            lambda one: not one.context_tokens or one.context_tokens > when.min_input_tokens,
        )


def _find_in_fallbacks(spec: PolicySpec, catalogue: Catalogue) -> Iterator[Problem]:
    own = set(catalogue.resolve(spec.targets))
    for cause, names in spec.fallbacks.items():
        path = f"fallbacks.{cause}"
        yield from _find_unknown(path, "model, provider/model or alias", names, catalogue.served_by_name)
        yield from _find_idle(path, names, catalogue)
        for name in names:
            behind = set(catalogue.resolve([name]))
            if name in spec.targets or (behind and behind <= own):
                yield Problem(
                    path,
                    f"{name} is a target already: what has failed would be tried again",
                    "name another one, or leave it out",
                )


def _find_in_attempts(spec: PolicySpec) -> Iterator[Problem]:
    if spec.attempts == 1 and spec.fallbacks:
        yield Problem(
            "attempts",
            "1 attempt never comes to a fallback",
            "give 2 or more, 0 for the house's default, or leave the fallbacks out",
        )
    if spec.hedge.enabled and not spec.hedge.max_share:
        yield Problem("hedge.max_share", "0 hedges no request", "give more than 0, or switch hedging off")
    if spec.hedge.enabled and spec.attempts == 1:
        yield Problem(
            "attempts", "1 attempt leaves none for a hedge", "give 2 or more, or switch hedging off"
        )


def _find_unknown(path: str, kind: str, names: Iterable[str], known: Collection[str]) -> Iterator[Problem]:
    for name in names if isinstance(names, tuple) else sorted(names):
        if name not in known:
            yield Problem(path, f"there is no {kind} {name!r}", suggest(name, known, what="one"))


def _find_idle(path: str, names: Sequence[str], catalogue: Catalogue) -> Iterator[Problem]:
    """Names that stand for nothing that is enabled: left out while that is so, and no reason not to publish."""
    for name in names:
        behind = catalogue.served_by_name.get(name)
        if behind is not None and not any(one.enabled for one in behind):
            what = "is disabled" if behind else "stands for no model"
            yield Problem(
                path, f"{name} {what}, so it is left out", "enable it, or name another one", grave=False
            )


def _list(names: Iterable[str], *, sort: bool = True) -> str:
    shown = sorted(names) if sort else list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
