"""Several installations of one vault under load: what the vault's drills stand on. Real processes, sockets and databases.

One mock provider takes the sealed key, another the variable's; each answers 401 to any other key, and counts.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from providers.mock import MockOptions, MockProcess, mock_process
from tests.e2e.service import Row, Service
from tests.fakes.temporary_postgres import TemporaryPostgres, start_postgres

PASSWORD = "gravel-lantern-otter-violet-5"
SEALED_KEY = "sk-sealed-canary-7c1f0e5a9b3d-not-a-real-one"
ENV_KEY = "sk-variable-2b8e4c6d-not-a-real-key"
FIGURES = Path(os.environ.get("VAULT_FIGURES", "/tmp/vault-figures.jsonl"))
_CONFIG = """
providers:
  - name: sealed
    kind: openai
    endpoints: ["{sealed}"]
    credentials: [{{name: main, source: vault}}]
  - name: open
    kind: openai
    endpoints: ["{open}"]
    credentials: [{{name: main, source: env, reference: TOKENHUB_CRED_OPEN}}]
models:
  - {{provider: sealed, name: work-sealed, upstream_name: model}}
  - {{provider: open, name: work-open, upstream_name: model}}
"""


def tell(name: str, **figures: Any) -> None:
    """Prints a figure for `-s`, and keeps it in a file of JSON lines."""
    line = json.dumps({"figure": name, **figures})
    print(f"\n{line}")
    with FIGURES.open("a") as file:
        file.write(line + "\n")


def p95(values: list[float]) -> float:
    """The 95th percentile, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


@dataclass(slots=True)
class Fleet:
    """Instances that share a database, its secrets and one vault; one instance on SQLite. Times are seconds."""

    folder: Path
    sealed: MockProcess
    open: MockProcess
    workers: int
    environment: dict[str, str]
    database: TemporaryPostgres | None = None
    services: list[Service] = field(default_factory=list)
    password: str = PASSWORD
    key: str = SEALED_KEY
    """The password that opens the vault, and the provider's key that is sealed in it, as they are now."""

    @property
    def first(self) -> Service:
        """The instance that whoever unlocks and locks speaks to."""
        return self.services[0]

    def add(self, workers: int | None = None, **environment: str) -> Service:
        """One more instance, started and not waited for. The first one prepares the database."""
        service = Service(
            self.folder / f"instance-{len(self.services)}",
            workers=workers or self.workers,
            environment={**self.environment, **environment},
        )
        service.key = self.environment["TOKENHUB_BOOTSTRAP_KEY"]
        service.admin_token = self.environment["TOKENHUB_ADMIN_TOKEN"]
        service.folder.mkdir(parents=True)
        service.config_path.write_text("")
        if not self.services:
            service.prepare()
        self.services.append(service)
        service.start()
        return service

    def worker_pids(self) -> set[int]:
        """The pids of all serving processes."""
        return {pid for service in self.services for pid in children(service.process.pid) if is_worker(pid)}

    def vault_rows(self) -> list[Row]:
        """What the live workers say of themselves."""
        pids = self.worker_pids() | {service.process.pid for service in self.services}
        rows = self.first.sql(
            "SELECT instance, state, lock_epoch, root_version, problem FROM vault_vaultworker"
        )
        return [row for row in rows if int(row["instance"].rpartition("-")[2]) in pids]

    def wait_all(self, state: str, seconds: float = 10.0) -> float:
        """Until every worker of every instance says that it is in that state; the seconds that it took."""
        count = sum(service.workers for service in self.services)
        began = time.monotonic()
        self.first.until(
            self.vault_rows,
            lambda rows: len(rows) == count and all(row["state"] == state for row in rows),
            seconds,
        )
        return time.monotonic() - began

    def ask_vault(self, method: str, path: str = "", body: Any = None, expect: int = 200) -> Any:
        """A call of `/admin/v1/vault`."""
        with self.first.admin() as admin:
            answer = admin.request(method, f"vault{path}", json=body)
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.content else None

    def unlock(self) -> float:
        """One entry of the password; the seconds until every worker is unlocked."""
        began = time.monotonic()
        self.ask_vault("POST", "/unlock", {"password": self.password})
        self.wait_all("unlocked")
        return time.monotonic() - began

    def lock(self) -> float:
        """The seconds until every worker is locked."""
        began = time.monotonic()
        self.ask_vault("POST", "/lock", {"reason": "drill"})
        self.wait_all("locked")
        return time.monotonic() - began

    def seal(self, key: str, overlap: float = 0.0) -> None:
        """Enters the provider's key; returns when every worker serves with the new configuration."""
        with self.first.admin() as admin:
            (row,) = [one for one in admin.get("credentials").json()["results"] if one["source"] == "vault"]
            answer = admin.patch(
                f"credentials/{row['id']}", json={"secret": key, "overlap_seconds": int(overlap)}
            )
            assert answer.status_code == 200, answer.text
        self.key = key
        self.wait_revision()

    def wait_revision(self) -> None:
        """Until every instance's workers serve the newest revision."""
        for service in self.services:
            service.wait_revision()

    def calls(self, mock: MockProcess, since: float = 0.0) -> list[dict[str, Any]]:
        """The mock's records of calls that came after a moment (Unix seconds)."""
        found = httpx.get(f"{mock.origin}/_stats", timeout=10).json()["list"]
        return [call for call in found if call["received_at"] > since]

    def be_unlocked(self) -> None:
        """Unlocks whatever an earlier test left locked."""
        if any(row["state"] != "unlocked" for row in self.vault_rows()):
            self.unlock()

    def close(self) -> None:
        """Kills what runs."""
        for service in self.services:
            service.kill()


