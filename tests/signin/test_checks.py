"""What `manage.py check --deploy` says of the door, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def check(repository: Path, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "TOKENHUB_DATA_DIR": str(folder),
        "TOKENHUB_HTTPS": "true",
        **{f"TOKENHUB_{name}": value for name, value in settings.items()},
    }
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True)


def test_a_fresh_installation_is_clean_and_reminded(repository: Path, tmp_path: Path) -> None:
    done = check(repository, tmp_path)
    assert done.returncode == 0
    assert "signin.I001" in done.stderr
    assert "signin.I002" in done.stderr


def test_one_that_requires_a_second_factor_behind_a_named_proxy_is_not(
    repository: Path, tmp_path: Path
) -> None:
    done = check(repository, tmp_path, REQUIRE_MFA="superusers", TRUSTED_PROXIES="10.0.0.1")
    assert done.returncode == 0
    assert "signin." not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "abc" * 20),
        ("KEY_PEPPER", "change-me-0123456789-abcdefghijklmnop"),
        ("ADMIN_TOKEN", "placeholder-0123456789-abcdef"),
    ],
)
def test_secrets_that_somebody_could_know_are_refused_without_being_shown(
    repository: Path, tmp_path: Path, name: str, value: str
) -> None:
    done = check(repository, tmp_path, **{name: value})
    assert done.returncode == 1
    assert "signin.E001" in done.stderr
    assert f"TOKENHUB_{name} " in done.stderr
    assert value not in done.stderr


def test_short_secrets_stop_every_command(repository: Path, tmp_path: Path) -> None:
    done = check(repository, tmp_path, SECRET_KEY="short")
    assert done.returncode == 2
    assert "TOKENHUB_SECRET_KEY" in done.stderr
