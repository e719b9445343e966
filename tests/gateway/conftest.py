"""Fixtures of the gateway's tests: a mock provider on a real socket, and an HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from providers.mock import MockProvider


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    """A mock provider that speaks every vendor's format."""
    async with MockProvider() as provider:
        yield provider


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client."""
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
        yield client
