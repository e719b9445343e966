"""The cast of the console's and the admin API's tests: one of everything, made by the actions, and four kinds of people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from axes.models import AccessAttempt
from django.contrib.auth.models import Group, Permission, User

from access import actions as access
from access import group_actions
from access.models import AdminToken, ApiKey, ModelGroup, Project, Team
from providers import actions as providers
from providers.models import Endpoint, Model, Provider
from routing import actions as routing
from routing import policy_actions
from routing.models import Alias, DecisionRecord, Policy
from snapshots.models import ConfigRevision, WorkerStatus
from tokenhub.control.actors import Actor
from usage.actions import set_price
from usage.models import Price, UsageRecord
from vault import actions as vault
from vault.models import AuditEntry, Credential

CAST = Actor.command("cast")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTILE = '<script>alert(1)</script><b x-data="alert(2)">{{ 7*7 }}</b>'
"""What foreign text may try; no page may show it but as text."""

OUR_APPS = ("access", "auth", "providers", "routing", "snapshots", "usage", "vault", "axes", "signin")


@dataclass(frozen=True, slots=True)
class Cast:
    """One of everything."""

    provider: Provider
    endpoint: Endpoint
    credential: Credential
    model: Model
    price: Price
    alias: Alias
    team: Team
    project: Project
    key: ApiKey
    secret: str
    token: AdminToken
    token_secret: str
    group: ModelGroup
    policy: Policy


def a_cast(name: str = "acme") -> Cast:
    """One of everything, named after `name`."""
    provider = providers.create_provider(CAST, name=name, kind="openai", label=f"{name} {HOSTILE}")
    endpoint = providers.create_endpoint(CAST, provider=provider, url=f"https://{name}.example.com")
    credential = vault.create_credential(
        CAST, provider=provider, name="main", source="env", reference=f"TOKENHUB_CRED_{name.upper()}"
    )
    model = providers.create_model(CAST, provider=provider, name=f"{name}-large", upstream_name="large")
    price = set_price(actor=CAST, model=model, rates={"input": 3_000_000_000, "output": 15_000_000_000})
    alias = routing.create_alias(CAST, name=f"{name}-fast", targets=[routing.TargetDraft(model)])
    team = access.create_team(CAST, name=f"Team {name} {HOSTILE}", slug=name)
    project = access.create_project(CAST, team=team, name=f"Project {name}", slug="alpha")
    key, secret = access.create_api_key(CAST, name=f"Key {name}", team=team, project=project)
    token, token_secret = access.create_admin_token(
        CAST, name=name, service="deploy", scopes=["read", "write"]
    )
    group = group_actions.create_model_group(CAST, name=f"{name}-all", models=[model])
    policy = a_policy(f"{name}-policy", model.name)
    made = (provider, endpoint, credential, model, price, alias, team, project, key, secret)
    return Cast(*made, token, token_secret, group, policy)


def a_policy(name: str, *targets: str) -> Policy:
    """A policy whose version 1 is retired, 2 in force, and 3 a draft."""
    policy = policy_actions.create_policy(CAST, name=name)
    for mode in ("cheap", "normal", "planning"):
        document = {"targets": list(targets), "mode": mode, "when": {"tags": [f"for={name}"]}}
        policy_actions.save_draft(CAST, policy, document=document, note=f"{mode} {HOSTILE}")
        if mode != "planning":
            policy_actions.publish(CAST, policy)
    return policy


def an_attempt(request: int, **fields: Any) -> UsageRecord:
    """One row of the ledger, saved."""
    row = an_attempt_unsaved(request, **fields)
    row.save(force_insert=True)
    return row


def an_attempt_unsaved(request: int, **fields: Any) -> UsageRecord:
    """An attempt: 100 tokens in, 10 out, a tenth of a cent, one request for each number."""
    defaults: dict[str, Any] = {
        "attempt_id": f"attempt-{request}-{fields.get('number', 1)}",
        "request_id": f"request-{request}",
        "number": 1,
        "started_at": NOON + timedelta(seconds=request),
        "ended_at": NOON + timedelta(seconds=request + 1),
        "provider": "acme",
        "model": "acme-large",
        "key_id": "key000000001",
        "team": "acme",
        "outcome": "completed",
        "status": 200,
        "input": 100,
        "output": 10,
        "usage_source": "provider",
        "cost_nanos": 1_000_000,
        "duration_ms": 1500,
        "first_token_ms": 300,
    }
    return UsageRecord(**{**defaults, **fields})


def a_decision(request: int, **fields: Any) -> DecisionRecord:
    """A kept decision: two candidates by score and one that is too small, one attempt."""
    document = {
        "operation": "openai.chat",
        "streamed": False,
        "revision": 1,
        "status": 200,
        "cost_nanos": 1_000_000,
        "reason": "policy=night@3;score;context",
        "policy": {"name": "night", "version": 3},
        "strategy": "score",
        "weights": {"cost": 0.25, "latency": 0.25, "failure": 0.25, "weight": 0.25},
        "request": {"input_tokens": 1200, "output_tokens": 0, "max_output_tokens": 500},
        "candidates": [
            {
                "provider": "acme",
                "model": name,
                "weight": 5 + place,
                "order": place,
                "expected_cost_nanos": 2_500_000 * (place + 1),
                "expected_latency_ms": 850.5 * (place + 1),
                "failure": 0.0,
                "score": 0.1 + 0.4 * place,
            }
            for place, name in enumerate(("acme-large", "acme-huge"))
        ]
        + [
            {
                "provider": "acme",
                "model": "acme-small",
                "weight": 2,
                "order": None,
                "refused": {"rule": "context", "reason": "needs 1880 tokens, has 1000"},
            }
        ],
        "left_out": [
            {"provider": "other", "model": "blind", "rule": "capability", "reason": "it lacks vision"}
        ],
        "resting": 0,
        "directives": {"mode": "normal"},
        "directives_ignored": ["colour"],
        "attempts": [
            {
                "number": 1,
                "purpose": "request",
                "provider": "acme",
                "model": "acme-large",
                "endpoint": "https://api.acme.example:443",
                "credential": "main",
                "outcome": "completed",
                "upstream_status": 200,
                "duration_ms": 1500,
                "first_token_ms": 300,
                "cost_nanos": 1_000_000,
            }
        ],
    }
    defaults: dict[str, Any] = {
        "request_id": f"request-{request}",
        "at": NOON,
        "key_id": "key000000001",
        "team": "acme",
        "asked": "auto",
        "policy": "night@3",
        "provider": "acme",
        "model": "acme-large",
        "status": 200,
        "attempts": 1,
        "document": document,
    }
    return DecisionRecord.objects.create(**{**defaults, **fields})


def a_worker(number: int, **fields: Any) -> WorkerStatus:
    """A worker's report."""
    defaults: dict[str, Any] = {"pid": number, "host": "host", "revision": 1, "seen_at": NOON}
    return WorkerStatus.objects.create(instance=f"worker-{number}", **{**defaults, **fields})


