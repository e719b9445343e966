"""Running installations for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.mock import MockOptions, mock_process
from tests.e2e.administrator import Administrator
from tests.e2e.catalogue import CREDENTIAL, CREDENTIAL_VARIABLE, Accounts, declare_vendors
from tests.e2e.service import Service
from tests.e2e.vault_fleet import Fleet, a_fleet


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A fresh installation with the simulated provider, shared by one file's tests."""
    with Service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An installation with the simulated provider and both mock vendors, which want the vendors' key, not the caller's."""
    vendor = MockOptions(require_key=CREDENTIAL)
    folder = tmp_path_factory.mktemp("gateway")
    with mock_process(vendor) as openai, mock_process(vendor) as anthropic, ExitStack() as stack:
        environment = {
            CREDENTIAL_VARIABLE: CREDENTIAL,
            f"{CREDENTIAL_VARIABLE}__ORIGIN": f"{openai.origin},{anthropic.origin}",
        }
        running = stack.enter_context(Service(folder, environment=environment))
        running.apply_config(declare_vendors(openai.origin, anthropic.origin))
        yield running


@pytest.fixture(scope="session")
def sqlite_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One instance of four workers on SQLite with a vault; tests that use it are of the xdist group `vault-fleet`."""
    with a_fleet(tmp_path_factory.mktemp("vault"), workers=4) as running:
        yield running


@pytest.fixture(scope="session")
def administrator(gateway: Service) -> Iterator[Administrator]:
    """The gateway's administrator, logged in."""
    with gateway.administrator() as person:
        yield person


@pytest.fixture
def accounts(gateway: Service, administrator: Administrator) -> Accounts:
    """What this test's calls cost, from here on."""
    return Accounts(gateway, administrator, datetime.now(UTC))


def pytest_configure(config: pytest.Config) -> None:
    """Names this folder's own marker."""
    config.addinivalue_line(
        "markers", "claude_code: runs Claude Code, a large npm package; only with -m claude_code"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what runs only if it is asked for by name; keeps what shares an installation in one test process."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("e2e"))
    if "claude_code" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("claude_code")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
