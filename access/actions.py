"""Changes of teams, projects, API keys and admin tokens. Control plane.

Plaintext leaves here once, as the return value of what minted it; nothing stores or records it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from access.group_actions import list_unknown_groups
from access.models import GROUP_PREFIX, AdminToken, ApiKey, ApiKeySecret, ModelGroup, Project, Team
from access.pepper import digest_new
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, InvalidRequest, PermissionDenied
from tokenhub.core.keys import find_key_parts, mint_key
from tokenhub.core.specs import SCOPES
from vault.audit import add, alter, change, check_fields, remove

TEAM_FIELDS = ("name", "slug", "enabled")
PROJECT_FIELDS = ("name", "slug", "enabled", "cache_seconds")
API_KEY_FIELDS = ("name", "team", "project", "scopes", "allowed_models", "expires_at", "enabled", "note")
MAX_OVERLAP = timedelta(days=30)


def create_team(actor: Actor, **fields: Any) -> Team:
    """A team. `fields`: TEAM_FIELDS; `name` and `slug` are needed."""
    check_fields(Team, fields, TEAM_FIELDS)
    return add(actor, Team(**fields))


def update_team(actor: Actor, team: Team, **changes: Any) -> Team:
    """Changes TEAM_FIELDS. Disabling it disables its keys on every worker."""
    return alter(actor, team, changes, allowed=TEAM_FIELDS)


def delete_team(actor: Actor, team: Team) -> None:
    """Deletes an empty team. Raises Conflict while it has projects or keys: those would lose their bounds."""
    remove(actor, team)


def create_project(actor: Actor, *, team: Team, **fields: Any) -> Project:
    """A project of a team. `fields`: PROJECT_FIELDS; `name` and `slug` are needed."""
    check_fields(Project, fields, PROJECT_FIELDS)
    return add(actor, Project(team=team, **fields))


def update_project(actor: Actor, project: Project, **changes: Any) -> Project:
    """Changes PROJECT_FIELDS. A project stays in its team."""
    return alter(actor, project, changes, allowed=PROJECT_FIELDS)


def delete_project(actor: Actor, project: Project) -> None:
    """Deletes an empty project. Raises Conflict while it has keys."""
    remove(actor, project)


def create_api_key(
    actor: Actor,
    *,
    name: str,
    team: Team | None = None,
    project: Project | None = None,
    scopes: Sequence[str] = SCOPES,
    allowed_models: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    enabled: bool = True,
    note: str = "",
    plaintext: str | None = None,
    now: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A key and its plaintext, which is shown this once.

    `plaintext` takes over a well-formed `thk_` key instead of minting one. Raises InvalidRequest for an end in the past.
    """
    _refuse_past(expires_at, now)
    secret = mint_key("thk") if plaintext is None else plaintext
    key = ApiKey(
        key_id=_key_id(secret, "thk"),
        name=name,
        team=team,
        project=project,
        scopes=list(scopes),
        allowed_models=None if allowed_models is None else list(allowed_models),
        expires_at=expires_at,
        enabled=enabled,
        note=note,
        created_by=actor.name[:200],
    )
    with change(actor, "apikey.create", key):
        key.full_clean()
        _refuse_unknown_groups(key)
        key.save(force_insert=True)
        _store_secret(key, secret)
    return key, secret


def update_api_key(actor: Actor, key: ApiKey, *, now: datetime | None = None, **changes: Any) -> ApiKey:
    """Changes API_KEY_FIELDS. A revoked key stays revoked."""
    stored = ApiKey.objects.values_list("expires_at", flat=True).get(pk=key.pk)
    if changes.get("expires_at") != stored:
        _refuse_past(changes.get("expires_at"), now)
    check = _refuse_unknown_groups if "allowed_models" in changes else None
    return alter(actor, key, changes, allowed=API_KEY_FIELDS, check=check)


def rotate_api_key(actor: Actor, key: ApiKey, *, overlap: timedelta, now: datetime | None = None) -> str:
    """A second secret for the key; the first one ends after `overlap` (zero: at once). Returns the new plaintext.

    Raises Conflict if the key is not live or an overlap still runs, InvalidRequest for an overlap out of bounds.
    """
    moment = now or timezone.now()
    if not timedelta(0) <= overlap <= MAX_OVERLAP:
        raise InvalidRequest(f"the overlap must be from 0 to {MAX_OVERLAP.days} days", param="overlap")
    with change(actor, "apikey.rotate", key):
        key.refresh_from_db()
        if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= moment):
            raise Conflict(f"key {key.key_id} is revoked or expired", hint="create another key")
        old = list(_live_secrets(key, moment))
        if len(old) > 1:
            raise Conflict(f"key {key.key_id} has two live secrets already", hint="end the overlap first")
        plaintext = mint_key("thk", key_id=key.key_id)
        for secret in old:
            _end_secret(secret, moment, overlap)
        _store_secret(key, plaintext)
    return plaintext


