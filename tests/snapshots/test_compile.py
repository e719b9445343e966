"""Compiling: what comes into a snapshot, what is left out, and in how many queries."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.actions import (
    create_project,
    create_team,
    end_overlap,
    revoke_api_key,
    rotate_api_key,
    update_api_key,
    update_project,
    update_team,
)
from access.models import ApiKey, ApiKeySecret
from providers.actions import update_endpoint, update_model, update_provider
from providers.models import Model, Provider
from routing.actions import TargetDraft, create_alias
from snapshots.compile import compile_snapshot, find_due
from tests.snapshots.cast import OPERATOR, make_key, make_model, make_provider
from tokenhub.core.keys import digest_key
from tokenhub.core.snapshot import decode_snapshot, encode_snapshot
from tokenhub.core.specs import CredentialSpec, EndpointSpec, Snapshot
from vault.actions import update_credential

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def admits(snapshot: Snapshot, plaintext: str) -> bool:
    """Whether a digest of this key stands in the snapshot."""
    peppers = settings.TOKENHUB.peppers
    return any(
        hmac.compare_digest(digest.digest, digest_key(plaintext, peppers[digest.pepper_version]).hex())
        for key in snapshot.keys
        for digest in key.digests
    )


def test_a_provider_comes_with_all_that_the_data_plane_needs() -> None:
    provider = make_provider(
        headers=[["x-title", "T"]], profile={"api_path": "/v2"}, connect_timeout=3, draining=True
    )
    snapshot = compile_snapshot(NOW)
    (spec,) = snapshot.providers
    endpoint, credential = provider.endpoints.get(), provider.credentials.get()
    assert (spec.id, spec.name, spec.kind, spec.draining) == (str(provider.pk), "acme", "openai", True)
    assert spec.endpoints == (EndpointSpec(str(endpoint.pk), "https", "acme.example", 8443, "/openai"),)
    assert spec.credentials == (CredentialSpec(str(credential.pk), "main", "env", "TOKENHUB_CRED_ACME"),)
    assert (spec.headers, dict(spec.profile)) == ((("x-title", "T"),), {"api_path": "/v2"})
    assert spec.timeouts.connect == 3.0
    assert [(model.name, model.upstream_name) for model in snapshot.models] == [
        ("small", "small-2"),
        ("large", "large-2"),
    ]
    assert {model.provider_id for model in snapshot.models} == {spec.id}
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


def test_default_ports_and_ipv6_hosts_are_spelled_out() -> None:
    provider = make_provider()
    update_endpoint(OPERATOR, provider.endpoints.get(), url="http://[::1]/v")
    (endpoint,) = compile_snapshot(NOW).providers[0].endpoints
    assert (endpoint.host, endpoint.port, endpoint.base_path, endpoint.origin) == (
        "::1",
        80,
        "/v",
        "http://[::1]:80",
    )


def test_what_is_disabled_is_left_out() -> None:
    provider = make_provider()
    update_endpoint(OPERATOR, provider.endpoints.get(), enabled=False)
    update_credential(OPERATOR, provider.credentials.get(), enabled=False)
    update_model(OPERATOR, provider.models.get(name="small"), enabled=False)
    snapshot = compile_snapshot(NOW)
    assert snapshot.providers[0].endpoints == snapshot.providers[0].credentials == ()
    assert [model.name for model in snapshot.models] == ["large"]
    update_provider(OPERATOR, provider, enabled=False)
    snapshot = compile_snapshot(NOW)
    assert snapshot.providers == snapshot.models == ()


def test_an_alias_keeps_the_targets_that_remain() -> None:
    small, large = make_model("small"), make_model("large")
    create_alias(OPERATOR, name="fast", targets=[TargetDraft(large, priority=1), TargetDraft(small)])
    (alias,) = compile_snapshot(NOW).aliases
    assert [target.model_id for target in alias.targets] == [str(small.pk), str(large.pk)]
    update_provider(OPERATOR, small.provider, enabled=False)
    (alias,) = compile_snapshot(NOW).aliases
    assert [target.model_id for target in alias.targets] == [str(large.pk)]
    update_model(OPERATOR, large, enabled=False)
    snapshot = compile_snapshot(NOW)
    assert snapshot.aliases[0].targets == ()
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


def test_a_key_comes_by_the_id_that_stands_in_it() -> None:
    team = create_team(OPERATOR, name="Blue", slug="blue")
    project = create_project(OPERATOR, team=team, name="Search", slug="search")
    key, plaintext = make_key(
        project=project, scopes=["chat"], allowed_models=["small"], expires_at=NOW + HOUR
    )
    snapshot = compile_snapshot(NOW)
    spec = snapshot.key_by_id[key.key_id]
    assert spec.id == plaintext.split("_")[2]
    assert (spec.team, spec.project, spec.scopes) == ("blue", "search", frozenset({"chat"}))
    assert (spec.allowed_models, spec.expires_at) == (frozenset({"small"}), (NOW + HOUR).timestamp())
    assert admits(snapshot, plaintext)


def test_no_plaintext_stands_in_a_snapshot() -> None:
    _, plaintext = make_key()
    assert plaintext.split("_")[3].encode() not in encode_snapshot(compile_snapshot(NOW))


def test_an_empty_list_of_models_allows_none() -> None:
    key, _ = make_key(allowed_models=[])
    assert compile_snapshot(NOW).key_by_id[key.key_id].allowed_models == frozenset()


def test_a_revoked_disabled_or_expired_key_is_gone() -> None:
    revoked, disabled, expired = (make_key(name)[0] for name in ("revoked", "disabled", "expired"))
    kept, plaintext = make_key("kept")
    revoke_api_key(OPERATOR, revoked, now=NOW)
    update_api_key(OPERATOR, disabled, enabled=False)
    update_api_key(OPERATOR, expired, expires_at=NOW, now=NOW - HOUR)
    snapshot = compile_snapshot(NOW)
    assert [key.id for key in snapshot.keys] == [kept.key_id]
    assert admits(snapshot, plaintext)


def test_the_keys_of_a_disabled_team_or_project_are_gone_and_come_back() -> None:
    team = create_team(OPERATOR, name="Blue", slug="blue")
    project = create_project(OPERATOR, team=team, name="Search", slug="search")
    _, of_team = make_key("a", team=team)
    _, of_project = make_key("b", project=project)
    update_project(OPERATOR, project, enabled=False)
    snapshot = compile_snapshot(NOW)
    assert admits(snapshot, of_team)
    assert not admits(snapshot, of_project)
    update_project(OPERATOR, project, enabled=True)
    update_team(OPERATOR, team, enabled=False)
    assert compile_snapshot(NOW).keys == ()
    update_team(OPERATOR, team, enabled=True)
    assert len(compile_snapshot(NOW).keys) == 2


def test_two_digests_are_live_in_a_rotation_s_overlap_and_one_after_it() -> None:
    key, first = make_key()
    second = rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    during = compile_snapshot(NOW)
    (spec,) = during.keys
    assert [digest.expires_at for digest in spec.digests] == [0.0, (NOW + HOUR).timestamp()]
    assert admits(during, first)
    assert admits(during, second)
    assert find_due(during, NOW) == NOW + HOUR
    after = compile_snapshot(NOW + HOUR)
    assert not admits(after, first)
    assert admits(after, second)
    assert find_due(after, NOW + HOUR) is None


def test_an_overlap_that_was_ended_is_gone_at_once() -> None:
    key, first = make_key()
    second = rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    end_overlap(OPERATOR, key, now=NOW)
    snapshot = compile_snapshot(NOW)
    assert not admits(snapshot, first)
    assert admits(snapshot, second)


def test_a_thousand_models_and_keys_take_as_many_queries_as_ten() -> None:
    provider = make_provider(models=())

    def fill(numbers: range) -> None:
        models = Model.objects.bulk_create(
            Model(provider=provider, name=f"m{number}", upstream_name="x") for number in numbers
        )
        create_alias(
            OPERATOR, name=f"a{numbers.start}", targets=[TargetDraft(model) for model in models[:10]]
        )
        Provider.objects.bulk_create(Provider(name=f"p{number}", kind="openai") for number in numbers)
        keys = ApiKey.objects.bulk_create(ApiKey(key_id=f"{number:012d}", name="k") for number in numbers)
        ApiKeySecret.objects.bulk_create(
            ApiKeySecret(key=key, digest=f"{key.key_id:0>64}", last4="0000") for key in keys
        )

    counts = []
    for numbers in (range(10), range(10, 1000)):
        fill(numbers)
        with CaptureQueriesContext(connection) as queries:
            snapshot = compile_snapshot(NOW)
        assert len(snapshot.models) == len(snapshot.keys) == numbers.stop
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] <= 14
