"""Serving processes are closed to their neighbours: no dumps, no reading of their memory, no files for others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.raw_http import ask
from tests.server.test_server import start

__all__ = ["start"]

BECOME_NOBODY = "import os\nos.setgroups([]); os.setgid(65534); os.setuid(65534)"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")


def read_limits(pid: int) -> list[str]:
    """Soft and hard limit of core dumps, in bytes."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def read_umask(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("Umask")).split()[1]


@linux_only
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_server_and_each_worker_are_closed(start: Any, workers: str) -> None:
    server = start(WORKERS=workers)
    deadline = time.monotonic() + 30
    pids: set[int] = {server.process.pid}
    while len(pids) < (3 if workers == "2" else 1) and time.monotonic() < deadline:
        pids.add(int(ask(server.port, "/pid").split()[-2]))
        pids |= {
            int(line.split()[1])
            for line in server.notes.read_text().splitlines()
            if line.startswith("lifespan.startup")
        }
    assert len(pids) == (3 if workers == "2" else 1)
    for _ in range(10):
        assert b"False" in ask(server.port, "/dumpable")
    for pid in pids:
        assert read_limits(pid) == ["0", "0"]
        assert read_umask(pid) == "0077"


@linux_only
def test_debugging_leaves_the_process_open(start: Any) -> None:
    assert b"True" in ask(start(DEBUG="true").port, "/dumpable")


@pytest.fixture
def stranger(repository: Path) -> Iterator[Any]:
    """Starts a process of another user than root that does what it is told, then waits."""
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of other users")
    started: list[subprocess.Popen[str]] = []
    source = (repository / "tokenhub/process.py").read_text()

    def start_one(harden: bool) -> subprocess.Popen[str]:
        # Changing the user closes a process too: it is opened again, as one that a login starts would be.
        steps = [source, BECOME_NOBODY, "_prctl(PR_SET_DUMPABLE, 1)", "harden_process()" if harden else ""]
        script = "\n".join([*steps, "print('ready', flush=True)", "input()"])
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", script],
            cwd="/",
            env={"SECRET": "canary"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def spy(pid: int) -> str:
    """What a process of the same user gets when it reads another's environment and memory."""
    script = (
        f"{BECOME_NOBODY}\nimport sys\nfor name in ('environ', 'mem'):\n"
        "  try: open('/proc/' + sys.argv[1] + '/' + name, 'rb').close(); print('open')\n"
        "  except PermissionError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(pid)],
        cwd="/",
        capture_output=True,
        text=True,
    )
    return done.stdout


@linux_only
def test_a_neighbour_of_the_same_user_reads_neither_memory_nor_environment(stranger: Any) -> None:
    assert spy(stranger(harden=False).pid) == "open\nopen\n"
    assert spy(stranger(harden=True).pid) == "refused\nrefused\n"
