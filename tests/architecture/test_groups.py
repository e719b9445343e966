"""The test runner keeps groups together: expensive installations are made once, and what must not run side by side does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GROUPED = """
import pytest

pytestmark = pytest.mark.xdist_group("together")


@pytest.mark.parametrize("number", range(8))
def test_together(number, worker_id):
    with open("workers", "a") as seen:
        seen.write(worker_id + "\\n")
"""


def test_a_group_of_tests_runs_in_one_process(tmp_path: Path) -> None:
    """pytest 9.2 broke this without a word: pytest-xdist 3.8 could no longer write the group into a test's id."""
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "-p",
        "no:django",
        "-p",
        "no:cacheprovider",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 8
    assert len(set(workers)) == 1
