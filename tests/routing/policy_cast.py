"""The cast of the policies' tests: two people who write and approve, and policies in each state."""

from __future__ import annotations

from typing import Any

from routing import policy_actions as actions
from routing.models import Policy, PolicyVersion
from tests.snapshots.cast import OPERATOR
from tokenhub.control.actors import Actor

OLGA = OPERATOR
PETER = Actor("user", "peter", "192.0.2.8")


def a_document(**members: Any) -> dict[str, Any]:
    """A document that goes to `small`."""
    return {"targets": ["small"], **members}


def a_policy(name: str = "night", **fields: Any) -> Policy:
    """A policy without a version."""
    return actions.create_policy(OLGA, name=name, **fields)


def published(policy: Policy, **members: Any) -> PolicyVersion:
    """A version in force with this document, written and published by Olga."""
    actions.save_draft(OLGA, policy, document=a_document(**members))
    return actions.publish(OLGA, policy, note="because")


def states(policy: Policy) -> list[tuple[int, str]]:
    """Numbers and states, oldest first."""
    return list(policy.versions.order_by("number").values_list("number", "state"))
