"""docker-compose.yml and .env.example fit each other and the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenhub.environment import load_settings, option_names
from vault.configured_kms import AWS_VARIABLES
from vault.keyring import KNOWN_ENV_NAMES

_VARIABLE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")
NOT_SETTINGS = KNOWN_ENV_NAMES | {"VLLM_BASE_URL", *AWS_VARIABLES}


@pytest.fixture
def compose(repository: Path) -> dict[str, Any]:
    """The parsed file."""
    parsed: dict[str, Any] = yaml.safe_load((repository / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture
def example(repository: Path) -> dict[str, str]:
    """The variables of .env.example."""
    lines = (repository / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_variable_that_compose_reads_is_in_the_example_and_the_other_way_round(
    repository: Path, example: dict[str, str]
) -> None:
    read = {match[1] for match in _VARIABLE.finditer((repository / "docker-compose.yml").read_text())}
    assert read == set(example)


def test_what_compose_passes_are_settings(compose: dict[str, Any]) -> None:
    known = {f"TOKENHUB_{name.upper()}" for name in option_names()} | NOT_SETTINGS
    assert set(compose["services"]["tokenhub"]["environment"]) <= known


def test_the_example_as_it_is_makes_valid_settings(compose: dict[str, Any], example: dict[str, str]) -> None:
    given = {**{name: value for name, value in example.items() if value}, "POSTGRES_PASSWORD": "word"}

    def fill(match: re.Match[str]) -> str:
        if match[1] in given:
            return given[match[1]]
        assert match[2] == "-", f"{match[1]} is required but absent from the example"
        return match[3]

    environment = {
        name: _VARIABLE.sub(fill, value)
        for name, value in compose["services"]["tokenhub"]["environment"].items()
    }
    settings = load_settings(environment)
    assert settings.database_url == "postgres://tokenhub:word@postgres:5432/tokenhub"
    assert settings.simulated_provider is True
    assert settings.port == 8080


def test_postgres_is_not_published_and_tokenhub_on_this_machine_only(compose: dict[str, Any]) -> None:
    assert "ports" not in compose["services"]["postgres"]
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["tokenhub"]["ports"])


def test_no_password_is_written_into_the_file(compose: dict[str, Any], example: dict[str, str]) -> None:
    for name, value in {
        **compose["services"]["tokenhub"]["environment"],
        **compose["services"]["postgres"]["environment"],
    }.items():
        if re.search("PASSWORD|SECRET|TOKEN$|PEPPER|KEY$", name):
            assert value.startswith("${")
    assert all(
        not value for name, value in example.items() if re.search("PASSWORD|SECRET|_TOKEN$|PEPPER|KEY$", name)
    )


def test_tokenhub_waits_for_a_healthy_postgres_and_may_end_in_time(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["tokenhub"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["postgres"]["healthcheck"]["test"]
    grace = int(services["tokenhub"]["stop_grace_period"].removesuffix("s"))
    assert grace > load_settings({}).shutdown_grace_seconds + 10


def test_the_container_is_confined(compose: dict[str, Any]) -> None:
    service = compose["services"]["tokenhub"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_every_named_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if not volume.startswith((".", "/"))
    }
    assert used == set(compose["volumes"])
