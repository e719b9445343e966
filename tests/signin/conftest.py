"""Fixtures of the door's tests: people with passwords, and browsers at addresses of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

PASSWORD = "a pass phrase"


@pytest.fixture
def anna(db: None) -> User:
    """An owner."""
    return User.objects.create_superuser("anna", password=PASSWORD)


@pytest.fixture
def at() -> Callable[[str], Client]:
    """A browser at an address, as the server states it."""
    return lambda address: Client(REMOTE_ADDR=address)
