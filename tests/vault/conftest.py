"""Fixtures of the vault's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.vault.vaults import Time
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


@pytest.fixture(autouse=True, scope="session")
def cheap_collections() -> None:
    """As a serving process does: what is there already is left out of collections, of which each lock makes one."""
    gc.collect()
    gc.freeze()
