"""Running installations for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A fresh installation with the simulated provider, shared by one file's tests."""
    with Service(Path(tmp_path_factory.mktemp("service"))) as running:
        yield running
