"""Policies and model groups of config.yaml. Control plane.

A policy's document is compared with the version in force, or with what waits for approval: only one that differs makes a new
version. A draft that somebody is writing is never touched.
"""

from __future__ import annotations

from access import group_actions
from access.models import ModelGroup
from console.declaration import Declaration, Entry, without
from providers.models import Model
from routing import policy_actions
from routing.documents import normalise_document
from routing.models import Policy, PolicyVersion
from routing.problems import find_open, find_published
from tokenhub.configfile import KeyPath

GROUP_KEYS = ("name", "models")


def declare_model_groups(run: Declaration) -> None:
    """Creates the groups that are missing, and gives each exactly the models that are listed, as `provider/model`."""
    for place, entry in run.entries("model_groups", GROUP_KEYS):
        with run.at(place):
            unknown = sorted(set(entry) - set(GROUP_KEYS))
            if unknown:
                raise run.wrong(
                    (*place, unknown[0]), f"a model group has no {unknown[0]!r}; it has name and models"
                )
            models = _find_models(run, (*place, "models"), entry["models"])
            group = ModelGroup.objects.filter(name=entry["name"]).first()
            if group is None:
                run.difference.append(f"+ model group {entry['name']}")
                group_actions.create_model_group(run.actor, name=entry["name"], models=models)
            elif {model.pk for model in group.models.all()} != {model.pk for model in models}:
                run.difference.append(f"~ model group {group.name}: models")
                group_actions.update_model_group(run.actor, group, models=models)


def _find_models(run: Declaration, at: KeyPath, listed: object) -> list[Model]:
    if not isinstance(listed, list):
        raise run.wrong(at, "models must be a list of provider/model names")
    found = []
    for index, item in enumerate(listed):
        provider, _, name = str(item).partition("/")
        model = Model.objects.filter(provider__name=provider, name=name).first()
        if model is None:
            raise run.wrong((*at, index), f"there is no model {item!r}; name it as provider/model")
        found.append(model)
    return found


def declare_policies(run: Declaration) -> None:
    """Creates and changes policies, and publishes the documents that differ from what is in force."""
    for place, entry in run.entries("policies", ("name",)):
        with run.at(place):
            row = Policy.objects.filter(name=entry["name"]).first()
            fields = without(entry, "document", "note")
            label = f"policy {entry['name']}"
            row = run.put(label, row, fields, policy_actions.create_policy, policy_actions.update_policy)
            if "document" in entry:
                _publish(run, place, row, entry)


def _publish(run: Declaration, place: KeyPath, policy: Policy, entry: Entry) -> None:
    with run.at((*place, "document")):
        document = normalise_document(entry["document"])
        published, draft = find_published(policy), find_open(policy)
        if published is not None and published.document == document:
            return
        waiting = draft is not None and draft.state == PolicyVersion.State.WAITING
        if waiting and draft is not None and draft.document == document:
            return
        if draft is not None and policy.needs_approval:
            run.difference.append(
                f"note: policy {policy.name} has version {draft.number} open; its document here waits until that is gone"
            )
            return
        version = policy_actions.publish_document(
            run.actor, policy, document=document, note=str(entry.get("note") or "declared in config.yaml")
        )
        run.difference.append(f"{'~' if published else '+'} policy {policy.name}: version {version.number}")
