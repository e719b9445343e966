"""Changes of routing policies and their versions. Control plane.

A policy's document is written in its one draft; publishing makes the draft the version in force and retires the one before. With
`needs_approval` what one person publishes waits until another approves it. Numbers of versions only go up.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from django.utils import timezone

from routing.catalogue import read_catalogue
from routing.documents import normalise_document, parse_document
from routing.models import Policy, PolicyVersion
from routing.problems import refuse_problems
from tokenhub.control.actors import Actor
from tokenhub.core.errors import Conflict, NotFound, PermissionDenied
from vault.audit import add, alter, change, check_fields, remove

POLICY_FIELDS = ("name", "enabled", "priority", "needs_approval")
MAX_POLICIES = 500
"""Each request asks them one after another."""

State = PolicyVersion.State


def create_policy(actor: Actor, **fields: Any) -> Policy:
    """A policy without a version, which routes nothing yet. `fields`: POLICY_FIELDS; `name` is needed."""
    check_fields(Policy, fields, POLICY_FIELDS)

    def check(row: Policy) -> None:
        if Policy.objects.count() >= MAX_POLICIES:
            raise Conflict(
                f"there are {MAX_POLICIES} policies, which is the most", hint="delete one that is not needed"
            )

    return add(actor, Policy(**fields), check=check)


def update_policy(actor: Actor, policy: Policy, **changes: Any) -> Policy:
    """Changes POLICY_FIELDS. Who may lift `needs_approval` is the caller's to check, as any permission."""
    return alter(actor, policy, changes, allowed=POLICY_FIELDS)


def delete_policy(actor: Actor, policy: Policy) -> None:
    """Deletes it with all of its versions; the document in force stays in the audit trail."""
    remove(actor, policy)


def save_draft(
    actor: Actor, policy: Policy, *, document: Any, note: str | None = None, now: datetime | None = None
) -> PolicyVersion:
    """Writes the policy's one draft, which is made if there is none. `note` says why; None leaves it.

    Raises InvalidRequest for a document that can't be read, and Conflict while a version waits for approval: what is looked at
    must not change under who looks at it. Names are asked only when it is published.
    """
    stored = normalise_document(document)
    with change(actor, "policy.save_draft", policy):
        version = _find_open(policy)
        if version is not None and version.state == State.WAITING:
            raise Conflict(
                f"version {version.number} of {policy} waits for approval",
                hint="discard it first, or have it approved",
            )
        if version is None:
            version = _new_version(policy, now or timezone.now())
        version.document = stored
        version.author = actor.name[:200]
        if note is not None:
            version.note = note
        version.full_clean(exclude=["policy"])
        version.save()
    return version


def discard_draft(actor: Actor, policy: Policy) -> None:
    """Throws the draft, or what waits for approval, away. Raises NotFound where there is neither."""
    with change(actor, "policy.discard_draft", policy):
        _get_open(policy).delete()


def publish(
    actor: Actor, policy: Policy, *, note: str | None = None, seen: str = "", now: datetime | None = None
) -> PolicyVersion:
    """Puts the draft into force, or lets it wait where another must approve it.

    Raises InvalidRequest for a contradiction or a name that nobody has, NotFound without a draft, Conflict where it waits
    already or is not the document whose `digest_of` is `seen` ("" = whichever it is).
    """
    moment = now or timezone.now()
    with change(actor, "policy.publish", policy):
        policy.refresh_from_db()
        version = _get_open(policy)
        if version.state == State.WAITING:
            raise Conflict(f"version {version.number} of {policy} waits for approval already")
        _refuse_changed(version, seen)
        refuse_problems(parse_document(version.document), read_catalogue())
        if note is not None:
            version.note = note
        if version.number < policy.last_number:
            # A roll-back came after the draft: what is in force later has the higher number.
            version.number = _next_number(policy)
        if policy.needs_approval:
            # Whoever asks for the publication stands for it as who wrote it does.
            version.author = actor.name[:200]
            version.state = State.WAITING
            version.full_clean(exclude=["policy"])
            version.save(force_update=True)
        else:
            _put_into_force(policy, version, moment)
    return version


def approve(actor: Actor, policy: Policy, *, seen: str = "", now: datetime | None = None) -> PolicyVersion:
    """Puts what waits into force. Raises PermissionDenied for its author, NotFound where nothing waits, InvalidRequest and
    Conflict as `publish` does.
    """
    moment = now or timezone.now()
    with change(actor, "policy.approve", policy):
        policy.refresh_from_db()
        version = _find_open(policy)
        if version is None or version.state != State.WAITING:
            raise NotFound(f"no version of {policy} waits for approval")
        if person_of(actor.name) == person_of(version.author):
            raise PermissionDenied(
                f"{version.author} asked for version {version.number} and can't approve it too",
                hint="ask another person who may approve",
            )
        _refuse_changed(version, seen)
        refuse_problems(parse_document(version.document), read_catalogue())
        version.approver = actor.name[:200]
        _put_into_force(policy, version, moment)
    return version


