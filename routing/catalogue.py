"""The names that a policy may refer to, and what stands behind them, in a constant number of queries. Control plane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from access.models import ApiKey, Project, Team
from providers.models import Model
from routing.models import Alias, AliasTarget


@dataclass(frozen=True, slots=True)
class Served:
    """A model at a provider, as far as policies ask: `enabled` if both are; region "", retention −1 and context 0 are unknown."""

    name: str
    enabled: bool
    weight: int
    capabilities: frozenset[str]
    context_tokens: int
    region: str
    retention_days: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Models by every name that stands for them (own, `provider/model`, alias), and the ids and short names of who asks."""

    served_by_name: Mapping[str, tuple[Served, ...]]
    served: tuple[Served, ...]
    key_ids: frozenset[str]
    teams: frozenset[str]
    teams_by_project: Mapping[str, frozenset[str]]

    def resolve(self, names: Iterable[str]) -> list[Served]:
        """What stands behind these names, each once; unknown names stand for nothing."""
        return list(dict.fromkeys(one for name in names for one in self.served_by_name.get(name, ())))


def read_catalogue() -> Catalogue:
    """The catalogue as it is stored now."""
    by_name: dict[str, list[Served]] = defaultdict(list)
    by_id: dict[int, Served] = {}
    for model in Model.objects.select_related("provider").order_by("priority", "id"):
        provider = model.provider
        one = by_id[model.pk] = Served(
            name=f"{provider.name}/{model.name}",
            enabled=model.enabled and provider.enabled,
            weight=model.weight,
            capabilities=frozenset(model.capabilities),
            context_tokens=model.context_tokens,
            region=provider.region,
            retention_days=provider.retention_days,
        )
        by_name[model.name].append(one)
        by_name[one.name].append(one)
    for name in Alias.objects.values_list("name", flat=True):
        by_name[name] = []
    for name, model_id in AliasTarget.objects.order_by("priority", "id").values_list(
        "alias__name", "model_id"
    ):
        by_name[name].append(by_id[model_id])
    projects: dict[str, set[str]] = defaultdict(set)
    for slug, team in Project.objects.values_list("slug", "team__slug"):
        projects[slug].add(team)
    return Catalogue(
        served_by_name={name: tuple(rows) for name, rows in by_name.items()},
        served=tuple(by_id.values()),
        key_ids=frozenset(ApiKey.objects.values_list("key_id", flat=True)),
        teams=frozenset(Team.objects.values_list("slug", flat=True)),
        teams_by_project={slug: frozenset(teams) for slug, teams in projects.items()},
    )
