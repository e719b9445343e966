"""Teams, projects, keys and admin tokens: minting, rotating, revoking, and what outlives what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model

from access.actions import (
    create_admin_token,
    create_project,
    create_team,
    delete_api_key,
    delete_team,
    end_overlap,
    revoke_admin_token,
    revoke_api_key,
    rotate_api_key,
    update_api_key,
)
from access.models import AdminToken, ApiKey, ApiKeySecret
from access.pepper import digest_new, find_admin_token
from tests.snapshots.cast import OPERATOR, make_key
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest, PermissionDenied
from tokenhub.core.keys import find_key_parts, mint_key
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_new_key_is_stored_as_a_digest_only() -> None:
    key, plaintext = make_key()
    parts = find_key_parts(plaintext)
    assert parts is not None
    assert parts.key_id == key.key_id
    secret = key.secrets.get()
    assert (secret.digest, secret.pepper_version) == digest_new(plaintext)
    assert secret.last4 == plaintext[-4:]
    assert (key.created_by, key.allowed_models) == ("olga", None)


def test_a_well_formed_key_can_be_taken_over_and_another_can_not() -> None:
    plaintext = mint_key("thk")
    assert make_key(plaintext=plaintext)[1] == plaintext
    for wrong in ("sk-123", mint_key("tha"), plaintext[:-1] + ("a" if plaintext[-1] != "a" else "b")):
        with pytest.raises(InvalidRequest, match="no well-formed thk_ key") as refused:
            make_key(plaintext=wrong)
        assert wrong not in str(refused.value)
    with pytest.raises(Conflict):
        make_key(plaintext=plaintext)


def test_two_secrets_are_live_while_a_rotation_overlaps() -> None:
    key, first = make_key()
    second = rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    assert second != first
    assert find_key_parts(second).key_id == key.key_id  # type: ignore[union-attr]
    new, old = key.secrets.all()
    assert (new.expires_at, old.expires_at) == (None, NOW + HOUR)
    with pytest.raises(Conflict, match="two live secrets"):
        rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    assert rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW + HOUR) != second


def test_an_overlap_can_be_ended_early() -> None:
    key, _ = make_key()
    rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    end_overlap(OPERATOR, key, now=NOW)
    new, old = key.secrets.all()
    assert (new.revoked_at, old.revoked_at) == (None, NOW)
    rows = AuditEntry.objects.count()
    end_overlap(OPERATOR, key, now=NOW)
    assert AuditEntry.objects.count() == rows


def test_a_rotation_without_overlap_ends_the_old_secret_at_once() -> None:
    key, _ = make_key()
    rotate_api_key(OPERATOR, key, overlap=timedelta(0), now=NOW)
    assert [secret.revoked_at for secret in key.secrets.all()] == [None, NOW]


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
def test_an_overlap_has_bounds(overlap: timedelta) -> None:
    key, _ = make_key()
    with pytest.raises(InvalidRequest):
        rotate_api_key(OPERATOR, key, overlap=overlap, now=NOW)
    assert key.secrets.count() == 1


def test_a_revoked_key_stays_revoked() -> None:
    key, _ = make_key()
    revoke_api_key(OPERATOR, key, now=NOW)
    rows = AuditEntry.objects.count()
    revoke_api_key(OPERATOR, key, now=NOW + HOUR)
    assert AuditEntry.objects.count() == rows
    update_api_key(OPERATOR, key, enabled=True, note="please")
    assert ApiKey.objects.get().revoked_at == NOW
    with pytest.raises(Conflict, match="revoked or expired"):
        rotate_api_key(OPERATOR, key, overlap=HOUR, now=NOW)
    with pytest.raises(InvalidRequest, match="revoked_at"):
        update_api_key(OPERATOR, key, revoked_at=None)


def test_only_a_dead_key_can_be_deleted() -> None:
    key, _ = make_key()
    with pytest.raises(Conflict, match="neither revoked nor expired"):
        delete_api_key(OPERATOR, key)
    revoke_api_key(OPERATOR, key)
    delete_api_key(OPERATOR, key)
    assert not ApiKeySecret.objects.exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"scopes": ["chat", "everything"]}, "scopes"),
        ({"scopes": ["chat", "chat"]}, "scopes"),
        ({"allowed_models": ["gpt-*"]}, "allowed_models"),
        ({"allowed_models": [1]}, "allowed_models"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
        ({"name": ""}, "name"),
    ],
)
def test_a_key_with_wrong_fields_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_key(**fields)
    assert refused.value.param == param
    assert not ApiKey.objects.exists()


def test_an_empty_list_of_models_is_kept_apart_from_none() -> None:
    assert make_key(allowed_models=[])[0].allowed_models == []


def test_a_key_takes_its_project_s_team_and_no_other() -> None:
    blue, red = (create_team(OPERATOR, name=slug, slug=slug) for slug in ("blue", "red"))
    project = create_project(OPERATOR, team=blue, name="Search", slug="search")
    assert make_key(project=project)[0].team == blue
    with pytest.raises(InvalidRequest, match="another team"):
        make_key(project=project, team=red)


def test_a_team_with_keys_can_not_be_deleted() -> None:
    team = create_team(OPERATOR, name="Blue", slug="blue")
    key, _ = make_key(team=team)
    with pytest.raises(Conflict, match=f"still used by API key app \\({key.key_id}\\)"):
        delete_team(OPERATOR, team)
    assert ApiKey.objects.get().team == team


def test_an_admin_token_is_found_by_its_text_until_it_is_revoked_or_ends() -> None:
    token, plaintext = create_admin_token(OPERATOR, name="ci", service="ci", expires_at=NOW + HOUR, now=NOW)
    assert find_admin_token(plaintext, NOW) == token
    assert find_admin_token(plaintext, NOW + HOUR) is None
    other = mint_key("tha", key_id=token.key_id)
    assert find_admin_token(other, NOW) is None
    assert find_admin_token("tha_live_nonsense", NOW) is None
    revoke_admin_token(OPERATOR, token, now=NOW)
    assert find_admin_token(plaintext, NOW) is None


def test_an_inactive_user_s_token_is_dead() -> None:
    user = get_user_model().objects.create_user("ula")
    _, plaintext = create_admin_token(OPERATOR, name="cli", user=user)
    assert find_admin_token(plaintext, NOW) is not None
    user.is_active = False
    user.save()
    assert find_admin_token(plaintext, NOW) is None


def test_an_admin_token_has_one_owner() -> None:
    with pytest.raises(InvalidRequest, match="either a user or a service"):
        create_admin_token(OPERATOR, name="ci")


def test_a_token_makes_none_that_is_wider_than_itself() -> None:
    token, _ = create_admin_token(
        OPERATOR, name="ci", service="ci", scopes=["write"], expires_at=NOW + HOUR, now=NOW
    )
    maker = Actor.from_token(token)
    with pytest.raises(PermissionDenied, match="may not give away the scope 'read'"):
        create_admin_token(maker, name="x", service="x", scopes=["read"], expires_at=NOW + HOUR, now=NOW)
    for end in (None, NOW + 2 * HOUR):
        with pytest.raises(PermissionDenied, match="must not outlive it"):
            create_admin_token(maker, name="x", service="x", scopes=["write"], expires_at=end, now=NOW)
    create_admin_token(maker, name="x", service="x", scopes=["write"], expires_at=NOW + HOUR, now=NOW)
    assert AdminToken.objects.count() == 2
