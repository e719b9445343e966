"""Declaring the configuration: applied once, nothing the second time, and every mistake has its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from access.models import ApiKey
from console.declare import apply_declaration
from providers.models import Model, Provider
from routing.models import Alias
from tokenhub.configfile import parse_config
from tokenhub.control.actors import Actor
from tokenhub.core.errors import SettingInvalid
from tokenhub.core.keys import find_key_parts, mint_key
from usage.models import Price
from vault.keyring import Keyring
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db(transaction=True)

KEY = mint_key()
ENVIRONMENT = {"TOKENHUB_CRED_KEY": KEY, "TOKENHUB_CRED_BROKEN": "thk_live_no"}
WHOLE = """
providers:
  - name: local
    kind: vllm
    label: Local
    total_timeout: 300
    headers: [[x-title, Example]]
    endpoints: ["http://127.0.0.1:8000/", {url: "http://127.0.0.2:8000", weight: 3}]
    credentials: [{name: main, source: env, reference: TOKENHUB_CRED_LOCAL}]
models:
  - {provider: local, name: small, upstream_name: org/small, weight: "4", context_tokens: 8192}
  - {provider: local, name: large, capabilities: [chat, streaming, tools], price: {input: 0.1, output: "0.4"}}
aliases:
  - {name: default, targets: [local/large, local/small]}
  - {name: even, targets: [{model: local/large, weight: 2}, {model: local/small}]}
teams: [{slug: research}]
projects: [{team: research, slug: assistant, name: Assistant}]
keys:
  - {name: assistant, source: env, reference: TOKENHUB_CRED_KEY, team: research, project: assistant,
     scopes: [chat], allowed_models: [default], expires_at: 2100-01-01T00:00:00Z}
"""


def declare(text: str, *, dry_run: bool = False) -> list[str]:
    """Applies a file with this text."""
    config = parse_config(text, Path("config.yaml"))
    keyring = Keyring(ENVIRONMENT, Path("absent"))
    return apply_declaration(config, Actor.command("test"), keyring, dry_run=dry_run)


def test_a_whole_file_is_created_and_a_second_run_changes_nothing() -> None:
    difference = declare(WHOLE)
    assert all(line.startswith("+ ") for line in difference)
    assert len(difference) == 12
    audited = AuditEntry.objects.count()
    assert declare(WHOLE) == []
    assert AuditEntry.objects.count() == audited
    large = Model.objects.get(name="large")
    assert [(price.rates, price.source) for price in large.prices.all()] == [
        ({"input": 100_000_000, "output": 400_000_000}, Price.Source.DECLARED)
    ]
    targets = Alias.objects.get(name="default").targets.order_by("priority")
    assert [target.model.name for target in targets] == ["large", "small"]
    key = ApiKey.objects.get()
    parts = find_key_parts(KEY)
    assert parts is not None
    assert (key.key_id, key.team.slug, key.project.slug) == (parts.key_id, "research", "assistant")


def test_a_dry_run_tells_the_difference_and_leaves_everything() -> None:
    assert len(declare(WHOLE, dry_run=True)) == 12
    assert not Provider.objects.exists()
    assert not AuditEntry.objects.exists()


def test_only_what_differs_is_changed_and_said() -> None:
    declare(WHOLE)
    difference = declare(
        WHOLE.replace("total_timeout: 300", "total_timeout: 200")
        .replace('weight: "4"', "weight: 5")
        .replace('output: "0.4"', "output: 0.5")
        .replace("[local/large, local/small]", "[local/small]")
    )
    assert difference == [
        "~ provider local: total_timeout: 300.0 → 200",
        "~ model local/small: weight: 4 → 5",
        "~ price of model local/large",
        "~ alias default: targets",
    ]
    assert Model.objects.get(name="small").weight == 5
    assert Price.objects.count() == 2


def test_endpoints_that_are_not_listed_any_more_are_removed_and_other_providers_stay() -> None:
    declare(WHOLE)
    declare("providers: [{name: other, kind: vllm}]")
    difference = declare('providers: [{name: local, kind: vllm, endpoints: ["http://127.0.0.1:8000"]}]')
    assert difference == ["- endpoint local http://127.0.0.2:8000"]
    assert set(Provider.objects.values_list("name", flat=True)) == {"local", "other"}


def test_a_mistake_late_in_the_file_leaves_nothing_of_it() -> None:
    with pytest.raises(SettingInvalid):
        declare(WHOLE + "\n  - {name: bad, source: env, reference: TOKENHUB_CRED_BROKEN}\n")
    assert not Provider.objects.exists()


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("providers: {}\n", 1, "providers must be a list"),
        ("providers:\n  - local\n", 2, "must be a mapping"),
        ("providers:\n  - name: local\n", 2, "needs 'kind'"),
        ("providers:\n  - name: local\n    kind: vllm\n    colour: red\n", 2, "no field 'colour'"),
        ("providers:\n  - name: local\n    kind: vllm\n    endpoints:\n      - ftp://x\n", 5, "http"),
        ("models:\n  - {provider: nobody, name: x}\n", 2, "there is no provider 'nobody'"),
        ("aliases:\n  - name: a\n    targets:\n      - x/y\n", 4, "there is no model 'x/y'"),
        ("aliases:\n  - {name: a, targets: [x/y], colour: red}\n", 2, "an alias has no 'colour'"),
        ("projects:\n  - {team: nobody, slug: x}\n", 2, "there is no team 'nobody'"),
        ("keys:\n  - {name: x, source: text, reference: y}\n", 2, "source is env"),
        (
            "keys:\n  - {name: x, source: env, reference: TOKENHUB_CRED_ABSENT}\n",
            2,
            "TOKENHUB_CRED_ABSENT is not set",
        ),
        ("keys:\n  - {name: x, source: env, reference: TOKENHUB_CRED_BROKEN}\n", 2, "no well-formed API key"),
        (
            "keys:\n  - {name: x, source: env, reference: TOKENHUB_CRED_KEY, project: p}\n",
            2,
            "the project's team",
        ),
        (
            "providers: [{name: local, kind: vllm}]\nmodels:\n  - {provider: local, name: x, price: {inputs: 1}}\n",
            3,
            "there is no price of 'inputs'",
        ),
        (
            "providers: [{name: local, kind: vllm}]\nmodels:\n  - {provider: local, name: x, price: {input: cheap}}\n",
            3,
            "must be an amount of USD",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        declare(text)
    assert caught.value.message.startswith(f"config.yaml:{line}: ")
    assert problem in caught.value.message
    assert not Provider.objects.exists()


def test_a_key_with_the_same_id_and_another_secret_is_refused() -> None:
    declare("keys: [{name: x, source: env, reference: TOKENHUB_CRED_KEY}]")
    parts = find_key_parts(KEY)
    assert parts is not None
    other = {"TOKENHUB_CRED_KEY": mint_key(key_id=parts.key_id)}
    config = parse_config("keys: [{name: x, source: env, reference: TOKENHUB_CRED_KEY}]", Path("config.yaml"))
    with pytest.raises(SettingInvalid, match="another secret"):
        apply_declaration(config, Actor.command("test"), Keyring(other, Path("absent")))


def test_the_example_file_can_be_applied(repository: Path) -> None:
    text = (repository / "config" / "config.example.yaml").read_text()
    keyring = Keyring({"TOKENHUB_CRED_ASSISTANT_KEY": KEY}, Path("absent"))
    config = parse_config(text, Path("config.example.yaml"))
    actor = Actor.command("test")
    assert apply_declaration(config, actor, keyring)
    assert apply_declaration(config, actor, keyring) == []
