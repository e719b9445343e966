"""Policies and model groups in config.yaml: applied once, nothing the second time, drafts left alone, mistakes by their line."""

from __future__ import annotations

import pytest

from access.models import ApiKey, ModelGroup
from providers.models import Provider
from routing import policy_actions
from routing.models import Policy
from snapshots.compile import compile_snapshot
from tests.bootstrap.test_declare import declare
from tests.routing.policy_cast import OLGA, states
from tokenhub.core.errors import SettingInvalid
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db(transaction=True)

MODELS = """
providers:
  - {name: local, kind: vllm, region: eu-central, retention_days: 0, endpoints: ["http://127.0.0.1:8000/"]}
models:
  - {provider: local, name: small}
  - {provider: local, name: large}
aliases:
  - {name: fast, targets: [local/small], sticky_by: session}
model_groups:
  - {name: cheap, models: [local/small]}
"""
POLICIES = """
policies:
  - name: night
    priority: 7
    note: cheaper
    document:
      targets: [small]
      mode: cheap
      bounds: {max_cost_usd: 0.05}
      when: {hours: [{weekdays: [mon], start: "22:00", end: "06:00"}]}
"""


def test_policies_and_groups_are_declared_once() -> None:
    difference = declare(MODELS + POLICIES)
    assert difference[-2:] == ["+ policy night", "+ policy night: version 1"]
    assert "+ model group cheap" in difference
    audited = AuditEntry.objects.count()
    assert declare(MODELS + POLICIES) == []
    assert AuditEntry.objects.count() == audited
    policy = Policy.objects.get()
    version = policy.versions.get()
    assert (policy.priority, version.note, version.author, version.state) == (
        7,
        "cheaper",
        "test",
        "published",
    )
    assert version.document["bounds"]["max_cost_nanos"] == 50_000_000
    provider = Provider.objects.get()
    assert (provider.region, provider.retention_days) == ("eu-central", 0)
    assert ModelGroup.objects.get().models.get().name == "small"


def test_only_a_document_that_differs_makes_a_new_version() -> None:
    declare(MODELS + POLICIES)
    assert declare(POLICIES.replace("mode: cheap", "mode: planning")) == ["~ policy night: version 2"]
    assert states(Policy.objects.get()) == [(1, "retired"), (2, "published")]
    assert declare("policies: [{name: night, enabled: false}]") == ["~ policy night: enabled: True → False"]
    changed = MODELS.replace("models: [local/small]", "models: [local/large]").replace(
        "sticky_by: session", "sticky_by: key"
    )
    assert declare(changed) == ["~ alias fast: sticky_by: 'session' → 'key'", "~ model group cheap: models"]


def test_a_draft_that_somebody_writes_is_left_alone() -> None:
    declare(MODELS + POLICIES)
    policy = Policy.objects.get()
    policy_actions.save_draft(OLGA, policy, document={"targets": ["large"]})
    declare(POLICIES.replace("mode: cheap", "mode: planning"))
    assert states(policy) == [(1, "retired"), (2, "draft"), (3, "published")]


def test_a_declared_policy_waits_where_it_needs_approval() -> None:
    text = MODELS + POLICIES.replace("priority: 7", "priority: 7\n    needs_approval: true")
    declare(text)
    policy = Policy.objects.get()
    assert states(policy) == [(1, "waiting")]
    assert declare(text) == []
    held = declare(text.replace("mode: cheap", "mode: planning"))
    assert held == ["note: policy night has version 1 open; its document here waits until that is gone"]
    policy_actions.approve(OLGA, policy)
    assert declare(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies: [{name: night, document: {mode: chaep}}]", ":1: mode: 'chaep' is none of"),
        (
            "policies: [{name: night, document: {targets: [smal]}}]",
            "no model, provider/model or alias 'smal'",
        ),
        ("policies: [{name: night, priorty: 1}]", "priorty"),
        ("policies: [{priority: 1}]", "needs 'name'"),
        ("policies: night", "must be a list"),
        ("policies: [{name: Night Time}]", "lower-case"),
        ("model_groups: [{name: cheap, models: [small]}]", "name it as provider/model"),
        ("model_groups: [{name: cheap, models: small}]", "must be a list of provider/model"),
        ("model_groups: [{name: cheap, models: [local/small], size: 1}]", "it has name and models"),
        ("providers: [{name: local, kind: vllm, retention_days: -2}]", "retention_days"),
        ("aliases: [{name: fast, targets: [local/small], sticky_by: team}]", "sticky_by"),
    ],
)
def test_a_mistake_is_told_by_its_line_and_nothing_is_applied(text: str, said: str) -> None:
    declare(MODELS)
    before = AuditEntry.objects.count()
    with pytest.raises(SettingInvalid, match=r"config\.yaml") as refused:
        declare(text)
    assert said in str(refused.value)
    assert AuditEntry.objects.count() == before
    assert not Policy.objects.exists()


def test_a_declared_key_may_list_a_declared_group() -> None:
    keys = "keys: [{name: a, source: env, reference: TOKENHUB_CRED_KEY, allowed_models: ['group:cheap']}]"
    declare(MODELS + keys)
    key = ApiKey.objects.get()
    now = key.created_at
    assert compile_snapshot(now).key_by_id[key.key_id].allowed_models == {"local/small"}