@contextmanager
def a_fleet(
    folder: Path, *, instances: int = 1, workers: int = 4, postgres: bool = False, **environment: str
) -> Iterator[Fleet]:
    """A running fleet with a vault, unlocked, in which the sealed provider's key is."""
    with ExitStack() as stack:
        sealed = stack.enter_context(mock_process(MockOptions(require_key=SEALED_KEY), latency=0.01))
        opened = stack.enter_context(mock_process(MockOptions(require_key=ENV_KEY), latency=0.01))
        shared = {
            "TOKENHUB_CRED_OPEN": ENV_KEY,
            "TOKENHUB_CRED_OPEN__ORIGIN": opened.origin,
            "TOKENHUB_CLUSTER_SECRET": secrets.token_urlsafe(48),
            "TOKENHUB_SECRET_KEY": secrets.token_urlsafe(48),
            "TOKENHUB_KEY_PEPPER": secrets.token_urlsafe(48),
            "TOKENHUB_ADMIN_TOKEN": secrets.token_urlsafe(24),
            "TOKENHUB_SIMULATED_PROVIDER": "false",
            **environment,
        }
        server = None
        if postgres:
            server = start_postgres(folder / "postgres")
            stack.callback(server.stop)
            shared["TOKENHUB_DATABASE_URL"] = server.url
        fleet = Fleet(folder, sealed, opened, workers, shared, server)
        shared["TOKENHUB_BOOTSTRAP_KEY"] = Service(folder / "none").key
        stack.callback(fleet.close)
        for _ in range(instances):
            fleet.add()
        for service in fleet.services:
            service.wait_ready()
        fleet.wait_all("none")
        fleet.first.apply_config(_CONFIG.format(sealed=sealed.origin, open=opened.origin))
        fleet.ask_vault("POST", "/initialise", {"password": PASSWORD}, expect=201)
        fleet.wait_all("unlocked")
        fleet.seal(SEALED_KEY)
        yield fleet


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of the load. `status` 0: the connection broke. Times are Unix seconds."""

    model: str
    surface: str
    sent_at: float
    ended_at: float
    status: int
    body: str


class Load:
    """Callers in threads, each with a request at a time in either format; `with Load(fleet) as load:`.

    Half of the requests want the sealed key. A connection serves a few requests, so that all workers get some.
    """

    def __init__(self, fleet: Fleet, callers: int = 6, pause: float = 0.02) -> None:
        self._fleet = fleet
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(callers)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def of(self, model: str = "", since: float = 0.0, until: float = float("inf")) -> list[Answer]:
        """The answers to requests that were sent between two moments, of one model."""
        found = list(self.answers)
        return [a for a in found if since <= a.sent_at <= until and model in ("", a.model)]

    def statuses(self, model: str = "", since: float = 0.0, until: float = float("inf")) -> Counter[int]:
        """How many answers of each status."""
        return Counter(answer.status for answer in self.of(model, since, until))

    def until(self, holds: Callable[[], bool], seconds: float = 15.0) -> None:
        """Waits for a condition while the load goes on."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.statuses()}"
            time.sleep(0.02)

    def _call(self, number: int) -> None:
        rng = random.Random(number)
        services = self._fleet.services
        while not self._stop.is_set():
            service = rng.choice(list(services))
            with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client:
                for _ in range(8):
                    if self._stop.wait(self._pause):
                        return
                    self.answers.append(
                        ask(client, service.key, rng.choice(("openai", "anthropic")), *self._next(rng))
                    )

    @staticmethod
    def _next(rng: random.Random) -> tuple[str, bool]:
        return rng.choice(("work-sealed", "work-open")), rng.random() < 0.3


def ask(
    client: httpx.Client, key: str, surface: str, model: str, stream: bool = False, text: str = "hello"
) -> Answer:
    """One request in one of the two formats."""
    body = {
        "model": model,
        "max_tokens": 8,
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
    }
    path = "/v1/messages" if surface == "anthropic" else "/v1/chat/completions"
    headers = (
        {"x-api-key": key, "anthropic-version": "2023-06-01"}
        if surface == "anthropic"
        else {"authorization": f"Bearer {key}"}
    )
    sent_at = time.time()
    try:
        answer = client.post(path, json=body, headers=headers)
    except httpx.TransportError as error:
        return Answer(model, surface, sent_at, time.time(), 0, type(error).__name__)
    return Answer(model, surface, sent_at, time.time(), answer.status_code, answer.text)


def children(pid: int) -> list[int]:
    """The direct children of a process, itself included: with one worker it is the server."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def is_worker(pid: int) -> bool:
    """Whether a process is a spawned server, not multiprocessing's resource tracker."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in line
