"""What every test stands on: Django with a data folder of its own, the database that was asked for, and no network.

`pytest --database=postgres` starts a Postgres of its own for the tests that use a database, and runs only those.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.fakes.network_guard import install_network_guard
from tests.fakes.temporary_postgres import start_postgres

SHARED_POSTGRES = "PYTEST_TOKENHUB_POSTGRES"
_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")


def _prepare_environment() -> str:
    """Points the settings at a folder of this run. Done while this file loads, since deeper conftests import models."""
    database = str(_parser.parse_known_args(sys.argv[1:])[0].database)
    shared = os.environ.get(SHARED_POSTGRES, "") if "PYTEST_XDIST_WORKER" in os.environ else ""
    for name in [name for name in os.environ if name.startswith("TOKENHUB_")]:
        del os.environ[name]
    data_dir = Path(tempfile.mkdtemp(prefix="tokenhub-tests-"))
    atexit.register(shutil.rmtree, data_dir, ignore_errors=True)
    absent = data_dir / "config.yaml"
    absent.write_text("")
    os.environ["TOKENHUB_DATA_DIR"] = str(data_dir)
    os.environ["TOKENHUB_CONFIG"] = str(absent)
    os.environ["TOKENHUB_LOG_LEVEL"] = "warning"
    os.environ["TOKENHUB_LOG_FORMAT"] = "console"
    if shared:
        # A worker of pytest-xdist has no command line of its own; it uses its parent's server.
        database = "postgres"
        os.environ["TOKENHUB_DATABASE_URL"] = shared
    elif database == "postgres":
        # Beside the data folder, which the settings close to all but its owner: Postgres runs as another user.
        beside = Path(tempfile.mkdtemp(prefix="tokenhub-tests-postgres-"))
        atexit.register(shutil.rmtree, beside, ignore_errors=True)
        server = start_postgres(beside / "server")
        atexit.register(server.stop)
        os.environ["TOKENHUB_DATABASE_URL"] = os.environ[SHARED_POSTGRES] = server.url
    os.environ["DJANGO_SETTINGS_MODULE"] = "tokenhub.settings"
    return database


DATABASE = _prepare_environment()


def _prepare_django() -> None:
    import django  # noqa: PLC0415 - only now do the settings exist
    from django.conf import settings  # noqa: PLC0415

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    django.setup()


_prepare_django()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--database`."""
    parser.addoption(
        "--database", choices=("sqlite", "postgres"), default="sqlite", help="what the tests' database is"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Closes the network for the whole run, and names the marker of what takes minutes."""
    config.addinivalue_line("markers", "drill: takes minutes or many processes; only with -m drill")
    install_network_guard()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what uses a database; on Postgres the rest has run already and is left out. Drills run if asked for by name."""
    database_fixtures = {"db", "transactional_db", "live_server", "admin_client", "django_db_setup"}
    for item in items:
        if item.get_closest_marker("django_db") or database_fixtures & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.database)
    if "drill" not in config.getoption("markexpr"):
        drills = [item for item in items if item.get_closest_marker("drill")]
        config.hook.pytest_deselected(items=drills)
        items[:] = [item for item in items if item not in drills]
    if DATABASE == "postgres":
        again = [item for item in items if item.get_closest_marker("database")]
        once = ("browser", "once")
        kept = [item for item in again if not any(item.get_closest_marker(name) for name in once)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def database_kind() -> str:
    """`sqlite` or `postgres`: what this run's database is."""
    return DATABASE
