"""Runs manage.py as an operator does, in data folders of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Manage = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment(data_dir: Path, **variables: str) -> dict[str, str]:
    """An environment without anything of this run's but the path."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(data_dir),
        "TOKENHUB_DATA_DIR": str(data_dir),
        **variables,
    }


@pytest.fixture
def manage(repository: Path, tmp_path: Path) -> Manage:
    """`manage("bootstrap", TOKENHUB_PORT="1")`: runs a command with variables; fails unless it ends with `code`."""

    def run(*command: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=repository,
            env=clean_environment(tmp_path / "data", **{"TOKENHUB_LOG_LEVEL": "warning", **variables}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run