def a_person(kind: str) -> User:
    """A `viewer` (sees all), an `operator` (every permission, no superuser), or a `superuser`."""
    if kind == "superuser":
        return User.objects.create_superuser(kind, password="a pass phrase")
    person = User.objects.create_user(kind, password="a pass phrase", is_staff=True)
    permissions = Permission.objects.filter(content_type__app_label__in=OUR_APPS)
    if kind == "viewer":
        permissions = permissions.filter(codename__startswith="view_")
    person.user_permissions.set(permissions)
    return person


def a_person_who_may(*permissions: str, username: str = "person") -> User:
    """A staff member with just these permissions, by full name."""
    person = User.objects.create_user(username, password="a pass phrase", is_staff=True)
    for name in permissions:
        app, codename = name.split(".")
        person.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return person


def a_failed_sign_in(
    account: str = "someone", address: str = "192.0.2.7", failures: int = 1
) -> AccessAttempt:
    """One row of what axes counts, just now."""
    return AccessAttempt.objects.create(
        username=account, ip_address=address, user_agent="browser", failures_since_start=failures
    )


def count_changes() -> int:
    """Entries of the audit trail that tell a change, not who came and was refused."""
    return AuditEntry.objects.exclude(action__startswith="session.").exclude(action="page.refused").count()


def sample_ids() -> dict[str, str]:
    """An existing id for each model that has pages, by `app_model`."""
    a_failed_sign_in()
    models = (
        AccessAttempt,
        Provider,
        Model,
        Credential,
        Alias,
        Policy,
        ModelGroup,
        Team,
        Project,
        ApiKey,
        AdminToken,
        AuditEntry,
        DecisionRecord,
        UsageRecord,
        Price,
        ConfigRevision,
        WorkerStatus,
        Group,
        User,
    )
    return {
        model._meta.label_lower: str(model.objects.values_list("pk", flat=True).first()) for model in models
    }
