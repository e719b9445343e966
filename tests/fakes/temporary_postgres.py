"""A Postgres server of its own for one test run: started, used, and removed with all its data."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_FAST = "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200"
_START_SECONDS = 30


class PostgresUnavailable(RuntimeError):
    """No Postgres could be started; the message says why and what to install."""


@dataclass(frozen=True, slots=True)
class TemporaryPostgres:
    """A running server. `url` is of a role that may create databases."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stops the server at once and removes its data."""
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=15)
        shutil.rmtree(self.folder, ignore_errors=True)


def find_postgres_program(name: str) -> str | None:
    """The newest installed version of a server program, which Debian keeps off the PATH."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4])
    )
    return str(versions[-1]) if versions else shutil.which(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_postgres(folder: Path) -> TemporaryPostgres:
    """Starts a server in a new folder. Raises PostgresUnavailable; never falls back to another database."""
    initdb, postgres = find_postgres_program("initdb"), find_postgres_program("postgres")
    if initdb is None or postgres is None:
        raise PostgresUnavailable(
            "no Postgres server is installed: `apt-get install postgresql`, or `make test`"
        )
    # Postgres refuses to run as root, so root starts it as the user that its package made.
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(mode=0o700, parents=True)
    for parent in folder.parents if user else ():
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    if user:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    made = subprocess.run(
        [initdb, "-D", folder / "data", "-U", "tokenhub", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
        user=user,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if made.returncode:
        raise PostgresUnavailable(f"initdb failed: {made.stderr.strip()}")
    port = _free_port()
    options = [part for option in _FAST for part in ("-c", option)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [postgres, "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, *options],
            user=user,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    server = TemporaryPostgres(f"postgres://tokenhub@127.0.0.1:{port}/postgres", folder, process)
    _wait_for(server, port)
    return server


def _wait_for(server: TemporaryPostgres, port: int) -> None:
    ready = find_postgres_program("pg_isready") or "pg_isready"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        if subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(port)], timeout=10).returncode == 0:
            return
        time.sleep(0.05)
    log = (server.folder / "log").read_text(errors="replace")[-2000:]
    server.stop()
    raise PostgresUnavailable(f"Postgres did not start within {_START_SECONDS} s:\n{log}")