def end_overlap(actor: Actor, key: ApiKey, *, now: datetime | None = None) -> None:
    """Ends all but the newest secret at once. Does nothing where only one is live."""
    moment = now or timezone.now()
    with change(actor, "apikey.end_overlap", key):
        for secret in list(_live_secrets(key, moment))[1:]:
            _end_secret(secret, moment, timedelta(0))


def revoke_api_key(actor: Actor, key: ApiKey, *, now: datetime | None = None) -> ApiKey:
    """Revokes a key for good; again does nothing."""
    with change(actor, "apikey.revoke", key):
        key.refresh_from_db()
        if key.revoked_at is None:
            key.revoked_at = now or timezone.now()
            key.save(force_update=True, update_fields=["revoked_at"])
    return key


def delete_api_key(actor: Actor, key: ApiKey, *, now: datetime | None = None) -> None:
    """Deletes a revoked or expired key. Raises Conflict for one that may still be in use."""
    key.refresh_from_db()
    if key.revoked_at is None and (key.expires_at is None or key.expires_at > (now or timezone.now())):
        raise Conflict(f"key {key.key_id} is neither revoked nor expired", hint="revoke it first")
    remove(actor, key)


def create_admin_token(
    actor: Actor,
    *,
    name: str,
    user: Any = None,
    service: str = "",
    scopes: Sequence[str] = ("read",),
    expires_at: datetime | None = None,
    plaintext: str | None = None,
    now: datetime | None = None,
) -> tuple[AdminToken, str]:
    """An admin token of a user or a service, and its plaintext, which is shown this once.

    Never wider than its maker: no scope that the actor lacks, no life beyond that of the token the actor came with.
    """
    _refuse_past(expires_at, now)
    _refuse_wider(actor, scopes, expires_at)
    secret = mint_key("tha") if plaintext is None else plaintext
    digest, version = digest_new(secret)
    token = AdminToken(
        key_id=_key_id(secret, "tha"),
        name=name,
        user=user,
        service=service,
        scopes=list(scopes),
        digest=digest,
        pepper_version=version,
        last4=secret[-4:],
        expires_at=expires_at,
        created_by=actor.name[:200],
    )
    with change(actor, "admintoken.create", token):
        token.full_clean()
        token.save(force_insert=True)
    return token, secret


def revoke_admin_token(actor: Actor, token: AdminToken, *, now: datetime | None = None) -> AdminToken:
    """Revokes an admin token for good; again does nothing."""
    with change(actor, "admintoken.revoke", token):
        token.refresh_from_db()
        if token.revoked_at is None:
            token.revoked_at = now or timezone.now()
            token.save(force_update=True, update_fields=["revoked_at"])
    return token


def _key_id(plaintext: str, prefix: str) -> str:
    parts = find_key_parts(plaintext)
    if parts is None or parts.prefix != prefix:
        raise InvalidRequest(
            f"this is no well-formed {prefix}_ key",
            param="plaintext",
            hint="leave it out and one is made for you",
        )
    return parts.key_id


def _refuse_unknown_groups(key: ApiKey) -> None:
    unknown = list_unknown_groups(key.allowed_models)
    if unknown:
        known = list(ModelGroup.objects.order_by("name").values_list("name", flat=True)[:1000])
        near = get_close_matches(unknown[0], known, n=3)
        raise InvalidRequest(
            f"there is no model group {unknown[0]!r}",
            param="allowed_models",
            hint=f"did you mean {' or '.join(GROUP_PREFIX + name for name in near)}?"
            if near
            else "create it first",
        )


def _refuse_past(expires_at: datetime | None, now: datetime | None) -> None:
    if expires_at is not None and expires_at <= (now or timezone.now()):
        raise InvalidRequest("the end lies in the past", param="expires_at", hint="give a later one, or none")


def _refuse_wider(actor: Actor, scopes: Sequence[str], expires_at: datetime | None) -> None:
    wider = sorted(set(scopes) - actor.scopes)
    if wider:
        raise PermissionDenied(
            f"{actor.kind} {actor.name} may not give away the scope {wider[0]!r}",
            hint="ask someone who has it",
        )
    if actor.expires_at is not None and (expires_at is None or expires_at > actor.expires_at):
        raise PermissionDenied(
            f"{actor.kind} {actor.name} ends at {actor.expires_at.isoformat()}; what it makes must not outlive it",
            hint="give an expires_at up to then",
        )


def _live_secrets(key: ApiKey, now: datetime) -> QuerySet[ApiKeySecret]:
    """The key's live secrets, newest first."""
    unexpired = Q(expires_at=None) | Q(expires_at__gt=now)
    return key.secrets.select_for_update().filter(unexpired, revoked_at=None).order_by("-id")


def _end_secret(secret: ApiKeySecret, now: datetime, overlap: timedelta) -> None:
    if overlap:
        end = now + overlap
        secret.expires_at = end if secret.expires_at is None else min(end, secret.expires_at)
    else:
        secret.revoked_at = now
    secret.save(force_update=True)


def _store_secret(key: ApiKey, plaintext: str) -> None:
    digest, version = digest_new(plaintext)
    secret = ApiKeySecret(key=key, digest=digest, pepper_version=version, last4=plaintext[-4:])
    secret.full_clean()
    secret.save(force_insert=True)