def roll_back(
    actor: Actor, policy: Policy, *, number: int, note: str = "", now: datetime | None = None
) -> PolicyVersion:
    """Makes a new version with the document of an earlier one, and puts it into force.

    Where approval is needed and nobody approved the earlier one, it waits. Names are not asked: going back must be possible
    while something is broken. Raises NotFound for a number that was never in force, Conflict for the one that is.
    """
    moment = now or timezone.now()
    with change(actor, "policy.roll_back", policy):
        policy.refresh_from_db()
        old = get_version(policy, number)
        if old.state == State.PUBLISHED:
            raise Conflict(f"version {number} of {policy} is in force already")
        if old.state != State.RETIRED:
            raise Conflict(f"version {number} of {policy} was never in force", hint="publish it instead")
        parse_document(old.document)
        waits = policy.needs_approval and not old.approver
        if waits and _find_open(policy) is not None:
            raise Conflict(
                f"{policy} has an open draft, and nobody approved version {number}: going back to it would have to wait too",
                hint="discard the draft first",
            )
        approver = "" if waits else old.approver
        return _add_version(
            actor,
            policy,
            old.document,
            note or f"back to version {number}",
            moment,
            waits=waits,
            approver=approver,
        )


def publish_document(
    actor: Actor, policy: Policy, *, document: Any, note: str = "", now: datetime | None = None
) -> PolicyVersion:
    """Makes a version of a document beside the draft, and puts it into force, or lets it wait where approval is needed.

    Raises InvalidRequest as `save_draft` and `publish` do, Conflict where it would wait and another is open.
    """
    moment = now or timezone.now()
    stored = normalise_document(document)
    with change(actor, "policy.publish", policy):
        policy.refresh_from_db()
        refuse_problems(parse_document(stored), read_catalogue())
        if policy.needs_approval and _find_open(policy) is not None:
            raise Conflict(
                f"{policy} has an open version, and this one would have to wait too",
                hint="discard that first",
            )
        return _add_version(actor, policy, stored, note, moment, waits=policy.needs_approval)


def get_version(policy: Policy, number: int) -> PolicyVersion:
    """A version by its number. Raises NotFound."""
    version = PolicyVersion.objects.filter(policy=policy, number=number).first()
    if version is None:
        raise NotFound(f"{policy} has no version {number}", param="number")
    return version


def digest_of(document: Any) -> str:
    """What stands for one document, so that nobody publishes or approves another than he was shown."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def person_of(actor_name: str) -> str:
    """Who stands behind an actor: a token's name is its owner's with the token's own id behind a colon."""
    return actor_name.rpartition(":")[0] or actor_name


def _find_open(policy: Policy) -> PolicyVersion | None:
    return PolicyVersion.objects.filter(policy=policy, state__in=(State.DRAFT, State.WAITING)).first()


def _get_open(policy: Policy) -> PolicyVersion:
    version = _find_open(policy)
    if version is None:
        raise NotFound(f"{policy} has no draft", hint="save one first")
    return version


def _refuse_changed(version: PolicyVersion, seen: str) -> None:
    if seen and seen != digest_of(version.document):
        raise Conflict(
            f"version {version.number} was changed after you looked at it",
            hint="look at it again",
            param="seen",
        )


def _next_number(policy: Policy) -> int:
    policy.refresh_from_db(fields=["last_number"])
    policy.last_number += 1
    policy.save(update_fields=["last_number"])
    return policy.last_number


def _new_version(policy: Policy, now: datetime) -> PolicyVersion:
    return PolicyVersion(policy=policy, number=_next_number(policy), created_at=now, state=State.DRAFT)


def _add_version(
    actor: Actor, policy: Policy, document: Any, note: str, now: datetime, *, waits: bool, approver: str = ""
) -> PolicyVersion:
    """A further version with this document, in force or waiting."""
    version = _new_version(policy, now)
    version.document, version.author, version.note, version.approver = (
        document,
        actor.name[:200],
        note,
        approver,
    )
    if waits:
        version.state = State.WAITING
        version.full_clean(exclude=["policy"])
        version.save(force_insert=True)
    else:
        _put_into_force(policy, version, now)
    return version


def _put_into_force(policy: Policy, version: PolicyVersion, now: datetime) -> None:
    PolicyVersion.objects.filter(policy=policy, state=State.PUBLISHED).update(state=State.RETIRED)
    version.state, version.published_at = State.PUBLISHED, now
    version.full_clean(exclude=["policy"])
    version.save()
