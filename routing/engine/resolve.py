"""From a name to the models behind it that a key may reach. Pure.

Authorisation is asked of each target that a name leads to, and of the way that led there: a key that lists an alias reaches
the alias's targets through that alias, and no others.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tokenhub.core.errors import ModelNotFound
from tokenhub.core.specs import KeySpec, ModelSpec, Snapshot

AUTO = frozenset({"auto", "*"})
"""Names that ask for whichever model serves best, out of all that the key may use."""

_NEAR_POOL = 2000
_NEAR_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model that a name leads to: its rank there (lowest first), its share among equal ranks, and the name that led to it."""

    model: ModelSpec
    rank: int = 0
    weight: int = 1
    through: str = ""


def list_visible_names(snapshot: Snapshot, key: KeySpec) -> list[str]:
    """Every name this key may ask for: models' own names and aliases, sorted."""
    allowed = key.allowed_models
    names = {
        model.name for model in snapshot.models if model.enabled and grants(snapshot, allowed, "", model)
    }
    names.update(
        alias.name
        for alias in snapshot.aliases
        if any(grants(snapshot, allowed, alias.name, snapshot.model_by_id[t.model_id]) for t in alias.targets)
    )
    return sorted(names)


def resolve(snapshot: Snapshot, key: KeySpec, asked: str) -> tuple[Sequence[Resolved], str]:
    """The targets of what a caller asked, granted or not, and the rule that gave them. Raises ModelNotFound with near names."""
    if asked in AUTO and asked not in snapshot.alias_by_name and asked not in snapshot.models_by_name:
        return [Resolved(model, model.priority) for model in snapshot.models if model.enabled], "auto"
    found = find_targets(snapshot, asked)
    if found is None:
        near = _near_names(asked, list_visible_names(snapshot, key))
        hint = f"did you mean {', '.join(near)}?" if near else "GET /v1/models lists what this key may use"
        raise ModelNotFound(
            f"no model or alias is named {asked[:_NEAR_NAME_LENGTH]!r}",
            param="model",
            hint=hint,
            details={"near": near},
        )
    return found, f"alias={asked}" if asked in snapshot.alias_by_name else "model"


def resolve_names(snapshot: Snapshot, names: Iterable[str]) -> list[Resolved]:
    """The targets of several names, one rank after the other, each model once. A name that means nothing any more adds none."""
    ranks: dict[tuple[int, int], None] = {}
    found: dict[str, tuple[Resolved, tuple[int, int]]] = {}
    for place, name in enumerate(names):
        for one in find_targets(snapshot, name) or ():
            if one.model.id not in found:
                found[one.model.id] = one, (place, one.rank)
                ranks[place, one.rank] = None
    dense = {rank: number for number, rank in enumerate(sorted(ranks))}
    return [Resolved(one.model, dense[rank], one.weight, one.through) for one, rank in found.values()]


def find_targets(snapshot: Snapshot, name: str) -> Sequence[Resolved] | None:
    """The targets of an alias or a model's name; None where nothing has that name. A model's own providers keep their order."""
    alias = snapshot.alias_by_name.get(name)
    if alias is not None:
        ordered = sorted(alias.targets, key=lambda target: target.priority)
        return [Resolved(snapshot.model_by_id[t.model_id], t.priority, t.weight, name) for t in ordered]
    models = snapshot.models_by_name.get(name)
    return None if not models else [Resolved(model, rank, 1, name) for rank, model in enumerate(models)]


def grants(snapshot: Snapshot, allowed: Collection[str] | None, through: str, model: ModelSpec) -> bool:
    """Whether a key that allows these names may reach this very target. A listed alias grants its targets through itself only."""
    if allowed is None or model.name in allowed:
        return True
    if through in snapshot.alias_by_name and through in allowed:
        return True
    provider = snapshot.provider_by_id[model.provider_id]
    return f"{provider.name}/{model.name}" in allowed


def _near_names(asked: str, names: Sequence[str]) -> list[str]:
    if len(asked) > _NEAR_NAME_LENGTH:
        return []
    return difflib.get_close_matches(asked, names[:_NEAR_POOL], n=3, cutoff=0.5)
