"""Fixtures of the security tests: the sprung trap, and a well-behaved provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers.mock import MockProvider
from tests.security.cast import Canaries, Trap, declare, make_service
from tests.security.hostile import HostileProvider


@pytest.fixture(scope="session")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trap]:
    """An installation at log level debug whose every error path has been driven."""
    canaries = Canaries()
    service = make_service(tmp_path_factory.mktemp("trap"), canaries)
    with HostileProvider(canaries.answer) as hostile, service:
        service.apply_config(declare(hostile))
        sprung = Trap(service, hostile, canaries)
        sprung.spring()
        yield sprung


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    """A mock provider that speaks every vendor's format."""
    async with MockProvider() as provider:
        yield provider
