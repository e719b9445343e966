"""The drain while its Postgres is gone: nothing is lost, and it goes on by itself when the server is back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fakes.temporary_postgres import TemporaryPostgres, start_postgres
from tests.usage.cast import make_final, make_intent
from tests.usage.conftest import SharedDatabase
from usage._journal_format import encode_final, encode_intent

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[TemporaryPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="tokenhub-outage-"))
    server = start_postgres(folder / "postgres")
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def stop_server(server: TemporaryPostgres) -> None:
    """Breaks every connection, as a restart or a failover does."""
    server.process.send_signal(signal.SIGQUIT)
    server.process.wait(30)


def start_again(server: TemporaryPostgres) -> subprocess.Popen[bytes]:
    with (server.folder / "log").open("ab") as log:
        user = "postgres" if os.geteuid() == 0 else None
        return subprocess.Popen(server.process.args, user=user, cwd=server.folder, stdout=log, stderr=log)


def count_rows(server: TemporaryPostgres) -> int:
    try:
        with psycopg.connect(server.url, connect_timeout=5) as database:
            found = database.execute("SELECT count(*) FROM usage_usagerecord").fetchone()
    except psycopg.OperationalError:
        return -1
    return int(found[0]) if found else -1


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> float:
    """Seconds until the condition held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "it never came"
        time.sleep(0.02)
    return time.monotonic() - begin


def write_file(directory: Path, numbers: range) -> None:
    """A dead owner's file, complete from its first moment."""
    hidden = directory / "hidden"
    hidden.write_bytes(b"".join(encode_intent(make_intent(n)) + encode_final(make_final(n)) for n in numbers))
    hidden.rename(directory / f"gone-{numbers.start}-7-0.journal")


def test_a_stopped_server_loses_nothing_and_the_drain_comes_back_by_itself(
    server: TemporaryPostgres, tmp_path: Path
) -> None:
    database = SharedDatabase(server.url, tmp_path / "data")
    environment = os.environ | {
        "TOKENHUB_DATABASE_URL": server.url,
        "TOKENHUB_DATA_DIR": str(tmp_path / "data"),
    }
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity=0"]
    done = subprocess.run(migrate, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "journal"
    directory.mkdir()
    drain = database.start_drain(directory, "run")
    write_file(directory, range(50))
    wait_until(lambda: count_rows(server) == 50)
    stop_server(server)
    for start in range(50, 150, 10):
        write_file(directory, range(start, start + 10))
        time.sleep(0.3)
    again = start_again(server)
    try:
        wait_until(lambda: count_rows(server) == 150)
        wait_until(lambda: not list(directory.glob("*.journal")))
        assert drain.stdin is not None
        drain.stdin.close()
        drain.stdin = None
        output, errors = drain.communicate(timeout=60)
        assert drain.returncode == 0, errors
        assert '"rows": 150' in output
        assert '"quarantined": 0' in output
        told = errors.count("can't write the ledger")
        assert errors.count("writes the ledger again") == told <= 1
    finally:
        drain.kill()
        again.send_signal(signal.SIGINT)
        again.wait(30)
