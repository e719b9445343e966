"""What the vault's status page reminds of: slots, tests, ages. Control plane; reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from django.urls import reverse

from tokenhub.control.display import write_number_of
from vault.engine.slots import SlotKind
from vault.models import SealedSecret
from vault.vault_state import VaultState, find_root_made

PASSWORD_AGE = timedelta(days=365)
KEY_AGE = timedelta(days=365)
ROOT_AGE = timedelta(days=730)
SECRET_AGE = timedelta(days=365)
ROTATION_TAKES = timedelta(hours=1)
"""An old data key that is still there after so long waits for something."""


@dataclass(frozen=True, slots=True)
class Reminder:
    """A sentence, how grave it is, and where to mend it: `url` with the link's text."""

    text: str
    tone: Literal["bad", "warn", "plain"]
    link: str
    url: str


def list_reminders(state: VaultState) -> list[Reminder]:
    """All that applies, gravest first."""
    found = [*_about_slots(state), *_about_keys(state), *_about_secrets(state.now)]
    return sorted(found, key=lambda one: ("bad", "warn", "plain").index(one.tone))


def _about_slots(state: VaultState) -> Iterator[Reminder]:
    recovery = [slot for slot in state.slots if slot.kind == SlotKind.RECOVERY]
    if len(state.slots) == 1:
        text = f"There is one way to unlock the vault: {state.slots[0].label}. If it is lost, so is every sealed key."
        yield Reminder(text, "bad", "Add a slot", reverse("vault:add_slot"))
    if not recovery:
        text = "There is no recovery key. A forgotten password would take every sealed key with it."
        yield Reminder(text, "bad", "Make one", reverse("vault:add_slot_of", args=["recovery"]))
    elif all(slot.opened_at is None for slot in recovery):
        text = "The recovery key was never tried. Type it once: a print that can't be read helps nobody."
        yield Reminder(text, "warn", "Try it", reverse("vault:try_recovery"))
    for slot in state.slots:
        age = state.now - slot.changed_at
        if slot.kind == SlotKind.PASSWORD and age > PASSWORD_AGE:
            text = f"The password of {slot.label} is {age.days} days old."
            yield Reminder(text, "plain", "Change it", reverse("vault:change_password"))


def _about_keys(state: VaultState) -> Iterator[Reminder]:
    active = next((key for key in state.keys if key.active), None)
    if active is not None and (age := state.now - active.created_at) > KEY_AGE:
        text = f"The data key is {age.days} days old."
        yield Reminder(text, "plain", "Rotate it", reverse("vault:rotate_data_key"))
    if active is not None and len(state.keys) > 1 and state.now - active.created_at > ROTATION_TAKES:
        old = ", ".join(str(key.version) for key in state.keys if not key.active)
        yield Reminder(
            f"A rotation is not finished: data key {old} is still in use.",
            "warn",
            "See why",
            reverse("vault:rotate_data_key"),
        )
    if (age := state.now - find_root_made(state.vault)) > ROOT_AGE:
        text = f"The root key is {age.days} days old."
        yield Reminder(text, "plain", "Rotate it", reverse("vault:rotate_root"))


def _about_secrets(now: datetime) -> Iterator[Reminder]:
    old = SealedSecret.objects.filter(good_until=None, created_at__lt=now - SECRET_AGE)
    number = old.order_by().values("credential").distinct().count()
    if number:
        was = write_number_of(number, "provider key was", "provider keys were")
        text = f"{was} not replaced for more than {SECRET_AGE.days} days."
        url = f"{reverse('admin:vault_credential_changelist')}?source__exact=vault"
        yield Reminder(text, "plain", "Look at them", url)
