"""Fixtures of the vault's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vault.vaults import Time
from vault.leftovers import leftovers
from vault.opened import opened_vault


@pytest.fixture(autouse=True)
def nothing_opened() -> Iterator[None]:
    """This process holds no vault before and after each test."""
    opened_vault.drop()
    yield
    opened_vault.drop()


@pytest.fixture
def time() -> Time:
    """A clock that stands still."""
    return Time()


@pytest.fixture(autouse=True)
def _no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test process has so many objects that a full collection at each lock is most of a test's time."""
    monkeypatch.setattr(leftovers, "_collector", lambda: 0)
