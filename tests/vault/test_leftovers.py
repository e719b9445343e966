"""What requests leave behind is collected when something was typed, soon but not within the request."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest

from tests.vault.vaults import ADMIN, NEW_PASSWORD, PASSWORD, SECRET, a_credential, a_vault, run_sql
from tests.vault.workers import first
from vault.leftovers import AFTER_SECONDS, Leftovers, leftovers
from vault.sealing import seal_secret
from vault.slot_secrets import Given
from vault.vault_actions import add_password_slot, change_password, lock, unlock


class Times:
    """Counts the collector's runs, under a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = 0
        self.leftovers = Leftovers(lambda: self.now, self.run)

    def run(self) -> None:
        """One run."""
        self.runs += 1


def test_the_collector_runs_once_some_time_after_something_was_noted() -> None:
    times = Times()
    assert not times.leftovers.collect()
    times.leftovers.note()
    assert not times.leftovers.collect()
    times.now += AFTER_SECONDS
    assert times.leftovers.collect()
    assert not times.leftovers.collect()
    assert times.runs == 1
    assert times.leftovers.collect(at_once=True)
    assert times.runs == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    "typed",
    [
        lambda: unlock(ADMIN, Given(password=PASSWORD)),
        lambda: change_password(ADMIN, Given(password=PASSWORD), NEW_PASSWORD),
        lambda: add_password_slot(ADMIN, "Other", NEW_PASSWORD),
        lambda: seal_secret(ADMIN, a_credential(), SECRET),
    ],
    ids=["unlock", "change", "slot", "seal"],
)
def test_whatever_takes_something_typed_notes_it(typed: Callable[[], object]) -> None:
    a_vault()
    before = leftovers.noted_at
    typed()
    assert leftovers.noted_at != before


class Circle:
    """Refers to itself, as Django's requests do."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.django_db
@pytest.mark.parametrize("here", [True, False], ids=["locked here", "locked elsewhere"])
def test_a_lock_collects_at_once(here: bool) -> None:
    a_vault()
    worker = first()
    worker.poll()
    left = weakref.ref(Circle())
    assert left() is not None
    if here:
        lock(ADMIN)
    else:
        run_sql("UPDATE vault_vault SET lock_epoch = lock_epoch + 1")
    worker.poll()
    assert left() is None
