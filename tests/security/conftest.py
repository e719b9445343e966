"""Fixtures of the security tests: the sprung trap, and a well-behaved provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers.mock import MockProvider
from tests.security.cast import Canaries, Trap, declare, find_places, make_service
from tests.security.hostile import HostileProvider


@pytest.fixture(scope="session")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trap]:
    """An installation at log level debug whose every error path has been driven."""
    canaries = Canaries()
    with HostileProvider(canaries.answer) as hostile:
        places = find_places(hostile)
        with make_service(tmp_path_factory.mktemp("trap"), canaries, places.values()) as service:
            service.apply_config(declare(places))
            sprung = Trap(service, hostile, canaries)
            sprung.spring()
            yield sprung


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    """A mock provider that speaks every vendor's format."""
    async with MockProvider() as provider:
        yield provider
