"""Fixtures of the admin API's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from tests.console.cast import Cast, a_cast

Ask = Callable[..., Any]


@pytest.fixture
def cast(db: None) -> Cast:
    """One of everything."""
    return a_cast()


@pytest.fixture
def ask(cast: Cast) -> Ask:
    """Asks the admin API with the cast's token: `ask("post", "teams", {...})`."""
    client = Client(headers={"authorization": f"Bearer {cast.token_secret}"})

    def asking(method: str, path: str, body: Any = None) -> Any:
        extra = {} if method == "get" else {"data": body or {}, "content_type": "application/json"}
        return getattr(client, method)(f"/admin/v1/{path}", **extra)

    return asking
