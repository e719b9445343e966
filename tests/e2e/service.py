"""The whole product as an operator runs it: `manage.py bootstrap`, then `manage.py serve` in a process group of its own.

The server's log is `server.log` in the service's folder, its data lies in `data`, the applied configuration in `config.yaml`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.e2e.administrator import Administrator
from tokenhub.core.keys import mint_key

ROOT = Path(__file__).resolve().parents[2]
ADMIN_USERNAME = "admin"
START_SECONDS = 60.0
COMMAND_SECONDS = 120.0
_POLL_SECONDS = 0.05

Row = dict[str, Any]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """One installation in a folder. `with Service(folder) as service:` prepares it, starts it and waits until it is ready.

    Leaving the block kills what still runs. `environment` adds variables (TOKENHUB_CRED_* with __ORIGIN), also to what
    `apply_config` runs; TOKENHUB_DATABASE_URL in it chooses Postgres. Times are seconds.
    """

    def __init__(self, folder: Path, workers: int = 1, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.workers = workers
        self.data_dir = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = mint_key()
        self.admin_token = secrets.token_urlsafe(24)
        self.admin_password = secrets.token_urlsafe(18)
        self.log_path = folder / "server.log"
        self.config_path = folder / "config.yaml"
        self.environment = self._environment(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        try:
            self.prepare()
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running (or just ended) `manage.py serve`; it leads its own process group."""
        assert self._process is not None, "the service has not been started"
        return self._process

    def prepare(self) -> None:
        """Makes the folder and runs `manage.py bootstrap`; again is harmless."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.config_path.exists():
            self.config_path.write_text("")
        self.manage("bootstrap")

    def manage(self, *command: str) -> str:
        """Runs a command of manage.py beside the server; returns its output, fails with it unless it ends with 0."""
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"manage.py {' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Starts `manage.py serve` (again); does not wait. The log is appended to."""
        assert self._process is None or self._process.poll() is not None, "the service runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Returns when `/readyz` answers 200. Fails with the end of the log if the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            code = self.process.poll()
            assert code is None, f"the server ended with {code}:\n{self.log_tail()}"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(_POLL_SECONDS)
        raise AssertionError(f"the server is not ready after {seconds} s:\n{self.log_tail()}")

    def terminate(self, seconds: float = 45.0) -> int:
        """SIGTERM to the server, as an orchestrator sends it; returns the exit code. Fails if it takes longer than `seconds`."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the server did not end within {seconds} s of SIGTERM:\n{self.log_tail()}"
            ) from None

    def stop(self) -> int:
        """As `terminate`."""
        return self.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole process group, workers too; returns when the server's own process is gone."""
        if self._process is None:
            return
        # The group may outlive its leader: workers whose supervisor died.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def log_tail(self, length: int = 6000) -> str:
        """The last characters of the server's log."""
        return self.log_path.read_text(errors="replace")[-length:] if self.log_path.exists() else ""

    def apply_config(self, text: str, *, wait: bool = True) -> str:
        """Runs `manage.py apply_config` with this YAML; returns its output when every worker has the new revision."""
        self.config_path.write_text(text)
        output = self.manage("apply_config")
        if wait:
            self.wait_revision()
        return output

    def wait_revision(self, seconds: float = 15.0) -> None:
        """Returns when every running worker says that it serves the newest published revision."""
        newest = self.sql("SELECT max(revision) AS newest FROM snapshots_configrevision")[0]["newest"]

        def in_force(rows: list[Row]) -> bool:
            mine = [row for row in rows if self._is_mine(row["pid"])]
            return len(mine) == self.workers and all(row["revision"] >= newest for row in mine)

        self.until(
            lambda: self.sql("SELECT pid, revision, error FROM snapshots_workerstatus"), in_force, seconds
        )

    def sql(self, query: str, *parameters: Any) -> list[Row]:
        """The rows of a query as dicts, through a connection of its own. Parameters are `?`, on Postgres `%s`."""
        url = self.environment.get("TOKENHUB_DATABASE_URL", "")
        if url.startswith("postgres"):
            with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
                cursor = connection.execute(query.encode(), parameters or None)
                return cursor.fetchall() if cursor.description else []
        with contextlib.closing(sqlite3.connect(self._sqlite_path(url), timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(query, parameters)]
            connection.commit()
            return rows

    def usage_rows(self, count: int = 0, seconds: float = 10.0) -> list[Row]:
        """The ledger's rows, oldest first, once there are at least `count` of them; fails after `seconds`."""
        return self.until(
            lambda: self.sql("SELECT * FROM usage_usagerecord ORDER BY id"),
            lambda rows: len(rows) >= count,
            seconds,
        )

    def until(
        self, look: Callable[[], list[Row]], holds: Callable[[list[Row]], bool], seconds: float = 10.0
    ) -> list[Row]:
        """The first `look()` of which `holds` is true; fails with the last one after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            seen = look()
            if holds(seen):
                return seen
            assert time.monotonic() < deadline, f"still so after {seconds} s: {seen}"
            time.sleep(_POLL_SECONDS)

    def admin(self, token: str | None = None) -> httpx.Client:
        """A client of `/admin/v1` with an admin token (this installation's own unless given)."""
        return httpx.Client(
            base_url=f"{self.url}/admin/v1/",
            headers={"authorization": f"Bearer {token or self.admin_token}"},
            timeout=30,
        )

    def administrator(self) -> Administrator:
        """A browser-like session of the administrator on the admin pages, logged in."""
        return Administrator(self.url, ADMIN_USERNAME, self.admin_password)

    def _is_mine(self, pid: int) -> bool:
        """Whether a process belongs to the running server; the rows of killed workers stay behind."""
        try:
            return os.getpgid(pid) == self.process.pid
        except ProcessLookupError:
            return False

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Nothing of the tests' own environment but the path, so that no setting of theirs leaks in."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TOKENHUB_DATA_DIR": str(self.data_dir),
            "TOKENHUB_CONFIG": str(self.config_path),
            "TOKENHUB_PORT": str(self.port),
            "TOKENHUB_WORKERS": str(self.workers),
            "TOKENHUB_SIMULATED_PROVIDER": "true",
            "TOKENHUB_BOOTSTRAP_KEY": self.key,
            "TOKENHUB_ADMIN_TOKEN": self.admin_token,
            "TOKENHUB_ADMIN_USERNAME": ADMIN_USERNAME,
            "TOKENHUB_ADMIN_PASSWORD": self.admin_password,
            "TOKENHUB_SHUTDOWN_GRACE_SECONDS": "5",
            "TOKENHUB_LOG_LEVEL": "info",
            **more,
        }

    def _sqlite_path(self, url: str) -> Path:
        return Path(url.removeprefix("sqlite:///")) if url else self.data_dir / "tokenhub.sqlite3"
